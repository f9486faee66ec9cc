//! `bench users`: whether a message costs more when many users are connected: the same load with few and then with many,
//! on the same server, spread over all of them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use clap::Args;
use serde::Serialize;

use super::report::{self, Report};
use super::server::{Place, Server};
use super::{ChatOptions, WireFormat, limits, stamp};

/// The same load with few users and with many.
#[derive(Args, Clone, Debug)]
pub struct UsersOptions {
    /// Few, an even number
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..))]
    few: u32,
    /// Many, an even number; fewer, where a process may not open so many files (see --in-process)
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(2..))]
    many: u32,
    /// Messages per second of all users together
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long to measure, each time
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Seconds of the same load before that; longer, where not everyone had a turn by then
    #[arg(long, default_value_t = 5)]
    warmup: u32,
    /// Run the server in this process, and reach it through memory instead of sockets: any number of users. CPU time is
    /// then that of server and generator together
    #[arg(long)]
    in_process: bool,
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
    /// CPU time per message, with many by with few: of the server, or of the process that it shares with the generator.
    cpu_ratio: Option<f64>,
    /// The same for the median of the time that a message takes to its receiver.
    delivered_in_ratio: f64,
}

impl UsersOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        ensure!(
            self.few.is_multiple_of(2) && self.many.is_multiple_of(2),
            "--few and --many must be even: they chat in pairs"
        );
        let (place, many) = if self.in_process {
            (Place::Here, self.many)
        } else {
            limits::raise_open_files()?;
            // An even number again.
            (Place::Apart, limits::connections_that_fit(self.many) & !1)
        };
        ensure!(self.few < many, "--few must be fewer");
        // Each time other users, so that every conversation begins at 1.
        let (server, accounts) = Server::start_with_users(config, self.few + many, place).await?;
        let (few, many) = accounts.split_at(self.few as usize);
        let few = self.chat(few.len()).measure(&server, few).await?;
        let many = self.chat(many.len()).measure(&server, many).await?;
        server.stop().await;

        let cpu = many.cpu_per_message().zip(few.cpu_per_message());
        let both = Both {
            cpu_ratio: cpu.map(|(many, few)| many / few),
            delivered_in_ratio: many.delivered_in() as f64 / few.delivered_in() as f64,
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
        let users = u32::try_from(users).unwrap_or(u32::MAX);
        // The first message makes the conversation, which is not what is to be compared.
        let one_turn = users.div_ceil(self.rate);
        ChatOptions {
            mqtt: None,
            http: None,
            users,
            window: 16,
            seconds: self.seconds,
            warmup: self.warmup.max(one_turn),
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
        let time = self.delivered_in_ratio;
        match self.cpu_ratio {
            Some(cpu) => writeln!(
                f,
                "with many, a message costs {cpu:.2} times the CPU, and takes {time:.2} times as long"
            ),
            None => writeln!(f, "with many, a message takes {time:.2} times as long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_in_this_process_keeps_its_promises() {
        let options = UsersOptions {
            few: 2,
            many: 6,
            rate: 50,
            seconds: 1,
            warmup: 0,
            size: 64,
            in_process: true,
            json: None,
        };
        options.run(None).await.unwrap();
    }

    #[test]
    fn everyone_has_a_turn_before_it_counts() {
        let options = UsersOptions {
            few: 1000,
            many: 50_000,
            rate: 1000,
            seconds: 20,
            warmup: 5,
            size: 64,
            in_process: true,
            json: None,
        };
        assert_eq!(options.chat(1000).warmup, 5);
        assert_eq!(options.chat(50_000).warmup, 50);
    }
}
