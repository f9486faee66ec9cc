//! Plain topics: `dev/{uid}/…` as any MQTT device uses them, in both versions.

use anyhow::{Context, Result, ensure};
use tidings_tests::device::End;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::wire::{Properties, Property, Publish, id};
use tidings_tests::{Server, eventually};

use crate::support::connect;

const VERSIONS: [Version; 2] = [V4, V5];
const NOT_AUTHORIZED: u8 = 0x87;
/// An option of a subscription (MQTT 5, 3.8.3.1), beside the QoS.
const NO_LOCAL: u8 = 1 << 2;

/// A delivery's QoS is the lower one of publish and subscription, whatever the two clients speak.
#[tokio::test]
async fn each_qos_to_each() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    for from in VERSIONS {
        for to in VERSIONS {
            let mut lamp = connect(&server, from, "lamp").await?;
            for granted in 0..=2 {
                let mut viewer = connect(&server, to, "viewer").await?;
                assert_eq!(viewer.subscribe("dev/alice/lamp", granted).await?, granted);
                for qos in 0..=2 {
                    let text = format!("{qos} to {granted}");
                    assert_eq!(lamp.publish("dev/alice/lamp", &text, qos).await?, 0);
                    let publish = viewer.next().await?;
                    assert_eq!(publish.text(), text);
                    assert_eq!(publish.qos, qos.min(granted), "{text}");
                    assert!(!publish.retain && !publish.dup, "{publish:?}");
                }
                viewer.disconnect().await?;
            }
            lamp.disconnect().await?;
        }
    }
    server.finish().await
}

/// One publisher's messages come in their order, all of them.
#[tokio::test]
async fn order_is_kept() -> Result<()> {
    const COUNT: usize = 500;
    let server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let mut viewer = connect(&server, version, "viewer").await?;
        viewer.subscribe("dev/alice/#", 2).await?;
        let mut lamp = connect(&server, version, "lamp").await?;
        let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
        for (number, text) in expected.iter().enumerate() {
            let topic = format!("dev/alice/{}", number % 7);
            lamp.publish(&topic, text, 1).await?;
        }
        assert_eq!(viewer.texts(COUNT).await?, expected);
    }
    server.finish().await
}

/// [MQTT-4.7.1] What the wildcards match, and what they don't.
#[tokio::test]
async fn wildcards() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &[&str]); 6] = [
        ("#", &["", "/a", "/a/b/c", "/", "//"], &[]),
        ("/#", &["", "/a", "/a/b", "/"], &[]),
        ("/+", &["/a", "/"], &["", "/a/b", "//"]),
        ("/+/b", &["/a/b", "//b"], &["/b", "/a/b/c", "/a"]),
        ("/a/#", &["/a", "/a/b", "/a/b/c", "/a/"], &["/b", "/aa"]),
        ("/é/日本", &["/é/日本"], &["/e/日本", "/é"]),
    ];
    for version in VERSIONS {
        let mut lamp = connect(&server, version, "lamp").await?;
        for (filter, matching, others) in cases {
            let filter = match filter {
                "#" => "dev/alice/#".to_owned(),
                filter => format!("dev/alice{filter}"),
            };
            let mut viewer = connect(&server, version, "viewer").await?;
            let sentinel = "dev/alice/sentinel/of/the/test";
            let code = viewer.subscribe(&filter, 1).await?;
            assert_eq!(code, 1, "{filter}");
            for rest in others {
                lamp.publish(&format!("dev/alice{rest}"), "unwanted", 1)
                    .await?;
            }
            viewer.subscribe(sentinel, 1).await?;
            viewer.hears_only(&mut lamp, sentinel).await?;
            viewer.unsubscribe(sentinel).await?;
            for rest in matching {
                let topic = format!("dev/alice{rest}");
                lamp.publish(&topic, "wanted", 1).await?;
                let got = viewer.next_on(&topic).await;
                got.with_context(|| format!("{filter} and {topic}"))?;
            }
            viewer.disconnect().await?;
        }
        lamp.disconnect().await?;
    }
    server.finish().await
}

/// Nobody reads or writes the topics of another's devices; what contains them is not granted either.
#[tokio::test]
async fn foreign_devices_are_closed() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut bob = server.device("bob").connect().await?;
    bob.subscribe("dev/bob/#", 1).await?;
    for version in VERSIONS {
        let mut alice = connect(&server, version, "lamp").await?;
        let refused = match version {
            V4 => 0x80,
            V5 => NOT_AUTHORIZED,
        };
        for filter in [
            "dev/bob/#",
            "dev/bob/x",
            "dev/bob",
            "dev/+/x",
            "dev/#",
            "+/bob/x",
            "#",
            "+/+/+",
            "$share/g/dev/bob/#",
            "$share/g/dev/+/x",
        ] {
            let code = alice.subscribe(filter, 1).await.context(filter)?;
            assert_eq!(code, refused, "{filter} in {version:?}");
        }
        for topic in ["dev/bob/x", "dev/bob", "dev/alicebob/x", "dev", "dev/"] {
            for qos in 0..=2 {
                let reason = alice.publish(topic, "forged", qos).await.context(topic)?;
                let expected = match (version, qos) {
                    (V5, 1 | 2) => NOT_AUTHORIZED,
                    _ => 0,
                };
                assert_eq!(reason, expected, "{topic} at QoS {qos} in {version:?}");
            }
        }
        alice.ping().await?;
    }
    let mut own = server.device("bob").id("own").connect().await?;
    bob.hears_only(&mut own, "dev/bob/own").await?;
    server.finish().await
}

/// [MQTT-3.8.3-3] MQTT 5: No Local keeps a client's own messages from coming back; others get them.
#[tokio::test]
async fn no_local() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    let mut other = connect(&server, V5, "other").await?;
    for device in [&mut lamp, &mut other] {
        device.subscribe("dev/alice/#", 1 | NO_LOCAL).await?;
    }
    lamp.publish("dev/alice/x", "not for me", 1).await?;
    assert_eq!(other.next().await?.text(), "not for me");
    lamp.hears_only(&mut other, "dev/alice/x").await?;

    // [MQTT-3.8.3-4] On a shared subscription it is an error.
    lamp.send(&tidings_tests::wire::subscribe(
        V5,
        99,
        &[("$share/g/dev/alice/x", 1 | NO_LOCAL)],
        &Properties::default(),
    ))
    .await?;
    assert_eq!(lamp.closed().await?, End::Disconnect(0x82));
    server.finish().await
}

/// MQTT 5: subscriptions that overlap give one message, at the highest QoS, with the identifiers of all of them.
#[tokio::test]
async fn subscription_identifiers() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    let mut viewer = connect(&server, V5, "viewer").await?;
    for (filter, qos, number) in [
        ("dev/alice/a/#", 0, 1),
        ("dev/alice/+/x", 2, 268_435_455),
        ("dev/alice/a/x", 1, 456_789),
    ] {
        assert_eq!(viewer.subscribe_as(filter, qos, number).await?, qos);
    }
    viewer.subscribe("dev/alice/none", 1).await?;
    for (topic, qos, ids) in [
        ("dev/alice/a/x", 2, &[1, 456_789, 268_435_455][..]),
        ("dev/alice/a", 0, &[1]),
        ("dev/alice/b/x", 2, &[268_435_455]),
        ("dev/alice/none", 1, &[]),
    ] {
        lamp.publish(topic, "x", 2).await?;
        let publish = viewer.next().await?;
        assert_eq!((publish.topic.as_str(), publish.qos), (topic, qos));
        assert_eq!(publish.properties.subscription_ids(), ids, "{topic}");
    }
    // The same filter again replaces the identifier.
    viewer.subscribe("dev/alice/b/x", 1).await?;
    viewer.subscribe_as("dev/alice/+/x", 1, 7).await?;
    lamp.publish("dev/alice/b/x", "x", 1).await?;
    assert_eq!(viewer.next().await?.properties.subscription_ids(), [7]);
    server.finish().await
}

/// MQTT 5: what a publish says about itself travels with it; a 3.1.1 client gets the rest.
#[tokio::test]
async fn properties_travel() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    let mut viewer = connect(&server, V5, "viewer").await?;
    let mut old = connect(&server, V4, "old").await?;
    viewer.subscribe("dev/alice/#", 2).await?;
    old.subscribe("dev/alice/#", 2).await?;
    let properties = [
        Property::Byte(id::PAYLOAD_FORMAT, 1),
        Property::text(id::CONTENT_TYPE, "text/plain"),
        Property::text(id::RESPONSE_TOPIC, "dev/alice/answers"),
        Property::Data(id::CORRELATION_DATA, vec![0, 1, 255]),
        Property::user("a", "2"),
        Property::user("c", "3"),
        Property::user("a", "4"),
    ];
    for qos in 0..=2 {
        let mut publish = Publish::new("dev/alice/x", "é", qos);
        publish.properties = Properties(properties.to_vec());
        assert_eq!(lamp.put(publish).await?, 0);
        let got = viewer.next().await?.properties;
        for property in &properties {
            assert!(got.0.contains(property), "{property:?} at QoS {qos}");
        }
        let users = got.0.iter();
        let users = users.filter(|property| matches!(property, Property::User(..)));
        // [MQTT-3.3.2-18] In their order.
        assert!(users.eq(&properties[4..]), "{got:?}");
        assert_eq!(old.next().await?.text(), "é");
    }
    server.finish().await
}

/// MQTT 5: a message that has expired is not delivered; what is left of its time travels with it.
#[tokio::test]
async fn expiry() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let keeper = || server.device("alice").v5().id("keeper").kept();
    let mut subscriber = keeper().connect().await?;
    subscriber.subscribe("dev/alice/mail/#", 2).await?;
    subscriber.disconnect().await?;

    let mut lamp = connect(&server, V5, "lamp").await?;
    let expiring = |topic: &str, secs| {
        let publish = Publish::new(topic, format!("for {secs} s"), 1);
        publish.with(Property::Four(id::MESSAGE_EXPIRY, secs))
    };
    for secs in [1, 1000] {
        lamp.put(expiring("dev/alice/mail/x", secs)).await?;
        let topic = format!("dev/alice/state/{secs}");
        lamp.put(expiring(&topic, secs).retained()).await?;
    }
    eventually("the short-lived one has expired", async || {
        let mut viewer = connect(&server, V5, "viewer").await?;
        viewer.subscribe("dev/alice/state/+", 1).await?;
        viewer.ping().await?;
        lamp.publish("dev/alice/state/end", "end", 1).await?;
        let mut seen = Vec::new();
        loop {
            let publish = viewer.next().await?;
            match publish.text().as_str() {
                "end" => break,
                _ => seen.push(publish),
            }
        }
        Ok(seen.len() == 1 && left_of(&seen[0])? < 1000)
    })
    .await?;
    let mut back = keeper().connect().await?;
    let publish = back.next().await?;
    assert_eq!(publish.text(), "for 1000 s");
    ensure!(left_of(&publish)? < 1000, "{publish:?}");
    lamp.publish("dev/alice/mail/x", "end", 1).await?;
    assert_eq!(back.next().await?.text(), "end");
    server.finish().await
}

/// Seconds that a message has left.
fn left_of(publish: &Publish) -> Result<u32> {
    let left = publish.properties.number(id::MESSAGE_EXPIRY);
    left.with_context(|| format!("no expiry in {publish:?}"))
}

/// MQTT 5, 3.3.2.3.4: a client may name a topic once and use its alias from then on, until its connection ends.
#[tokio::test]
async fn aliases_of_the_client() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut viewer = connect(&server, V5, "viewer").await?;
    viewer.subscribe("dev/alice/#", 1).await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    let properties = &lamp.connack.properties;
    let most = properties.number(id::TOPIC_ALIAS_MAXIMUM);
    let most = most.context("no aliases are offered")? as u16;
    let aliased = |topic: &str, alias| {
        Publish::new(topic, "x", 1).with(Property::Two(id::TOPIC_ALIAS, alias))
    };
    for (topic, alias, expected) in [
        ("dev/alice/1", 1, "dev/alice/1"),
        ("", 1, "dev/alice/1"),
        ("dev/alice/2", most, "dev/alice/2"),
        ("", most, "dev/alice/2"),
        ("dev/alice/3", 1, "dev/alice/3"),
        ("", 1, "dev/alice/3"),
    ] {
        assert_eq!(lamp.put(aliased(topic, alias)).await?, 0);
        let publish = viewer.next().await?;
        assert_eq!(publish.topic, expected);
        assert_eq!(publish.properties.number(id::TOPIC_ALIAS), None);
    }
    lamp.disconnect().await?;
    for (topic, alias) in [("", 1), ("dev/alice/1", 0), ("dev/alice/1", most + 1)] {
        let mut lamp = connect(&server, V5, "lamp").await?;
        lamp.start(aliased(topic, alias)).await?;
        // 0x94: Topic Alias invalid; an unknown one may be called a protocol error, too.
        let end = lamp.closed().await?;
        ensure!(
            [End::Disconnect(0x94), End::Disconnect(0x82)].contains(&end),
            "{topic} {alias}: {end:?}"
        );
    }
    server.finish().await
}

/// MQTT 5: to a client that takes aliases, a topic is named once.
#[tokio::test]
async fn aliases_of_the_server() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    let viewer = server.device("alice").v5().id("viewer");
    let viewer = viewer.property(Property::Two(id::TOPIC_ALIAS_MAXIMUM, 1));
    let mut viewer = viewer.connect().await?;
    viewer.subscribe("dev/alice/#", 1).await?;
    for qos in [0, 1, 2] {
        lamp.publish("dev/alice/x", "x", qos).await?;
        let publish = viewer.next().await?;
        assert_eq!(publish.properties.number(id::TOPIC_ALIAS), Some(1));
        assert_eq!(publish.topic, if qos == 0 { "dev/alice/x" } else { "" });
    }
    // There is no room for another.
    lamp.publish("dev/alice/y", "y", 1).await?;
    let publish = viewer.next().await?;
    let alias = publish.properties.number(id::TOPIC_ALIAS);
    assert_eq!(
        (publish.topic.as_str(), alias.unwrap_or(1)),
        ("dev/alice/y", 1)
    );
    server.finish().await
}

/// MQTT 5: the client's Receive Maximum and Maximum Packet Size are kept to.
#[tokio::test]
async fn what_the_client_can_take() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    let viewer = server.device("alice").v5().id("viewer").manual_acks();
    let viewer = viewer
        .property(Property::Two(id::RECEIVE_MAXIMUM, 2))
        .property(Property::Four(id::MAXIMUM_PACKET_SIZE, 100));
    let mut viewer = viewer.connect().await?;
    viewer.subscribe("dev/alice/#", 1).await?;
    for text in ["1", &"too large".repeat(20), "2", "3"] {
        lamp.publish("dev/alice/x", text, 1).await?;
    }
    let first = viewer.next().await?;
    assert_eq!(first.text(), "1");
    let second = viewer.next().await?;
    assert_eq!(second.text(), "2");
    // At QoS 0 there is no window, but the order is kept.
    lamp.publish("dev/alice/x", "4", 0).await?;
    let ack = tidings_tests::wire::AckKind::PubAck;
    viewer.say_ack(ack, first.packet_id).await?;
    assert_eq!(viewer.next().await?.text(), "3");
    viewer.say_ack(ack, second.packet_id).await?;
    assert_eq!(viewer.next().await?.text(), "4");
    server.finish().await
}

/// MQTT 5, 4.8.2: each message to one member of a group, in turn; groups don't share with each other, or with those who
/// are in none; who leaves gets nothing.
#[tokio::test]
async fn shared_subscriptions() -> Result<()> {
    const COUNT: usize = 30;
    let server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let mut lamp = connect(&server, version, "lamp").await?;
        let mut members = Vec::new();
        for (id, filter) in [
            ("a", "$share/workers/dev/alice/jobs/+"),
            ("b", "$share/workers/dev/alice/jobs/+"),
            ("c", "$share/workers/dev/alice/jobs/+"),
            ("d", "$share/others/dev/alice/jobs/#"),
            ("e", "dev/alice/jobs/#"),
        ] {
            let mut member = connect(&server, version, id).await?;
            assert_eq!(member.subscribe(filter, 1).await?, 1, "{filter}");
            members.push(member);
        }
        let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
        for text in &expected {
            lamp.publish("dev/alice/jobs/x", text, 1).await?;
        }
        let mut shared = Vec::new();
        for member in &mut members[..3] {
            shared.extend(member.texts(COUNT / 3).await?);
        }
        shared.sort_by_key(|text| text.parse::<usize>().ok());
        assert_eq!(shared, expected);
        for member in &mut members[3..] {
            assert_eq!(member.texts(COUNT).await?, expected);
        }

        // One leaves by UNSUBSCRIBE, one by its end: the third gets everything.
        let filter = "$share/workers/dev/alice/jobs/+";
        assert_eq!(members[0].unsubscribe(filter).await?, 0);
        members.remove(1).disconnect().await?;
        for text in &expected {
            lamp.publish("dev/alice/jobs/x", text, 1).await?;
        }
        assert_eq!(members[1].texts(COUNT).await?, expected);
        for member in members {
            member.disconnect().await?;
        }
        lamp.disconnect().await?;
    }
    server.finish().await
}

/// A will on a plain topic is published, retained if it says so; on a foreign one it is not.
#[tokio::test]
async fn wills() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut bob = server.device("bob").connect().await?;
    bob.subscribe("dev/bob/#", 1).await?;
    for version in VERSIONS {
        let mut viewer = connect(&server, version, "viewer").await?;
        viewer.subscribe("dev/alice/#", 2).await?;
        let mortal = |will| {
            server
                .device("alice")
                .version(version)
                .id("mortal")
                .will(will)
        };
        let will = Publish::new("dev/alice/will", "gone", 2);
        mortal(will.clone()).connect().await?.vanish();
        let publish = viewer.next().await?;
        assert_eq!((publish.text().as_str(), publish.qos), ("gone", 2));
        assert!(!publish.retain);

        // [MQTT-3.14.4-3] Who says DISCONNECT has no will.
        mortal(will.clone()).connect().await?.disconnect().await?;
        mortal(will.retained()).connect().await?.vanish();
        assert_eq!(viewer.next_on("dev/alice/will").await?, "gone");
        let mut late = connect(&server, version, "late").await?;
        late.subscribe("dev/alice/will", 1).await?;
        let publish = late.next().await?;
        assert_eq!((publish.text().as_str(), publish.retain), ("gone", true));

        let foreign = mortal(Publish::new("dev/bob/x", "forged", 1)).ask().await?;
        foreign.vanish();
        let mut own = server.device("bob").id("own").connect().await?;
        bob.hears_only(&mut own, "dev/bob/own").await?;
        late.put(Publish::new("dev/alice/will", "", 1).retained())
            .await?;
    }
    server.finish().await
}

/// What a client may not do ends its connection, and nobody else's.
#[tokio::test]
async fn faults_are_answered_by_name() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut other = connect(&server, V5, "other").await?;
    let mut lamp = connect(&server, V5, "lamp").await?;
    // One more QoS 2 publish than may wait for its end.
    let most = lamp.connack.properties.number(id::RECEIVE_MAXIMUM);
    for number in 0..=most.context("no Receive Maximum")? {
        let publish = Publish::new("dev/alice/x", number.to_string(), 2);
        lamp.start(publish).await?;
    }
    assert_eq!(lamp.closed().await?, End::Disconnect(0x93));

    let mut lamp = connect(&server, V5, "lamp").await?;
    // Larger than the server's Maximum Packet Size; the first bytes tell.
    lamp.send(b"\x32\xff\xff\xff\x7f").await?;
    assert_eq!(lamp.closed().await?, End::Disconnect(0x95));
    other.ping().await?;
    server.finish().await
}
