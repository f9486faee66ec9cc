//! A Redis server for tests, from Debian's package, beside whatever runs on this machine already.

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::process::Command;

use crate::daemon::{self, Daemon, Home};
use crate::wait::eventually;

/// A server that keeps nothing on disk; ended with its value.
pub struct Redis {
    /// `None` while it is down. Before `home`, which it needs.
    daemon: Option<Daemon>,
    home: Home,
}

impl Redis {
    /// A new one, empty.
    pub async fn start() -> Result<Self> {
        let home = Home::new("redis", "redis")?;
        let mut redis = Redis { daemon: None, home };
        redis.restart().await?;
        Ok(redis)
    }

    /// Starts it, empty, after [`Redis::stop`] or [`Redis::kill`], or stops and starts it.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let mut command = self
            .home
            .command(daemon::find_program("redis-server", &[])?);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.home.port.to_string()]);
        self.daemon = Some(self.home.start("redis-server", command).await?);
        eventually("Redis is ready", async || {
            Ok(self
                .command(&["PING"])
                .await
                .is_ok_and(|answer| answer == "PONG\n"))
        })
        .await
        .with_context(|| self.home.log())
    }

    /// Ends it as its service does.
    pub async fn stop(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(daemon) => daemon.stop(Signal::TERM).await,
            None => Ok(()),
        }
    }

    /// kill -9.
    pub async fn kill(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("Redis is down")?;
        daemon.kill().await
    }

    /// Stops its process without ending it, as a machine does that hangs; [`Redis::thaw`] lets it go on.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// See [`Redis::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let daemon = self.daemon.as_ref().context("Redis is down")?;
        daemon.signal(signal)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.home.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.home.port
    }

    /// What it has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.home.log()
    }

    /// Has it execute one command, and returns the answer as `redis-cli` prints it.
    pub async fn command(&self, words: &[&str]) -> Result<String> {
        let mut client = Command::new(daemon::find_program("redis-cli", &[])?);
        client
            .args(["-h", "127.0.0.1", "-p", &self.home.port.to_string()])
            .args(words)
            .kill_on_drop(true);
        daemon::output(client).await
    }
}
