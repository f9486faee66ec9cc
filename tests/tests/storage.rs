//! The database is away: acknowledgements wait, nothing is lost, and it goes on by itself.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tidings_tests::server::Folder;
use tidings_tests::{Api, Client, Server, client::ok_of, eventually, up};
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

    let folder = Folder::new()?;
    let Some(disk) = SmallDisk::mount(&folder.data_dir()).await? else {
        println!("skipped: mounting a tmpfs is not permitted here");
        return Ok(());
    };
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let api = server.login("alice").await?;
    say_many(&mut alice, &up::user("bob"), 1).await?;

    let filler = disk.fill()?;
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

/// A tmpfs of its own; unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None` when this user may not mount.
    async fn mount(path: &Path) -> Result<Option<Self>> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
        let mounted = mount.arg(path).output().await?.status.success();
        let path = path.to_owned();
        Ok(mounted.then_some(SmallDisk { path }))
    }

    /// Writes a file until nothing is left; returns its path.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.path.join("filler");
        let mut filler = File::create(&path)?;
        for block in [1 << 16, 1] {
            let block = vec![0; block];
            loop {
                match filler.write(&block) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: on a failing test the server may still have it open.
        let umount = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.path)
            .status();
        if let Err(error) = umount {
            eprintln!("{} stays mounted: {error}", self.path.display());
        }
    }
}

/// A QoS 1 publish that the server could not store before it was told to stop is not acknowledged, and can be
/// said again to the next start.
#[tokio::test]
async fn a_server_stopped_without_database_promises_nothing() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let again = up::new(up::text(up::user("bob"), "hi"));

    let lock = DatabaseLock::take(&server.data_dir().join("tidings.db")).await?;
    alice.publish(&again).await?;
    server.kill().await?;
    alice.closed().await?;
    ensure!(alice.pubacks_so_far() == 0, "a PUBACK without a commit");
    lock.release().await?;

    server.restart().await?;
    let mut alice: Client = server.client("alice").online().await?;
    assert_eq!(ok_of(alice.ask(&again).await?)?.seq, 1);
    server.finish().await
}
