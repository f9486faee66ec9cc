//! The folder for everything that must survive a restart, and the database that lives there by default.

use std::io;
use std::path::PathBuf;

use crate::settings::Settings;
use crate::store::{self, Store};

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be made.
    #[error("the data folder {path} can't be made")]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database can't be opened.
    #[error("the database can't be opened")]
    Connect(#[source] store::Error),
    /// The schema can't be brought up to date.
    #[error("the database's schema can't be brought up to date")]
    Migrate(#[source] store::Error),
}

/// Opens the database as it is; the data folder and the SQLite file are made where they are missing.
///
/// # Errors
/// [`OpenError`] when it can't be reached.
pub async fn connect(settings: &Settings) -> Result<Store, OpenError> {
    let path = &settings.data_dir;
    std::fs::create_dir_all(path).map_err(|source| OpenError::Folder {
        path: path.clone(),
        source,
    })?;
    let url = settings.database_url();
    let connected = Store::connect_with(&url, &settings.database).await;
    connected.map_err(OpenError::Connect)
}

/// Opens the database and brings its schema up to date.
///
/// # Errors
/// [`OpenError`] when one of the two can't be done.
pub async fn open_store(settings: &Settings) -> Result<Store, OpenError> {
    let store = connect(settings).await?;
    store.migrate().await.map_err(OpenError::Migrate)?;
    Ok(store)
}
