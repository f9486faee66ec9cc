//! `bench idle`: what a connection costs that does nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;
use serde::Serialize;

use super::connection::Connection;
use super::report::{self, Mib};
use super::server::{Place, Server};
use super::{limits, open_all, process};

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
    /// Also write the report as JSON; to the standard output for -, and the text to the standard error then
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The outcome.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    connections: usize,
    /// Of them, those that were still open at the end.
    open: usize,
    rss_before_bytes: u64,
    rss_after_bytes: u64,
    bytes_per_connection: f64,
}

impl IdleOptions {
    pub(super) async fn run(self, config: Option<&Path>) -> anyhow::Result<()> {
        limits::raise_open_files()?;
        let first = u32::try_from(FIRST).unwrap_or(u32::MAX);
        let count = limits::connections_that_fit(self.connections.saturating_add(first));
        ensure!(count > first, "there is no room for connections");
        let (server, accounts) = Server::start_with_users(config, count, Place::Apart).await?;
        let way = &server.target().mqtt;
        let (first, rest) = accounts.split_at(FIRST);

        let first = open_all(way, first, schema::Format::Protobuf).await?;
        let before = settled_rss(&server).await?;
        eprintln!("opening {} connections", rest.len());
        let mut rest = open_all(way, rest, schema::Format::Protobuf).await?;
        let after = settled_rss(&server).await?;

        let open = rest.iter_mut().map(Connection::is_open);
        let open = open.filter(|is_open| *is_open).count();
        let report = Report {
            connections: rest.len(),
            open,
            rss_before_bytes: before,
            rss_after_bytes: after,
            bytes_per_connection: (after as f64 - before as f64) / rest.len() as f64,
        };
        drop(first);
        server.stop().await;
        report::write(&report, self.json.as_deref())?;
        if report.open < report.connections {
            bail!("FAILED: the server has closed connections");
        }
        Ok(())
    }
}

async fn settled_rss(server: &Server) -> anyhow::Result<u64> {
    tokio::time::sleep(SETTLE).await;
    match process::rss(server.pid()) {
        Some(bytes) => Ok(bytes),
        None => bail!("the server's memory is not known here"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} connected, subscribed and silent", self.connections)?;
        writeln!(
            f,
            "server     {} RSS before, {} after: {:.0} bytes per connection",
            Mib(self.rss_before_bytes),
            Mib(self.rss_after_bytes),
            self.bytes_per_connection
        )?;
        match self.connections - self.open {
            0 => writeln!(f, "check      ok: all are still open"),
            closed => writeln!(f, "check      FAILED: {closed} were closed"),
        }
    }
}
