//! A program of the machine's, such as a database server, as a child process with a folder and a port of its own.
//!
//! [`Service`] is one through all of its lives; each server's own module knows how to start it and what to ask it.
//!
//! It ends with its value. When the whole test process ends, however that happens, a keeper ends it and removes its
//! folder: a shell that waits until the pipe from the test process is closed.

use std::fs::{self, File, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::statvfs;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::disk::SmallDisk;
use crate::wait::PATIENCE;

/// Below the ports that the system gives to outgoing connections, so that none takes it while the server is down.
const PORTS: std::ops::Range<u16> = 14_000..32_000;

/// Free bytes of a folder in memory that is used. In containers it often has 64 MB.
const MEMORY_MIN: u64 = 4 << 30;

/// The folder in a server's own that its data is in.
pub(crate) const DATA: &str = "data";

/// Ends the server `$1` and removes its folder `$2` when the standard input is closed, unless a word comes before that.
const KEEPER: &str = r#"
read -r _ && exit
kill -9 "$1" $(cat "/proc/$1/task/$1/children")
while kill -0 "$1" && [ "$((tries += 1))" -lt 100 ]; do sleep 0.05; done
umount -l "$2"/data
rm -rf "$2"
"#;

/// A server, which may be down.
pub struct Service {
    /// As people call it.
    name: &'static str,
    /// What asks it to end.
    end: Signal,
    /// `None` while it is down. Before `home`, which it needs.
    daemon: Option<Daemon>,
    pub(crate) home: Home,
}

/// Where a server keeps its things, and who it is.
pub(crate) struct Home {
    /// Before `folder`, because what is mounted can't be removed.
    disk: Option<SmallDisk>,
    folder: TempDir,
    owner: Option<Owner>,
    pub(crate) port: u16,
}

/// A user whom a package has made for its server.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// One life of a server.
pub(crate) struct Daemon {
    name: &'static str,
    child: Child,
    keeper: ChildStdin,
}

// === impl Service ===

impl Service {
    /// One that has not been started yet.
    pub(crate) fn new(name: &'static str, end: Signal, home: Home) -> Self {
        Service {
            name,
            end,
            daemon: None,
            home,
        }
    }

    /// Begins a life, and waits until it takes connections.
    pub(crate) async fn start_with(&mut self, command: Command) -> Result<()> {
        self.daemon = Some(self.home.start(self.name, command).await?);
        Ok(())
    }

    /// Ends it as its service does, without waiting for clients.
    pub async fn stop(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(daemon) => daemon.stop(self.end).await,
            None => Ok(()),
        }
    }

    /// kill -9.
    pub async fn kill(&mut self) -> Result<()> {
        let daemon = self.daemon.take();
        let daemon = daemon.with_context(|| format!("{} is down", self.name))?;
        daemon.kill().await
    }

    /// Stops its process without ending it (SIGSTOP), as a machine does that hangs, until [`Service::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.running()?.signal(Signal::STOP)
    }

    /// It goes on where it was.
    pub fn thaw(&self) -> Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    fn running(&self) -> Result<&Daemon> {
        let daemon = self.daemon.as_ref();
        daemon.with_context(|| format!("{} is down", self.name))
    }

    /// Whether it is down, perhaps because it has ended by itself.
    pub(crate) async fn is_down(&mut self) -> Result<bool> {
        if let Some(daemon) = &mut self.daemon
            && daemon.has_ended().await?
        {
            self.daemon = None;
        }
        Ok(self.daemon.is_none())
    }

    /// Where it is, for those who know no URLs.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port()).into()
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.home.port
    }

    /// Where a database server keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join(DATA)
    }

    /// What it has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.home.log()
    }
}

// === impl Home ===

impl Home {
    /// A new one. Where the tests run as root, what lives there belongs to `user`, since some servers refuse root.
    pub(crate) fn new(name: &str, user: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("tidings-{name}-"))
            .tempdir_in(roomy_folder())?;
        let owner = match rustix::process::geteuid().is_root() {
            true => Some(Owner::find(user)?),
            false => None,
        };
        if let Some(Owner { uid, gid }) = owner {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        Ok(Home {
            disk: None,
            folder,
            owner,
            port: free_port()?,
        })
    }

    /// One whose data folder is a disk of its own; `None` when this user may not mount.
    pub(crate) fn with_small_disk(mut self, mib: u32) -> Result<Option<Self>> {
        let path = self.path().join(DATA);
        fs::create_dir(&path)?;
        self.disk = SmallDisk::mount(&path, mib)?;
        if let Some(Owner { uid, gid }) = self.owner {
            chown(&path, Some(uid), Some(gid))?;
        }
        Ok(self.disk.is_some().then_some(self))
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a file there that only its owner can read.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        if let Some(Owner { uid, gid }) = self.owner {
            chown(&path, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// `--option=/its/folder/name`.
    pub(crate) fn option(&self, option: &str, name: &str) -> String {
        format!("{option}={}", self.path().join(name).display())
    }

    fn log_file(&self) -> PathBuf {
        self.path().join("server.log")
    }

    /// What the server has written.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A program as the folder's owner.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        if let Some(Owner { uid, gid }) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
            .current_dir(self.path())
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts a server that listens on the port, and waits until it takes connections.
    pub(crate) async fn start(&self, name: &'static str, mut command: Command) -> Result<Daemon> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let spawned = command
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C at the terminal is for the tests.
            .process_group(0)
            .spawn();
        let child = spawned.with_context(|| format!("starting {name}"))?;
        let keeper = self.keeper(&child)?;
        let mut daemon = Daemon {
            name,
            child,
            keeper,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            let ended = daemon.child.try_wait()?;
            ensure!(ended.is_none(), "{name} ended: {ended:?}\n{}", self.log());
            ensure!(
                Instant::now() < deadline,
                "{name} takes no connections\n{}",
                self.log()
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(daemon)
    }

    fn keeper(&self, child: &Child) -> Result<ChildStdin> {
        let pid = child.id().context("it ended at once")?;
        let spawned = Command::new("sh")
            .args(["-c", KEEPER, "keeper", &pid.to_string()])
            .arg(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        spawned?.stdin.context("stdin is piped")
    }
}

// === impl Daemon ===

impl Daemon {
    fn pid(&self) -> Result<Pid> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw);
        pid.with_context(|| format!("{} has already ended", self.name))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn stop(mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended.with_context(|| format!("{} does not end", self.name))??;
        self.dismiss_keeper().await
    }

    /// kill -9 of the process and of those that it has started, then waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.kill_all();
        self.child.wait().await?;
        self.dismiss_keeper().await
    }

    /// Whether it has ended by itself.
    pub(crate) async fn has_ended(&mut self) -> Result<bool> {
        let has_ended = self.child.try_wait()?.is_some();
        if has_ended {
            self.dismiss_keeper().await?;
        }
        Ok(has_ended)
    }

    /// The folder stays, for the server's next life.
    async fn dismiss_keeper(&mut self) -> Result<()> {
        Ok(self.keeper.write_all(b"dismissed\n").await?)
    }

    fn kill_all(&self) {
        let Ok(pid) = self.pid() else { return };
        let raw = pid.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{raw}/task/{raw}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace();
        let children = children.filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        // The parent first, or it would start others. Who has ended meanwhile needs no signal.
        for pid in std::iter::once(pid).chain(children.collect::<Vec<_>>()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill_all();
    }
}

// === impl Owner ===

impl Owner {
    fn find(user: &str) -> Result<Self> {
        let passwd = fs::read_to_string("/etc/passwd")?;
        for line in passwd.lines() {
            if let [name, _, uid, gid, ..] = line.split(':').collect::<Vec<_>>()[..]
                && name == user
            {
                return Ok(Owner {
                    uid: uid.parse()?,
                    gid: gid.parse()?,
                });
            }
        }
        bail!("there is no user {user}: tests/run installs the server's package, which makes it")
    }
}

/// A folder in memory, where tables are made ten times as fast as on a disk; or else the temporary one.
fn roomy_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = statvfs(memory).map(|disk| disk.f_bavail * disk.f_frsize);
    if free.is_ok_and(|free| free >= MEMORY_MIN) {
        return memory.to_owned();
    }
    std::env::temp_dir()
}

/// One on which nobody listens now.
pub(crate) fn free_port() -> Result<u16> {
    let mut tries = std::iter::repeat_with(|| fastrand::u16(PORTS)).take(1000);
    let port = tries.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    port.context("no port is free")
}

/// Where a program is: in one of these folders, or where the shell would find it.
pub(crate) fn find_program(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut folders = folders.iter().cloned().chain(path);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    found.with_context(|| format!("{name} is missing: tests/run installs it"))
}

/// Runs a client to its end and returns what it has printed.
pub(crate) async fn output(command: Command) -> Result<String> {
    Ok(String::from_utf8(output_bytes(command).await?)?)
}

/// The same for one that prints anything.
pub(crate) async fn output_bytes(mut command: Command) -> Result<Vec<u8>> {
    let output = command.output().await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stderr}");
    Ok(output.stdout)
}
