//! The `tidings` binary as a child process, with a data folder of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::client::Builder;
use crate::disk::SmallDisk;
use crate::http::Api;
use crate::wait::PATIENCE;

/// Lines of the server's log that a failing test shows.
const LOG_TAIL_LINES: usize = 60;

/// A running server. A test ends with [`Server::finish`]; a server dropped before that has seen its test fail,
/// and shows the end of its log.
pub struct Server {
    process: Process,
    folder: Folder,
    finished: bool,
}

/// Where a server keeps its things; removed at the end.
pub struct Folder {
    /// Before `root`, because what is mounted can't be removed.
    disk: Option<SmallDisk>,
    root: TempDir,
    /// Environment variables of the server, at each of its starts.
    settings: Vec<(String, String)>,
}

/// One life of the server.
struct Process {
    child: Child,
    /// Kept open, or the server's next line to it would fail.
    _stdout: Lines<BufReader<ChildStdout>>,
    mqtt: SocketAddr,
    http: SocketAddr,
}

// === impl Server ===

impl Server {
    /// A fresh server with these users. Their passwords are what [`password_of`] says.
    pub async fn with_users(uids: &[&str]) -> Result<Self> {
        Self::start_in(Folder::new()?, uids).await
    }

    /// The same in a folder that the test has prepared.
    pub async fn start_in(folder: Folder, uids: &[&str]) -> Result<Self> {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server {
            process: Process::start(&folder, any_port, any_port).await?,
            folder,
            finished: false,
        };
        for uid in uids {
            server.add_user(uid).await?;
        }
        Ok(server)
    }

    /// Registers one more user.
    pub async fn add_user(&self, uid: &str) -> Result<()> {
        let account = json!({ "uid": uid, "password": password_of(uid) });
        let answer = self.api().post("/v1/users", &account).await?;
        answer.expect(201).map(drop)
    }

    /// Logs a user in over HTTP.
    pub async fn login(&self, uid: &str) -> Result<Api> {
        self.api().login(uid, &password_of(uid)).await
    }

    /// HTTP without a login.
    pub fn api(&self) -> Api {
        Api::anonymous(self.process.http)
    }

    /// A device of `uid`, to be described and then connected.
    pub fn client(&self, uid: &str) -> Builder {
        Builder::new(self.process.mqtt, uid)
    }

    /// Where MQTT is.
    pub fn mqtt(&self) -> SocketAddr {
        self.process.mqtt
    }

    /// The folder that `TIDINGS__DATA_DIR` names.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.data_dir()
    }

    /// kill -9, then waits until the process is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.child.kill().await.context("kill -9")
    }

    /// SIGTERM, then waits until the process has left by itself; returns how long that took.
    pub async fn shut_down(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.process.terminate().await?;
        Ok(started.elapsed())
    }

    /// Starts the program again after [`Server::kill`] or [`Server::shut_down`]: same data, same ports.
    pub async fn restart(&mut self) -> Result<()> {
        let (mqtt, http) = (self.process.mqtt, self.process.http);
        self.process = Process::start(&self.folder, mqtt, http).await?;
        Ok(())
    }

    /// Ends a test: [`Server::shut_down`], whatever stands in the log.
    pub async fn stop(mut self) -> Result<()> {
        self.process.terminate().await?;
        self.finished = true;
        Ok(())
    }

    /// Ends a test in which nothing should have gone wrong: [`Server::stop`], and no ERROR or panic in the log.
    pub async fn finish(mut self) -> Result<()> {
        self.process.terminate().await?;
        if let Some(line) = self.folder.log().lines().find(|line| is_alarming(line)) {
            bail!("in the server's log: {line}");
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let log = self.folder.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        eprintln!("--- end of server.log ---\n{}\n---", tail.join("\n"));
    }
}

/// The password that the harness gives a user.
pub fn password_of(uid: &str) -> String {
    format!("{uid}-has-a-password")
}

/// ERROR means that a person must look. (The word stands alone in text logs, in quotes in JSON ones.)
fn is_alarming(line: &str) -> bool {
    let is_word = |word: &str| word.trim_matches(['"', ',', ':', '{', '}']) == "ERROR";
    line.split([' ', ':', ',']).any(is_word) || line.contains("panicked at")
}

// === impl Folder ===

impl Folder {
    /// An empty one under the system's temporary folder.
    pub fn new() -> Result<Self> {
        let root = tempfile::Builder::new().prefix("tidings-test-").tempdir()?;
        fs::create_dir(root.path().join("data"))?;
        Ok(Folder {
            disk: None,
            root,
            settings: Vec::new(),
        })
    }

    /// A setting that differs from the default, such as `TIDINGS__SHUTDOWN__TIMEOUT`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// One whose data part is a disk of its own, which the test can fill. `None` when this user may not mount.
    pub fn on_small_disk() -> Result<Option<Self>> {
        let mut folder = Self::new()?;
        folder.disk = SmallDisk::mount(&folder.data_dir())?;
        Ok(folder.disk.is_some().then_some(folder))
    }

    /// The server's part of it. The log stands beside it, so that a full disk does not hide why.
    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.root.path().join("server.log")
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

// === impl Process ===

impl Process {
    /// Starts `tidings serve`, and waits until it says where it listens and that it is ready.
    async fn start(folder: &Folder, mqtt: SocketAddr, http: SocketAddr) -> Result<Self> {
        let binary = binary()?;
        let mut child = command(&binary, folder, mqtt, http)?
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut stdout = BufReader::new(stdout).lines();

        let [mqtt, http] = timeout(PATIENCE, read_listeners(&mut stdout))
            .await
            .with_context(|| format!("not ready within {PATIENCE:?}"))?
            .with_context(|| format!("the server did not start; its log:\n{}", folder.log()))?;
        Ok(Process {
            child,
            _stdout: stdout,
            mqtt,
            http,
        })
    }

    /// SIGTERM, and a good end.
    async fn terminate(&mut self) -> Result<()> {
        let pid = self.child.id().context("the server has already ended")?;
        let kill = format!("kill -TERM {pid}");
        let sent = Command::new("sh").args(["-c", &kill]).status().await?;
        ensure!(sent.success(), "kill -TERM {pid}: {sent}");
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .with_context(|| format!("still running {PATIENCE:?} after SIGTERM"))??;
        ensure!(status.success(), "the server left with {status}");
        Ok(())
    }
}

fn command(binary: &Path, folder: &Folder, mqtt: SocketAddr, http: SocketAddr) -> Result<Command> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.log_file())?;
    let mut command = Command::new(binary);
    // Settings of the developer's own shell must not reach the test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDINGS_")) {
        command.env_remove(name);
    }
    command
        .arg("serve")
        .env("TIDINGS__MQTT__LISTEN", mqtt.to_string())
        .env("TIDINGS__HTTP__LISTEN", http.to_string())
        .env("TIDINGS__DATA_DIR", folder.data_dir())
        .env("TIDINGS__LOG", "info")
        .envs(folder.settings.iter().cloned())
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "1")
        .current_dir(folder.root.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true);
    Ok(command)
}

/// `TIDINGS_BIN`, or the binary that cargo put beside this test's own folder.
fn binary() -> Result<PathBuf> {
    let binary = match std::env::var_os("TIDINGS_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = std::env::current_exe()?;
            let deps = test.parent().context("a test runs in target/*/deps")?;
            deps.with_file_name("tidings")
        }
    };
    ensure!(
        binary.is_file(),
        "{} is missing: `cargo build` makes it, tests/run does all of it",
        binary.display()
    );
    Ok(binary)
}

/// Reads `listening mqtt 127.0.0.1:40001`, the same for `http`, and `ready`.
async fn read_listeners(stdout: &mut Lines<BufReader<ChildStdout>>) -> Result<[SocketAddr; 2]> {
    let (mut mqtt, mut http) = (None, None);
    while let Some(line) = stdout.next_line().await? {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["listening", "mqtt", address] => mqtt = Some(address.parse()?),
            ["listening", "http", address] => http = Some(address.parse()?),
            ["ready"] => {
                return Ok([
                    mqtt.context("ready without an mqtt listener")?,
                    http.context("ready without an http listener")?,
                ]);
            }
            _ => {}
        }
    }
    bail!("its stdout ended before `ready`")
}
