//! A server for the run only: this program as `serve`, on free ports, with an empty data folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::Target;

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
    /// for the listeners and the data folder.
    pub(super) async fn start(config: Option<&Path>) -> anyhow::Result<Server> {
        let folder = Folder::make()?;
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command
            .arg("serve")
            .env("TIDINGS__DATA_DIR", &folder.0)
            .env("TIDINGS__MQTT__LISTEN", "127.0.0.1:0")
            .env("TIDINGS__HTTP__LISTEN", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if std::env::var_os("TIDINGS__LOG").is_none() {
            command.env("TIDINGS__LOG", "warn");
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
