//! `tidings migrate`

use anyhow::Context as _;
use clap::Subcommand;

use crate::data_dir;
use crate::settings::Settings;

/// What can be done with the schema.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Command {
    /// Apply all migrations that are missing
    Up,
    /// Take back the newest migration, and with it the data that it made room for
    Down,
    /// List the migrations
    Status,
}

impl Command {
    pub(super) async fn run(self, settings: &Settings) -> anyhow::Result<()> {
        let store = data_dir::connect(settings).await?;
        match self {
            Command::Up => store.migrate().await.context("migrating up failed")?,
            Command::Down => (store.migrate_down().await).context("migrating down failed")?,
            Command::Status => {}
        }
        for migration in store.migrations().await? {
            println!("{migration}");
        }
        Ok(())
    }
}
