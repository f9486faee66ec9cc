//! What goes wrong, one after the other, and how long it takes until all nodes are ready again.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Options;
use crate::cluster::Cluster;

/// How long it may take until all nodes are ready again.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Time between two looks at that.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// kill -9, and another start.
    KillNode(usize),
    /// SIGSTOP, and SIGCONT: to the others it is gone, and it does not know.
    FreezeNode(usize),
    RestartRedis,
    KillRedis,
    FreezeRedis,
    RestartPostgres,
    KillPostgres,
}

/// What has gone wrong.
#[derive(Debug)]
pub(super) struct Happened {
    /// Since people began to talk.
    pub at: Duration,
    pub fault: Fault,
    /// How long it was away.
    pub down: Duration,
    /// How long it took from its coming back until all nodes were ready.
    pub ready_after: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::KillNode(node) => write!(f, "kill -9 of node {node}"),
            Fault::FreezeNode(node) => write!(f, "node {node} hangs"),
            Fault::RestartRedis => f.write_str("restart of Redis"),
            Fault::KillRedis => f.write_str("kill -9 of Redis"),
            Fault::FreezeRedis => f.write_str("Redis hangs"),
            Fault::RestartPostgres => f.write_str("restart of PostgreSQL"),
            Fault::KillPostgres => f.write_str("kill -9 of PostgreSQL"),
        }
    }
}

/// Faults until the time is over.
pub(super) async fn run(cluster: &mut Cluster, options: &Options) -> Result<Vec<Happened>> {
    let mut rng = fastrand::Rng::with_seed(options.talk.seed);
    let mut deck = Vec::new();
    let mut happened = Vec::new();
    let started = Instant::now();
    let end = started + options.lasts;
    let mut next_at = started + options.fault_every;
    // The last one leaves time to see what comes of it.
    while next_at + options.fault_every / 2 <= end {
        sleep_until(next_at).await;
        let at = started.elapsed();
        if deck.is_empty() {
            deck = shuffled(options.nodes, &mut rng);
        }
        let fault = deck.pop().context("a deck has cards")?;
        let down = cause(cluster, fault, &mut rng)
            .await
            .with_context(|| fault.to_string())?;
        let back = Instant::now();
        let ready = timeout(READY_WITHIN, until_ready(cluster)).await;
        ready.with_context(|| format!("{fault}: not all nodes are ready again"))?;
        let ready_after = back.elapsed();
        println!(
            "{:6.1} s  {fault}: away for {:.1} s, all nodes ready {:.1} s later",
            at.as_secs_f64(),
            down.as_secs_f64(),
            ready_after.as_secs_f64()
        );
        happened.push(Happened {
            at,
            fault,
            down,
            ready_after,
        });
        next_at = (next_at + options.fault_every).max(Instant::now());
    }
    sleep_until(end).await;
    Ok(happened)
}

/// Each kind once, nodes killed twice as often as anything else, in random order.
fn shuffled(nodes: usize, rng: &mut fastrand::Rng) -> Vec<Fault> {
    let mut deck = vec![
        Fault::KillNode(rng.usize(..nodes)),
        Fault::KillNode(rng.usize(..nodes)),
        Fault::FreezeNode(rng.usize(..nodes)),
        Fault::RestartRedis,
        Fault::KillRedis,
        Fault::FreezeRedis,
        Fault::RestartPostgres,
        Fault::KillPostgres,
    ];
    rng.shuffle(&mut deck);
    deck
}

/// Returns when it is back, or is starting again; tells how long it was away.
async fn cause(cluster: &mut Cluster, fault: Fault, rng: &mut fastrand::Rng) -> Result<Duration> {
    let mut away = |from: f64, to: f64| Duration::from_secs_f64(from + rng.f64() * (to - from));
    let started = Instant::now();
    match fault {
        Fault::KillNode(node) => {
            cluster.kill(node).await?;
            sleep(away(0.5, 6.0)).await;
            cluster.node_mut(node).restart().await?;
        }
        Fault::FreezeNode(node) => {
            cluster.node(node).signal("STOP").await?;
            sleep(away(1.0, 8.0)).await;
            cluster.node(node).signal("CONT").await?;
        }
        Fault::RestartRedis => {
            cluster.redis.stop().await?;
            sleep(away(0.0, 4.0)).await;
            cluster.redis.restart().await?;
        }
        Fault::KillRedis => {
            cluster.redis.kill().await?;
            sleep(away(0.0, 4.0)).await;
            cluster.redis.restart().await?;
        }
        Fault::FreezeRedis => {
            cluster.redis.freeze()?;
            sleep(away(1.0, 6.0)).await;
            cluster.redis.thaw()?;
        }
        Fault::RestartPostgres => {
            cluster.postgres.stop().await?;
            sleep(away(0.0, 3.0)).await;
            cluster.postgres.restart().await?;
        }
        Fault::KillPostgres => {
            cluster.postgres.kill().await?;
            sleep(away(0.0, 3.0)).await;
            cluster.postgres.restart().await?;
        }
    }
    Ok(started.elapsed())
}

async fn until_ready(cluster: &Cluster) {
    while (0..cluster.len()).any(|node| !cluster.balancer.is_using(node)) {
        sleep(LOOK_AGAIN_AFTER).await;
    }
}
