//! What one address, one session and one guesser of passwords may take; the rest is refused by name.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tidings_tests::device::End;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::{Folder, password_of};
use tidings_tests::wire::{AckKind, Publish};
use tidings_tests::{Device, Server, eventually};

const VERSIONS: [Version; 2] = [V4, V5];
/// Where the tests' devices are; the harness itself is at 127.0.0.1.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const QUOTA_EXCEEDED: u8 = 0x97;
const RATE_EXCEEDED: u8 = 0x9F;
/// MQTT 3.1.1 knows no better word.
const SERVER_UNAVAILABLE: u8 = 3;

/// A server that trusts nobody, with one user.
async fn strict(settings: &[(&str, &str)]) -> Result<Server> {
    let mut folder = Folder::new()?.setting("TIDINGS__NETWORK__TRUSTED", "");
    for (name, value) in settings {
        folder = folder.setting(name, value);
    }
    Server::start_in(folder, &["alice"]).await
}

/// Connections of one address: one too many is told so in its CONNACK, whoever it is; when one leaves there is room.
#[tokio::test]
async fn connections_per_address() -> Result<()> {
    let server = strict(&[("TIDINGS__NETWORK__CONNECTIONS_PER_ADDRESS", "3")]).await?;
    for (version, code) in [(V4, SERVER_UNAVAILABLE), (V5, QUOTA_EXCEEDED)] {
        let device = |id: &str, from| server.device("alice").version(version).id(id).from(from);
        let mut inside = Vec::new();
        for id in ["one", "two", "three"] {
            inside.push(device(id, HERE).connect().await?);
        }
        assert_eq!(device("four", HERE).refused().await?, code);
        device("four", ELSEWHERE)
            .connect()
            .await?
            .disconnect()
            .await?;
        for device in &mut inside {
            device.ping().await?;
        }
        for device in inside {
            device.disconnect().await?;
        }
        eventually("there is room again", async || {
            Ok(device("four", HERE).ask().await?.connack.reason == 0)
        })
        .await?;
    }
    server.finish().await
}

/// New connections of one address per second.
#[tokio::test]
async fn connects_per_second() -> Result<()> {
    let server = strict(&[
        ("TIDINGS__NETWORK__CONNECTS_PER_SECOND", "1"),
        ("TIDINGS__NETWORK__CONNECTS_BURST", "10"),
    ])
    .await?;
    for (version, code, from) in [
        (V4, SERVER_UNAVAILABLE, HERE),
        (V5, RATE_EXCEEDED, ELSEWHERE),
    ] {
        let token = server.login("alice").await?.tokens()?.access.clone();
        let device = || server.device("alice").version(version).password(&token);
        let mut let_in = 0;
        let refusal = loop {
            let asked = device().from(from).ask().await?;
            match asked.connack.reason {
                0 => let_in += 1,
                reason => break reason,
            }
            ensure!(let_in < 100, "nobody was ever refused");
        };
        assert_eq!(refusal, code);
        assert!(let_in >= 10, "only {let_in} at once");
        // Others don't notice, and who waits is let in again.
        let other = Ipv4Addr::new(127, 0, 0, 9).into();
        device().from(other).connect().await?.disconnect().await?;
        eventually("it is let in again", async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(device().from(from).ask().await?.connack.reason == 0)
        })
        .await?;
    }
    server.finish().await
}

/// After some wrong passwords an address has to wait before it may try that user again, over MQTT and HTTP alike. The
/// user elsewhere, other users there, and access tokens don't.
#[tokio::test]
async fn wrong_passwords_have_to_wait() -> Result<()> {
    let server = strict(&[
        ("TIDINGS__AUTH__LOGIN_FAILURES", "3"),
        ("TIDINGS__AUTH__LOGIN_BACKOFF", "1m"),
    ])
    .await?;
    server.add_user("bob").await?;
    let token = server.login("alice").await?.tokens()?.access.clone();
    for (version, wrong, too_often, from) in [
        (V4, [4, 5], SERVER_UNAVAILABLE, HERE),
        (V5, [0x86, 0x87], QUOTA_EXCEEDED, ELSEWHERE),
    ] {
        let device = |uid: &str| server.device(uid).version(version).from(from);
        for _ in 0..3 {
            let code = device("alice").password("wrong").refused().await?;
            ensure!(wrong.contains(&code), "CONNACK {code:#04x}");
        }
        // The right one isn't even looked at.
        assert_eq!(device("alice").refused().await?, too_often);
        device("bob").connect().await?.disconnect().await?;
        let with_token = device("alice").password(&token);
        with_token.connect().await?.disconnect().await?;
    }

    let login = async |password: &str| {
        let login = json!({ "uid": "alice", "password": password });
        server.api().post("/v1/auth/login", &login).await
    };
    login(&password_of("alice")).await?.expect(200)?;
    for _ in 0..3 {
        login("wrong").await?.problem(401, "unauthenticated")?;
    }
    let refused = login(&password_of("alice")).await?;
    let wait = refused.retry_after.context("no Retry-After")?;
    ensure!((1..=60).contains(&wait), "Retry-After: {wait}");
    refused.problem(429, "rate_limited")?;
    server.finish().await
}

/// A topic that is too long or too deep is refused, and so is a filter; the connection goes on.
#[tokio::test]
async fn topics_are_bounded() -> Result<()> {
    let server = Server::start_in(
        Folder::new()?
            .setting("TIDINGS__MQTT__TOPIC_LENGTH_MAX", "80")
            .setting("TIDINGS__MQTT__TOPIC_LEVELS_MAX", "8"),
        &["alice"],
    )
    .await?;
    let long = |length: usize| format!("dev/alice/{}", "x".repeat(length - 10));
    let deep = |levels: usize| format!("dev/alice{}", "/x".repeat(levels - 2));
    for version in VERSIONS {
        let mut device = server.device("alice").version(version).connect().await?;
        for topic in [long(80), deep(8)] {
            assert_eq!(device.subscribe(&topic, 1).await?, 1, "{topic}");
            assert_eq!(device.publish(&topic, "x", 1).await?, 0, "{topic}");
            assert_eq!(device.next_on(&topic).await?, "x");
        }
        for topic in [long(81), deep(9)] {
            let code = device.subscribe(&topic, 1).await?;
            assert!(code >= 0x80, "{topic}: SUBACK {code:#04x}");
            let reason = device.publish(&topic, "x", 1).await?;
            assert_eq!(reason >= 0x80, version == V5, "{topic}: {reason:#04x}");
        }
        device.disconnect().await?;
    }
    server.finish().await
}

/// Subscriptions of one session; replacing one takes no room, and leaving one makes some.
#[tokio::test]
async fn subscriptions_are_bounded() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__MQTT__SUBSCRIPTIONS_MAX", "3");
    let server = Server::start_in(folder, &["alice"]).await?;
    for (version, code) in [(V4, 0x80), (V5, QUOTA_EXCEEDED)] {
        let mut device = server.device("alice").version(version).connect().await?;
        for filter in ["dev/alice/1", "dev/alice/2", "dev/alice/+/x", "dev/alice/2"] {
            assert_eq!(device.subscribe(filter, 1).await?, 1, "{filter}");
        }
        assert_eq!(device.subscribe("dev/alice/3", 1).await?, code);
        assert_eq!(device.unsubscribe("dev/alice/1").await?, 0);
        assert_eq!(device.subscribe("dev/alice/3", 1).await?, 1);
        device.disconnect().await?;
    }
    server.finish().await
}

/// A session that publishes faster than it may is read from more slowly, and loses nothing.
#[tokio::test]
async fn fast_publishers_are_slowed_down() -> Result<()> {
    const RATE: u32 = 100;
    let folder = Folder::new()?
        .setting("TIDINGS__MQTT__PUBLISH_RATE", &RATE.to_string())
        .setting("TIDINGS__MQTT__RATE_PATIENCE", "1h");
    let server = Server::start_in(folder, &["alice"]).await?;
    for version in VERSIONS {
        let mut device = server.device("alice").version(version).connect().await?;
        let other = server.device("alice").version(version).id("other");
        let mut other = other.connect().await?;
        let started = Instant::now();
        // Twice the rate at once, then as many as a second allows.
        let ids = start_many(&mut device, 3 * RATE).await?;
        other.publish("dev/alice/other", "not slowed", 1).await?;
        let undisturbed = started.elapsed();
        for id in ids {
            device.ack(AckKind::PubAck, id).await?;
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(800), "{took:?}");
        assert!(undisturbed < took, "{undisturbed:?} of {took:?}");
        device.disconnect().await?;
        other.disconnect().await?;
    }
    server.finish().await
}

/// One that does not stop is disconnected, in MQTT 5 with 0x96.
#[tokio::test]
async fn patience_with_fast_publishers_ends() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__MQTT__PUBLISH_RATE", "20")
        .setting("TIDINGS__MQTT__RATE_PATIENCE", "1s");
    let server = Server::start_in(folder, &["alice"]).await?;
    for (version, expected) in [(V4, End::Closed), (V5, End::Disconnect(0x96))] {
        let mut device = server.device("alice").version(version).connect().await?;
        let flood = Publish::new("dev/alice/x", "flood", 0);
        let end = async {
            for _ in 0..10_000 {
                // Written until the server closes, or does not take more.
                if device.start(flood.clone()).await.is_err() {
                    break;
                }
            }
            device.closed().await
        };
        assert_eq!(end.await?, expected);
    }
    server.finish().await
}

/// The same for bytes.
#[tokio::test]
async fn bytes_per_second() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__MQTT__BYTE_RATE", "100 KiB");
    let server = Server::start_in(folder, &["alice"]).await?;
    let mut device = server.device("alice").v5().connect().await?;
    let payload = "x".repeat(50 * 1024);
    let started = Instant::now();
    for _ in 0..6 {
        device.publish("dev/alice/x", &payload, 1).await?;
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(800), "{took:?}");
    server.finish().await
}

/// Publishes within the server's Receive Maximum, which is 64, and reads what comes meanwhile.
async fn start_many(device: &mut Device, count: u32) -> Result<Vec<u16>> {
    const WINDOW: usize = 64;
    let mut open = Vec::new();
    for number in 0..count {
        if open.len() == WINDOW {
            device.ack(AckKind::PubAck, open.remove(0)).await?;
        }
        let publish = Publish::new("dev/alice/x", number.to_string(), 1);
        open.push(device.start(publish).await?);
    }
    if open.is_empty() {
        bail!("count is at least 1");
    }
    Ok(open)
}
