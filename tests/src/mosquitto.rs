//! `mosquitto_pub` and `mosquitto_sub` as child processes: clients that somebody else wrote.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::server::{Server, password_of};
use crate::wait::PATIENCE;

/// Runs `mosquitto_pub -q 1`, which ends when it has its PUBACK.
pub async fn publish(
    server: &Server,
    uid: &str,
    client_id: &str,
    topic: &str,
    payload: &str,
) -> Result<()> {
    let mut command = Command::new("mosquitto_pub");
    command.args(connection(server, uid, client_id));
    command
        .args(["-t", topic, "-m", payload])
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .with_context(|| format!("mosquitto_pub has no PUBACK within {PATIENCE:?}"))??;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mosquitto_pub: {stderr}");
    Ok(())
}

/// A running `mosquitto_sub -q 1`; killed when dropped.
pub struct Subscriber {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    /// Starts it, and waits until it has its SUBACK.
    pub async fn start(server: &Server, uid: &str, client_id: &str, topic: &str) -> Result<Self> {
        // Into a pipe it would keep its lines until it ends; stdbuf becomes mosquitto_sub, under the same pid.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub"]);
        command.args(connection(server, uid, client_id));
        // -d tells about the SUBACK on the same output.
        command.args(["-t", topic, "-d"]);
        let spawned = command.stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = spawned.context("starting mosquitto_sub")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut subscriber = Subscriber {
            _child: child,
            lines: BufReader::new(stdout).lines(),
        };
        subscriber
            .line(|line| line.starts_with("Subscribed"))
            .await?;
        Ok(subscriber)
    }

    /// The next payload that it prints.
    pub async fn json(&mut self) -> Result<Value> {
        let line = self.line(|line| line.starts_with('{')).await?;
        Ok(serde_json::from_str(&line)?)
    }

    async fn line(&mut self, is_it: impl Fn(&str) -> bool) -> Result<String> {
        let reading = async {
            while let Some(line) = self.lines.next_line().await? {
                if is_it(&line) {
                    return Ok(line);
                }
            }
            bail!("mosquitto_sub has ended")
        };
        timeout(PATIENCE, reading)
            .await
            .with_context(|| format!("mosquitto_sub printed nothing within {PATIENCE:?}"))?
    }
}

/// The arguments that both programs share.
fn connection(server: &Server, uid: &str, client_id: &str) -> Vec<String> {
    let (host, port) = (
        server.mqtt().ip().to_string(),
        server.mqtt().port().to_string(),
    );
    let password = password_of(uid);
    let pairs = [
        ["-h", &host],
        ["-p", &port],
        ["-u", uid],
        ["-P", &password],
        ["-i", client_id],
        ["-q", "1"],
    ];
    pairs.concat().into_iter().map(str::to_owned).collect()
}
