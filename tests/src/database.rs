//! The database of a test's server, on the engine that `TIDINGS_TEST_DATABASE` names: `sqlite` (also where nothing is
//! named), `postgres` or `mysql`, which is MariaDB.
//!
//! The first test that needs it starts PostgreSQL or MariaDB for all tests of this process; each test has a database
//! there, which its server fills with tables as it would anywhere.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::daemon;
use crate::mariadb::{self, MariaDb};
use crate::postgres::{self, Postgres};
use crate::session::Session;

/// Which database servers are tested with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
    MySql,
}

impl Engine {
    /// The one that these tests run with.
    pub fn tested() -> Self {
        let name = std::env::var("TIDINGS_TEST_DATABASE").unwrap_or_default();
        match name.as_str() {
            "" | "sqlite" => Engine::Sqlite,
            "postgres" => Engine::Postgres,
            "mysql" => Engine::MySql,
            _ => panic!("TIDINGS_TEST_DATABASE is sqlite, postgres or mysql, not {name}"),
        }
    }
}

/// A database of one server.
pub enum Database {
    /// The file in a data folder.
    Sqlite(PathBuf),
    /// One of this name.
    Postgres(String),
    /// One of this name, that belongs to a user of this name.
    MySql(String),
}

/// The server's database in the hands of somebody else.
pub struct DatabaseLock(Lock);

enum Lock {
    /// A process with an exclusive transaction.
    Sqlite(Child),
    /// Statements that make connections possible again.
    Released(Database, String),
}

/// Ended by their keepers when the process ends.
static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
static MARIADB: OnceCell<MariaDb> = OnceCell::const_new();

async fn postgres() -> Result<&'static Postgres> {
    let start = || Postgres::start(postgres::Options::default());
    POSTGRES.get_or_try_init(start).await
}

async fn mariadb() -> Result<&'static MariaDb> {
    let start = || MariaDb::start(mariadb::Options::default());
    MARIADB.get_or_try_init(start).await
}

/// Takes the lock, says so, and keeps it until its standard input ends.
const LOCK_DATABASE: &str = r#"
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"#;

/// Executes a statement and prints its rows.
const EXECUTE: &str = r#"
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=20)
for row in connection.execute(sys.argv[2]):
    print(*row, sep="\t")
connection.commit()
"#;

// === impl Database ===

impl Database {
    /// An empty one for a server with this data folder.
    pub(crate) async fn make(engine: Engine, data_dir: PathBuf) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Ok(match engine {
            Engine::Sqlite => Database::Sqlite(data_dir.join("tidings.db")),
            Engine::Postgres => {
                let create = format!("CREATE DATABASE {name}");
                postgres().await?.sql("postgres", &create).await?;
                Database::Postgres(name)
            }
            Engine::MySql => {
                let create = format!(
                    "CREATE DATABASE {name} CHARACTER SET utf8mb4;
                     CREATE USER {name};
                     GRANT ALL ON {name}.* TO {name}"
                );
                mariadb().await?.sql("mysql", &create).await?;
                Database::MySql(name)
            }
        })
    }

    /// What `TIDINGS__DATABASE__URL` is to be.
    pub(crate) fn url(&self) -> String {
        match self {
            Database::Sqlite(file) => format!("sqlite://{}", file.display()),
            Database::Postgres(name) => {
                let postgres = POSTGRES.get().expect("it was made there");
                postgres.url(name)
            }
            Database::MySql(name) => {
                let mariadb = MARIADB.get().expect("it was made there");
                mariadb.url_of(name, name)
            }
        }
    }

    /// Removes it when its server has ended. (A file goes with its folder.)
    pub(crate) async fn remove(self) -> Result<()> {
        match self {
            Database::Sqlite(_) => {}
            Database::Postgres(name) => {
                let drop = format!("DROP DATABASE {name} WITH (FORCE)");
                postgres().await?.sql("postgres", &drop).await?;
            }
            Database::MySql(name) => {
                let drop = format!("DROP DATABASE {name}; DROP USER {name}");
                mariadb().await?.sql("mysql", &drop).await?;
            }
        }
        Ok(())
    }

    /// Executes a statement that all engines understand; returns the rows, a line each with tabs between the columns.
    pub(crate) async fn sql(&self, statement: &str) -> Result<String> {
        match self {
            Database::Sqlite(file) => {
                let mut python = Command::new("python3");
                python.args(["-c", EXECUTE]).arg(file).arg(statement);
                python.kill_on_drop(true);
                daemon::output(python).await
            }
            Database::Postgres(name) => postgres().await?.sql(name, statement).await,
            Database::MySql(name) => mariadb().await?.sql(name, statement).await,
        }
    }

    /// Somebody else on it, who is more to the server than an ordinary user.
    pub(crate) async fn session(&self) -> Result<Session> {
        match self {
            Database::Sqlite(_) => bail!("SQLite's file is one process's"),
            Database::Postgres(name) => postgres().await?.session(name),
            Database::MySql(name) => mariadb().await?.session(name),
        }
    }

    /// Everything in it, as bytes in which texts can be found.
    pub(crate) async fn dump(&self) -> Result<Vec<u8>> {
        match self {
            Database::Sqlite(file) => {
                let mut bytes = std::fs::read(file)?;
                let log = std::fs::read(file.with_extension("db-wal"));
                bytes.extend(log.unwrap_or_default());
                Ok(bytes)
            }
            Database::Postgres(name) => postgres().await?.dump(name).await,
            Database::MySql(name) => mariadb().await?.dump(name).await,
        }
    }

    /// Takes it away from its server.
    pub(crate) async fn lock(&self) -> Result<DatabaseLock> {
        Ok(DatabaseLock(match self {
            Database::Sqlite(file) => Lock::Sqlite(lock_file(file.clone()).await?),
            Database::Postgres(name) => {
                let [lock, unlock] = ["false", "true"]
                    .map(|may| format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {may}"));
                let end = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
                );
                for statement in [&lock, &end] {
                    postgres().await?.sql("postgres", statement).await?;
                }
                Lock::Released(Database::Postgres("postgres".into()), unlock)
            }
            Database::MySql(name) => {
                let [lock, unlock] =
                    ["LOCK", "UNLOCK"].map(|how| format!("ALTER USER {name} ACCOUNT {how}"));
                let end = format!("KILL USER {name}");
                for statement in [&lock, &end] {
                    mariadb().await?.sql("mysql", statement).await?;
                }
                Lock::Released(Database::MySql("mysql".into()), unlock)
            }
        }))
    }
}

async fn lock_file(file: PathBuf) -> Result<Child> {
    ensure!(file.is_file(), "no database at {}", file.display());
    let mut process = Command::new("python3")
        .args(["-c", LOCK_DATABASE])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = process.stdout.take().context("stdout is piped")?;
    let said = BufReader::new(stdout).lines().next_line().await?;
    ensure!(said.as_deref() == Some("locked"), "no lock: {said:?}");
    Ok(process)
}

// === impl DatabaseLock ===

impl DatabaseLock {
    /// Lets go of the database.
    pub async fn release(self) -> Result<()> {
        match self.0 {
            Lock::Sqlite(mut process) => {
                drop(process.stdin.take());
                let status = process.wait().await?;
                ensure!(status.success(), "letting go of the database: {status}");
            }
            Lock::Released(database, unlock) => {
                database.sql(&unlock).await?;
            }
        }
        Ok(())
    }
}
