//! `tidings`: reads the command line and the settings, then hands over to [`tidings_bridge::cli`].

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tidings_bridge::cli::Cli;
use tidings_bridge::settings::Settings;
use tracing_subscriber::EnvFilter;

/// The system's allocator takes a seventh of the server's time, since so much is made in one thread and dropped in another.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidings: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = Settings::load(cli.config.as_deref())?;
    let filter = EnvFilter::try_new(settings.log_filter()).context("log is not a filter")?;
    // It reports each lost connection as an ERROR; whoever can't go on without the database says so once.
    let filter = filter.add_directive("sqlx_core::pool=off".parse()?);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime can't be started")?;
    runtime.block_on(cli.run(settings))
}
