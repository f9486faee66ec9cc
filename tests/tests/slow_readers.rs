//! Clients that read slowly or not at all: they keep nobody waiting, and lose nothing that they may still have.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidings_tests::link::Version::V4;
use tidings_tests::raw::{Connect, PINGREQ_PACKET, PUBLISH_QOS_0, Raw};
use tidings_tests::server::{Folder, password_of};
use tidings_tests::{Client, PATIENCE, Server, up};
use tokio::time::{interval, timeout};

use crate::support::ensure_complete;

/// Together more than sockets hold, so that the server has to wait for the reader.
const COUNT: u32 = 250;
const TEXT_BYTES: usize = 60_000;

/// What the slow readers ask for.
const KEEP_ALIVE_SECS: u16 = 2;

/// A device of bob's that holds little of what it has not read. It subscribes at QoS 0, so that reading is all that is
/// asked of it.
async fn bobs_slow_device(server: &Server, keep_alive_secs: u16) -> Result<Raw> {
    let connect = Connect {
        version: V4,
        client_id: "slow",
        uid: "bob",
        password: &password_of("bob"),
        clean: true,
        keep_alive_secs,
        will: None,
    };
    let raw = Raw::narrow(server.mqtt()).await?;
    let mut raw = raw.come_in(&connect).await?;
    raw.subscribe(V4, "im/bob/down", 0).await?;
    Ok(raw)
}

/// Sends bob `count` long messages, and waits until they are stored.
async fn say_much(alice: &mut Client, count: u32) -> Result<()> {
    let text = "x".repeat(TEXT_BYTES);
    let mut tickets = Vec::new();
    for _ in 0..count {
        let up = up::new(up::text(up::user("bob"), &text));
        tickets.push(alice.publish(&up).await?);
    }
    for ticket in tickets {
        alice.puback(ticket).await?;
    }
    Ok(())
}

/// The server leaves in time after SIGTERM although a client does not read; what it had acknowledged is there again.
#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_up_the_shutdown() -> Result<()> {
    /// A server that has to be cut off at its limit needs longer than that.
    const LIMIT: Duration = Duration::from_secs(4);
    let folder = Folder::new()?.setting("TIDINGS__SHUTDOWN__TIMEOUT", "4s");
    let mut server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let deaf = bobs_slow_device(&server, 0).await?;
    say_much(&mut alice, COUNT).await?;

    let took = server.shut_down().await?;
    ensure!(took < LIMIT, "it took {took:?}");
    drop(deaf);

    server.restart().await?;
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    ensure_complete(&history, COUNT)?;
    let mut bob = server.client("bob").device("slow").online().await?;
    ensure_complete(&bob.messages(COUNT as usize).await?, COUNT)?;
    server.finish().await
}

/// A slow reader that pings during a long catch-up is not taken for silent, and gets everything.
#[tokio::test]
async fn a_slow_reader_that_pings_is_not_cut() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_much(&mut alice, COUNT).await?;

    let mut bob = bobs_slow_device(&server, KEEP_ALIVE_SECS).await?;
    let heard = read_slowly(&mut bob, PINGREQ_PACKET).await?;
    let heard = heard + read_publishes(&mut bob, COUNT - heard).await?;
    ensure!(heard == COUNT, "cut although it pinged, after {heard}");
    ensure!(bob.is_alive().await?, "cut although it pinged");
    server.finish().await
}

/// One that says nothing is cut, although there is still much to write to it. [MQTT-3.1.2-24]
#[tokio::test]
async fn a_slow_reader_that_says_nothing_is_cut() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_much(&mut alice, COUNT).await?;

    let mut bob = bobs_slow_device(&server, KEEP_ALIVE_SECS).await?;
    let heard = read_slowly(&mut bob, &[]).await?;
    let heard = heard + read_publishes(&mut bob, COUNT - heard).await?;
    ensure!(heard < COUNT, "not cut although it said nothing");
    server.finish().await
}

/// Says `word` and reads a message, slowly, for more than twice the silence that is allowed; returns how many came.
async fn read_slowly(raw: &mut Raw, word: &[u8]) -> Result<u32> {
    const SLOW: Duration = Duration::from_millis(7_500);
    let started = Instant::now();
    let mut ticks = interval(Duration::from_millis(150));
    let mut publishes = 0;
    while started.elapsed() < SLOW {
        ticks.tick().await;
        raw.send_to_the_deaf(word).await;
        publishes += read_publishes(raw, 1).await?;
    }
    Ok(publishes)
}

/// Reads until `count` publishes have come, or the connection ends; returns how many came.
async fn read_publishes(raw: &mut Raw, count: u32) -> Result<u32> {
    let mut publishes = 0;
    while publishes < count {
        let packet = timeout(PATIENCE, raw.read_packet())
            .await
            .with_context(|| format!("{publishes} of {count} came"))?;
        match packet {
            Ok(Some((PUBLISH_QOS_0, _))) => publishes += 1,
            Ok(Some(_)) => {}
            // A reset is an end, too.
            Ok(None) | Err(_) => break,
        }
    }
    Ok(publishes)
}
