//! Bringing the schema up to date, by one process at a time: nodes that start at once wait for the one that is first.
//!
//! PostgreSQL and MySQL lock a name for a session, SQLite its file; all let go when the process ends in the middle.

use std::time::Duration;

use migrations::{MigrationStatus, Migrator, MigratorTrait as _};
use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
};
use tokio::time::sleep;
use tracing::info;

use super::pool::{connect_sqlite, connect_unlimited};
use super::{Error, Store, sql};

/// How often a lock that another process has is asked for.
const AGAIN: Duration = Duration::from_millis(100);
/// PostgreSQL's advisory locks have numbers, in each database its own. Any will do that nobody else takes.
const LOCK: i64 = 0x7469_6469_6e67;

/// Which way the schema goes.
#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl Store {
    /// Brings the schema up to date.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database holds a migration that this binary does not know.
    pub async fn migrate(&self) -> Result<(), Error> {
        let migrations = Migrator::get_migration_with_status_read_only(self.reader()).await?;
        let mut statuses = migrations.iter().map(migrations::Migration::status);
        if statuses.all(|status| status == MigrationStatus::Applied) {
            return Ok(());
        }
        self.migrate_alone(Way::Up).await
    }

    /// Takes back the newest migration.
    ///
    /// # Errors
    /// [`Error`] when the database can't do it.
    pub async fn migrate_down(&self) -> Result<(), Error> {
        self.migrate_alone(Way::Down).await
    }

    /// The migrations that this binary knows, oldest first, each with whether it is applied, for people to read.
    ///
    /// # Errors
    /// [`Error::Internal`] when the database holds a migration that this binary does not know.
    pub async fn migrations(&self) -> Result<Vec<String>, Error> {
        let migrations = Migrator::get_migration_with_status_read_only(self.reader()).await?;
        let lines = migrations
            .iter()
            .map(|migration| format!("{} {}", migration.status(), migration.name()));
        Ok(lines.collect())
    }

    /// On a connection of its own, whose end gives the lock back.
    async fn migrate_alone(&self, way: Way) -> Result<(), Error> {
        let backend = self.reader().get_database_backend();
        if backend == DbBackend::Sqlite {
            // All of it is one transaction.
            let file = connect_sqlite(self.url.expose(), 1).await?;
            let tx = lock_file(&file).await?;
            migrate(&tx, way).await?;
            return Ok(tx.commit().await?);
        }
        let session = connect_unlimited(self.url.expose()).await?;
        lock(&session).await?;
        let migrated = migrate(&session, way).await;
        session.close().await?;
        Ok(migrated?)
    }
}

async fn migrate<'c, C>(connection: C, way: Way) -> Result<(), DbErr>
where
    C: migrations::IntoSchemaManagerConnection<'c>,
{
    match way {
        Way::Up => Migrator::up(connection, None).await,
        Way::Down => Migrator::down(connection, Some(1)).await,
    }
}

async fn lock_file(file: &DatabaseConnection) -> Result<DatabaseTransaction, Error> {
    let mut has_waited = false;
    loop {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        match file.begin_with_options(options).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) => wait(&mut has_waited).await,
            begun => return begun,
        }
    }
}

async fn lock(session: &DatabaseConnection) -> Result<(), DbErr> {
    let question = match session.get_database_backend() {
        DbBackend::Postgres => format!("SELECT pg_try_advisory_lock({LOCK})::INT::BIGINT AS ours"),
        // The server's locks are named for all its databases.
        _ => {
            "SELECT GET_LOCK(CONCAT('tidings ', LEFT(SHA1(DATABASE()), 40)), 0) AS ours".to_owned()
        }
    };
    let mut has_waited = false;
    loop {
        let row = sql::query_one(session, &question, []).await?;
        let is_ours = row.map(|row| row.try_get::<Option<i64>>("", "ours"));
        if is_ours.transpose()?.flatten() == Some(1) {
            return Ok(());
        }
        wait(&mut has_waited).await;
    }
}

async fn wait(has_waited: &mut bool) {
    if !std::mem::replace(has_waited, true) {
        info!("another process is changing the schema; waiting for it");
    }
    sleep(AGAIN).await;
}
