//! A database session of somebody else, who keeps locks from one statement to the next.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::wait::PATIENCE;

/// What the client prints when it has done what it was told.
const DONE: &str = "that was all";

/// `psql` or `mariadb`, told one thing after the other; it ends with its value, and gives its locks back.
pub struct Session {
    /// Ends it.
    _client: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Session {
    /// Starts a client that reads statements from its standard input, and ends with the first that fails.
    pub(crate) fn open(mut client: Command) -> Result<Self> {
        let mut client = client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = client.stdin.take().context("stdin is piped")?;
        let stdout = client.stdout.take().context("stdout is piped")?;
        Ok(Session {
            _client: client,
            stdin,
            stdout: BufReader::new(stdout).lines(),
        })
    }

    /// Executes statements, which end with `;`, to their end.
    pub async fn execute(&mut self, statements: &str) -> Result<()> {
        self.begin(statements).await?;
        self.done().await
    }

    /// The same without waiting for it: [`Session::done`] does.
    pub async fn begin(&mut self, statements: &str) -> Result<()> {
        let told = format!("{statements};\nSELECT '{DONE}';\n");
        Ok(self.stdin.write_all(told.as_bytes()).await?)
    }

    /// Waits until what was begun is done.
    pub async fn done(&mut self) -> Result<()> {
        let answered = timeout(PATIENCE, async {
            while let Some(line) = self.stdout.next_line().await? {
                if line == DONE {
                    return Ok(());
                }
            }
            bail!("the session has ended")
        });
        let answered = answered.await;
        ensure!(
            answered.is_ok(),
            "the session waits for more than {PATIENCE:?}"
        );
        answered?
    }
}
