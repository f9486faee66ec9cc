//! SQLite's file, opened by this process.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use sea_orm::sqlx::Connection as _;
use sea_orm::sqlx::SqliteConnection;
use sea_orm::sqlx::pool::PoolConnectionMetadata;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, sqlx};

use super::server::STATEMENT_CACHE;

/// How long a statement waits for another process's lock on the file before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// The page cache per connection, in KiB: the hot ends of the indexes stay in memory.
const CACHE_KIB: u32 = 64 * 1024;

/// Opens the file so many times, and makes it where it is missing.
pub(in crate::store) async fn connect(
    url: &str,
    connections: u32,
) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(5))
        .sqlx_logging(false)
        .test_before_acquire(false)
        .map_sqlx_sqlite_opts(|sqlite| {
            sqlite
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(BUSY_TIMEOUT)
                .statement_cache_capacity(STATEMENT_CACHE)
                .pragma("cache_size", format!("-{CACHE_KIB}"))
                .pragma("temp_store", "MEMORY")
        })
        .map_sqlx_sqlite_pool_opts(|pool| pool.after_release(give_up_if_in_transaction));
    Database::connect(options).await
}

/// Whether a connection that comes back to the pool can be used again.
///
/// A full disk or an I/O error makes SQLite end the transaction by itself, which sqlx does not notice: it would go on
/// with savepoints inside a transaction that nobody commits.
fn give_up_if_in_transaction<'c>(
    connection: &'c mut SqliteConnection,
    _: PoolConnectionMetadata,
) -> Pin<Box<dyn Future<Output = Result<bool, sqlx::Error>> + Send + 'c>> {
    Box::pin(async move {
        if connection.is_in_transaction() {
            // Waits for the rollback that a dropped transaction has left behind.
            connection.ping().await?;
        }
        Ok(!connection.is_in_transaction())
    })
}
