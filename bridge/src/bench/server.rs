//! A server for the run only: this program as `serve`, on free ports, with an empty data folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::Target;
use super::accounts::{self, Account};
use crate::auth::token;

/// Settings that the environment may have otherwise: a user of the load sends more than a person.
const UNLESS_SET: [(&str, &str); 4] = [
    ("TIDINGS__LOG", "warn"),
    ("TIDINGS__MQTT__PUBLISH_RATE", "0"),
    ("TIDINGS__MQTT__BYTE_RATE", "0"),
    ("TIDINGS__MQTT__MAX_CONNECTIONS", "1000000"),
];

/// Ends with this value, and takes its folder along.
pub(super) struct Server {
    target: Target,
    pid: u32,
    child: Child,
    // Held open: a server that can't print would end.
    _stdout: Lines<BufReader<ChildStdout>>,
    // Last, so that it is removed after the process has been killed.
    _folder: Folder,
}

impl Server {
    /// Starts the server and waits until it is ready. What the environment and `config` say goes for it too, except
    /// for the listeners, the data folder and, unless the environment has them, limits that the load would meet.
    pub(super) async fn start(config: Option<&Path>) -> anyhow::Result<Server> {
        Self::start_in(Folder::make()?, config, &[]).await
    }

    /// The same with so many users, who are in its database before it starts: making them over HTTP would take a password's
    /// time for each.
    pub(super) async fn start_with_users(
        config: Option<&Path>,
        count: u32,
    ) -> anyhow::Result<(Server, Vec<Account>)> {
        let folder = Folder::make()?;
        eprintln!("making {count} accounts");
        let key = token::random_hex();
        let accounts = accounts::seed(&folder.0, &key, count).await?;
        let settings = [
            ("TIDINGS__AUTH__JWT_KEY", key.as_str()),
            // The one in the data folder.
            ("TIDINGS__DATABASE__URL", ""),
        ];
        let server = Self::start_in(folder, config, &settings).await;
        let server = server.context("starting a server")?;
        eprintln!("server started: pid {}", server.pid);
        Ok((server, accounts))
    }

    async fn start_in(
        folder: Folder,
        config: Option<&Path>,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command
            .arg("serve")
            .env("TIDINGS__DATA_DIR", &folder.0)
            .env("TIDINGS__MQTT__LISTEN", "127.0.0.1:0")
            .env("TIDINGS__HTTP__LISTEN", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        for (name, value) in UNLESS_SET {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        let mut child = command.spawn()?;
        let pid = child.id().context("it ended at once")?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        let mut stdout = BufReader::new(stdout).lines();
        let target = read_target(&mut stdout).await?;
        Ok(Server {
            target,
            pid,
            child,
            _stdout: stdout,
            _folder: folder,
        })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it: the folder goes too, so there is nothing to put in order.
    pub(super) async fn stop(mut self) {
        if let Err(error) = self.child.kill().await {
            eprintln!("the server (pid {}) can't be killed: {error}", self.pid);
        }
    }
}

async fn read_target(stdout: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Target> {
    let (mut mqtt, mut http) = (None, None);
    while let Some(line) = stdout.next_line().await? {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["listening", "mqtt", address] => mqtt = Some(address.to_owned()),
            ["listening", "http", address] => http = Some(address.to_owned()),
            ["ready"] => {
                return Ok(Target {
                    mqtt: mqtt.context("it does not listen for MQTT")?,
                    http: http.context("it does not listen for HTTP")?,
                });
            }
            _ => {}
        }
    }
    bail!("it ended before it was ready")
}

/// A folder that is removed with this value.
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Folder> {
        let name = format!("tidings-bench-{:016x}", getrandom::u64()?);
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("the folder {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} can't be removed: {error}", self.0.display());
        }
    }
}
