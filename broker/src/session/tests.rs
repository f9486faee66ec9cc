//! The session without a socket: what comes out for what goes in.

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use schema::link::Position;

use super::rig::{Client, Rig, connect};
use super::*;
use crate::codec::{Ack, ConnectProperties, RetainHandling, SubscribeFilter};
use crate::outbox::Answer;
use crate::plain::policy::Rules;

/// A session of alice, alone in the world.
struct Alice {
    client: Client,
    rig: Rig,
}

impl std::ops::Deref for Alice {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Alice {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

fn rig() -> Rig {
    let options = Options {
        receive_maximum: 4,
        delivery_window: 4,
        session_queue: 1000,
        ..Options::for_tests()
    };
    Rig::new(options, Rules::default())
}

impl Alice {
    fn new(version: Version) -> Self {
        let rig = rig();
        let client = rig.connect("alice", connect(version), None);
        Alice { client, rig }
    }

    fn subscribe(&mut self, filter: &str, qos: Qos) -> ReasonCode {
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id: id(1),
            filters: vec![SubscribeFilter::new(filter, qos)],
            subscription_identifier: None,
            user_properties: Vec::new(),
        });
        match self.send(subscribe) {
            Ok(()) => {}
            Err(Closed::Undecodable(error)) => return error.reason(),
            Err(other) => panic!("{other}"),
        }
        let suback = self.packets().into_iter().find_map(|packet| match packet {
            Packet::SubAck(suback) => Some(suback),
            _ => None,
        });
        suback.unwrap().reasons[0]
    }

    fn publish(&mut self, topic: &str, qos: Qos, packet_id: u16) -> Result<(), Closed> {
        self.send(Packet::Publish(Publish {
            topic: topic.into(),
            qos,
            packet_id: NonZeroU16::new(packet_id).filter(|_| qos != Qos::AtMostOnce),
            ..Default::default()
        }))
    }

    fn answer(&mut self, token: u32, reason: ReasonCode) {
        self.client.answer(token, reason).unwrap();
    }

    /// A live message of conversation 1.
    fn deliver(&mut self, seq: u32) {
        let payload = Arc::new(Payload::new(&[0; 100]));
        self.handle
            .outbox
            .deliver_live(&Delivery::Message(payload, position(seq)));
        self.look().unwrap();
    }

    /// The seqs that the bridge was told of since the last call, and the tokens of uplinks.
    fn told(&mut self) -> (Vec<u32>, Vec<u32>) {
        let (mut seqs, mut tokens) = (Vec::new(), Vec::new());
        for FromEdge { item } in self.to_bridge.drain(..) {
            match item {
                Some(from_edge::Item::Acked(acked)) => {
                    seqs.extend(acked.positions.iter().map(|position| position.seq));
                }
                Some(from_edge::Item::Uplink(uplink)) => tokens.push(uplink.token),
                _ => {}
            }
        }
        (seqs, tokens)
    }
}

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn position(seq: u32) -> Position {
    Position {
        conversation: 1,
        seq,
        msg_id: seq.into(),
    }
}

fn acks(packets: &[Packet]) -> Vec<u16> {
    let ack = |packet: &Packet| match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) => Some(ack.packet_id.get()),
        _ => None,
    };
    packets.iter().filter_map(ack).collect()
}

/// [MQTT-4.6.0-2] Acknowledgements leave in the order of the publishes, whatever order the answers come in, and a
/// refusal waits for its turn.
#[test]
fn acknowledgements_wait_for_answers_and_keep_their_order() {
    let mut alice = Alice::new(Version::V5);
    alice.publish("im/alice/up", Qos::AtLeastOnce, 10).unwrap();
    alice.publish("im/bob/up", Qos::AtLeastOnce, 11).unwrap();
    alice.publish("imj/alice/up", Qos::ExactlyOnce, 12).unwrap();
    assert!(alice.packets().is_empty());
    let (_, tokens) = alice.told();
    assert_eq!(
        tokens.len(),
        2,
        "what is not alice's never reaches the bridge"
    );

    alice.answer(tokens[1], ReasonCode::Success);
    assert!(alice.packets().is_empty());
    alice.answer(tokens[0], ReasonCode::Success);
    let packets = alice.packets();
    assert_eq!(acks(&packets), [10, 11, 12]);
    let refused = Ack {
        packet_id: id(11),
        reason: ReasonCode::NotAuthorized,
        properties: None,
    };
    assert_eq!(packets[1], Packet::PubAck(refused));
}

/// [MQTT-4.3.3-10] Until PUBREL a repeated packet id is the same publish, before and after its PUBREC.
#[test]
fn qos_2_is_handed_on_once() {
    let mut alice = Alice::new(Version::V4);
    alice.publish("im/alice/up", Qos::ExactlyOnce, 7).unwrap();
    alice.publish("im/alice/up", Qos::ExactlyOnce, 7).unwrap();
    let (_, tokens) = alice.told();
    assert_eq!(tokens.len(), 1);
    alice.answer(tokens[0], ReasonCode::Success);
    alice.publish("im/alice/up", Qos::ExactlyOnce, 7).unwrap();
    assert_eq!(acks(&alice.packets()), [7, 7]);

    alice.send(Packet::PubRel(Ack::success(id(7)))).unwrap();
    assert_eq!(alice.packets(), [Packet::PubComp(Ack::success(id(7)))]);
    alice.publish("im/alice/up", Qos::ExactlyOnce, 7).unwrap();
    assert_eq!(alice.told().1.len(), 1, "after PUBREL the id is free again");
}

/// A client that never releases can't make the server remember more than its window.
#[test]
fn unreleased_packet_ids_are_bounded() {
    let mut alice = Alice::new(Version::V5);
    for packet_id in 1..=4 {
        alice
            .publish("im/alice/up", Qos::ExactlyOnce, packet_id)
            .unwrap();
        let (_, tokens) = alice.told();
        alice.answer(tokens[0], ReasonCode::Success);
    }
    let fifth = alice.publish("im/alice/up", Qos::ExactlyOnce, 5);
    assert_eq!(fifth, Err(Closed::ReceiveMaximumExceeded));
}

/// Messages come live only after the bridge has said so, no more at once than the window, and a full queue leads back
/// to catching up once everything is acknowledged.
#[test]
fn a_session_that_falls_behind_catches_up() {
    let mut alice = Alice::new(Version::V4);
    alice.subscribe("im/alice/down", Qos::ExactlyOnce);
    alice.deliver(1);
    assert!(
        alice.packets().is_empty(),
        "it is catching up: the bridge sends this one"
    );
    alice.handle.outbox.go_live(1);
    for seq in 2..=20 {
        alice.deliver(seq);
    }
    let mut received = 0;
    loop {
        let packets = alice.packets();
        if packets.is_empty() {
            break;
        }
        assert!(packets.len() <= 4, "the window");
        for packet in packets {
            let Packet::Publish(publish) = packet else {
                panic!("{packet:?}");
            };
            received += 1;
            let ack = Ack::success(publish.packet_id.unwrap());
            alice.send(Packet::PubAck(ack)).unwrap();
        }
    }
    assert!(
        (5..19).contains(&received),
        "{received} fitted in the queue"
    );
    let is_new_round = |item: &FromEdge| matches!(&item.item, Some(from_edge::Item::Subscribed(subscribed)) if subscribed.epoch == 2);
    let last = alice.to_bridge.last();
    assert!(last.is_some_and(is_new_round), "{last:?}");
    assert_eq!(
        alice.told().0.last(),
        Some(&(received + 1)),
        "acknowledged first"
    );
}

/// The first reason to end counts.
#[test]
fn a_closed_outbox_ends_the_session() {
    let mut alice = Alice::new(Version::V5);
    alice.handle.outbox.close(Closed::TakenOver);
    alice.handle.outbox.close(Closed::ServerShutdown);
    assert_eq!(alice.send(Packet::PingReq), Err(Closed::TakenOver));
}

/// One step of a client or of the bridge.
#[derive(Clone, Debug)]
enum Step {
    Publish(u8, u16),
    Answer(u32),
    PubAck(u16),
    PubRel(u16),
    Deliver,
    Subscribe(u8),
    Unsubscribe,
    GoLive(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3_u8, 1..6_u16).prop_map(|(qos, id)| Step::Publish(qos, id)),
        (0..12_u32).prop_map(Step::Answer),
        (1..12_u16).prop_map(Step::PubAck),
        (1..6_u16).prop_map(Step::PubRel),
        Just(Step::Deliver),
        (0..3_u8).prop_map(Step::Subscribe),
        Just(Step::Unsubscribe),
        (1..4_u32).prop_map(Step::GoLive),
    ]
}

proptest! {
    /// Whatever a client and the bridge do: no panic, publishes are acknowledged in their order, and the bridge hears
    /// of a position only when everything delivered before it is acknowledged.
    #[test]
    fn any_course_keeps_the_promises(steps in proptest::collection::vec(step(), 1..200)) {
        let mut alice = Alice::new(Version::V5);
        let mut seq = 0;
        let mut published = Vec::new();
        let mut acknowledged = Vec::new();
        let mut unacknowledged: Vec<(u16, u32)> = Vec::new();
        for step in steps {
            if !alice.session.has_room() && matches!(step, Step::Publish(..)) {
                continue;
            }
            let outcome = match step {
                Step::Publish(qos, packet_id) => {
                    let qos = Qos::try_from(qos).unwrap();
                    let outcome = alice.publish("im/alice/up", qos, packet_id);
                    if qos == Qos::AtLeastOnce && outcome.is_ok() {
                        published.push(packet_id);
                    }
                    outcome
                }
                Step::Answer(token) => {
                    alice.answer(token, ReasonCode::Success);
                    Ok(())
                }
                Step::PubAck(packet_id) => {
                    unacknowledged.retain(|(id, _)| *id != packet_id);
                    alice.send(Packet::PubAck(Ack::success(id(packet_id))))
                }
                Step::PubRel(packet_id) => alice.send(Packet::PubRel(Ack::success(id(packet_id)))),
                Step::Deliver => {
                    seq += 1;
                    alice.deliver(seq);
                    Ok(())
                }
                Step::Subscribe(qos) => {
                    let reason = alice.subscribe("im/alice/down", Qos::try_from(qos).unwrap());
                    prop_assert!(!reason.is_error());
                    Ok(())
                }
                Step::Unsubscribe => alice.send(Packet::Unsubscribe(Unsubscribe {
                    packet_id: id(1),
                    filters: vec!["im/alice/down".into()],
                    user_properties: Vec::new(),
                })),
                Step::GoLive(epoch) => {
                    alice.handle.outbox.go_live(epoch);
                    Ok(())
                }
            };
            if let Err(reason) = outcome {
                prop_assert_eq!(reason, Closed::ReceiveMaximumExceeded);
                return Ok(());
            }
            for packet in alice.packets() {
                match packet {
                    Packet::PubAck(ack) => acknowledged.push(ack.packet_id.get()),
                    Packet::Publish(Publish { packet_id: Some(id), .. }) => {
                        unacknowledged.push((id.get(), seq));
                    }
                    _ => {}
                }
            }
            let (told, _) = alice.told();
            let oldest = unacknowledged.iter().map(|(_, seq)| *seq).min();
            for told in told {
                prop_assert!(oldest.is_none_or(|oldest| told <= oldest));
            }
        }
        prop_assert!(published.starts_with(&acknowledged));
    }

    /// No topic and no filter but alice's own reach anything.
    #[test]
    fn only_her_own_topics_are_hers(text in "(\\$share/x/)?(im|imj|dev|\\$SYS)?/?[a-z+#*é]{0,6}/(up|down|#|\\+)?") {
        let mut alice = Alice::new(Version::V5);
        // None of these is below dev/alice/.
        let granted = !alice.subscribe(&text, Qos::AtLeastOnce).is_error();
        prop_assert_eq!(granted, text == "im/alice/down" || text == "imj/alice/down");
        if text.is_empty() || text.contains(['+', '#']) {
            // No PUBLISH with such a topic is ever decoded.
            return Ok(());
        }
        prop_assert!(alice.publish(&text, Qos::AtLeastOnce, 1).is_ok());
        let reached = !alice.told().1.is_empty();
        prop_assert_eq!(reached, text == "im/alice/up" || text == "imj/alice/up");
    }
}

#[test]
fn a_malformed_filter_ends_the_connection() {
    for bad in [
        "a#",
        "#/a",
        "a/#/b",
        "a+",
        "+a/b",
        "a/b+",
        "##",
        "$share/g",
        "$share//a",
    ] {
        let reason = Alice::new(Version::V5).subscribe(bad, Qos::AtMostOnce);
        assert_eq!(reason, DecodeError::Malformed("").reason(), "{bad}");
    }
}

// === plain topics ===

fn subscribe(client: &mut Client, filter: SubscribeFilter, identifier: Option<u32>) -> ReasonCode {
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

fn publish(topic: &str, qos: Qos, packet_id: u16) -> Publish {
    Publish {
        topic: topic.into(),
        qos,
        packet_id: NonZeroU16::new(packet_id).filter(|_| qos != Qos::AtMostOnce),
        payload: Bytes::from_static(b"on"),
        ..Default::default()
    }
}

/// What a client has got since the last call: topic, QoS, retain flag, packet id.
fn publishes(client: &mut Client) -> Vec<Publish> {
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
