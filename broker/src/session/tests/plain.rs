//! Plain topics, with one session or several.

use super::*;
use crate::codec::WillProperties;

pub(super) fn subscribe(
    client: &mut Client,
    filter: SubscribeFilter,
    identifier: Option<u32>,
) -> ReasonCode {
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: id(1),
        filters: vec![filter],
        subscription_identifier: identifier,
        user_properties: Vec::new(),
    });
    client.send(subscribe).unwrap();
    let packets = client.packets();
    let Some(Packet::SubAck(suback)) = packets.first() else {
        panic!("{packets:?}");
    };
    suback.reasons[0]
}

pub(super) fn publish(topic: &str, qos: Qos, packet_id: u16) -> Publish {
    Publish {
        topic: topic.into(),
        qos,
        packet_id: NonZeroU16::new(packet_id).filter(|_| qos != Qos::AtMostOnce),
        payload: Bytes::from_static(b"on"),
        ..Default::default()
    }
}

/// What a client has got since the last call: topic, QoS, retain flag, packet id.
pub(super) fn publishes(client: &mut Client) -> Vec<Publish> {
    client.look().unwrap();
    let packets = client.packets().into_iter();
    let publishes = packets.filter_map(|packet| match packet {
        Packet::Publish(publish) => Some(publish),
        _ => None,
    });
    publishes.collect()
}

/// A delivery at QoS 2 that was not acknowledged comes again after the client has come back, with its packet id, and
/// from PUBREC on only the PUBREL (MQTT 5, 4.4).
#[test]
fn what_was_not_acknowledged_comes_again() {
    let rig = rig();
    let mut lamp = rig.connect(
        "alice",
        Connect {
            clean_start: false,
            ..connect(Version::V4)
        },
        None,
    );
    let granted = subscribe(
        &mut lamp,
        SubscribeFilter::new("dev/alice/#", Qos::ExactlyOnce),
        None,
    );
    assert_eq!(granted, ReasonCode::GrantedQos2);
    for (qos, packet_id) in [
        (Qos::AtLeastOnce, 1),
        (Qos::ExactlyOnce, 2),
        (Qos::AtMostOnce, 0),
    ] {
        let publish = publish("dev/alice/lamp", qos, packet_id);
        lamp.send(Packet::Publish(publish)).unwrap();
    }
    let first = publishes(&mut lamp);
    let qos = |publishes: &[Publish]| {
        publishes
            .iter()
            .map(|one| one.qos as u8)
            .collect::<Vec<_>>()
    };
    assert_eq!(qos(&first), [1, 2, 0]);

    let lasting = lamp.leave(Closed::Lost).expect("it was not clean");
    let comes_back = Connect {
        clean_start: false,
        ..connect(Version::V4)
    };
    let mut lamp = rig.connect("alice", comes_back.clone(), Some(lasting));
    let again = publishes(&mut lamp);
    assert_eq!(qos(&again), [1, 2]);
    assert!(again.iter().all(|publish| publish.dup));
    let ids = |publishes: &[Publish]| {
        publishes
            .iter()
            .filter_map(|one| one.packet_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&again), ids(&first));

    let qos2 = again[1].packet_id.unwrap();
    lamp.send(Packet::PubRec(Ack::success(qos2))).unwrap();
    assert_eq!(lamp.packets(), [Packet::PubRel(Ack::success(qos2))]);
    let lasting = lamp.leave(Closed::Lost);
    let mut lamp = rig.connect("alice", comes_back, lasting);
    lamp.look().unwrap();
    let packets = lamp.packets();
    assert!(matches!(&packets[..], [Packet::Publish(one), Packet::PubRel(_)] if one.dup));
    lamp.send(Packet::PubComp(Ack::success(qos2))).unwrap();
    lamp.send(Packet::PubAck(Ack::success(again[0].packet_id.unwrap())))
        .unwrap();
    assert!(lamp.session.is_settled());
}

/// One copy for overlapping subscriptions: the greatest QoS, all identifiers (MQTT 5, 3.3.4).
#[test]
fn overlapping_subscriptions_bring_one_copy() {
    let mut alice = Alice::new(Version::V5);
    for (filter, qos, identifier) in [
        ("dev/alice/lamp", Qos::AtMostOnce, 1),
        ("dev/alice/+", Qos::AtLeastOnce, 2),
        ("dev/alice/#", Qos::AtMostOnce, 3),
    ] {
        subscribe(
            &mut alice,
            SubscribeFilter::new(filter, qos),
            Some(identifier),
        );
    }
    alice
        .send(Packet::Publish(publish(
            "dev/alice/lamp",
            Qos::ExactlyOnce,
            1,
        )))
        .unwrap();
    let got = publishes(&mut alice);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].qos, Qos::AtLeastOnce);
    let mut identifiers = got[0].properties.clone().unwrap().subscription_identifiers;
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 2, 3]);
}

/// PUBACK of a retained message waits for the bridge; a full store refuses it, and nobody has got it.
#[test]
fn retained_messages_are_stored_before_they_are_acknowledged() {
    let mut alice = Alice::new(Version::V5);
    let retained = |topic: String, packet_id| Publish {
        retain: true,
        ..publish(&topic, Qos::AtLeastOnce, packet_id)
    };
    let keep = retained("dev/alice/lamp".into(), 9);
    alice.send(Packet::Publish(keep)).unwrap();
    assert!(alice.packets().is_empty());
    let retain = alice.rig.retains().pop().expect("the bridge is asked");
    alice.answer(retain.token, ReasonCode::Success);
    assert_eq!(acks(&alice.packets()), [9]);

    let again = SubscribeFilter {
        retain_handling: RetainHandling::SendIfNew,
        ..SubscribeFilter::new("dev/alice/#", Qos::AtMostOnce)
    };
    let first = subscribe_and_get(&mut alice, again.clone());
    assert_eq!(first.len(), 1);
    assert!(first[0].retain);
    assert_eq!(subscribe_and_get(&mut alice, again), []);

    let mut refused = 0;
    for packet_id in 1..=200 {
        let topic = format!("dev/alice/{packet_id}");
        alice
            .send(Packet::Publish(retained(topic, packet_id)))
            .unwrap();
        for retain in alice.rig.retains() {
            alice.answer(retain.token, ReasonCode::Success);
        }
        for packet in alice.packets() {
            if let Packet::PubAck(ack) = packet {
                refused += u32::from(ack.reason == ReasonCode::QuotaExceeded);
            }
        }
    }
    assert_eq!(refused, 101, "100 are kept, one of them from before");
}

fn subscribe_and_get(client: &mut Client, filter: SubscribeFilter) -> Vec<Publish> {
    let subscribe = Packet::Subscribe(Subscribe {
        packet_id: id(1),
        filters: vec![filter],
        subscription_identifier: None,
        user_properties: Vec::new(),
    });
    client.send(subscribe).unwrap();
    publishes(client)
}

/// Topic aliases both ways (MQTT 5, 3.3.2.3.4): the client's count on its connection only, and ours are said before
/// they are used.
#[test]
fn aliases_stand_for_topics() {
    let rig = rig();
    let properties = ConnectProperties {
        topic_alias_maximum: Some(1),
        session_expiry_interval: Some(60),
        ..Default::default()
    };
    let hello = Connect {
        properties: Some(Box::new(properties)),
        ..connect(Version::V5)
    };
    let mut alice = rig.connect("alice", hello.clone(), None);
    subscribe(
        &mut alice,
        SubscribeFilter::new("dev/alice/#", Qos::AtMostOnce),
        None,
    );
    let aliased = |topic: &str, alias| {
        Packet::Publish(Publish {
            properties: Some(Box::new(PublishProperties {
                topic_alias: NonZeroU16::new(alias),
                ..Default::default()
            })),
            ..publish(topic, Qos::AtMostOnce, 0)
        })
    };
    alice.send(aliased("dev/alice/lamp", 3)).unwrap();
    alice.send(aliased("", 3)).unwrap();
    alice
        .send(Packet::Publish(publish(
            "dev/alice/door",
            Qos::AtMostOnce,
            0,
        )))
        .unwrap();
    let got = publishes(&mut alice);
    let said: Vec<_> = got
        .iter()
        .map(|one| {
            (
                &*one.topic,
                one.properties.as_ref().and_then(|set| set.topic_alias),
            )
        })
        .collect();
    let one = NonZeroU16::new(1);
    assert_eq!(
        said,
        [("dev/alice/lamp", one), ("", one), ("dev/alice/door", None)]
    );

    let invalid = Err(Closed::Unsupported(ReasonCode::TopicAliasInvalid));
    let lasting = alice.leave(Closed::Lost);
    let mut alice = rig.connect("alice", hello.clone(), lasting);
    assert_eq!(alice.send(aliased("", 3)), invalid);
    let mut alice = rig.connect("alice", hello, None);
    assert_eq!(alice.send(aliased("dev/alice/lamp", 17)), invalid);
}

/// A shared subscription's messages go to one member each, by the pair of name and filter; what a member leaves
/// unacknowledged when its session ends goes to another.
#[test]
fn shared_subscriptions_share() {
    let rig = rig();
    let filter = || SubscribeFilter::new("$share/crew/dev/alice/#", Qos::AtLeastOnce);
    let mut members: Vec<Client> = ["one", "two"]
        .map(|device| device_of_alice(&rig, device))
        .into();
    for member in &mut members {
        assert_eq!(subscribe(member, filter(), None), ReasonCode::GrantedQos1);
    }
    let mut sender = device_of_alice(&rig, "sender");
    for packet_id in 1..=4 {
        sender
            .send(Packet::Publish(publish(
                "dev/alice/lamp",
                Qos::AtLeastOnce,
                packet_id,
            )))
            .unwrap();
    }
    assert_eq!(publishes(&mut members[0]).len(), 2);
    let left = members.pop().unwrap();
    assert!(left.leave(Closed::Lost).is_none());
    assert_eq!(publishes(&mut members[0]).len(), 2);
}

fn device_of_alice(rig: &Rig, device: &str) -> Client {
    let hello = Connect {
        client_id: device.into(),
        ..connect(Version::V5)
    };
    rig.connect("alice", hello, None)
}

/// A reply may fill the very mailbox of the session that asked.
#[test]
fn a_reply_to_oneself_does_not_hang() {
    let rig = rig();
    let properties = ConnectProperties {
        receive_maximum: NonZeroU16::new(1),
        ..Default::default()
    };
    let hello = Connect {
        properties: Some(Box::new(properties)),
        ..connect(Version::V5)
    };
    let mut alice = rig.connect("alice", hello, None);
    let all = SubscribeFilter::new("dev/alice/#", Qos::AtLeastOnce);
    subscribe(&mut alice, all, None);
    let full = (1..=3).map(|packet_id| publish("dev/alice/x", Qos::AtLeastOnce, packet_id));
    for publish in full {
        alice.send(Packet::Publish(publish)).unwrap();
    }
    let command = Publish {
        properties: Some(Box::new(PublishProperties {
            response_topic: Some("dev/alice/reply".into()),
            correlation_data: Some(Bytes::from(vec![0; 600])),
            ..Default::default()
        })),
        ..publish("im/alice/up", Qos::AtLeastOnce, 9)
    };
    alice.send(Packet::Publish(command)).unwrap();
    let token = alice.to_bridge.iter().find_map(|one| match &one.item {
        Some(from_edge::Item::Uplink(uplink)) => Some(uplink.token),
        _ => None,
    });
    alice.handle.outbox.answer(Answer {
        token: token.unwrap(),
        reason: ReasonCode::Success,
        reply: Arc::new(Payload::new(&[0; 600])),
    });
    let outcome = alice.look().and_then(|()| alice.look());
    assert_eq!(outcome, Err(Closed::QueueFull));
}

/// What is sent and not acknowledged counts like what waits.
#[test]
fn unacknowledged_messages_are_bounded_in_bytes() {
    let rig = Rig::new(
        Options {
            session_queue: 10_000,
            ..Options::for_tests()
        },
        Rules::default(),
    );
    let mut alice = rig.connect("alice", connect(Version::V5), None);
    let all = SubscribeFilter::new("dev/alice/#", Qos::AtLeastOnce);
    subscribe(&mut alice, all, None);
    for packet_id in 1..=4 {
        let large = Publish {
            payload: Bytes::from(vec![0; 4000]),
            ..publish("dev/alice/x", Qos::AtLeastOnce, packet_id)
        };
        alice.send(Packet::Publish(large)).unwrap();
    }
    let first = publishes(&mut alice);
    assert_eq!(
        first.len(),
        3,
        "up to the bound, and the one that reaches it"
    );
    let ack = Ack::success(first[0].packet_id.unwrap());
    alice.send(Packet::PubAck(ack)).unwrap();
    assert_eq!(publishes(&mut alice).len(), 1);
}

/// [MQTT-3.14.4-3] Only a normal DISCONNECT takes the will back, and it is published once.
#[test]
fn a_will_is_published_unless_it_is_taken_back() {
    for (reason, expected) in [
        (ReasonCode::Success, 0),
        (ReasonCode::DisconnectWithWill, 1),
        (ReasonCode::ProtocolError, 1),
    ] {
        let rig = rig();
        let mut watcher = device_of_alice(&rig, "watcher");
        subscribe(
            &mut watcher,
            SubscribeFilter::new("dev/alice/#", Qos::AtMostOnce),
            None,
        );
        let will = Will {
            qos: Qos::AtMostOnce,
            retain: false,
            topic: "dev/alice/gone".into(),
            payload: Bytes::from_static(b"gone"),
            properties: None,
        };
        let hello = Connect {
            will: Some(will),
            ..connect(Version::V5)
        };
        let mut alice = rig.connect("alice", hello, None);
        let reason = alice.send(Packet::Disconnect(Disconnect::new(reason)));
        alice.leave(reason.unwrap_err());
        assert_eq!(publishes(&mut watcher).len(), expected);
    }
}

/// Who comes back to another node finds nothing of the session there: it ends here, and with it what it would have said,
/// unless that was to wait for the client [MQTT-3.1.3-9].
#[test]
fn a_session_that_is_taken_elsewhere_is_not_kept() {
    for (delay, is_clean, expected) in [
        (None, false, 1),
        (None, true, 1),
        (Some(60), false, 0),
        (Some(60), true, 1),
    ] {
        let rig = rig();
        let mut watcher = device_of_alice(&rig, "watcher");
        let all = SubscribeFilter::new("dev/alice/#", Qos::AtMostOnce);
        subscribe(&mut watcher, all, None);
        let properties = WillProperties {
            will_delay_interval: delay,
            ..Default::default()
        };
        let will = Will {
            qos: Qos::AtMostOnce,
            retain: false,
            topic: "dev/alice/gone".into(),
            payload: Bytes::from_static(b"gone"),
            properties: Some(Box::new(properties)),
        };
        let hello = Connect {
            will: Some(will),
            properties: Some(Box::new(ConnectProperties {
                session_expiry_interval: Some(3600),
                ..Default::default()
            })),
            ..connect(Version::V5)
        };
        let alice = rig.connect("alice", hello, None);
        let lasting = alice.leave(Closed::TakenElsewhere { is_clean });
        assert!(lasting.is_none());
        assert_eq!(
            publishes(&mut watcher).len(),
            expected,
            "{delay:?} {is_clean}"
        );
    }
}

/// [MQTT-4.3.3-10] A QoS 2 publish that was routed before its connection ended is not routed again when it comes back,
/// only stored and acknowledged.
#[test]
fn a_routed_qos_2_publish_is_not_routed_again() {
    let rig = rig();
    let mut watcher = device_of_alice(&rig, "watcher");
    subscribe(
        &mut watcher,
        SubscribeFilter::new("dev/alice/#", Qos::AtMostOnce),
        None,
    );
    let kept = || Connect {
        clean_start: false,
        ..connect(Version::V4)
    };
    let keep = || {
        Packet::Publish(Publish {
            retain: true,
            ..publish("dev/alice/lamp", Qos::ExactlyOnce, 7)
        })
    };
    let mut lamp = rig.connect("alice", kept(), None);
    lamp.send(keep()).unwrap();
    assert_eq!((publishes(&mut watcher).len(), rig.retains().len()), (1, 1));
    let lasting = lamp.leave(Closed::Lost);
    let mut lamp = rig.connect("alice", kept(), lasting);
    lamp.send(keep()).unwrap();
    assert_eq!(publishes(&mut watcher), []);
    let retain = rig.retains().pop().unwrap();
    assert!(lamp.packets().is_empty());
    lamp.answer(retain.token, ReasonCode::Success).unwrap();
    assert_eq!(acks(&lamp.packets()), [7]);
}
