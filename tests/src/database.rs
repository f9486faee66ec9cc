//! The server's database in the hands of somebody else.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Another process with an exclusive transaction on the server's database.
pub struct DatabaseLock {
    process: Child,
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

/// Executes a statement.
const EXECUTE: &str = r#"
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=20)
connection.execute(sys.argv[2])
connection.commit()
"#;

/// Changes what no client can.
pub(crate) async fn execute(database: &Path, statement: &str) -> Result<()> {
    let mut python = Command::new("python3");
    python.args(["-c", EXECUTE]).arg(database).arg(statement);
    let status = python.kill_on_drop(true).status().await?;
    ensure!(status.success(), "{statement}: {status}");
    Ok(())
}

impl DatabaseLock {
    pub(crate) async fn take(database: &Path) -> Result<Self> {
        ensure!(database.is_file(), "no database at {}", database.display());
        let mut process = Command::new("python3")
            .args(["-c", LOCK_DATABASE])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().context("stdout is piped")?;
        let said = BufReader::new(stdout).lines().next_line().await?;
        ensure!(said.as_deref() == Some("locked"), "no lock: {said:?}");
        Ok(DatabaseLock { process })
    }

    /// Lets go of the database.
    pub async fn release(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        let status = self.process.wait().await?;
        ensure!(status.success(), "letting go of the database: {status}");
        Ok(())
    }
}
