//! The command line of `tidings`.

mod migrate;
mod user;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::bench;
use crate::serve::{bridge, broker, serve};
use crate::service::words::Words;
use crate::settings::Settings;

/// Instant messaging whose protocol is plain MQTT.
#[derive(Debug, Parser)]
#[command(name = "tidings", version)]
pub struct Cli {
    /// Settings that differ from conf/default.toml; the environment (TIDINGS__SECTION__KEY) goes above it
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `tidings` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run broker and bridge in one process
    Serve {
        /// Make the users alice, bob and carol (password = name) and the group demo; on loopback only
        #[arg(long)]
        demo: bool,
    },
    /// Run the broker alone: it has the clients, no database, and waits at link.listen for its bridges
    Broker,
    /// Run a bridge alone: it joins the broker of link.broker, and has everything but the clients
    Bridge,
    /// Change or show the database's schema
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Manage accounts
    #[command(subcommand)]
    User(user::Command),
    /// Put load on a server, and check what it does under it
    #[command(subcommand)]
    Bench(bench::Command),
}

/// What can be done with the settings.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Tell whether the settings can be used
    Check,
}

impl Cli {
    /// Does what the command says.
    ///
    /// # Errors
    /// What went wrong, for the operator to read.
    pub async fn run(self, settings: Settings) -> anyhow::Result<()> {
        match self.command {
            Command::Serve { demo } => serve(settings, demo).await,
            Command::Broker => broker(settings).await,
            Command::Bridge => bridge(settings).await,
            Command::Migrate(command) => command.run(&settings).await,
            // All but this was checked when they were loaded.
            Command::Config(ConfigCommand::Check) => {
                crate::serve::rules(&settings)?;
                Words::of_file(&settings.words.file).reload()?;
                println!("the settings are fine");
                Ok(())
            }
            Command::User(command) => command.run(&settings).await,
            Command::Bench(command) => command.run(self.config.as_deref()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_password_has_one_source() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("tidings user add alice --password secret").is_ok());
        assert!(parse("tidings user add alice --password-stdin --admin --config x.toml").is_ok());
        assert!(parse("tidings user add alice").is_err());
        assert!(parse("tidings user passwd alice --password x --password-stdin").is_err());
    }
}
