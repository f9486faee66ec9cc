//! The database is away: acknowledgements wait, nothing is lost, and it goes on by itself.

use std::io::{Write, stderr};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tidings_tests::client::ok_of;
use tidings_tests::server::Folder;
use tidings_tests::{Api, Client, Server, disk, eventually, up};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{ensure_complete, say_many};

/// While another process holds the database, sends are not acknowledged, `/readyz` says so and `/healthz` does not;
/// when it lets go, they complete.
#[tokio::test]
async fn sends_wait_for_a_locked_database() -> Result<()> {
    const WAITING: u32 = 20;
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    say_many(&mut alice, &up::user("bob"), 1).await?;
    let api = server.login("alice").await?;

    let lock = DatabaseLock::take(&server.data_dir().join("tidings.db")).await?;
    let mut sent = Vec::new();
    for number in 2..=WAITING {
        let up = up::new(up::text(up::user("bob"), &number.to_string()));
        alice.publish(&up).await?;
        sent.push(up.client_msg_id);
    }
    until_ready_is(&api, 503).await?;
    ensure!(alice.pubacks_so_far() == 0, "a PUBACK without a commit");
    ensure!(
        alice.replies_so_far().is_empty(),
        "a reply without a commit"
    );
    assert_eq!(api.get("/healthz").await?.status, 200, "it is alive");

    lock.release().await?;
    alice.until_pubacks(sent.len()).await?;
    for id in &sent {
        ok_of(alice.reply_to(id).await?)?;
    }
    until_ready_is(&api, 200).await?;
    ensure_complete(&bob.messages(WAITING as usize).await?, WAITING)?;
    ensure_complete(&api.history("u:alice:bob").await?, WAITING)?;
    server.stop().await
}

/// On a full disk the same: what can't be stored is not acknowledged, and completes when there is room again.
#[tokio::test]
async fn sends_wait_for_room_on_the_disk() -> Result<()> {
    /// More than a disk that has nothing left can take, whatever room the database has kept for itself.
    const MESSAGES: u32 = 400;
    const TEXT_BYTES: usize = 60_000;

    let Some(folder) = Folder::on_small_disk()? else {
        // Not by println!, which a passing test keeps to itself.
        writeln!(stderr(), "skipped: mounting a tmpfs is not permitted here")?;
        return Ok(());
    };
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let api = server.login("alice").await?;
    say_many(&mut alice, &up::user("bob"), 1).await?;

    let filler = disk::fill(&server.data_dir())?;
    let text = "x".repeat(TEXT_BYTES);
    let send = || up::new(up::text(up::user("bob"), &text));
    for _ in 2..=MESSAGES {
        alice.publish(&send()).await?;
    }
    until_ready_is(&api, 503).await?;
    let stored_until_full = alice.pubacks_so_far();
    ensure!(stored_until_full + 1 < MESSAGES as usize, "it was not full");
    assert_eq!(api.get("/healthz").await?.status, 200, "it is alive");

    std::fs::remove_file(filler)?;
    alice.until_pubacks(MESSAGES as usize - 1).await?;
    until_ready_is(&api, 200).await?;
    ensure_complete(&api.history("u:alice:bob").await?, MESSAGES)?;
    alice.disconnect().await?;
    server.stop().await
}

async fn until_ready_is(api: &Api, status: u16) -> Result<()> {
    eventually(&format!("/readyz says {status}"), async || {
        Ok(api.get("/readyz").await?.status == status)
    })
    .await
}

/// Another process with an exclusive transaction on the server's database.
struct DatabaseLock {
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

impl DatabaseLock {
    async fn take(database: &Path) -> Result<Self> {
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

    async fn release(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        let status = self.process.wait().await?;
        ensure!(status.success(), "letting go of the database: {status}");
        Ok(())
    }
}

/// What the server could not store before it was killed was not acknowledged, and can be said again to the next one.
#[tokio::test]
async fn a_server_killed_without_database_promises_nothing() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let again = up::new(up::text(up::user("bob"), "hi"));

    let lock = DatabaseLock::take(&server.data_dir().join("tidings.db")).await?;
    alice.publish(&again).await?;
    until_ready_is(&server.api(), 503).await?;
    server.kill().await?;
    alice.closed().await?;
    ensure!(alice.pubacks_so_far() == 0, "a PUBACK without a commit");
    lock.release().await?;

    server.restart().await?;
    let mut alice: Client = server.client("alice").online().await?;
    assert_eq!(ok_of(alice.ask(&again).await?)?.seq, 1);
    server.finish().await
}
