//! The session without a socket: what comes out for what goes in.

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use schema::link::Position;

mod others;
mod plain;

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
    alice.handle.outbox.go_live(1, Vec::new());
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

/// Of events that found no room the client is told once it has taken all else.
#[test]
fn a_client_is_told_that_events_were_lost() {
    let mut alice = Alice::new(Version::V5);
    alice.subscribe("im/alice/down", Qos::AtLeastOnce);
    alice.handle.outbox.go_live(1, Vec::new());
    let is_outdated = |packet: &Packet| matches!(packet, Packet::Publish(publish) if publish.payload == outdated().in_format(schema::Format::Protobuf));
    let told = |alice: &mut Alice| {
        alice.look().unwrap();
        alice
            .packets()
            .iter()
            .filter(|one| is_outdated(one))
            .count()
    };
    let event = Delivery::Event(Arc::new(Payload::new(&[0; 100])));
    let lost = (0..10).filter(|_| alice.handle.outbox.deliver_live(&event));
    assert!((1..10).contains(&lost.count()));
    assert_eq!((told(&mut alice), told(&mut alice)), (1, 0));

    // Between two bridges, and only when the second one has said that all is there.
    alice.handle.outbox.change_hands();
    assert_eq!(told(&mut alice), 0);
    alice.handle.outbox.go_live(1, Vec::new());
    assert_eq!(told(&mut alice), 0);
    alice.handle.outbox.go_live(2, Vec::new());
    assert_eq!((told(&mut alice), told(&mut alice)), (1, 0));

    // Who no longer listens has nothing to be told.
    alice.handle.outbox.change_hands();
    let unsubscribe = Unsubscribe {
        packet_id: id(1),
        filters: vec!["im/alice/down".into()],
        user_properties: Vec::new(),
    };
    alice.send(Packet::Unsubscribe(unsubscribe)).unwrap();
    alice.handle.outbox.change_hands();
    alice.subscribe("im/alice/down", Qos::AtLeastOnce);
    alice.handle.outbox.go_live(3, Vec::new());
    assert_eq!(told(&mut alice), 0);
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
                    alice.handle.outbox.go_live(epoch, Vec::new());
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
