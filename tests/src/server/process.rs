//! One life of a server: its process, and where it listens.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::Folder;
use crate::wait::PATIENCE;

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `tidings serve`.
    Serve,
    /// `tidings broker`: it needs no database, and has `link`.
    Broker,
    /// `tidings bridge`: it has HTTP only.
    Bridge,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Serve => "serve",
            Program::Broker => "broker",
            Program::Bridge => "bridge",
        }
    }

    pub(super) fn doors(self, has_tls: bool) -> &'static [&'static str] {
        match (self, has_tls) {
            (Program::Serve, false) => &["mqtt", "http"],
            (Program::Serve, true) => &["mqtt", "http", "mqtts", "https"],
            (Program::Broker, _) => &["mqtt", "http", "link"],
            (Program::Bridge, _) => &["http"],
        }
    }
}

/// The kinds of port that a server may have, as its `listening` lines name them, with their settings.
const DOORS: [(&str, &str); 5] = [
    ("mqtt", "TIDINGS__MQTT__LISTEN"),
    ("http", "TIDINGS__HTTP__LISTEN"),
    ("mqtts", "TIDINGS__MQTTS__LISTEN"),
    ("https", "TIDINGS__HTTPS__LISTEN"),
    ("link", "TIDINGS__LINK__LISTEN"),
];

/// Limits of people that a test sets where it is about them.
const UNLIMITED: [&str; 3] = [
    "TIDINGS__RATES__SENDS_PER_USER",
    "TIDINGS__RATES__SENDS_PER_CONVERSATION",
    "TIDINGS__RATES__EXPENSIVE_PER_MINUTE",
];

/// Where a server listens, by kind of port.
pub(super) type Listeners = BTreeMap<String, SocketAddr>;

/// One life of the server.
pub(super) struct Process {
    pub(super) child: Child,
    /// Kept open, or the server's next line to it would fail.
    _stdout: Lines<BufReader<ChildStdout>>,
    pub(super) listeners: Listeners,
}

impl Process {
    /// Starts the program, and waits until it says where it listens and that it is ready.
    pub(super) async fn start(folder: &Folder, doors: &Listeners) -> Result<Self> {
        let spawned = serve(folder, doors)?.spawn();
        let mut child = spawned.context("starting tidings")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut stdout = BufReader::new(stdout).lines();

        let listeners = timeout(PATIENCE, read_listeners(&mut stdout))
            .await
            .with_context(|| format!("not ready within {PATIENCE:?}"))?
            .with_context(|| format!("the server did not start; its log:\n{}", folder.log()))?;
        for door in doors.keys() {
            ensure!(
                listeners.contains_key(door),
                "ready without a listener for {door}"
            );
        }
        Ok(Process {
            child,
            _stdout: stdout,
            listeners,
        })
    }

    pub(super) fn listener(&self, door: &str) -> SocketAddr {
        let address = self.listeners.get(door);
        *address.unwrap_or_else(|| panic!("this server does not listen for {door}"))
    }

    pub(super) async fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("the server has already ended")?;
        let kill = format!("kill -{name} {pid}");
        let sent = Command::new("sh").args(["-c", &kill]).status().await?;
        ensure!(sent.success(), "{kill}: {sent}");
        Ok(())
    }

    /// SIGTERM, and a good end.
    pub(super) async fn terminate(&mut self) -> Result<()> {
        self.signal("TERM").await?;
        self.wait().await
    }

    pub(super) async fn wait(&mut self) -> Result<()> {
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .with_context(|| format!("still running {PATIENCE:?} after SIGTERM"))??;
        ensure!(status.success(), "the server left with {status}");
        Ok(())
    }
}

fn serve(folder: &Folder, doors: &Listeners) -> Result<Command> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.log_file())?;
    let mut command = folder.command()?;
    for (door, setting) in DOORS {
        if let Some(address) = doors.get(door) {
            command.env(setting, address.to_string());
        }
    }
    command
        .arg(folder.program.name())
        .env(
            "TIDINGS__LOG",
            std::env::var("TIDINGS_TEST_LOG").unwrap_or("info".into()),
        )
        // A test's user writes more than a person.
        .envs(UNLIMITED.map(|name| (name, "0")))
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

/// Settings of the developer's own shell must not reach the test.
pub(super) fn isolate(command: &mut Command) {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TIDINGS_")) {
        command.env_remove(name);
    }
}

/// `TIDINGS_BIN`, or the binary that cargo put beside this test's own folder, or beside this program.
pub(super) fn binary() -> Result<PathBuf> {
    let binary = match std::env::var_os("TIDINGS_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let this = std::env::current_exe()?;
            let folder = this.parent().context("a program is in a folder")?;
            match folder.ends_with("deps") {
                true => folder.with_file_name("tidings"),
                false => folder.join("tidings"),
            }
        }
    };
    ensure!(
        binary.is_file(),
        "{} is missing: `cargo build` makes it, tests/run does all of it",
        binary.display()
    );
    Ok(binary)
}

/// Reads `listening mqtt 127.0.0.1:40001`, the same for the other kinds of port, and `ready`. Of several addresses of a
/// kind the first one counts.
async fn read_listeners(stdout: &mut Lines<BufReader<ChildStdout>>) -> Result<Listeners> {
    let mut listeners = Listeners::new();
    while let Some(line) = stdout.next_line().await? {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["listening", door, address] => {
                listeners.entry(door.to_owned()).or_insert(address.parse()?);
            }
            ["ready"] => return Ok(listeners),
            _ => {}
        }
    }
    bail!("its stdout ended before `ready`")
}
