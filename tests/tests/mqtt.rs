//! MQTT at its edges: what the standard demands, and what faulty or hostile clients do to others (nothing).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::raw::{
    self, CONNACK, Connect, PINGREQ_PACKET, PUBCOMP, PUBLISH_QOS_0, PUBREC, Raw,
};
use tidings_tests::server::{Folder, password_of, raise_open_files};
use tidings_tests::tunnel::Through;
use tidings_tests::{Client, Server, device, eventually, up};
use tokio::time::interval;

use crate::support::{ensure_complete, range, seqs, text_of};

const PUBLISH_QOS_1: u8 = 0x32;
const PUBLISH_QOS_2: u8 = 0x34;
const DUP: u8 = 0x08;

/// What becomes of the connection that sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Closed,
    Lives,
    /// Both are within the standard.
    Either,
}
use Then::{Closed, Either, Lives};

/// Mallory's CONNECT in this version.
fn mallory<'a>(version: Version, password: &'a str) -> Connect<'a> {
    Connect {
        version,
        client_id: "evil",
        uid: "mallory",
        password,
        clean: true,
        keep_alive_secs: 60,
        will: None,
    }
}

/// Whatever a client sends ends at most its own connection: the others talk on.
#[tokio::test]
async fn a_faulty_client_harms_only_itself() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "mallory"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").v5().online().await?;
    let password = password_of("mallory");

    for version in [V4, V5] {
        let connect = mallory(version, &password);
        for (name, bytes, then) in after_connect(version, &connect) {
            let mut raw = Raw::connect(server.mqtt(), &connect).await?;
            raw.send_to_the_deaf(&bytes).await;
            check_then(&mut raw, then)
                .await
                .with_context(|| format!("{name} in {version:?}"))?;
            ensure_others_talk(&mut alice, &mut bob)
                .await
                .with_context(|| format!("after {name} in {version:?}"))?;
        }
        for (name, bytes) in instead_of_connect(version, &connect) {
            let mut raw = Raw::open(server.mqtt()).await?;
            raw.send_to_the_deaf(&bytes).await;
            raw.closed()
                .await
                .with_context(|| format!("{name} in {version:?}"))?;
            ensure_others_talk(&mut alice, &mut bob)
                .await
                .with_context(|| format!("after {name} in {version:?}"))?;
        }
    }
    server.finish().await
}

async fn check_then(raw: &mut Raw, then: Then) -> Result<()> {
    let lives = raw.is_alive().await?;
    match then {
        Closed => ensure!(!lives, "it should have been closed"),
        Lives => ensure!(lives, "it should not have been closed"),
        Either => {}
    }
    Ok(())
}

async fn ensure_others_talk(alice: &mut Client, bob: &mut Client) -> Result<()> {
    let sent = alice.say(up::user("bob"), "still there?").await?;
    let heard = bob.message().await?;
    ensure!(heard.msg_id == sent.msg_id, "bob heard {heard:?}");
    Ok(())
}

/// Name, bytes after a good CONNECT, and what becomes of the connection. One case per line.
#[rustfmt::skip]
fn after_connect(version: Version, connect: &Connect) -> Vec<(&'static str, Vec<u8>, Then)> {
    let qos_0 = |topic: &str| raw::publish(version, PUBLISH_QOS_0, topic, None, "x");
    let qos_1 = |topic: &str, id| raw::publish(version, PUBLISH_QOS_1, topic, Some(id), "x");
    let own = "imj/mallory/up";
    let long = format!("imj/{}", "x".repeat(65_000));
    // What stands between packet id and filters.
    let properties: &[u8] = match version {
        V4 => &[],
        V5 => &[0],
    };
    let no_filters = [&[0, 1], properties].concat();
    let subscribe = |filter: &[u8], qos: u8| {
        let length = (filter.len() as u16).to_be_bytes();
        raw::packet(0x82, &[&[0, 1], properties, &length, filter, &[qos]].concat())
    };
    vec![
        // [MQTT-3.1.0-2] A second CONNECT is a protocol violation.
        ("a second CONNECT", connect.packet(), Closed),
        // [MQTT-3.3.2-2] A topic name has no wildcards.
        ("a wildcard # in a topic", qos_1("im/#", 1), Closed),
        ("a wildcard + in a topic", qos_1("imj/+/up", 1), Closed),
        // [MQTT-1.5.3-2] No U+0000 in a string.
        ("NUL in a topic", qos_1("imj/mallory\0/up", 1), Closed),
        ("NUL first in a topic", qos_0("\0"), Closed),
        // These are good topics, which mallory may not use. The router of rumqttd 0.20 panics on the first.
        ("a topic that begins with é", qos_1("é/1", 1), Lives),
        ("a topic that is é", qos_0("é"), Lives),
        ("a topic of many bytes each", qos_1("🦀🦀/🦀", 1), Lives),
        ("a topic of slashes", qos_1("////", 1), Lives),
        ("a topic of a dollar", qos_1("$", 1), Lives),
        // [MQTT-4.7.3-1] A topic has at least one character.
        ("an empty topic", qos_1("", 1), Closed),
        ("an over-long topic", qos_1(&long, 1), Either),
        // [MQTT-2.3.1-1] A packet id is not 0.
        ("packet id 0 at QoS 1", qos_1(own, 0), Closed),
        ("packet id 0 at QoS 2", raw::publish(version, PUBLISH_QOS_2, own, Some(0), "x"), Closed),
        // [MQTT-3.3.1-4] There is no QoS 3.
        ("QoS 3", raw::publish(version, 0x36, own, Some(1), "x"), Closed),
        // [MQTT-1.5.3-1] A string is UTF-8.
        ("a topic that is not UTF-8", raw::packet(PUBLISH_QOS_0, b"\x00\x02\xff\xfe\x00x"), Closed),
        ("a topic longer than its packet", raw::packet(PUBLISH_QOS_0, b"\xff\xffshort"), Closed),
        ("an empty PUBLISH", raw::packet(PUBLISH_QOS_0, b""), Closed),
        // Acknowledgements of what was never sent.
        ("a PUBACK for nothing", raw::packet(0x40, &[0, 77]), Either),
        ("a PUBACK for 0", raw::packet(0x40, &[0, 0]), Either),
        ("a PUBREC for nothing", raw::packet(0x50, &[0, 77]), Either),
        ("a PUBREL for nothing", raw::packet(0x62, &[0, 77]), Either),
        ("a PUBCOMP for nothing", raw::packet(0x70, &[0, 77]), Either),
        ("a short PUBACK", raw::packet(0x40, &[0]), Closed),
        // [MQTT-3.6.1-1] The flags of PUBREL are 0010.
        ("a PUBREL with other flags", raw::packet(0x60, &[0, 1]), Closed),
        // [MQTT-3.8.3-3] [MQTT-3.10.3-2] At least one filter.
        ("SUBSCRIBE without filters", raw::packet(0x82, &no_filters), Closed),
        ("UNSUBSCRIBE without filters", raw::packet(0xA2, &no_filters), Closed),
        // [MQTT-3.8.1-1] The flags of SUBSCRIBE are 0010.
        ("SUBSCRIBE with other flags", raw::packet(0x80, &[0, 1, 0, 1, b'a', 0]), Closed),
        ("SUBSCRIBE to nothing", subscribe(b"", 0), Closed),
        ("SUBSCRIBE with # in the middle", subscribe(b"a/#/b", 0), Closed),
        ("SUBSCRIBE with QoS 3", subscribe(b"imj/mallory/down", 3), Closed),
        ("SUBSCRIBE to é", subscribe("é/#".as_bytes(), 0), Lives),
        ("SUBSCRIBE that is not UTF-8", subscribe(b"\xff", 0), Closed),
        // 256 MB announced, and little sent.
        ("a huge remaining length", b"\x30\xff\xff\xff\x7fabc".to_vec(), Closed),
        // [MQTT-2.2.3] Four bytes of length at most.
        ("five bytes of length", b"\x30\xff\xff\xff\xff\x01".to_vec(), Closed),
        ("packet type 0", raw::packet(0x00, b""), Closed),
        ("garbage", b"\xff".repeat(100), Closed),
        ("more garbage", (0..=255).rev().collect(), Closed),
        // Only a server sends these.
        ("CONNACK", raw::packet(0x20, &[0, 0]), Closed),
        ("SUBACK", raw::packet(0x90, &[0, 1, 0]), Closed),
        ("UNSUBACK", raw::packet(0xB0, &[0, 1]), Closed),
        ("PINGRESP", raw::packet(0xD0, b""), Closed),
    ]
}

/// Name, and bytes that a connection begins with. All of them end it. One case per line.
#[rustfmt::skip]
fn instead_of_connect(version: Version, connect: &Connect) -> Vec<(&'static str, Vec<u8>)> {
    let will = |topic| Connect { will: Some(topic), ..connect.clone() }.packet();
    let mut unknown_level = connect.packet();
    // A fixed header of two bytes, then the six of "MQTT".
    unknown_level[8] = 9;
    vec![
        ("PINGREQ first", PINGREQ_PACKET.to_vec()),
        ("PUBLISH first", raw::publish(version, PUBLISH_QOS_0, "imj/mallory/up", None, "x")),
        ("HTTP", b"GET / HTTP/1.1\r\n".repeat(10)),
        ("TLS", b"\x16\x03\x01\x02\x00\x01".repeat(100)),
        ("a huge CONNECT", b"\x10\xff\xff\xff\x7f\x00\x04MQTT".to_vec()),
        ("an empty CONNECT", raw::packet(0x10, b"")),
        ("an unknown protocol level", unknown_level),
        ("a will on a topic that begins with é", will("é/1")),
        ("a will on a wildcard", will("im/#")),
        ("a will on nothing", will("")),
    ]
}

/// A silent client is dropped after 1.5 times its keepalive; one that pings is not, nor one with keepalive 0.
#[tokio::test]
async fn keepalive_is_enforced() -> Result<()> {
    let server = Server::with_users(&["mallory"]).await?;
    let password = password_of("mallory");
    for version in [V4, V5] {
        let connect = |client_id, keep_alive_secs| Connect {
            client_id,
            keep_alive_secs,
            ..mallory(version, &password)
        };
        let mut without = Raw::connect(server.mqtt(), &connect("without", 0)).await?;
        let mut pinging = Raw::connect(server.mqtt(), &connect("pinging", 1)).await?;
        let started = Instant::now();
        let mut silent = Raw::connect(server.mqtt(), &connect("silent", 1)).await?;

        // [MQTT-3.1.2-24]
        let mut ticks = interval(Duration::from_millis(300));
        let ping = async {
            loop {
                ticks.tick().await;
                if !pinging.is_alive().await? {
                    anyhow::bail!("dropped although it pinged");
                }
            }
        };
        tokio::select! {
            closed = silent.closed() => closed?,
            pinged = ping => pinged?,
        }
        let lived = started.elapsed();
        assert!(lived >= Duration::from_millis(1450), "{lived:?}");
        assert!(lived <= Duration::from_secs(5), "{lived:?}");
        assert!(without.is_alive().await?, "keepalive 0 is no limit");
    }
    server.finish().await
}

/// At QoS 2, PUBREC means stored, and the same packet again before PUBREL is the same message.
#[tokio::test]
async fn qos_2_is_exactly_once() -> Result<()> {
    let server = Server::with_users(&["mallory", "bob"]).await?;
    let api = server.login("bob").await?;
    let password = password_of("mallory");
    for (version, before) in [(V4, 0), (V5, 1)] {
        let mut raw = Raw::connect(server.mqtt(), &mallory(version, &password)).await?;
        // Without a clientMsgId, only QoS 2 itself keeps it from being two messages.
        let payload = r#"{"send":{"to":{"user":"bob"},"text":"exactly once"}}"#;
        let publish = |first| raw::publish(version, first, "imj/mallory/up", Some(9), payload);
        let history = async || api.history("u:bob:mallory").await;

        raw.send(&publish(PUBLISH_QOS_2)).await?;
        let pubrec = raw.expect(PUBREC).await?;
        assert_eq!(pubrec[..2], [0, 9]);
        assert_eq!(history().await?.len(), before + 1, "PUBREC means stored");

        // [MQTT-4.3.3-2]
        raw.send(&publish(PUBLISH_QOS_2 | DUP)).await?;
        raw.expect(PUBREC).await?;
        raw.send(&raw::packet(0x62, &[0, 9])).await?;
        let pubcomp = raw.expect(PUBCOMP).await?;
        assert_eq!(pubcomp[..2], [0, 9]);
        let history = history().await?;
        assert_eq!(history.len(), before + 1, "{version:?}");
        assert_eq!(text_of(&history[before]), "exactly once");
    }
    server.finish().await
}

/// MQTT 3.1.1 has no limit to what a client may have under way: 100 QoS 2 publishes sent before anything is read
/// all complete, and are stored once.
#[tokio::test]
async fn many_qos_2_publishes_at_once_complete() -> Result<()> {
    const COUNT: u16 = 100;
    let server = Server::with_users(&["mallory", "bob"]).await?;
    let password = password_of("mallory");
    let mut raw = Raw::connect(server.mqtt(), &mallory(V4, &password)).await?;

    let payload = r#"{"send":{"to":{"user":"bob"},"text":"one of many"}}"#;
    let publish = |id| raw::publish(V4, PUBLISH_QOS_2, "imj/mallory/up", Some(id), payload);
    let publishes: Vec<u8> = (1..=COUNT).flat_map(publish).collect();
    raw.send(&publishes).await?;
    for id in 1..=COUNT {
        let pubrec = raw.expect(PUBREC).await?;
        assert_eq!(pubrec, id.to_be_bytes(), "PUBRECs come in order");
    }
    let release = |id: u16| raw::packet(0x62, &id.to_be_bytes());
    let releases: Vec<u8> = (1..=COUNT).flat_map(release).collect();
    raw.send(&releases).await?;
    for id in 1..=COUNT {
        let pubcomp = raw.expect(PUBCOMP).await?;
        assert_eq!(pubcomp, id.to_be_bytes());
    }

    ensure!(raw.is_alive().await?, "the connection stays");
    let history = server.login("bob").await?.history("u:bob:mallory").await?;
    ensure_complete(&history, COUNT.into())?;
    server.finish().await
}

/// PUBACKs may come in any order; the cursor ends where all have come.
#[tokio::test]
async fn pubacks_may_come_in_any_order() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for version in [V4, V5] {
        let device = format!("{version:?}");
        let mut bob = server.client("bob").device(&device).version(version);
        bob = bob.manual_acks();
        let mut bob = bob.online().await?;
        let first = crate::support::say_many(&mut alice, &up::user("bob"), 10)
            .await?
            .seq
            - 9;
        let mut arrivals = Vec::new();
        let mut heard = Vec::new();
        while heard.last().is_none_or(|seq| *seq < first + 9) {
            let arrival = bob.arrival().await?;
            heard.extend(seqs(&arrival.messages));
            arrivals.push(arrival);
        }
        assert!(heard.ends_with(&range(first, first + 9)), "{heard:?}");

        for arrival in arrivals.iter().rev() {
            bob.acknowledge(arrival).await?;
        }
        eventually("all PUBACKs have moved the cursor", async || {
            Ok(bob.position("u:alice:bob").await? == first + 9)
        })
        .await?;
        let next = alice.say(up::user("bob"), "and on it goes").await?;
        assert_eq!(bob.message().await?.msg_id, next.msg_id);
        bob.disconnect().await?;
    }
    server.finish().await
}

/// Without a client id, the broker gives one (and says so in MQTT 5); without that and with a session to keep, 3.1.1
/// is refused.
#[tokio::test]
async fn a_client_without_an_id_gets_one() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let nameless = |version| server.client("alice").device("").version(version);

    let mut first = nameless(V5).online().await?;
    let mut second = nameless(V5).online().await?;
    let ids = [&first, &second].map(|client| client.accepted.assigned_client_id.clone());
    ensure!(ids[0].as_ref().is_some_and(|id| !id.is_empty()), "{ids:?}");
    ensure!(ids[0] != ids[1], "two devices, two ids: {ids:?}");
    let mut third = nameless(V4).online().await?;
    for client in [&mut first, &mut second, &mut third] {
        client.say(up::user("alice"), "I am somebody").await?;
    }

    // [MQTT-3.1.3-8] [MQTT-3.1.3-9]
    let mut raw = Raw::open(server.mqtt()).await?;
    let password = password_of("alice");
    let connect = Connect {
        client_id: "",
        uid: "alice",
        clean: false,
        ..mallory(V4, &password)
    };
    raw.send(&connect.packet()).await?;
    assert_eq!(raw.expect(CONNACK).await?, [0, 2]);
    raw.closed().await?;
    server.finish().await
}

/// Clients that open a socket and say nothing, or begin to say something, keep nobody waiting at the same doors.
#[tokio::test]
async fn silent_sockets_do_not_block_the_doors() -> Result<()> {
    /// Of each kind, TCP and TLS.
    const SILENT: usize = 500;
    /// The beginning of a ClientHello, and of a CONNECT.
    const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abc";
    const HALF_A_CONNECT: &[u8] = b"\x10\x40\x00\x04MQ";
    raise_open_files()?;
    // They are to be silent until the end.
    let folder = Folder::with_tls()?.setting("TIDINGS__MQTT__CONNECT_TIMEOUT", "10m");
    let server = Server::start_in(folder, &["alice", "mallory"]).await?;
    let tls = server.tunnel(Through::Tls(None)).await?;
    // With a token, since a password takes its time.
    let token = server.login("alice").await?.tokens()?.access.clone();
    let plainly = server.device("alice").password(&token);
    let doors = [("TCP", plainly.clone()), ("TLS", plainly.through(&tls))];
    let mut before = Vec::new();
    for (_, device) in &doors {
        before.push(median_of_connects(device).await?);
    }

    let mut silent = Vec::new();
    for number in 0..SILENT {
        for (door, half) in [
            (server.mqtt(), HALF_A_CONNECT),
            (server.mqtts(), HALF_A_HELLO),
        ] {
            let mut raw = Raw::open(door).await?;
            if number % 2 == 1 {
                raw.send(half).await?;
            }
            silent.push(raw);
        }
    }
    for ((door, device), before) in doors.iter().zip(before) {
        let with = median_of_connects(device).await?;
        println!(
            "over {door} a connect takes {before:?}, with {} silent ones {with:?}",
            silent.len()
        );
        let slow = (before * 5).max(Duration::from_millis(100));
        ensure!(
            with < slow,
            "{door}: a connect takes {with:?} instead of {before:?}"
        );
    }

    // It was still waited for.
    let password = password_of("mallory");
    let mut late = silent
        .swap_remove(0)
        .come_in(&mallory(V4, &password))
        .await?;
    ensure!(late.is_alive().await?, "a late CONNECT is one");
    server.finish().await
}

/// From opening the socket to the CONNACK.
async fn median_of_connects(device: &device::Builder) -> Result<Duration> {
    const CONNECTS: usize = 20;
    let mut took = Vec::new();
    for _ in 0..CONNECTS {
        let started = Instant::now();
        let device = device.clone().connect().await?;
        took.push(started.elapsed());
        device.disconnect().await?;
    }
    took.sort();
    Ok(took[CONNECTS / 2])
}
