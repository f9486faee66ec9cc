//! The database: the only place that knows sea-orm, SQL and which of the three dialects is spoken.
//!
//! Access is by noun, one module each; a lookup that finds nothing is `Ok(None)`. On SQLite one connection writes and
//! several read (WAL), so that a reader never waits for the writer, and in a server one copies the log (`checkpoint`);
//! elsewhere all are the same pool.
//!
//! Commits are durable: SQLite runs with `synchronous=FULL`, the others with their defaults.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use migrations::{Migrator, MigratorTrait as _};
use sea_orm::sqlx::Connection as _;
use sea_orm::sqlx::SqliteConnection;
use sea_orm::sqlx::pool::PoolConnectionMetadata;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    RuntimeErr, SqlErr, SqliteTransactionMode, TransactionOptions, TransactionTrait as _, sqlx,
};

pub mod answers;
pub mod audit;
pub mod changes;
mod checkpoint;
pub mod contacts;
pub mod conversations;
pub mod devices;
pub mod erasure;
pub mod export;
pub mod flags;
pub mod grants;
pub mod groups;
pub mod leases;
pub mod logins;
pub mod looks;
pub mod members;
pub mod messages;
pub mod nodes;
pub mod operations;
pub mod receipts;
pub mod retained;
pub mod scheduled;
pub mod search;
pub(crate) mod sql;
pub mod user_words;
pub mod users;
pub mod views;

use checkpoint::Checkpoints;

/// How long a statement waits for another process's lock on the SQLite file before it fails as [`Error::Unavailable`].
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// SQLite's page cache per connection, in KiB: the hot ends of the indexes stay in memory.
const SQLITE_CACHE_KIB: u32 = 64 * 1024;
/// Prepared statements kept per connection: batches come in powers of two, some ten texts per statement.
const STATEMENT_CACHE: usize = 256;
/// Connections that read; each costs a thread on SQLite.
const READERS: u32 = 4;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is locked, full, unwritable, restarting or out of reach: the same call may succeed later.
    #[error("the database is unavailable")]
    Unavailable(#[source] DbErr),
    /// A unique key exists already.
    #[error("the row exists already")]
    Exists(#[source] DbErr),
    /// What was known of a row beforehand is no longer so: the same call may succeed with what is so now.
    #[error("what was known of a row is no longer so")]
    Stale,
    /// A defect of ours or of the database.
    #[error("the database refused a statement")]
    Internal(#[source] DbErr),
}

impl Error {
    /// The node may give no ids for now.
    pub(crate) fn no_number() -> Self {
        let reason = "the node has no number until it reaches the database in time";
        Error::Unavailable(DbErr::Custom(reason.to_owned()))
    }
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) {
            return Error::Exists(error);
        }
        if is_transient(&error) {
            Error::Unavailable(error)
        } else {
            Error::Internal(error)
        }
    }
}

/// An error with everything behind it, for the log.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Whether waiting may help: anything that isn't the server's answer to the statement itself, and the
/// answers that speak of locks, space and restarts.
fn is_transient(error: &DbErr) -> bool {
    let source = match error {
        DbErr::Exec(source) | DbErr::Query(source) => source,
        DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => return true,
        _ => return false,
    };
    match source {
        RuntimeErr::SqlxError(error) => match error.as_ref() {
            sqlx::Error::Database(database) => {
                is_transient_code(database.code().as_deref().unwrap_or_default())
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            _ => false,
        },
        RuntimeErr::Internal(_) => false,
    }
}

/// SQLite's extended result codes (decimal; the primary code is the low byte), SQLSTATE classes of PostgreSQL and MySQL.
fn is_transient_code(code: &str) -> bool {
    // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL
    const SQLITE: [u32; 9] = [5, 6, 7, 8, 9, 10, 13, 14, 15];
    // connection, transaction rollback (serialization, deadlock), resources, operator intervention, system
    const SQLSTATE_CLASSES: [&str; 5] = ["08", "40", "53", "57", "58"];
    match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => SQLITE.contains(&(number & 0xff)),
        _ => SQLSTATE_CLASSES.iter().any(|class| code.starts_with(class)) || code == "55P03",
    }
}

/// A transaction; dropped without a commit, it is rolled back.
pub type Transaction = DatabaseTransaction;

/// A connected database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    write: DatabaseConnection,
    read: DatabaseConnection,
    /// On SQLite only.
    checkpoints: Option<Arc<Checkpoints>>,
}

impl Store {
    /// Connects, creating the SQLite file where `url` names one that does not exist.
    ///
    /// # Errors
    /// [`Error`] when the database can't be reached or opened.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        if !DbBackend::Sqlite.is_prefix_of(url) {
            let pool = Database::connect(options(url, READERS * 2)).await?;
            return Ok(Store {
                write: pool.clone(),
                read: pool,
                checkpoints: None,
            });
        }
        let mut writer = sqlite_options(url, 1);
        writer.map_sqlx_sqlite_pool_opts(|pool| pool.after_release(give_up_if_in_transaction));
        let write = Database::connect(writer).await?;
        let read = Database::connect(sqlite_options(url, READERS)).await?;
        Ok(Store {
            write,
            read,
            checkpoints: None,
        })
    }

    /// Copies SQLite's log beside the writer from now on: for a process that writes much. Elsewhere it changes nothing.
    ///
    /// # Errors
    /// [`Error`] when the database can't be opened once more.
    pub async fn with_checkpoints(mut self) -> Result<Self, Error> {
        if let Some(path) = self.sqlite_path().await? {
            let url = format!("sqlite://{path}");
            let connection = Database::connect(sqlite_options(&url, 1)).await?;
            let checkpoints = Checkpoints::start(&self.write, connection, &path).await?;
            self.checkpoints = checkpoints.map(Arc::new);
        }
        Ok(self)
    }

    async fn sqlite_path(&self) -> Result<Option<String>, DbErr> {
        if self.write.get_database_backend() != DbBackend::Sqlite {
            return Ok(None);
        }
        let list = sql::query_one(&self.write, "PRAGMA database_list", []).await?;
        list.map(|main| main.try_get("", "file")).transpose()
    }

    /// The URL of the SQLite file in a data folder.
    #[must_use]
    pub fn sqlite_url(data_dir: &Path) -> String {
        format!("sqlite://{}", data_dir.join("tidings.db").display())
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database holds a migration that this binary does not know.
    pub async fn migrate(&self) -> Result<(), Error> {
        Ok(Migrator::up(&self.write, None).await?)
    }

    /// Takes back the newest migration.
    ///
    /// # Errors
    /// [`Error`] when the database can't do it.
    pub async fn migrate_down(&self) -> Result<(), Error> {
        Ok(Migrator::down(&self.write, Some(1)).await?)
    }

    /// The migrations that this binary knows, oldest first, each with whether it is applied, for people to read.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database holds a migration that this binary does not know.
    pub async fn migrations(&self) -> Result<Vec<String>, Error> {
        let migrations = Migrator::get_migration_with_status_read_only(&self.write).await?;
        let lines = migrations
            .iter()
            .map(|migration| format!("{} {}", migration.status(), migration.name()));
        Ok(lines.collect())
    }

    /// Whether other nodes may write to it at the same time. SQLite's file is one process's.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.write.get_database_backend() != DbBackend::Sqlite
    }

    /// Reads outside any transaction.
    #[must_use]
    pub fn reader(&self) -> &DatabaseConnection {
        &self.read
    }

    /// Single statements that write; each is a transaction of its own.
    #[must_use]
    pub fn writer(&self) -> &DatabaseConnection {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.written();
        }
        &self.write
    }

    /// Begins a transaction that may write. On SQLite it takes the write lock at once, so that it never has to
    /// be given up half-way for another writer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while someone else holds the lock.
    pub async fn begin(&self) -> Result<Transaction, Error> {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.before_write(&self.write).await;
        }
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        Ok(self.write.begin_with_options(options).await?)
    }

    /// Whether a write could begin now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it could not.
    pub async fn check_writable(&self) -> Result<(), Error> {
        Ok(self.begin().await?.rollback().await?)
    }
}

fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(5))
        .sqlx_logging(false)
        .test_before_acquire_if_idle_for(Duration::from_secs(30))
        .map_sqlx_postgres_opts(|postgres| postgres.statement_cache_capacity(STATEMENT_CACHE))
        .map_sqlx_mysql_opts(|mysql| mysql.statement_cache_capacity(STATEMENT_CACHE));
    options
}

fn sqlite_options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = options(url, connections);
    options.map_sqlx_sqlite_opts(|sqlite| {
        sqlite
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(SQLITE_BUSY_TIMEOUT)
            .statement_cache_capacity(STATEMENT_CACHE)
            .pragma("cache_size", format!("-{SQLITE_CACHE_KIB}"))
            .pragma("temp_store", "MEMORY")
    });
    options
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

#[cfg(test)]
impl Store {
    /// An empty database, gone with its folder.
    pub(crate) async fn fresh() -> (Self, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::connect(&Store::sqlite_url(folder.path()))
            .await
            .expect("a new database");
        store.migrate().await.expect("all tables");
        (store, folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sea_orm::ConnectionTrait as _;

    /// What every batch looks up is found by an index, however many rows there are.
    #[tokio::test]
    async fn lookups_do_not_scan() {
        let folder = tempfile::tempdir().unwrap();
        let url = Store::sqlite_url(folder.path());
        let store = Store::connect(&url).await.unwrap();
        store.migrate().await.unwrap();
        for lookup in [
            "SELECT 1 FROM messages t WHERE (t.sender, t.client_msg_id) {in}",
            "SELECT 1 FROM answers t WHERE (t.uid, t.client_msg_id) {in}",
            "SELECT 1 FROM devices t WHERE (t.uid, t.device) {in}",
            "SELECT 1 FROM contacts t WHERE (t.uid, t.other) {in}",
            "DELETE FROM attachments AS t WHERE (t.conversation_id, t.seq) {in}",
            "DELETE FROM mentions AS t WHERE (t.conversation_id, t.uid, t.seq) {in}",
        ] {
            let columns = lookup.matches("t.").count();
            let mut rows = sql::Rows::new(columns);
            for _ in 0..2 {
                match columns {
                    2 => rows.push(["a".into(), "b".into()]),
                    _ => rows.push(["a".into(), "b".into(), "c".into()]),
                }
            }
            let explain = format!("EXPLAIN QUERY PLAN {lookup}");
            let plan = sql::query_rows(store.reader(), &explain, rows)
                .await
                .unwrap();
            let details: Vec<String> = plan
                .iter()
                .map(|row| row.try_get("", "detail").unwrap())
                .collect();
            let is_search = |detail: &String| detail.starts_with("SEARCH t USING");
            assert!(details.iter().any(is_search), "{lookup}: {details:?}");
        }
    }

    /// A full disk makes SQLite end a transaction by itself, which sqlx does not notice: it would count one transaction
    /// too many from then on, begin savepoints instead of transactions, and commit nothing.
    #[tokio::test]
    async fn a_transaction_that_ended_by_itself_does_not_spoil_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::connect(&Store::sqlite_url(folder.path()))
            .await
            .unwrap();
        let create = "CREATE TABLE t (x INTEGER PRIMARY KEY)";
        sql::execute(store.writer(), create, []).await.unwrap();
        for round in 1..=3_i32 {
            let tx = store.begin().await.unwrap();
            tx.execute_unprepared("ROLLBACK").await.unwrap();
            drop(tx);

            let insert = "INSERT INTO t VALUES (?)";
            let tx = store.begin().await.unwrap();
            sql::execute(&tx, insert, [round.into()]).await.unwrap();
            let twice = sql::execute(&tx, insert, [round.into()]).await;
            assert!(matches!(twice.map_err(Error::from), Err(Error::Exists(_))));
            drop(tx);

            let tx = store.begin().await.unwrap();
            sql::execute(&tx, insert, [round.into()]).await.unwrap();
            tx.commit().await.unwrap();
            let rows = sql::query(store.reader(), "SELECT x FROM t", [])
                .await
                .unwrap();
            assert_eq!(
                rows.len(),
                usize::try_from(round).unwrap(),
                "others see what was committed"
            );
        }
    }
}
