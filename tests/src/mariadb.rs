//! A MariaDB server for tests, from Debian's package, beside whatever runs on this machine already.

use std::ops::{Deref, DerefMut};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::process::Command;

use crate::daemon::{self, DATA, Home, Service};
use crate::session::Session;
use crate::wait::eventually;

/// Who needs no password from this machine.
const SUPERUSER: &str = "root";

/// What differs from one server to the next.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether commits wait for the disk: only where the database itself is killed.
    pub durable: bool,
    /// Settings for the command line, such as `max_connections=20`.
    pub settings: Vec<String>,
}

/// A server; ended and removed with its value.
pub struct MariaDb {
    service: Service,
    options: Options,
}

impl Deref for MariaDb {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl DerefMut for MariaDb {
    fn deref_mut(&mut self) -> &mut Service {
        &mut self.service
    }
}

impl MariaDb {
    /// A new one, without databases.
    pub async fn start(options: Options) -> Result<Self> {
        let home = Home::new("mariadb", "mysql")?;
        let mut install = home.command(daemon::find_program("mariadb-install-db", &[])?);
        // Fast, since the server has the last word on what is durable.
        install
            .args(["--no-defaults", "--skip-test-db"])
            .arg(home.option("--datadir", DATA))
            .arg("--auth-root-authentication-method=normal")
            .args([
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-flush-method=nosync",
            ]);
        daemon::output(install).await?;
        let mut mariadb = MariaDb {
            service: Service::new("MariaDB", Signal::TERM, home),
            options,
        };
        mariadb.restart().await?;
        Ok(mariadb)
    }

    /// Starts it after [`Service::stop`] or [`Service::kill`], or stops and starts it.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        let mut command = self.home.command(daemon::find_program("mariadbd", &[])?);
        command
            // First, or the machine's own settings would count.
            .arg("--no-defaults")
            .arg("--bind-address=127.0.0.1")
            .arg(self.home.option("--datadir", DATA))
            .arg(format!("--port={}", self.port()))
            .arg(self.home.option("--socket", "socket"))
            .arg(self.home.option("--pid-file", "pid"))
            .args(["--max-connections=500", "--skip-name-resolve"]);
        if !self.options.durable {
            command
                .args([
                    "--innodb-flush-log-at-trx-commit=0",
                    "--innodb-doublewrite=0",
                ])
                .args(["--innodb-flush-method=nosync", "--skip-sync-frm"])
                // A file for each table is what makes tables expensive.
                .arg("--skip-innodb-file-per-table");
        }
        for setting in &self.options.settings {
            command.arg(format!("--{setting}"));
        }
        self.start_with(command).await?;
        eventually("MariaDB is ready", async || {
            Ok(self.sql("mysql", "SELECT 1").await.is_ok())
        })
        .await
        .with_context(|| self.log())
    }

    /// Where a database of it is.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_of(SUPERUSER, database)
    }

    /// The same for one of its users.
    pub(crate) fn url_of(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}@{}/{database}", self.address())
    }

    /// Everything in a database, as statements that make it again.
    pub(crate) async fn dump(&self, database: &str) -> Result<Vec<u8>> {
        let mut dump = self.client("mariadb-dump")?;
        dump.args(["--skip-lock-tables", database]);
        daemon::output_bytes(dump).await
    }

    /// Somebody who does one thing after the other there.
    pub(crate) fn session(&self, database: &str) -> Result<Session> {
        let mut client = self.client("mariadb")?;
        client.args(["--batch", "--skip-column-names", "--unbuffered", database]);
        Session::open(client)
    }

    /// Executes statements and returns the rows: a line each, columns separated by tabs.
    pub async fn sql(&self, database: &str, statements: &str) -> Result<String> {
        let mut client = self.client("mariadb")?;
        client
            .args(["--batch", "--skip-column-names"])
            .args(["--execute", statements, database]);
        daemon::output(client).await
    }

    fn client(&self, program: &str) -> Result<Command> {
        let mut client = Command::new(daemon::find_program(program, &[])?);
        client
            .args(["--no-defaults", "--host=127.0.0.1", "--user", SUPERUSER])
            .arg(format!("--port={}", self.port()))
            .arg("--default-character-set=utf8mb4")
            .kill_on_drop(true);
        Ok(client)
    }
}
