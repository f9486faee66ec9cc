//! Connections to one database, and transactions on them.
//!
//! To a database server each statement has a time limit here, beside the server's own: a network that swallows packets
//! would keep it waiting until the kernel gives up, a quarter of an hour later. Once a statement has met its limit, or
//! the way to the server has failed otherwise, all connections are in doubt for a while: each is tried before it is used
//! again, and left where it does not answer, or where its server takes no writes any more. So a server that has moved
//! behind its address is found within seconds.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    ExecResult, QueryResult, RuntimeErr, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait as _,
};
use tokio::time::{Instant, timeout};

use super::error::Cause;
use super::{Error, sql};
use crate::settings::DatabaseOptions;

mod server;
mod sqlite;

pub(super) use server::connect_unlimited;
pub(super) use sqlite::connect as connect_sqlite;

/// How much longer than the server's own limit an answer is waited for.
const GRACE: Duration = Duration::from_secs(2);
/// How long connections are in doubt after one has failed.
const DOUBT: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    connections: DatabaseConnection,
    limits: Limits,
}

/// Dropped without a commit, it is rolled back.
#[derive(Debug)]
pub struct Transaction {
    transaction: DatabaseTransaction,
    limits: Limits,
}

/// How long statements are waited for, and whether connections are in doubt, whichever pool they are of. `None`: SQLite, in
/// this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits(Option<Arc<Limited>>);

#[derive(Debug)]
struct Limited {
    /// For one statement.
    statement: Duration,
    /// For a connection and one statement.
    connection: Duration,
    doubted_until: Mutex<Option<Instant>>,
}

// === impl Pool ===

impl Pool {
    /// Connects to a database server, with at most so many connections.
    pub(super) async fn connect(
        url: &str,
        options: &DatabaseOptions,
        connections: u32,
        limits: Limits,
    ) -> Result<Self, DbErr> {
        let options = server::options(url, options, connections, &limits);
        Ok(Pool {
            connections: Database::connect(options).await?,
            limits,
        })
    }

    /// Begins a transaction. On SQLite it takes the write lock at once.
    pub(super) async fn begin(&self) -> Result<Transaction, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let begun = self.connections.begin_with_options(options);
        Ok(Transaction {
            transaction: self.limits.of_connection(begun).await?,
            limits: self.limits.clone(),
        })
    }

    /// Fails where nothing could be written now.
    pub(super) async fn check_writable(&self) -> Result<(), Error> {
        let tx = self.begin().await?;
        if let Some(question) = server::is_read_only(tx.get_database_backend()) {
            let row = sql::query_one(&tx, question, []).await?;
            let answer = row.map(|row| row.try_get_by_index::<String>(0));
            if server::says_yes(&answer.transpose()?.unwrap_or_default()) {
                self.limits.doubt();
                let reason = "the server takes no writes".to_owned();
                return Err(Error::Unavailable(DbErr::Conn(RuntimeErr::Internal(
                    reason,
                ))));
            }
        }
        Ok(tx.rollback().await?)
    }
}

impl From<DatabaseConnection> for Pool {
    /// Without limits.
    fn from(connections: DatabaseConnection) -> Self {
        Pool {
            connections,
            limits: Limits::default(),
        }
    }
}

#[async_trait]
impl ConnectionTrait for Pool {
    fn get_database_backend(&self) -> DbBackend {
        self.connections.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let executed = self.connections.execute_raw(statement);
        self.limits.of_connection(executed).await
    }

    async fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        let executed = self.connections.execute_unprepared(text);
        self.limits.of_connection(executed).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let row = self.connections.query_one_raw(statement);
        self.limits.of_connection(row).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let rows = self.connections.query_all_raw(statement);
        self.limits.of_connection(rows).await
    }
}

// === impl Transaction ===

impl Transaction {
    /// Makes it last.
    ///
    /// # Errors
    /// [`DbErr`]; where the way to the server has failed, it may last nevertheless.
    pub async fn commit(self) -> Result<(), DbErr> {
        let committed = self.transaction.commit();
        self.limits.of_statement(committed).await
    }

    /// Gives it up.
    ///
    /// # Errors
    /// [`DbErr`]; it is given up nevertheless.
    pub async fn rollback(self) -> Result<(), DbErr> {
        let given_up = self.transaction.rollback();
        self.limits.of_statement(given_up).await
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.transaction.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let executed = self.transaction.execute_raw(statement);
        self.limits.of_statement(executed).await
    }

    async fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        let executed = self.transaction.execute_unprepared(text);
        self.limits.of_statement(executed).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let row = self.transaction.query_one_raw(statement);
        self.limits.of_statement(row).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let rows = self.transaction.query_all_raw(statement);
        self.limits.of_statement(rows).await
    }
}

// === impl Limits ===

impl Limits {
    /// Those of all connections to one server.
    pub(super) fn new(options: &DatabaseOptions) -> Self {
        let statement = options.statement_timeout + GRACE;
        Limits(Some(Arc::new(Limited {
            statement,
            connection: options.acquire_timeout + statement,
            doubted_until: Mutex::default(),
        })))
    }

    async fn of_statement<T>(
        &self,
        statement: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        match &self.0 {
            Some(limited) => limited.wait(limited.statement, statement).await,
            None => statement.await,
        }
    }

    async fn of_connection<T>(
        &self,
        statement: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        match &self.0 {
            Some(limited) => limited.wait(limited.connection, statement).await,
            None => statement.await,
        }
    }

    fn doubt(&self) {
        if let Some(limited) = &self.0 {
            *limited.doubted_until.lock() = Some(Instant::now() + DOUBT);
        }
    }

    /// Whether a connection may be of no use though nothing has failed on it.
    fn are_in_doubt(&self) -> bool {
        let Some(limited) = &self.0 else { return false };
        let mut until = limited.doubted_until.lock();
        *until = until.filter(|until| Instant::now() < *until);
        until.is_some()
    }
}

impl Limited {
    async fn wait<T>(
        &self,
        limit: Duration,
        statement: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DbErr> {
        let mut statement = pin!(statement);
        let outcome = timeout(limit, &mut statement).await.unwrap_or_else(|_| {
            let reason = format!("no answer within {limit:?}");
            Err(DbErr::Conn(RuntimeErr::Internal(reason)))
        });
        // Before the statement is dropped, and its connection goes back to the pool.
        if let Err(error) = &outcome
            && Cause::of(error) == Cause::Connection
        {
            *self.doubted_until.lock() = Some(Instant::now() + DOUBT);
        }
        outcome
    }
}
