//! The database is away: acknowledgements wait, nothing is lost, and it goes on by itself.

use std::io::{Write, stderr};

use anyhow::{Result, ensure};
use tidings_tests::client::ok_of;
use tidings_tests::database::Engine;
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::wire::{AckKind, Publish, id};
use tidings_tests::{Client, Server, disk, eventually, up};

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

    let lock = server.lock_database().await?;
    let mut sent = Vec::new();
    for number in 2..=WAITING {
        let up = up::new(up::text(up::user("bob"), &number.to_string()));
        alice.publish(&up).await?;
        sent.push(up.client_msg_id);
    }
    api.until_ready(503).await?;
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
    api.until_ready(200).await?;
    ensure_complete(&bob.messages(WAITING as usize).await?, WAITING)?;
    ensure_complete(&api.history("u:alice:bob").await?, WAITING)?;
    server.stop().await
}

/// A client that publishes on while nothing can be stored is read from no further than `mqtt.receive_maximum`, by default
/// 64; the rest waits on its way, and others are served. Nothing is lost.
#[tokio::test]
async fn a_full_window_is_not_read_beyond() -> Result<()> {
    const WINDOW: u32 = 64;
    const COUNT: u32 = 100;
    const RECEIVED: &str = r#"tidings_received_packets_total{type="publish"}"#;
    let server = Server::with_users(&["alice", "bob"]).await?;
    let api = server.api();
    for (version, to) in [(V4, "bob"), (V5, "alice")] {
        let up = format!(r#"{{"send":{{"to":{{"user":"{to}"}},"text":"x"}}}}"#);
        let mut alice = server.device("alice").version(version).connect().await?;
        if version == V5 {
            let most = alice.connack.properties.number(id::RECEIVE_MAXIMUM);
            assert_eq!(most, Some(WINDOW));
        }
        let lamp = server.device("bob").version(version);
        let mut lamp = lamp.connect().await?;
        let before = api.metric(RECEIVED).await?;

        let lock = server.lock_database().await?;
        let mut ids = Vec::new();
        for _ in 0..COUNT {
            let up = Publish::new("imj/alice/up", &up, 1);
            ids.push(alice.start(up).await?);
        }
        eventually("the window is full", async || {
            Ok(api.metric(RECEIVED).await? - before >= f64::from(WINDOW))
        })
        .await?;
        api.until_ready(503).await?;
        // What needs no database goes on, for others.
        let reason = lamp.publish("dev/bob/lamp", "on", 1).await?;
        ensure!(reason < 0x80, "PUBACK {reason:#04x}");
        let received = api.metric(RECEIVED).await? - before;
        assert_eq!(received, f64::from(WINDOW + 1));

        lock.release().await?;
        for id in ids {
            assert_eq!(alice.ack(AckKind::PubAck, id).await?, 0);
        }
        let api = server.login("alice").await?;
        let history = api.history(&format!("u:alice:{to}")).await?;
        ensure_complete(&history, COUNT)?;
        alice.disconnect().await?;
        lamp.disconnect().await?;
    }
    server.stop().await
}

/// On a full disk the same: what can't be stored is not acknowledged, and completes when there is room again.
#[tokio::test]
async fn sends_wait_for_room_on_the_disk() -> Result<()> {
    /// More than a disk that has nothing left can take, whatever room the database has kept for itself.
    const MESSAGES: u32 = 400;
    const TEXT_BYTES: usize = 60_000;

    // About SQLite's file: elsewhere the disk is another server's.
    if Engine::tested() != Engine::Sqlite {
        return Ok(());
    }
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
    api.until_ready(503).await?;
    let stored_until_full = alice.pubacks_so_far();
    ensure!(stored_until_full + 1 < MESSAGES as usize, "it was not full");
    assert_eq!(api.get("/healthz").await?.status, 200, "it is alive");

    std::fs::remove_file(filler)?;
    alice.until_pubacks(MESSAGES as usize - 1).await?;
    api.until_ready(200).await?;
    ensure_complete(&api.history("u:alice:bob").await?, MESSAGES)?;
    alice.disconnect().await?;
    server.stop().await
}

/// What the server could not store before it was killed was not acknowledged, and can be said again to the next one.
#[tokio::test]
async fn a_server_killed_without_database_promises_nothing() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let again = up::new(up::text(up::user("bob"), "hi"));

    let lock = server.lock_database().await?;
    alice.publish(&again).await?;
    server.api().until_ready(503).await?;
    server.kill().await?;
    alice.closed().await?;
    ensure!(alice.pubacks_so_far() == 0, "a PUBACK without a commit");
    lock.release().await?;

    server.restart().await?;
    let mut alice: Client = server.client("alice").online().await?;
    assert_eq!(ok_of(alice.ask(&again).await?)?.seq, 1);
    server.finish().await
}
