//! A PostgreSQL server for tests, from Debian's package, beside whatever runs on this machine already.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::process::Command;

use crate::daemon::{self, DATA, Home, Service};
use crate::session::Session;
use crate::wait::eventually;

/// The superuser, who needs no password from this machine.
const SUPERUSER: &str = "postgres";

/// Room for the data of a server with a small disk: twice of what it begins with.
const DISK_MIB: u32 = 128;

/// What differs from one server to the next.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether commits wait for the disk: only where the database itself is killed.
    pub durable: bool,
    /// Settings for the command line, such as `max_connections=20`.
    pub settings: Vec<String>,
    /// A certificate and its key: TLS for who asks for it.
    pub certificate: Option<(String, String)>,
}

/// A server; ended and removed with its value.
pub struct Postgres {
    service: Service,
    options: Options,
}

impl Deref for Postgres {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl DerefMut for Postgres {
    fn deref_mut(&mut self) -> &mut Service {
        &mut self.service
    }
}

impl Postgres {
    /// A new one, with the database `postgres` only.
    pub async fn start(options: Options) -> Result<Self> {
        let home = Home::new("postgres", "postgres")?;
        Self::start_new(home, options).await
    }

    /// The same, with its data on a disk that the test can fill. `None` when this user may not mount.
    pub async fn on_small_disk(options: Options) -> Result<Option<Self>> {
        let home = Home::new("postgres", "postgres")?;
        let Some(home) = home.with_small_disk(DISK_MIB)? else {
            return Ok(None);
        };
        Ok(Some(Self::start_new(home, options).await?))
    }

    async fn start_new(home: Home, options: Options) -> Result<Self> {
        let mut initdb = home.command(program("initdb")?);
        initdb
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"])
            .args(["--no-sync", "--username", SUPERUSER, "-D", DATA]);
        daemon::output(initdb).await?;
        Self::start_in(home, options).await
    }

    /// Another one that follows this one (a streaming replica); [`Postgres::promote`] makes it go on alone.
    pub async fn standby(&self, options: Options) -> Result<Self> {
        let home = Home::new("postgres", "postgres")?;
        let mut copy = home.command(program("pg_basebackup")?);
        copy.args(["-D", DATA, "--write-recovery-conf", "--no-sync"])
            .args(["--checkpoint=fast", "-d", &self.url("postgres")]);
        daemon::output(copy).await?;
        Self::start_in(home, options).await
    }

    async fn start_in(home: Home, mut options: Options) -> Result<Self> {
        if let Some((cert, key)) = &options.certificate {
            home.write("server.crt", cert)?;
            home.write("server.key", key)?;
            let on = [
                "ssl=on",
                "ssl_cert_file=../server.crt",
                "ssl_key_file=../server.key",
            ];
            options.settings.extend(on.map(str::to_owned));
        }
        let mut postgres = Postgres {
            // Fast: it does not wait for clients.
            service: Service::new("PostgreSQL", Signal::INT, home),
            options,
        };
        postgres.restart().await?;
        Ok(postgres)
    }

    /// Starts it after [`Service::stop`] or [`Service::kill`], or stops and starts it.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let mut command = self.home.command(program("postgres")?);
        command.args(["-D", DATA]);
        let durable = if self.options.durable { "on" } else { "off" };
        let port = self.port();
        let own = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={port}"),
            "unix_socket_directories=".to_owned(),
            "max_connections=500".to_owned(),
            format!("fsync={durable}"),
            format!("full_page_writes={durable}"),
        ];
        for setting in own.iter().chain(&self.options.settings) {
            command.args(["-c", setting]);
        }
        self.start_with(command).await?;
        // It takes connections before it is ready.
        eventually("PostgreSQL is ready", async || {
            Ok(self.sql("postgres", "SELECT 1").await.is_ok())
        })
        .await
        .with_context(|| self.log())
    }

    /// What its service does when it has ended by itself: starts it again.
    pub async fn ensure_running(&mut self) -> Result<()> {
        match self.is_down().await? {
            true => self.restart().await,
            false => Ok(()),
        }
    }

    /// Makes a standby a server of its own.
    pub async fn promote(&self) -> Result<()> {
        let promoted = self.sql("postgres", "SELECT pg_promote()").await?;
        anyhow::ensure!(promoted == "t\n", "not promoted: {promoted}");
        Ok(())
    }

    /// Where a database of it is.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@{}/{database}", self.address())
    }

    /// Everything in a database, as statements that make it again.
    pub(crate) async fn dump(&self, database: &str) -> Result<Vec<u8>> {
        let mut dump = Command::new(program("pg_dump")?);
        dump.arg(self.url(database)).kill_on_drop(true);
        daemon::output_bytes(dump).await
    }

    /// Somebody who does one thing after the other there.
    pub fn session(&self, database: &str) -> Result<Session> {
        Session::open(psql(&self.url(database))?)
    }

    /// Executes statements and returns the rows: a line each, columns separated by tabs.
    pub async fn sql(&self, database: &str, statements: &str) -> Result<String> {
        execute(&self.url(database), statements).await
    }
}

/// Executes statements in the database at `url`, and returns the rows as [`Postgres::sql`] does.
pub(crate) async fn execute(url: &str, statements: &str) -> Result<String> {
    let mut psql = psql(url)?;
    psql.args(["--command", statements]);
    daemon::output(psql).await
}

fn psql(url: &str) -> Result<Command> {
    let mut psql = Command::new(program("psql")?);
    psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
        .args(["--field-separator=\t", "--set=ON_ERROR_STOP=1"])
        .args(["--dbname", url])
        .kill_on_drop(true);
    Ok(psql)
}

/// Debian keeps the server's programs in a folder for each version.
fn program(name: &str) -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let versions = versions.filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders: Vec<PathBuf> = versions.map(|path| path.join("bin")).collect();
    folders.sort();
    folders.reverse();
    daemon::find_program(name, &folders)
}
