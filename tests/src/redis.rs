//! A Redis server for tests, from Debian's package, beside whatever runs on this machine already.

use std::ops::{Deref, DerefMut};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::process::Command;

use crate::daemon::{self, Home, Service};
use crate::wait::eventually;

/// A server that keeps nothing on disk; ended with its value.
pub struct Redis {
    service: Service,
}

impl Deref for Redis {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Service {
        &mut self.service
    }
}

impl Redis {
    /// A new one, empty.
    pub async fn start() -> Result<Self> {
        let home = Home::new("redis", "redis")?;
        let service = Service::new("Redis", Signal::TERM, home);
        let mut redis = Redis { service };
        redis.restart().await?;
        Ok(redis)
    }

    /// Starts it, empty, after [`Service::stop`] or [`Service::kill`], or stops and starts it.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let mut command = self
            .home
            .command(daemon::find_program("redis-server", &[])?);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.port().to_string()]);
        self.start_with(command).await?;
        eventually("Redis is ready", async || {
            Ok(self
                .command(&["PING"])
                .await
                .is_ok_and(|answer| answer == "PONG\n"))
        })
        .await
        .with_context(|| self.log())
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Has it execute one command, and returns the answer as `redis-cli` prints it.
    pub async fn command(&self, words: &[&str]) -> Result<String> {
        let mut client = Command::new(daemon::find_program("redis-cli", &[])?);
        client
            .args(["-h", "127.0.0.1", "-p", &self.port().to_string()])
            .args(words)
            .kill_on_drop(true);
        daemon::output(client).await
    }
}
