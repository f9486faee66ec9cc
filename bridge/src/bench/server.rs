//! A server for the run only, with an empty data folder: this program as `serve`, on free ports, or a part of this
//! process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::Target;
use super::accounts::{self, Account};
use super::way::Way;
use crate::auth::token;
use crate::serve;
use crate::settings::Settings;

/// Settings that the environment may have otherwise: a user of the load sends more than a person.
const UNLESS_SET: [(&str, &str); 4] = [
    ("TIDINGS__LOG", "warn"),
    ("TIDINGS__MQTT__PUBLISH_RATE", "0"),
    ("TIDINGS__MQTT__BYTE_RATE", "0"),
    ("TIDINGS__MQTT__MAX_CONNECTIONS", "1000000"),
];

/// How long a server in this process may take to end.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Where a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a process of its own.
    Apart,
    /// In this one.
    Here,
}

/// Ends with this value, and takes its folder along.
pub(super) struct Server {
    target: Target,
    pid: u32,
    running: Running,
    // Last, so that it is removed after the process has been killed.
    _folder: Folder,
}

enum Running {
    Apart {
        child: Child,
        // Held open: a server that can't print would end.
        _stdout: Lines<BufReader<ChildStdout>>,
    },
    Here(serve::Server),
}

impl Server {
    /// Starts the server and waits until it is ready. What the environment and `config` say goes for it too, except
    /// for the listeners, the data folder and, unless the environment has them, limits that the load would meet.
    pub(super) async fn start(config: Option<&Path>) -> anyhow::Result<Server> {
        Self::start_in(Folder::make()?, config, Place::Apart, &[]).await
    }

    /// The same with so many users, who are in its database before it starts: making them over HTTP would take a password's
    /// time for each.
    pub(super) async fn start_with_users(
        config: Option<&Path>,
        count: u32,
        place: Place,
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
        let server = Self::start_in(folder, config, place, &settings).await;
        let server = server.context("starting a server")?;
        eprintln!("server started: pid {}", server.pid);
        Ok((server, accounts))
    }

    async fn start_in(
        folder: Folder,
        config: Option<&Path>,
        place: Place,
        settings: &[(&'static str, &str)],
    ) -> anyhow::Result<Server> {
        let mut variables = vec![
            ("TIDINGS__DATA_DIR", folder.0.display().to_string()),
            ("TIDINGS__MQTT__LISTEN", "127.0.0.1:0".to_owned()),
            ("TIDINGS__HTTP__LISTEN", "127.0.0.1:0".to_owned()),
        ];
        let is_unset = |(name, _): &&(&str, &str)| std::env::var_os(name).is_none();
        let more = settings.iter().chain(UNLESS_SET.iter().filter(is_unset));
        variables.extend(more.map(|(name, value)| (*name, (*value).to_owned())));
        match place {
            Place::Apart => Self::start_apart(folder, config, variables).await,
            Place::Here => Self::start_here(folder, config, &variables).await,
        }
    }

    async fn start_apart(
        folder: Folder,
        config: Option<&Path>,
        variables: Vec<(&str, String)>,
    ) -> anyhow::Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command
            .arg("serve")
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().context("it ended at once")?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        let mut stdout = BufReader::new(stdout).lines();
        let target = read_target(&mut stdout).await?;
        Ok(Server {
            target,
            pid,
            running: Running::Apart {
                child,
                _stdout: stdout,
            },
            _folder: folder,
        })
    }

    async fn start_here(
        folder: Folder,
        config: Option<&Path>,
        variables: &[(&str, String)],
    ) -> anyhow::Result<Server> {
        let settings = Settings::load_with(config, variables)?;
        let server = serve::Server::start(&settings, false).await?;
        let http = server.http().first();
        let http = http.context("it does not listen for HTTP")?.to_string();
        Ok(Server {
            target: Target {
                mqtt: Way::Memory(server.sessions()),
                http,
            },
            pid: std::process::id(),
            running: Running::Here(server),
            _folder: folder,
        })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it. One of its own process is killed: the folder goes too, so there is nothing to put in order.
    pub(super) async fn stop(self) {
        match self.running {
            Running::Apart { mut child, .. } => {
                if let Err(error) = child.kill().await {
                    eprintln!("the server (pid {}) can't be killed: {error}", self.pid);
                }
            }
            Running::Here(server) => server.stop(STOP_MAX).await,
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
                    mqtt: Way::Tcp(mqtt.context("it does not listen for MQTT")?),
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
