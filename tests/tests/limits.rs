//! What one address and one session may take; the rest is refused by name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use tidings_tests::device::End;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::stream::Dial;
use tidings_tests::wire::{AckKind, Publish, id};
use tidings_tests::{Device, PATIENCE, Server, eventually, websocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{connect_packet, strict};

const VERSIONS: [Version; 2] = [V4, V5];
/// Where the tests' devices are; the harness itself is at 127.0.0.1.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4));
const QUOTA_EXCEEDED: u8 = 0x97;
const RATE_EXCEEDED: u8 = 0x9F;
/// MQTT 3.1.1 knows no better word.
const SERVER_UNAVAILABLE: u8 = 3;

/// Connections of one address: one too many is told so in its CONNACK, whoever it is; when one leaves there is room.
#[tokio::test]
async fn connections_per_address() -> Result<()> {
    let server = strict(&[("TIDINGS__NETWORK__CONNECTIONS_PER_ADDRESS", "3")]).await?;
    // Each from an address of its own: a place is free again some time after its connection.
    for (version, code, from) in [
        (V4, SERVER_UNAVAILABLE, HERE),
        (V5, QUOTA_EXCEEDED, ELSEWHERE),
    ] {
        let device = |id: &str, from| server.device("alice").version(version).id(id).from(from);
        let mut inside = Vec::new();
        for id in ["one", "two", "three"] {
            inside.push(device(id, from).connect().await?);
        }
        assert_eq!(device("four", from).refused().await?, code);
        device("four", SOMEWHERE)
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
            Ok(device("four", from).ask().await?.connack.reason == 0)
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
        let other = device().from(SOMEWHERE);
        other.connect().await?.disconnect().await?;
        eventually("it is let in again", async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(device().from(from).ask().await?.connack.reason == 0)
        })
        .await?;
    }
    server.finish().await
}

/// Connections of all kinds count together, and one too many is refused whatever it is; any that leaves makes room.
#[tokio::test]
async fn connections_of_all_kinds_count_together() -> Result<()> {
    let server = strict(&[("TIDINGS__NETWORK__CONNECTIONS_PER_ADDRESS", "3")]).await?;
    let mqtt = |id: &str, from| server.device("alice").v5().id(id).from(from);
    let http = async |from| ask_and_stay(dial(from, server.http()).await?).await;
    let websocket = async |id: &str, from| {
        let socket = dial(from, server.http()).await?;
        let mut socket = websocket::open(Box::new(socket), server.http()).await?;
        socket.send(Message::binary(connect_packet(V4, id))).await?;
        let connack = timeout(PATIENCE, socket.next()).await?;
        connack.context("closed")??;
        anyhow::Ok(socket)
    };

    let _lamp = mqtt("lamp", HERE).connect().await?;
    let browser = websocket("browser", HERE).await?;
    let script = http(HERE).await?.context("no answer")?;
    assert_eq!(mqtt("guest", HERE).refused().await?, QUOTA_EXCEEDED);
    assert!(websocket("guest", HERE).await.is_err());
    assert!(http(HERE).await?.is_none());

    mqtt("other", ELSEWHERE).connect().await?;
    websocket("another", ELSEWHERE).await?;
    http(ELSEWHERE).await?.context("no answer elsewhere")?;

    drop(script);
    let mut second = None;
    eventually("there is room for a WebSocket", async || {
        second = websocket("second browser", HERE).await.ok();
        Ok(second.is_some())
    })
    .await?;
    drop(browser);
    let mut guest = None;
    eventually("there is room for MQTT", async || {
        guest = mqtt("guest", HERE).connect().await.ok();
        Ok(guest.is_some())
    })
    .await?;
    drop(second);
    eventually("there is room for HTTP", async || {
        Ok(http(HERE).await?.is_some())
    })
    .await?;
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
        let mut viewer = server.device("alice").id("viewer").connect().await?;
        viewer.subscribe("dev/alice/#", 1).await?;
        for topic in [long(80), deep(8)] {
            assert_eq!(device.subscribe(&topic, 1).await?, 1, "{topic}");
            assert_eq!(device.publish(&topic, "x", 1).await?, 0, "{topic}");
            assert_eq!(device.next_on(&topic).await?, "x");
            assert_eq!(viewer.next_on(&topic).await?, "x");
        }
        for topic in [long(81), deep(9)] {
            let code = device.subscribe(&topic, 1).await?;
            assert!(code >= 0x80, "{topic}: SUBACK {code:#04x}");
            let reason = device.publish(&topic, "x", 1).await?;
            assert_eq!(reason >= 0x80, version == V5, "{topic}: {reason:#04x}");
            viewer.hears_only(&mut device, "dev/alice/now").await?;
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

/// MQTT 5, 3.2.2.3.14: a client gets the server's keep-alive where it has asked for more, or for none. Silence for one
/// and a half times of it ends the connection, in 3.1.1 as well.
#[tokio::test]
async fn the_keep_alive_is_bounded() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__MQTT__KEEP_ALIVE_MAX", "2s");
    let server = Server::start_in(folder, &["alice"]).await?;
    for version in VERSIONS {
        let (mut silent, started) = (Vec::new(), Instant::now());
        for (asked, told) in [
            (0, Some(2)),
            (60, Some(2)),
            (3, Some(2)),
            (2, None),
            (1, None),
        ] {
            let id = format!("asks for {asked}");
            let device = server.device("alice").version(version).id(&id);
            let device = device.keep_alive(asked).connect().await?;
            let said = device.connack.properties.number(id::SERVER_KEEP_ALIVE);
            assert_eq!(said, told.filter(|_| version == V5), "{id}");
            silent.push(device);
        }
        let end = match version {
            V4 => End::Closed,
            V5 => End::Disconnect(0x8D),
        };
        for mut device in silent.into_iter().rev() {
            assert_eq!(device.closed().await?, end);
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(3), "{took:?}");
    }
    server.finish().await
}

/// A session that publishes faster than it may is read from more slowly, and loses nothing; another of the same user is
/// not.
#[tokio::test]
async fn fast_publishers_are_slowed_down() -> Result<()> {
    const RATE: u32 = 100;
    const COUNT: u32 = 5 * RATE;
    let folder = Folder::new()?
        .setting("TIDINGS__MQTT__PUBLISH_RATE", &RATE.to_string())
        .setting("TIDINGS__MQTT__RATE_PATIENCE", "1h");
    let server = Server::start_in(folder, &["alice"]).await?;
    for version in VERSIONS {
        let device = |id: &str| server.device("alice").version(version).id(id);
        let mut viewer = device("viewer").connect().await?;
        viewer.subscribe("dev/alice/x", 1).await?;
        let mut fast = device("fast").connect().await?;
        let mut other = device("other").connect().await?;
        // Twice the rate at once, then as many as a second allows.
        let flooding = async {
            let started = Instant::now();
            for id in start_many(&mut fast, COUNT).await? {
                fast.ack(AckKind::PubAck, id).await?;
            }
            anyhow::Ok(started.elapsed())
        };
        let (took, slowest) = tokio::try_join!(flooding, slowest_of_ten(&mut other))?;
        assert!(took >= Duration::from_millis(2800), "{took:?}");
        assert!(slowest < took / 4, "{slowest:?} of {took:?}");
        let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
        assert_eq!(viewer.texts(COUNT as usize).await?, expected);
        for device in [viewer, fast, other] {
            device.disconnect().await?;
        }
    }
    server.finish().await
}

/// Publishes now and then, ten times within a second; returns how long the slowest one has waited for its PUBACK.
async fn slowest_of_ten(device: &mut Device) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let started = Instant::now();
        device.publish("dev/alice/other", "not slowed", 1).await?;
        slowest = slowest.max(started.elapsed());
    }
    Ok(slowest)
}

/// One that does not stop is disconnected, in MQTT 5 with the reason: 0x96 for publishes, 0x97 for bytes.
#[tokio::test]
async fn patience_with_fast_publishers_ends() -> Result<()> {
    // Each sends far more than it may within its second, and no more than sockets hold.
    for (setting, rate, payload, count, reason) in [
        ("TIDINGS__MQTT__PUBLISH_RATE", "20", 10, 2000, 0x96),
        ("TIDINGS__MQTT__BYTE_RATE", "20 KiB", 10_000, 50, 0x97),
    ] {
        let folder = Folder::new()?
            .setting(setting, rate)
            .setting("TIDINGS__MQTT__RATE_PATIENCE", "1s");
        let server = Server::start_in(folder, &["alice"]).await?;
        for (version, expected) in [(V4, End::Closed), (V5, End::Disconnect(reason))] {
            let mut device = server.device("alice").version(version).connect().await?;
            let started = Instant::now();
            let publish = Publish::new("dev/alice/x", vec![b'x'; payload], 0);
            for _ in 0..count {
                device.start(publish.clone()).await?;
            }
            assert_eq!(device.closed().await?, expected, "{setting}");
            let took = started.elapsed();
            assert!(took >= Duration::from_secs(1), "{setting}: {took:?}");
        }
        server.finish().await?;
    }
    Ok(())
}

/// Bytes are bounded like publishes: who sends more is read from more slowly.
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

async fn dial(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let dial = Dial {
        from: Some(from),
        ..Dial::default()
    };
    dial.open(to).await
}

/// Asks for something over HTTP and keeps the connection, if there is an answer.
async fn ask_and_stay(mut socket: TcpStream) -> Result<Option<TcpStream>> {
    // One that is refused may be closed already, or reset.
    let _ = socket
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let mut answer = [0; 12];
    let answered = timeout(PATIENCE, socket.read_exact(&mut answer)).await?;
    Ok((answered.is_ok() && answer == *b"HTTP/1.1 200").then_some(socket))
}
