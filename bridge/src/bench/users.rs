//! `bench users`: whether a message costs more when many users are connected: the same load with few and then with many,
//! on the same server, spread over all of them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::Args;
use serde::Serialize;

use super::report::{self, Report};
use super::server::Server;
use super::{ChatOptions, WireFormat, limits, stamp};

/// The same load with few users and with many.
#[derive(Args, Clone, Debug)]
pub struct UsersOptions {
    /// Few, an even number
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    few: u32,
    /// Many, an even number; fewer, where a process may not open so many files
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(2..))]
    many: u32,
    /// Messages per second of all users together
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long to measure, each time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Seconds of the same load before that
    #[arg(long, default_value_t = 5)]
    warmup: u32,
    /// Bytes of a message's content
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(stamp::SIZE as i64..))]
    size: u32,
    /// Also write the report as JSON; to the standard output for -, and the text to the standard error then
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The outcome.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Both {
    few: Report,
    many: Report,
    /// CPU time of the server per message, with many by with few.
    server_cpu_ratio: Option<f64>,
}

impl UsersOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        ensure!(
            self.few.is_multiple_of(2) && self.many.is_multiple_of(2),
            "--few and --many must be even: they chat in pairs"
        );
        limits::raise_open_files()?;
        // An even number again.
        let many = limits::connections_that_fit(self.many) & !1;
        ensure!(self.few < many, "--few must be fewer");
        // Each time other users, so that every conversation begins at 1.
        let (server, accounts) = Server::start_with_users(config, self.few + many).await?;
        let (few, many) = accounts.split_at(self.few as usize);
        let few = self.chat(few.len()).measure(&server, few).await?;
        let many = self.chat(many.len()).measure(&server, many).await?;
        server.stop().await;

        let ratio = many
            .server_cpu_per_message()
            .zip(few.server_cpu_per_message());
        let both = Both {
            server_cpu_ratio: ratio.map(|(many, few)| many / few),
            few,
            many,
        };
        report::write(&both, self.json.as_deref())?;
        if !(both.few.is_ok() && both.many.is_ok()) {
            bail!(
                "FAILED: not every message was stored, answered and received once; see the check"
            );
        }
        Ok(())
    }

    fn chat(&self, users: usize) -> ChatOptions {
        ChatOptions {
            mqtt: None,
            http: None,
            users: u32::try_from(users).unwrap_or(u32::MAX),
            window: 16,
            seconds: self.seconds,
            warmup: self.warmup,
            size: self.size,
            format: WireFormat::Protobuf,
            rate: self.rate,
            json: None,
        }
    }
}

impl fmt::Display for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.few, self.many)?;
        match self.server_cpu_ratio {
            Some(ratio) => writeln!(f, "with many, a message costs {ratio:.2} times the CPU"),
            None => Ok(()),
        }
    }
}
