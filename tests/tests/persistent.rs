//! Sessions that outlive their connection: what they keep, for how long, and what ends them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidings_tests::device::End;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::wire::{AckKind, Properties, Property, Publish, id};
use tidings_tests::{Server, eventually, up};

const VERSIONS: [Version; 2] = [V4, V5];

/// A session goes on where it was: its subscriptions, and at QoS 1 and 2 what came meanwhile, in order. A clean start
/// ends it.
#[tokio::test]
async fn a_session_goes_on() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut lamp = server.device("alice").id("lamp").connect().await?;
    for version in VERSIONS {
        let keeper = || server.device("alice").version(version).id("keeper");
        let mut first = keeper().kept().connect().await?;
        assert!(!first.connack.session_present);
        assert_eq!(first.subscribe("dev/alice/mail/+", 2).await?, 2);
        assert_eq!(first.subscribe("dev/alice/gone", 1).await?, 1);
        first.unsubscribe("dev/alice/gone").await?;
        first.disconnect().await?;

        lamp.publish("dev/alice/gone", "unsubscribed", 1).await?;
        for (number, qos) in [(1, 1), (2, 2), (3, 1)] {
            let topic = format!("dev/alice/mail/{number}");
            lamp.publish(&topic, &number.to_string(), qos).await?;
        }
        let mut second = keeper().kept().connect().await?;
        assert!(second.connack.session_present);
        for (number, qos) in [(1, 1), (2, 2), (3, 1)] {
            let publish = second.next().await?;
            assert_eq!((publish.text(), publish.qos), (number.to_string(), qos));
            assert!(!publish.dup && !publish.retain);
        }
        second.hears_only(&mut lamp, "dev/alice/mail/live").await?;
        second.disconnect().await?;

        let third = keeper().connect().await?;
        assert!(!third.connack.session_present);
        third.disconnect().await?;
        let mut fourth = keeper().kept().connect().await?;
        assert!(!fourth.connack.session_present);
        lamp.publish("dev/alice/mail/x", "not subscribed", 1)
            .await?;
        fourth.subscribe("dev/alice/end", 1).await?;
        fourth.hears_only(&mut lamp, "dev/alice/end").await?;
        fourth.disconnect().await?;
        keeper().forget().await?;
    }
    server.finish().await
}

/// [MQTT-4.4.0-1] What was sent and not acknowledged is sent again under the same packet id, with DUP; a QoS 2 exchange
/// goes on where it was, on both sides.
#[tokio::test]
async fn exchanges_are_completed() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let keeper = || {
            let keeper = server.device("alice").version(version).id("keeper");
            keeper.kept().manual_acks()
        };
        let mut first = keeper().connect().await?;
        first.subscribe("dev/alice/mail", 2).await?;
        let mut lamp = server.device("alice").id("lamp").connect().await?;
        for (text, qos) in [("one", 1), ("two", 2), ("three", 2)] {
            lamp.publish("dev/alice/mail", text, qos).await?;
        }
        let sent = [
            first.next().await?,
            first.next().await?,
            first.next().await?,
        ];
        // The second has got as far as PUBREL.
        let halfway = sent[1].packet_id;
        first.say_ack(AckKind::PubRec, halfway).await?;
        first.ack(AckKind::PubRel, halfway).await?;
        // Of its own, one is published and not released.
        let own = Publish::new("dev/alice/own", "own", 2);
        let own_id = first.start(own).await?;
        first.ack(AckKind::PubRec, own_id).await?;
        first.vanish();

        let mut watcher = server.device("alice").id("watcher").connect().await?;
        watcher.subscribe("dev/alice/own", 1).await?;
        let mut second = keeper().connect().await?;
        assert!(second.connack.session_present);
        let mut again = Vec::new();
        let mut released = false;
        while again.len() < 2 || !released {
            let packet = second.wait("what was open", |packet| Some(packet.clone()));
            match packet.await? {
                tidings_tests::wire::Packet::Publish(publish) => again.push(publish),
                tidings_tests::wire::Packet::Ack(ack) => {
                    assert_eq!((ack.kind, ack.packet_id), (AckKind::PubRel, halfway));
                    released = true;
                }
                other => anyhow::bail!("{other:?}"),
            }
        }
        for (again, sent) in again.iter().zip([&sent[0], &sent[2]]) {
            assert!(again.dup, "{again:?}");
            assert_eq!(again.packet_id, sent.packet_id);
            assert_eq!(again.text(), sent.text());
        }
        second.say_ack(AckKind::PubRel, own_id).await?;
        assert_eq!(second.ack(AckKind::PubComp, own_id).await?, 0);
        keeper().forget().await?;
    }
    server.finish().await
}

/// MQTT 5: a session lives as long as CONNECT, or a later DISCONNECT, says; not longer than the server allows.
#[tokio::test]
async fn sessions_expire() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__MQTT__SESSION_EXPIRY_MAX", "1h");
    let server = Server::start_in(folder, &["alice"]).await?;
    let keeper = || server.device("alice").v5().id("keeper").unclean();
    let is_there = async || {
        let device = keeper().expiry(1000).connect().await?;
        let present = device.connack.session_present;
        device.disconnect().await?;
        anyhow::Ok(present)
    };

    // 0: with the connection.
    keeper().connect().await?.disconnect().await?;
    assert!(!is_there().await?);
    assert!(is_there().await?);
    keeper().forget().await?;

    // In a DISCONNECT: shorter, and longer.
    let expiry = |secs| Properties(vec![Property::Four(id::SESSION_EXPIRY, secs)]);
    keeper()
        .expiry(1000)
        .connect()
        .await?
        .leave(0, &expiry(0))
        .await?;
    assert!(!is_there().await?);
    keeper().forget().await?;
    keeper()
        .expiry(1)
        .connect()
        .await?
        .leave(0, &expiry(1000))
        .await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(is_there().await?);
    keeper().forget().await?;

    // By the clock.
    let started = Instant::now();
    keeper().expiry(1).connect().await?.disconnect().await?;
    eventually("the session has expired", async || {
        let device = keeper().expiry(1).connect().await?;
        let present = device.connack.session_present;
        device.disconnect().await?;
        // Each look begins the second anew.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Ok(!present)
    })
    .await?;
    assert!(started.elapsed() >= Duration::from_secs(1));

    // More than the server keeps: it says how much it does.
    let greedy = keeper().expiry(u32::MAX).connect().await?;
    let granted = greedy.connack.properties.number(id::SESSION_EXPIRY);
    assert_eq!(granted, Some(3600));
    greedy.disconnect().await?;
    keeper().forget().await?;

    // A protocol error: from 0 it can't be raised.
    let mut device = keeper().connect().await?;
    let packet = tidings_tests::wire::disconnect(V5, 0, &expiry(10));
    device.send(&packet).await?;
    assert_eq!(device.closed().await?, End::Disconnect(0x82));
    server.finish().await
}

/// A second connection takes the session over, and nothing is lost between the two.
#[tokio::test]
async fn takeover_keeps_the_session() -> Result<()> {
    const COUNT: usize = 200;
    let server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let keeper = || server.device("alice").version(version).id("keeper").kept();
        let mut first = keeper().connect().await?;
        first.subscribe("dev/alice/mail", 1).await?;
        let mut lamp = server.device("alice").id("lamp").connect().await?;
        let publishing = async {
            for number in 0..COUNT {
                lamp.publish("dev/alice/mail", &number.to_string(), 1)
                    .await?;
            }
            anyhow::Ok(())
        };
        let reading = async {
            let mut seen: Vec<usize> = Vec::new();
            let mut device = first;
            for _ in 0..5 {
                for text in device.texts(10).await? {
                    seen.push(text.parse()?);
                }
                let next = keeper().connect().await?;
                ensure!(next.connack.session_present, "it began anew");
                let end = device.closed().await?;
                let expected = match version {
                    V4 => End::Closed,
                    V5 => End::Disconnect(0x8E),
                };
                ensure!(end == expected, "{end:?}");
                device = next;
            }
            while seen.last() != Some(&(COUNT - 1)) {
                seen.push(device.next().await?.text().parse()?);
            }
            anyhow::Ok(seen)
        };
        let (published, seen) = tokio::join!(publishing, reading);
        published?;
        let mut seen = seen?;
        // What had not been acknowledged came again.
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..COUNT).collect::<Vec<_>>());
        keeper().forget().await?;
    }
    server.finish().await
}

/// The chat of a kept session goes on without a SUBSCRIBE: what was missed, and then live messages.
#[tokio::test]
async fn chat_goes_on_without_subscribing() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for version in VERSIONS {
        let phone = || {
            let phone = server.client("bob").device("phone");
            phone.version(version).kept_session()
        };
        let mut first = phone().online().await?;
        let heard = alice.say(up::user("bob"), "while it is there").await?;
        assert_eq!(first.message().await?.msg_id, heard.msg_id);
        first.disconnect().await?;
        let missed = alice.say(up::user("bob"), "while it is away").await?;

        let mut second = phone().connect().await?;
        assert!(second.accepted.session_present);
        assert_eq!(second.message().await?.msg_id, missed.msg_id);
        let live = alice.say(up::user("bob"), "when it is back").await?;
        assert_eq!(second.message().await?.msg_id, live.msg_id);
        second.disconnect().await?;
        let phone = server.device("bob").version(version).id("phone");
        phone.forget().await?;
    }
    server.finish().await
}

/// So many sessions are kept, of one user and of all; the one that was left first makes room.
#[tokio::test]
async fn kept_sessions_are_bounded() -> Result<()> {
    // Who comes and leaves again, and whether a session was kept.
    let of_one_user = [
        ("bob", "one", false),
        ("alice", "one", false),
        ("alice", "two", false),
        ("alice", "three", false),
        ("alice", "two", true),
        ("alice", "three", true),
        ("alice", "one", false),
        ("alice", "two", false),
        ("bob", "one", true),
    ];
    let of_all = [
        ("bob", "one", false),
        ("alice", "one", false),
        ("bob", "one", true),
        ("alice", "two", false),
        ("bob", "one", true),
        ("alice", "one", false),
        ("alice", "two", false),
    ];
    for (setting, visits) in [
        ("TIDINGS__MQTT__SESSIONS_PER_USER_MAX", &of_one_user[..]),
        ("TIDINGS__MQTT__SESSIONS_MAX", &of_all),
    ] {
        let folder = Folder::new()?.setting(setting, "2");
        let server = Server::start_in(folder, &["alice", "bob"]).await?;
        for version in VERSIONS {
            for (step, (uid, id, is_kept)) in visits.iter().enumerate() {
                let device = server.device(uid).version(version).id(id);
                let device = device.kept().connect().await?;
                let present = device.connack.session_present;
                assert_eq!(
                    present, *is_kept,
                    "step {step}: {uid}'s {id} in {version:?}, {setting}"
                );
                device.disconnect().await?;
            }
            for (uid, id, _) in visits {
                server.device(uid).id(id).forget().await?;
            }
        }
        server.finish().await?;
    }
    Ok(())
}

/// MQTT 5, 3.1.3.2.2: a will waits for its delay, or for the session's end if that comes first; a client that comes back
/// in time has none.
#[tokio::test]
async fn a_will_can_wait() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut watcher = server.device("alice").id("watcher").connect().await?;
    watcher.subscribe("dev/alice/will", 1).await?;
    let mortal = |delay, expiry| {
        let will = Publish::new("dev/alice/will", format!("{delay} of {expiry}"), 1);
        let will = will.with(Property::Four(id::WILL_DELAY, delay));
        let mortal = server.device("alice").v5().id("mortal").expiry(expiry);
        mortal.will(will)
    };
    for (delay, expiry, earliest) in [(1, 100, 1), (100, 1, 1), (100, 0, 0), (0, 100, 0)] {
        mortal(delay, expiry).connect().await?.vanish();
        let lost = Instant::now();
        let text = watcher.next_on("dev/alice/will").await?;
        assert_eq!(text, format!("{delay} of {expiry}"));
        let earliest = Duration::from_secs(earliest);
        let waited = lost.elapsed();
        assert!(
            waited + Duration::from_millis(200) >= earliest,
            "{waited:?}"
        );
    }
    // [MQTT-3.1.3-9]
    mortal(1, 100).connect().await?.vanish();
    let back = server.device("alice").v5().id("mortal").unclean();
    let back = back.expiry(100).connect().await?;
    assert!(back.connack.session_present);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut lamp = server.device("alice").id("lamp").connect().await?;
    watcher.hears_only(&mut lamp, "dev/alice/will").await?;
    back.disconnect().await?;
    server.finish().await
}

/// A session that is away and gets more than it may hold ends; it does not hold a part in secret.
#[tokio::test]
async fn a_session_that_holds_too_much_ends() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__MESSAGES__TEXT_MAX", "16 KiB")
        .setting("TIDINGS__MQTT__MAX_PACKET_SIZE", "32 KiB")
        .setting("TIDINGS__MQTT__SESSION_QUEUE", "64 KiB");
    let server = Server::start_in(folder, &["alice"]).await?;
    for version in VERSIONS {
        let keeper = || server.device("alice").version(version).id("keeper").kept();
        let mut first = keeper().connect().await?;
        first.subscribe("dev/alice/mail", 1).await?;
        first.disconnect().await?;
        let mut lamp = server.device("alice").id("lamp").connect().await?;
        let text = "x".repeat(10_000);
        for _ in 0..20 {
            lamp.publish("dev/alice/mail", &text, 1).await?;
        }
        let mut second = keeper().connect().await?;
        assert!(!second.connack.session_present, "it has holes");
        second.subscribe("dev/alice/mail", 1).await?;
        second
            .hears_only(&mut lamp, "dev/alice/mail")
            .await
            .context("what the old session held")?;
        second.disconnect().await?;
    }
    server.finish().await
}
