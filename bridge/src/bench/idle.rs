//! `bench idle`: what a connection costs that does nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;
use schema::Format;

use super::connection::{Entry, open_all};
use super::faults::{Checked, Faults};
use super::progress::Progress;
use super::results::{About, Figure, Run, Unit};
use super::runs::Output;
use super::server::{Place, Server, add_settings};
use super::{limits, process};

/// Connections that are opened before the first look at the server's memory: what it needs only once is there then.
const FIRST: usize = 100;
/// Between the last connection and a look at the memory.
const SETTLE: Duration = Duration::from_secs(2);

/// Clients that are connected and subscribed, and silent.
#[derive(Args, Clone, Debug)]
pub struct IdleOptions {
    /// How many connections, each of a user of its own
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    #[command(flatten)]
    output: Output,
}

impl IdleOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        limits::raise_open_files()?;
        let first = u32::try_from(FIRST).unwrap_or(u32::MAX);
        let users = limits::connections_that_fit(self.connections.saturating_add(first));
        ensure!(users > first, "there is no room for connections");
        let measure = async |progress: &Progress| measure(config, users, progress).await;
        let about = add_settings(about(users - first), config)?;
        self.output.repeat(about, measure).await
    }
}

fn about(connections: u32) -> About {
    let title = format!("{connections} connected, subscribed and silent");
    About::new("idle", title, [("connections", connections.into())])
}

/// The first [`FIRST`] of the users don't count.
async fn measure(config: Option<&Path>, users: u32, progress: &Progress) -> anyhow::Result<Run> {
    let (server, accounts) = Server::start_with_users(config, users, Place::Apart).await?;
    let way = &server.target().mqtt;
    let entries = Entry::of_chats(&accounts, Format::Protobuf);
    let (first, rest) = entries.split_at(FIRST);

    let first = open_all(way, first, progress).await?;
    let before = settled_rss(&server, progress).await?;
    let mut rest = open_all(way, rest, progress).await?;
    let after = settled_rss(&server, progress).await?;

    let mut faults = Faults::default();
    for (connection, account) in rest.iter_mut().zip(&accounts[FIRST..]) {
        if !connection.is_open() {
            faults.note("closed", || format!("that of {}", account.uid));
        }
    }
    drop(first);
    server.stop().await;
    let grown = after as f64 - before as f64;
    let memory = |name, bytes| Figure::less(name, bytes, Unit::Bytes);
    Ok(Run {
        figures: vec![
            memory("memory per connection", grown / rest.len() as f64),
            memory("memory before", before as f64),
            memory("memory after", after as f64),
        ],
        series: Vec::new(),
        check: Checked {
            what: format!("all {} are still open", rest.len()),
            faults,
        },
    })
}

async fn settled_rss(server: &Server, progress: &Progress) -> anyhow::Result<u64> {
    let _stage = progress.time("waiting for the memory to settle", SETTLE);
    tokio::time::sleep(SETTLE).await;
    match process::rss_of(&server.processes()) {
        Some(bytes) => Ok(bytes),
        None => bail!("the server's memory is not known here"),
    }
}
