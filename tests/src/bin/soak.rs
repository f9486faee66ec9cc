//! People on several nodes, and one fault after the other; see `tidings_tests::soak`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use tidings_tests::soak::{self, Options};
use tidings_tests::talk;

/// Kills nodes, Redis and PostgreSQL under a cluster while people talk, and checks that nothing is lost
#[derive(Debug, Parser)]
struct Arguments {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    nodes: u16,
    /// How many users, an even number; each tenth has two devices
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(2..))]
    users: u32,
    /// How long they talk
    #[arg(long, default_value_t = 300)]
    secs: u64,
    /// Messages a second that all together write
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Seconds from one fault to the next
    #[arg(long, default_value_t = 20)]
    fault_every: u64,
    /// Chooses what is said and what goes wrong
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let report = soak::run(&Options {
        nodes: arguments.nodes.into(),
        talk: talk::Options {
            users: arguments.users as usize,
            rate: arguments.rate,
            seed: arguments.seed,
        },
        lasts: Duration::from_secs(arguments.secs),
        fault_every: Duration::from_secs(arguments.fault_every),
    })
    .await?;
    println!("\n{report}");
    Ok(if report.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
