//! `bench connect`: how many clients a second a server lets in, each with an access token, and what that costs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use super::accounts::Account;
use super::connection::Connection;
use super::report::{self, Quantiles};
use super::server::{Place, Server};
use super::way::Way;
use super::{limits, process, tally};

/// Users whose tokens are shown in turn.
const USERS: u32 = 1000;

/// Connects and disconnects, again and again.
#[derive(Args, Clone, Debug)]
pub struct ConnectOptions {
    /// How many connects
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    connects: u32,
    /// Connects at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..10_000))]
    in_flight: u32,
    /// Also write the report as JSON; to the standard output for -, and the text to the standard error then
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The outcome.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    connects: u32,
    in_flight: u32,
    failed: u32,
    first_failure: Option<String>,
    connects_per_second: f64,
    /// From opening the socket to the CONNACK.
    connected_in: Quantiles,
    server_cpu_micros_per_connect: Option<f64>,
    generator_cpu_micros_per_connect: Option<f64>,
}

/// What one worker has seen.
struct Seen {
    connected_in: Histogram<u64>,
    failures: Vec<String>,
}

impl ConnectOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        limits::raise_open_files()?;
        let fit = limits::connections_that_fit(self.in_flight);
        ensure!(
            fit == self.in_flight,
            "too many connections at the same time"
        );
        let (server, accounts) = Server::start_with_users(config, USERS, Place::Apart).await?;
        let accounts: Arc<[Account]> = accounts.into();
        let way = server.target().mqtt.clone();
        let next = Arc::new(AtomicU32::new(0));

        let pids = (server.pid(), std::process::id());
        let before = (process::cpu_time(pids.0), process::cpu_time(pids.1));
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.in_flight {
            let (way, accounts, next) = (way.clone(), accounts.clone(), next.clone());
            workers.spawn(work(way, accounts, next, self.connects));
        }
        let mut seen = Seen::new();
        while let Some(worker) = workers.join_next().await {
            seen.add(worker.context("a worker")?);
        }
        let took = started.elapsed();
        let after = (process::cpu_time(pids.0), process::cpu_time(pids.1));
        server.stop().await;

        let per_connect = |before: Option<Duration>, after: Option<Duration>| {
            let spent = after?.checked_sub(before?)?;
            Some(spent.as_secs_f64() * 1e6 / f64::from(self.connects))
        };
        let failed = u32::try_from(seen.failures.len()).unwrap_or(u32::MAX);
        let report = Report {
            connects: self.connects,
            in_flight: self.in_flight,
            failed,
            first_failure: seen.failures.into_iter().next(),
            connects_per_second: f64::from(self.connects - failed) / took.as_secs_f64(),
            connected_in: Quantiles::from(&seen.connected_in),
            server_cpu_micros_per_connect: per_connect(before.0, after.0),
            generator_cpu_micros_per_connect: per_connect(before.1, after.1),
        };
        report::write(&report, self.json.as_deref())?;
        if report.failed > 0 {
            bail!("FAILED: not every client was let in");
        }
        Ok(())
    }
}

/// Connects until all connects are taken.
async fn work(way: Way, accounts: Arc<[Account]>, next: Arc<AtomicU32>, connects: u32) -> Seen {
    let mut seen = Seen::new();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= connects {
            return seen;
        }
        // Two connects at the same time are never of the same user, who has one device.
        let account = &accounts[index as usize % accounts.len()];
        let started = Instant::now();
        match connect(&way, index, account).await {
            Ok(connection) => {
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                seen.connected_in.saturating_record(micros);
                connection.close().await;
            }
            Err(error) => seen.failures.push(format!("{error:#}")),
        }
    }
}

async fn connect(way: &Way, index: u32, account: &Account) -> anyhow::Result<Connection> {
    Connection::log_in(way, index, account)
        .await
        .with_context(|| format!("connecting {}", account.uid))
}

impl Seen {
    fn new() -> Seen {
        Seen {
            connected_in: tally::latencies(3),
            failures: Vec::new(),
        }
    }

    fn add(&mut self, other: Seen) {
        self.failures.extend(other.failures);
        // Both have the same range.
        self.connected_in += other.connected_in;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} connects with an access token, {} at a time",
            self.connects, self.in_flight
        )?;
        writeln!(
            f,
            "connected  {:>9.0} /s  {}",
            self.connects_per_second, self.connected_in
        )?;
        for (who, cpu) in [
            ("server", self.server_cpu_micros_per_connect),
            ("generator", self.generator_cpu_micros_per_connect),
        ] {
            if let Some(micros) = cpu {
                writeln!(f, "{who:9}  {micros:.1} µs of CPU per connect")?;
            }
        }
        match &self.first_failure {
            None => writeln!(f, "check      ok: all were let in"),
            Some(first) => writeln!(
                f,
                "check      FAILED: {} were not; first: {first}",
                self.failed
            ),
        }
    }
}
