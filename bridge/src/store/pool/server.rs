//! Connections to PostgreSQL, MySQL and MariaDB.
//!
//! All run at READ COMMITTED: whatever a transaction decides by, it has locked or reads after it has locked it, and
//! each statement is to see what was committed until then. MySQL's default would show what was there when the transaction
//! began to read, and would lock the gaps between rows as well, which is where most of its deadlocks come from.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use sea_orm::sqlx::mysql::MySqlConnection;
use sea_orm::sqlx::pool::PoolConnectionMetadata;
use sea_orm::sqlx::postgres::PgConnection;
use sea_orm::sqlx::{Connection, Executor as _, Row as _};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbBackend, DbErr, sqlx};
use tokio::time::timeout;

use super::Limits;
use crate::settings::DatabaseOptions;

/// Prepared statements kept per connection: batches come in powers of two, some ten texts per statement.
pub(super) const STATEMENT_CACHE: usize = 256;
/// A connection that was idle for so long is tried before it is used.
const IDLE: Duration = Duration::from_secs(10);
/// How long a connection has to answer when it is tried.
const TRIAL: Duration = Duration::from_secs(2);

/// What a hook of sqlx's returns.
type Verdict<'c> = Pin<Box<dyn Future<Output = Result<bool, sqlx::Error>> + Send + 'c>>;

pub(super) fn options(
    url: &str,
    options: &DatabaseOptions,
    connections: u32,
    limits: &Limits,
) -> ConnectOptions {
    let mut connect = common(url);
    connect
        .max_connections(connections)
        .acquire_timeout(options.acquire_timeout);
    let postgres = postgres_session(options);
    let (on_acquire, on_release) = (limits.clone(), limits.clone());
    connect
        .map_sqlx_postgres_before_acquire(move |connection, past| {
            on_acquire.try_before_use(connection, past)
        })
        .map_sqlx_postgres_pool_opts(move |pool| {
            let (session, limits) = (postgres.clone(), on_release.clone());
            pool.after_connect(move |connection, _| {
                let session = sqlx::AssertSqlSafe(session.clone());
                Box::pin(async move { connection.execute(session).await.map(drop) })
            })
            .after_release(move |connection, _| limits.try_after_use(connection))
        });
    let mysql = mysql_session(options);
    let (on_acquire, on_release) = (limits.clone(), limits.clone());
    connect
        .map_sqlx_mysql_before_acquire(move |connection, past| {
            on_acquire.try_before_use(connection, past)
        })
        .map_sqlx_mysql_pool_opts(move |pool| {
            let (session, limits) = (mysql.clone(), on_release.clone());
            pool.after_connect(move |connection, _| {
                let session = sqlx::AssertSqlSafe(session.clone());
                Box::pin(async move { connection.execute(session).await.map(drop) })
            })
            .after_release(move |connection, _| limits.try_after_use(connection))
        });
    connect
}

/// One connection for migrations: it stays the same until it is dropped, so that it can hold a lock, and a statement may
/// take as long as it needs.
pub(in crate::store) async fn connect_unlimited(url: &str) -> Result<DatabaseConnection, DbErr> {
    let mut options = common(url);
    options
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .map_sqlx_postgres_pool_opts(|pool| {
            pool.after_connect(|connection, _| {
                let session = "SET client_min_messages = warning; SET statement_timeout = 0";
                Box::pin(async move { connection.execute(session).await.map(drop) })
            })
        });
    Database::connect(options).await
}

fn common(url: &str) -> ConnectOptions {
    // What MariaDB calls itself, the driver does not know.
    let url = match url.strip_prefix("mariadb:") {
        Some(rest) => format!("mysql:{rest}"),
        None => url.to_owned(),
    };
    let mut options = ConnectOptions::new(url);
    options
        .sqlx_logging(false)
        .test_before_acquire(false)
        .map_sqlx_postgres_opts(|postgres| {
            postgres
                .application_name("tidings")
                .statement_cache_capacity(STATEMENT_CACHE)
        })
        .map_sqlx_mysql_opts(|mysql| mysql.statement_cache_capacity(STATEMENT_CACHE));
    options
}

/// A node that vanishes without a word keeps no locks for long: its transactions are ended, and its end of the network is
/// asked for.
fn postgres_session(options: &DatabaseOptions) -> String {
    let statement = options.statement_timeout.as_millis();
    let lock = options.lock_timeout.as_millis();
    format!(
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED;
         SET statement_timeout = {statement};
         SET lock_timeout = {lock};
         SET idle_in_transaction_session_timeout = {statement};
         SET tcp_keepalives_idle = 10;
         SET tcp_keepalives_interval = 5;
         SET tcp_keepalives_count = 3;
         SET tcp_user_timeout = 20000;
         SET client_min_messages = warning"
    )
}

/// The comments are code to MariaDB or to MySQL 8 only. Texts that are too long are refused, whatever the server's own
/// setting.
fn mysql_session(options: &DatabaseOptions) -> String {
    let seconds = |limit: Duration| limit.as_millis().div_ceil(1000);
    let statement = seconds(options.statement_timeout);
    let lock = seconds(options.lock_timeout);
    let millis = options.statement_timeout.as_millis();
    format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
         SET SESSION sql_mode = 'STRICT_ALL_TABLES,PIPES_AS_CONCAT,NO_ENGINE_SUBSTITUTION',
             innodb_lock_wait_timeout = {lock}
             /*M! , max_statement_time = {statement}, idle_transaction_timeout = {statement} */
             /*!80000 , max_execution_time = {millis} */"
    )
}

/// Asks whether the server takes no writes, where a server may be like that.
pub(super) fn is_read_only(backend: DbBackend) -> Option<&'static str> {
    match backend {
        DbBackend::Postgres => Some("SHOW transaction_read_only"),
        DbBackend::MySql => Some("SELECT CAST(@@GLOBAL.read_only AS CHAR)"),
        _ => None,
    }
}

/// The answer to that.
pub(super) fn says_yes(answer: &str) -> bool {
    matches!(answer, "on" | "ON" | "1")
}

/// A connection that can be tried.
trait Try: Connection {
    /// Whether its server takes writes.
    fn takes_writes(&mut self) -> Verdict<'_>;
}

impl Try for PgConnection {
    fn takes_writes(&mut self) -> Verdict<'_> {
        let question = is_read_only(DbBackend::Postgres).unwrap_or_default();
        Box::pin(async move {
            let row = self.fetch_one(question).await?;
            Ok(!says_yes(&row.try_get::<String, _>(0)?))
        })
    }
}

impl Try for MySqlConnection {
    fn takes_writes(&mut self) -> Verdict<'_> {
        let question = is_read_only(DbBackend::MySql).unwrap_or_default();
        Box::pin(async move {
            let row = self.fetch_one(question).await?;
            Ok(!says_yes(&row.try_get::<String, _>(0)?))
        })
    }
}

impl Limits {
    fn try_before_use<'c>(
        &self,
        connection: &'c mut (impl Try + Send),
        past: PoolConnectionMetadata,
    ) -> Verdict<'c> {
        if past.idle_for < IDLE && !self.are_in_doubt() {
            return Box::pin(async { Ok(true) });
        }
        Box::pin(in_time(connection.takes_writes()))
    }

    /// sqlx would wait without a limit for the answer to whatever a connection was about when it was dropped, and the pool
    /// would have one less.
    fn try_after_use<'c>(&self, connection: &'c mut (impl Try + Send)) -> Verdict<'c> {
        let are_in_doubt = self.are_in_doubt();
        Box::pin(in_time(async move {
            connection.flush().await?;
            match are_in_doubt {
                true => connection.takes_writes().await,
                false => Ok(true),
            }
        }))
    }
}

async fn in_time(
    trial: impl Future<Output = Result<bool, sqlx::Error>>,
) -> Result<bool, sqlx::Error> {
    let verdict = timeout(TRIAL, trial).await;
    verdict.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}
