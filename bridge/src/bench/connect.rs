//! `bench connect`: how many clients a second a server lets in, each with an access token, and what that costs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::accounts::Account;
use super::connection::Connection;
use super::faults::{Checked, Faults};
use super::progress::{Progress, Stage};
use super::results::{About, Figure, Run, Unit};
use super::runs::Output;
use super::server::{Place, Server};
use super::tally::latencies;
use super::way::Way;
use super::{limits, process};

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
    #[command(flatten)]
    output: Output,
}

/// What one worker has seen.
struct Seen {
    /// From opening the socket to the CONNACK, in microseconds.
    connected_in: Histogram<u64>,
    faults: Faults,
}

impl ConnectOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        limits::raise_open_files()?;
        let fit = limits::connections_that_fit(self.in_flight);
        ensure!(
            fit == self.in_flight,
            "too many connections at the same time"
        );
        let measure =
            async |progress: &Progress| self.measure(config, Place::Apart, progress).await;
        self.output.repeat(self.about(), measure).await
    }

    fn about(&self) -> About {
        let (connects, in_flight) = (self.connects, self.in_flight);
        let title = format!("{connects} connects with an access token, {in_flight} at a time");
        let load = [
            ("connects", connects.into()),
            ("inFlight", in_flight.into()),
        ];
        About::new("connect", title, load)
    }

    async fn measure(
        &self,
        config: Option<&Path>,
        place: Place,
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        let (server, accounts) = Server::start_with_users(config, USERS, place).await?;
        let accounts: Arc<[Account]> = accounts.into();
        let way = server.target().mqtt.clone();
        let next = Arc::new(AtomicU32::new(0));
        let stage = Arc::new(progress.count("connecting", self.connects.into()));

        let pids = (server.pid(), std::process::id());
        let before = (process::cpu_time(pids.0), process::cpu_time(pids.1));
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for _ in 0..self.in_flight {
            let (way, accounts, next) = (way.clone(), accounts.clone(), next.clone());
            workers.spawn(work(way, accounts, next, self.connects, stage.clone()));
        }
        let mut seen = Seen::new();
        while let Some(worker) = workers.join_next().await {
            seen.add(worker.context("a worker")?);
        }
        let took = started.elapsed();
        let after = (process::cpu_time(pids.0), process::cpu_time(pids.1));
        server.stop().await;

        let connected = seen.connected_in.len() as f64 / took.as_secs_f64();
        let mut figures = vec![Figure::more("connected", connected, Unit::PerSecond)];
        figures.extend(Figure::quantiles("connected", &seen.connected_in));
        let per_connect = |before: Option<Duration>, after: Option<Duration>| {
            let spent = after?.checked_sub(before?)?;
            Some(spent.as_secs_f64() * 1e6 / f64::from(self.connects))
        };
        let server = per_connect(before.0, after.0);
        let server = server.map(|cpu| Figure::less("server CPU per connect", cpu, Unit::Micros));
        let generator = per_connect(before.1, after.1);
        let generator =
            generator.map(|cpu| Figure::neither("generator CPU per connect", cpu, Unit::Micros));
        figures.extend(server.into_iter().chain(generator));
        Ok(Run {
            figures,
            series: Vec::new(),
            check: Checked {
                what: format!("all {} were let in", self.connects),
                faults: seen.faults,
            },
        })
    }
}

/// Connects until all connects are taken.
async fn work(
    way: Way,
    accounts: Arc<[Account]>,
    next: Arc<AtomicU32>,
    connects: u32,
    stage: Arc<Stage>,
) -> Seen {
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
            Err(error) => seen.faults.note("not let in", || format!("{error:#}")),
        }
        stage.advance(1);
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
            connected_in: latencies(3),
            faults: Faults::default(),
        }
    }

    fn add(&mut self, other: Seen) {
        self.faults.add(&other.faults);
        // Both have the same range.
        self.connected_in += other.connected_in;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: ConnectOptions,
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everyone_is_let_in() {
        let options = Line::parse_from(["_", "--connects", "20", "--in-flight", "4"]).options;
        let progress = Progress::default();
        let run = options.measure(None, Place::Here, &progress).await.unwrap();
        assert!(run.check.is_ok(), "{}", run.check);
        for name in ["connected", "connected p50", "connected max"] {
            assert!(run.value(name).is_some_and(|value| value > 0.0), "{name}");
        }
    }
}
