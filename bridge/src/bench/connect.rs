//! `bench connect`: how many clients a second a server lets in, each with an access token, and what that costs.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::accounts::Account;
use super::connection::Connection;
use super::faults::{Checked, Faults};
use super::limits;
use super::process::Meter;
use super::progress::{Progress, Stage};
use super::results::{About, Better, Figure, Run, Unit};
use super::runs::Output;
use super::server::{Place, Server, add_settings};
use super::tally::latencies;
use super::way::Way;

/// Users whose tokens are shown in turn, if no more connect at the same time.
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
        let about = add_settings(self.about(), config)?;
        self.output.repeat(about, measure).await
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
        let users = USERS.max(self.in_flight);
        let (server, accounts) = Server::start_with_users(config, users, place).await?;
        let way = server.target().mqtt.clone();
        let next = Arc::new(AtomicU32::new(0));
        let stage = Arc::new(progress.count("connecting", self.connects.into()));

        let meter = Meter::start(server.processes());
        let started = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..self.in_flight as usize {
            // Nobody else's: a user has one device, which can't connect twice at the same time.
            let accounts = accounts[worker..].iter().step_by(self.in_flight as usize);
            let accounts = accounts.cloned().collect();
            let (way, next) = (way.clone(), next.clone());
            workers.spawn(work(way, accounts, next, self.connects, stage.clone()));
        }
        let mut seen = Seen::new();
        while let Some(worker) = workers.join_next().await {
            seen.add(worker.context("a worker")?);
        }
        let took = started.elapsed();
        let spent = meter.spent();
        server.stop().await;

        let connected = seen.connected_in.len() as f64 / took.as_secs_f64();
        let mut figures = vec![Figure::more("connected", connected, Unit::PerSecond)];
        // Whoever is let in connects again, so that this follows from how many are let in.
        let micros = &seen.connected_in;
        figures.extend(Figure::quantiles(
            "connected in the window",
            micros,
            Better::Neither,
        ));
        figures.extend(spent.per("connect", f64::from(self.connects)));
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
    accounts: Vec<Account>,
    next: Arc<AtomicU32>,
    connects: u32,
    stage: Arc<Stage>,
) -> Seen {
    let mut seen = Seen::new();
    for account in accounts.iter().cycle() {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= connects {
            break;
        }
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
    seen
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
        for name in ["connected", "connected in the window p50"] {
            assert!(run.value(name).is_some_and(|value| value > 0.0), "{name}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_connects_twice_at_the_same_time() {
        let in_flight = (USERS + 1).to_string();
        let line = ["_", "--connects", "1100", "--in-flight", &in_flight];
        let options = Line::parse_from(line).options;
        let progress = Progress::default();
        let run = options.measure(None, Place::Here, &progress).await.unwrap();
        assert!(run.check.is_ok(), "{}", run.check);
    }
}
