//! Many people on several nodes for minutes, while nodes, Redis and PostgreSQL are killed again and again; at the end nothing
//! may be lost, doubled or missing, and all devices must have the same.
//!
//! Reading order: [`crate::talk`] (the people), `faults` (what goes wrong, and when), `report`.

mod faults;
mod report;

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

pub use self::report::Report;
use crate::cluster::Plan;
use crate::postgres;
use crate::talk::{self, FIRST_USER, Talk};

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes behind the balancer.
    pub nodes: usize,
    /// Who talks; its seed also chooses what goes wrong.
    pub talk: talk::Options,
    /// How long people talk.
    pub lasts: Duration,
    /// Time from one fault to the next.
    pub fault_every: Duration,
}

/// Runs all of it.
pub async fn run(options: &Options) -> Result<Report> {
    let plan = match options.nodes {
        1 => Plan::alone(),
        nodes => Plan::of(nodes),
    };
    let durable = postgres::Options {
        durable: true,
        ..postgres::Options::default()
    };
    let plan = plan.without_proxies().postgres(durable);
    let mut cluster = plan.start(&[FIRST_USER]).await?;
    let talk = Talk::begin(&cluster, &options.talk).await?;
    let happened = faults::run(&mut cluster, options).await?;
    let settling = Instant::now();
    let checked = talk.settle(&cluster).await?;
    let report = Report::new(options, &talk, happened, checked, settling.elapsed());
    talk.leave().await?;
    cluster.stop().await?;
    Ok(report)
}
