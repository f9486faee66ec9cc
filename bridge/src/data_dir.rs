//! The folder for everything that must survive a restart, and the database that lives there by default.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::bucket::{Bucket, S3Options};
use crate::archive::{self, Archive};
use crate::settings::Settings;
use crate::store::{self, Store};

/// The folder for messages in files, unless configured.
const ARCHIVE: &str = "archive";

/// Why the database or the archive can't be used.
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
    /// The archive can't be used.
    #[error("the archive can't be opened")]
    Archive(#[source] archive::Error),
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

/// The archive that the settings name, which is a folder in the data folder unless configured.
///
/// # Errors
/// [`OpenError::Archive`] when it can't be used. Whether an object store answers is seen later.
pub fn open_archive(settings: &Settings) -> Result<Archive, OpenError> {
    let options = &settings.archive;
    let bucket = match options.bucket() {
        Some((bucket, prefix)) => {
            let s3 = S3Options {
                bucket,
                prefix,
                endpoint: &options.endpoint,
                region: &options.region,
                access_key_id: &options.access_key_id,
                secret_access_key: options.secret_access_key.expose(),
                path_style: options.path_style,
            };
            Bucket::s3(&s3, options.timeout)
        }
        None if options.url.is_empty() => {
            Bucket::folder(&settings.data_dir.join(ARCHIVE), options.timeout)
        }
        None => Bucket::folder(Path::new(&options.url), options.timeout),
    };
    let bucket = bucket.map_err(OpenError::Archive)?;
    Ok(Archive::new(bucket, options.cache))
}
