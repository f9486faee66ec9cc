//! The database: the only place that knows sea-orm, SQL and which of the three dialects is spoken.
//!
//! Access is by noun, one module each; a lookup that finds nothing is `Ok(None)`. On SQLite one connection writes and
//! several read (WAL), so that a reader never waits for the writer, and in a server one copies the log (`checkpoint`);
//! elsewhere those that write and those that read are pools of their own (`pool`), so that neither keeps the other waiting.
//!
//! Commits are durable: SQLite runs with `synchronous=FULL`, the others with their defaults.

use std::path::Path;
use std::sync::Arc;

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr};

use crate::archive::{self, Archive};
use crate::recent::Recent;
use crate::settings::{DatabaseOptions, Secret, Settings};

pub mod answers;
pub mod archives;
pub mod audit;
pub mod changes;
mod checkpoint;
pub mod contacts;
pub mod conversations;
pub mod decisions;
pub mod devices;
pub mod erasure;
mod error;
pub mod export;
pub mod flags;
pub mod grants;
pub mod groups;
pub mod leases;
pub mod logins;
pub mod looks;
pub mod members;
pub mod messages;
mod migrate;
pub mod nodes;
pub mod operations;
mod pool;
pub mod receipts;
pub mod retained;
pub mod scheduled;
pub mod search;
pub(crate) mod sql;
pub mod user_words;
pub mod users;
pub mod views;

pub use error::{Error, InTheWay, chain, repeat};
pub use pool::{Pool, Transaction};

use checkpoint::Checkpoints;
use pool::Limits;

/// Connections that read from SQLite's file; each costs a thread.
const SQLITE_READERS: u32 = 4;

/// A connected database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    write: Pool,
    read: Pool,
    /// Where it is; may hold a password.
    url: Secret,
    /// On SQLite only.
    checkpoints: Option<Arc<Checkpoints>>,
    archive: Option<Archive>,
    /// Where nodes share a Redis.
    recent: Option<Recent>,
}

impl Store {
    /// [`Store::connect_with`] the defaults.
    ///
    /// # Errors
    /// [`Error`] when the database can't be reached or opened.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_with(url, &Settings::defaults().database).await
    }

    /// Connects, creating the SQLite file where `url` names one that does not exist.
    ///
    /// # Errors
    /// [`Error`] when the database can't be reached or opened.
    pub async fn connect_with(url: &str, options: &DatabaseOptions) -> Result<Self, Error> {
        let (write, read): (Pool, Pool) = if url.starts_with("sqlite:") {
            let writer = pool::connect_sqlite(url, 1).await?;
            let readers = pool::connect_sqlite(url, SQLITE_READERS).await?;
            (writer.into(), readers.into())
        } else {
            let limits = Limits::new(options);
            let write = options.write_connections;
            let write = Pool::connect(url, options, write, limits.clone()).await?;
            let read = options.read_connections;
            (write, Pool::connect(url, options, read, limits).await?)
        };
        Ok(Store {
            write,
            read,
            url: url.to_owned().into(),
            checkpoints: None,
            archive: None,
            recent: None,
        })
    }

    /// Reads messages that are no rows any more from this archive.
    #[must_use]
    pub fn with_archive(mut self, archive: Archive) -> Self {
        self.archive = Some(archive);
        self
    }

    /// Where messages are that are no rows any more.
    ///
    /// # Errors
    /// [`Error::Archive`] when this store was not given one.
    pub fn archive(&self) -> Result<&Archive, Error> {
        self.archive
            .as_ref()
            .ok_or(Error::Archive(archive::Error::None))
    }

    /// Takes what was read lately from where it is kept, and keeps it there.
    #[must_use]
    pub fn with_recent(mut self, recent: Recent) -> Self {
        self.recent = Some(recent);
        self
    }

    /// Where what was read lately is kept for who asks next; `None`: nowhere.
    #[must_use]
    pub fn recent(&self) -> Option<&Recent> {
        self.recent.as_ref()
    }

    /// Copies SQLite's log beside the writer from now on: for a process that writes much. Elsewhere it changes nothing.
    ///
    /// # Errors
    /// [`Error`] when the database can't be opened once more.
    pub async fn with_checkpoints(mut self) -> Result<Self, Error> {
        if let Some(path) = self.sqlite_path().await? {
            let url = format!("sqlite://{path}");
            let connection = pool::connect_sqlite(&url, 1).await?;
            let checkpoints = Checkpoints::start(&self.write, connection.into(), &path).await?;
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

    /// Whether other nodes may write to it at the same time. SQLite's file is one process's.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.write.get_database_backend() != DbBackend::Sqlite
    }

    /// Reads outside any transaction.
    #[must_use]
    pub fn reader(&self) -> &Pool {
        &self.read
    }

    /// Single statements that write; each is a transaction of its own.
    #[must_use]
    pub fn writer(&self) -> &Pool {
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
        Ok(self.write.begin().await?)
    }

    /// Whether a write could begin now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it could not.
    pub async fn check_writable(&self) -> Result<(), Error> {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.before_write(&self.write).await;
        }
        self.write.check_writable().await
    }
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
