//! Retained messages: who gets them, how many there may be, and that they are as durable as their PUBACK says.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::wire::{AckKind, Property, Publish, id};
use tidings_tests::{Device, Server};

use crate::support::connect;

const VERSIONS: [Version; 2] = [V4, V5];
const QUOTA_EXCEEDED: u8 = 0x97;
// Options of a subscription (MQTT 5, 3.8.3.1), beside the QoS.
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
const RETAINED_IF_NEW: u8 = 1 << 4;
const RETAINED_NEVER: u8 = 2 << 4;

/// A retained message is there for whoever subscribes later, is replaced by the next, and deleted by an empty one.
#[tokio::test]
async fn retained() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let mut lamp = connect(&server, version, "lamp").await?;
        let mut live = connect(&server, version, "live").await?;
        live.subscribe("dev/alice/#", 2).await?;
        for qos in 0..=2 {
            let topic = format!("dev/alice/{qos}");
            for text in ["first", "second"] {
                lamp.put(Publish::new(&topic, text, qos).retained()).await?;
                let publish = live.next().await?;
                // [MQTT-3.3.1-9] To those who are there already it is like any other.
                assert_eq!((publish.text(), publish.retain), (text.to_owned(), false));
            }
            // One that is not retained leaves what is.
            lamp.publish(&topic, "passing", qos).await?;
            assert_eq!(live.next_on(&topic).await?, "passing");
        }
        let mut late = connect(&server, version, "late").await?;
        late.subscribe("dev/alice/+", 2).await?;
        let mut found = Vec::new();
        for _ in 0..3 {
            let publish = late.next().await?;
            assert!(publish.retain && publish.text() == "second", "{publish:?}");
            found.push((publish.topic, publish.qos));
        }
        found.sort();
        let expected = (0..=2).map(|qos| (format!("dev/alice/{qos}"), qos));
        assert_eq!(found, expected.collect::<Vec<_>>());

        for qos in 0..=2 {
            let topic = format!("dev/alice/{qos}");
            lamp.put(Publish::new(&topic, "", qos).retained()).await?;
            // [MQTT-3.3.1-10] It is delivered as a message all the same.
            assert_eq!(live.next_on(&topic).await?, "");
        }
        lamp.ping().await?;
        let mut later = connect(&server, version, "later").await?;
        later.subscribe("dev/alice/#", 2).await?;
        later.hears_only(&mut lamp, "dev/alice/now").await?;
        for device in [lamp, live, late, later] {
            device.disconnect().await?;
        }
    }
    server.finish().await
}

/// What was acknowledged as retained survives `kill -9`, with its properties; what was deleted stays deleted.
#[tokio::test]
async fn retained_survives_kill_9() -> Result<()> {
    const COUNT: usize = 50;
    let mut server = Server::with_users(&["alice"]).await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    for number in 0..COUNT {
        let topic = format!("dev/alice/{number}");
        let publish = Publish::new(&topic, format!("kept {number}"), 1 + (number % 2) as u8);
        let publish = publish
            .retained()
            .with(Property::text(id::CONTENT_TYPE, "text/plain"))
            .with(Property::user("number", &number.to_string()));
        assert_eq!(lamp.put(publish).await?, 0);
        let gone = format!("dev/alice/gone/{number}");
        lamp.put(Publish::new(&gone, "x", 1).retained()).await?;
        lamp.put(Publish::new(&gone, "", 1).retained()).await?;
    }
    server.kill().await?;
    server.restart().await?;
    for version in VERSIONS {
        let mut viewer = connect(&server, version, "viewer").await?;
        viewer.subscribe("dev/alice/#", 2).await?;
        let mut numbers = Vec::new();
        for _ in 0..COUNT {
            let publish = viewer.next().await?;
            assert!(publish.retain, "{publish:?}");
            let number: usize = publish.text().strip_prefix("kept ").context("?")?.parse()?;
            assert_eq!(publish.topic, format!("dev/alice/{number}"));
            assert_eq!(usize::from(publish.qos), 1 + number % 2);
            if version == V5 {
                let properties = &publish.properties;
                assert_eq!(properties.text(id::CONTENT_TYPE), Some("text/plain"));
                let user = Property::user("number", &number.to_string());
                assert_eq!(properties.get(id::USER), Some(&user));
            }
            numbers.push(number);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
        let mut lamp = connect(&server, version, "lamp").await?;
        viewer.hears_only(&mut lamp, "dev/alice/now").await?;
    }
    server.finish().await
}

/// MQTT 5: Retain Handling decides whether a SUBSCRIBE brings the retained messages, Retain As Published whether the flag
/// stays.
#[tokio::test]
async fn retain_options() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    let kept = Publish::new("dev/alice/state", "kept", 1).retained();
    lamp.put(kept).await?;
    let mut viewer = connect(&server, V5, "viewer").await?;
    for (options, first, again) in [
        (1, true, true),
        (1 | RETAINED_IF_NEW, true, false),
        (1 | RETAINED_NEVER, false, false),
    ] {
        for comes in [first, again] {
            assert_eq!(viewer.subscribe("dev/alice/+", options).await?, 1);
            if comes {
                let publish = viewer.next().await?;
                assert_eq!((publish.text().as_str(), publish.retain), ("kept", true));
            }
            viewer.hears_only(&mut lamp, "dev/alice/now").await?;
        }
        viewer.unsubscribe("dev/alice/+").await?;
    }
    viewer
        .subscribe("dev/alice/+", 1 | RETAINED_NEVER | RETAIN_AS_PUBLISHED)
        .await?;
    for retain in [false, true] {
        let mut publish = Publish::new("dev/alice/state", "new", 1);
        publish.retain = retain;
        lamp.put(publish).await?;
        assert_eq!(viewer.next().await?.retain, retain);
    }
    server.finish().await
}

/// Of several who write one topic at once, one is the last: who subscribes now sees the same message as who subscribes
/// after `kill -9`.
#[tokio::test]
async fn the_last_writer_is_the_last_one_stored() -> Result<()> {
    const WRITERS: usize = 4;
    const BURSTS: usize = 15;
    let mut server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            writers.push(connect(&server, version, &format!("writer-{number}")).await?);
        }
        // Who is the last is a matter of luck, each time anew.
        for burst in 0..BURSTS {
            let writers = writers.iter_mut().enumerate();
            let writing = writers.map(|(number, writer)| {
                write_burst(writer, version, burst, format!("{number} in {version:?}"))
            });
            futures_util::future::try_join_all(writing).await?;
        }
        let before = retained_states(&server, version).await?;
        ensure!(before.len() == BURSTS * WINDOW, "{} topics", before.len());
        server.kill().await?;
        server.restart().await?;
        let after = retained_states(&server, version).await?;
        let states = before
            .iter()
            .map(|(topic, text)| (topic, text, after.get(topic)));
        let changed: Vec<_> = states
            .filter(|(_, text, after)| *after != Some(*text))
            .collect();
        let (count, first) = (changed.len(), changed.first());
        ensure!(count == 0, "{count} changed, the first: {first:?}");
    }
    server.finish().await
}

/// Publishes that may wait for their PUBACK.
const WINDOW: usize = 64;

/// Retains `text` on as many topics as the window allows, all at once; returns when they are acknowledged.
async fn write_burst(
    writer: &mut Device,
    version: Version,
    burst: usize,
    text: String,
) -> Result<()> {
    let mut bytes = Vec::new();
    for number in 1..=WINDOW as u16 {
        let topic = format!("dev/alice/{burst}-{number}");
        let mut state = Publish::new(&topic, &text, 1).retained();
        state.packet_id = number;
        bytes.extend(state.packet(version));
    }
    writer.send(&bytes).await?;
    for number in 1..=WINDOW as u16 {
        assert_eq!(writer.ack(AckKind::PubAck, number).await?, 0);
    }
    Ok(())
}

/// What a new subscriber to `dev/alice/+` gets, by topic.
async fn retained_states(server: &Server, version: Version) -> Result<BTreeMap<String, String>> {
    let mut viewer = connect(server, version, "late").await?;
    viewer.subscribe("dev/alice/+", 1).await?;
    let mut last = connect(server, version, "last").await?;
    last.publish("dev/alice/end", "that was all", 1).await?;
    let retained = viewer.until("that was all").await?;
    let states = retained
        .into_iter()
        .map(|publish| (publish.topic.clone(), publish.text()));
    Ok(states.collect())
}

/// So many retained messages, of one user and of all, and so many bytes: one more is refused and nobody gets it. One that
/// is replaced takes no room, and one that is deleted makes some.
#[tokio::test]
async fn retained_messages_are_bounded() -> Result<()> {
    let long = "x".repeat(30_000);
    for (setting, value, text, bob_is_concerned) in [
        ("TIDINGS__TOPICS__RETAINED_PER_USER_MAX", "3", "x", false),
        ("TIDINGS__TOPICS__RETAINED_MAX", "3", "x", true),
        (
            "TIDINGS__TOPICS__RETAINED_BYTES_MAX",
            "100 KiB",
            &long,
            true,
        ),
    ] {
        let folder = Folder::new()?
            .setting(setting, value)
            // Its topics are retained, too.
            .setting("TIDINGS__TOPICS__SYS_INTERVAL", "0");
        let server = Server::start_in(folder, &["alice", "bob"]).await?;
        let mut bob = server.device("bob").v5().connect().await?;
        for version in VERSIONS {
            let state = |topic: &str, text: &str, qos| Publish::new(topic, text, qos).retained();
            let mut viewer = connect(&server, version, "viewer").await?;
            viewer.subscribe("dev/alice/#", 1).await?;
            let mut lamp = connect(&server, version, "lamp").await?;
            for topic in ["dev/alice/1", "dev/alice/2", "dev/alice/3"] {
                assert_eq!(lamp.put(state(topic, text, 1)).await?, 0, "{setting}");
                assert_eq!(viewer.next_on(topic).await?, text);
            }
            let refused = if version == V5 { QUOTA_EXCEEDED } else { 0 };
            for qos in 0..=2 {
                let code = lamp.put(state("dev/alice/4", text, qos)).await?;
                let expected = if qos == 0 { 0 } else { refused };
                assert_eq!(code, expected, "{setting} at QoS {qos} in {version:?}");
                viewer.hears_only(&mut lamp, "dev/alice/now").await?;
            }
            let code = bob.put(state("dev/bob/1", text, 1)).await?;
            assert_eq!(
                code == QUOTA_EXCEEDED,
                bob_is_concerned,
                "{setting}: {code:#04x}"
            );
            bob.put(state("dev/bob/1", "", 1)).await?;

            for (topic, text) in [
                ("dev/alice/1", text),
                ("dev/alice/2", ""),
                ("dev/alice/4", text),
            ] {
                assert_eq!(
                    lamp.put(state(topic, text, 1)).await?,
                    0,
                    "{setting}: {topic}"
                );
                assert_eq!(viewer.next_on(topic).await?, text);
            }
            let kept = retained_states(&server, version).await?;
            let topics: Vec<&str> = kept.keys().map(String::as_str).collect();
            assert_eq!(topics, ["dev/alice/1", "dev/alice/3", "dev/alice/4"]);
            for topic in topics {
                lamp.put(state(topic, "", 1)).await?;
            }
            for device in [viewer, lamp] {
                device.disconnect().await?;
            }
        }
        server.finish().await?;
    }
    Ok(())
}
