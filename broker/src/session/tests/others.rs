//! Plain topics where there are other nodes.

use schema::link::{Briefing, Choice, PlainMessage, Publish as Forwarded, Published, Shared};

use super::plain::{publish, publishes, subscribe};
use super::*;

/// A node among others.
fn rig_with_others() -> Rig {
    let rig = rig();
    rig.exchange.begin_briefing(&Briefing {
        has_others: true,
        only_retained: false,
    });
    rig.exchange.end_briefing();
    rig
}

/// What others are told since the last call.
fn forwarded(rig: &Rig) -> Vec<Forwarded> {
    let told = rig.told().into_iter();
    let forwarded = told.filter_map(|item| match item {
        from_edge::Item::Publish(publish) => Some(*publish),
        _ => None,
    });
    forwarded.collect()
}

/// How many members a shared subscription has here, as others are told.
fn shared(rig: &Rig) -> Vec<(String, u32)> {
    let told = rig.told().into_iter();
    let shared = told.filter_map(|item| match item {
        from_edge::Item::Shared(shared) => Some((shared.filter, shared.members)),
        _ => None,
    });
    shared.collect()
}

fn at(rig: &Rig, node: u32, filter: &str, members: u32) {
    rig.exchange.set_shared(&Shared {
        filter: filter.to_owned(),
        members,
        node,
    });
}

fn packet_ids(packets: &[Packet]) -> Vec<u16> {
    let acks = packets.iter().filter_map(|packet| match packet {
        Packet::PubAck(ack) | Packet::PubRec(ack) => Some(ack.packet_id.get()),
        _ => None,
    });
    acks.collect()
}

/// It is acknowledged when the bridge has told the others. What comes again because that was not heard is not told again.
#[test]
fn a_publish_goes_to_others_once() {
    let rig = rig_with_others();
    let mut lamp = rig.connect("alice", connect(Version::V4), None);
    for (qos, packet_id) in [
        (Qos::AtMostOnce, 0),
        (Qos::AtLeastOnce, 1),
        (Qos::ExactlyOnce, 2),
    ] {
        let publish = Packet::Publish(publish("dev/alice/lamp", qos, packet_id));
        lamp.send(publish).unwrap();
    }
    assert!(lamp.packets().is_empty());
    let told = forwarded(&rig);
    assert_eq!(told.len(), 3);
    assert_eq!(told[0].token, NO_ANSWER);
    for (index, publish) in told.iter().enumerate() {
        let published = publish.published.as_ref().unwrap();
        let message = published.message.as_ref().unwrap();
        assert_eq!((message.qos as usize, published.retain), (index, false));
    }
    lamp.answer(told[1].token, ReasonCode::Success).unwrap();
    assert_eq!(packet_ids(&lamp.packets()), [1]);

    // MQTT 3.1.1 without a clean session.
    let lasting = lamp.leave(Closed::Lost);
    assert!(lasting.is_none(), "it began anew");
    let keep = || Connect {
        clean_start: false,
        ..connect(Version::V4)
    };
    let mut lamp = rig.connect("alice", keep(), None);
    let twice = publish("dev/alice/lamp", Qos::ExactlyOnce, 3);
    lamp.send(Packet::Publish(twice.clone())).unwrap();
    assert_eq!(forwarded(&rig).len(), 1);
    let mut lamp = rig.connect("alice", keep(), lamp.leave(Closed::Lost));
    lamp.send(Packet::Publish(twice)).unwrap();
    assert!(forwarded(&rig).is_empty());
    assert_eq!(packet_ids(&lamp.packets()), [3]);
}

/// Whoever publishes elsewhere is nobody here who would not want it back. The flag of what is retained comes along.
#[test]
fn what_others_publish_is_delivered_here_and_goes_no_further() {
    let rig = rig_with_others();
    let mut lamp = rig.connect("alice", connect(Version::V5), None);
    let filter = SubscribeFilter {
        no_local: true,
        retain_as_published: true,
        ..SubscribeFilter::new("dev/alice/#", Qos::AtLeastOnce)
    };
    subscribe(&mut lamp, filter, Some(7));
    let mut bob = rig.connect("bob", connect(Version::V5), None);
    for retain in [false, true] {
        rig.exchange.publish_from_elsewhere(Published {
            message: Some(PlainMessage {
                topic: "dev/alice/lamp".into(),
                qos: 2,
                payload: Bytes::from_static(b"on"),
                content_type: Some("text/plain".into()),
                ..Default::default()
            }),
            retain,
            ..Default::default()
        });
        let got = publishes(&mut lamp);
        assert_eq!((got.len(), got[0].retain), (1, retain));
        assert_eq!(got[0].qos, Qos::AtLeastOnce);
        let properties = got[0].properties.as_ref().unwrap();
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.subscription_identifiers, [7]);
    }
    assert!(publishes(&mut bob).is_empty());
    assert!(rig.told().is_empty());
    assert_eq!(rig.exchange.retained_size().0, 0, "that is told by itself");
}

/// Of three members, two of them elsewhere, each gets a third; which node has it is told along with the message.
#[test]
fn a_shared_subscription_is_shared_by_nodes() {
    const CREW: &str = "$share/crew/dev/alice/#";
    let rig = rig_with_others();
    let crew = || SubscribeFilter::new(CREW, Qos::AtLeastOnce);
    let mut worker = rig.connect("alice", connect(Version::V5), None);
    subscribe(&mut worker, crew(), None);
    assert_eq!(shared(&rig), [(CREW.to_owned(), 1)]);
    subscribe(&mut worker, crew(), None);
    assert!(shared(&rig).is_empty());
    at(&rig, 7, CREW, 1);
    at(&rig, 8, CREW, 2);
    at(&rig, 8, CREW, 1);

    let name = |client_id: &'static str| Connect {
        client_id: client_id.into(),
        ..connect(Version::V5)
    };
    let mut lamp = rig.connect("alice", name("lamp"), None);
    let mut choices: Vec<Vec<u32>> = Vec::new();
    for _ in 0..9 {
        lamp.send(Packet::Publish(publish("dev/alice/x", Qos::AtMostOnce, 0)))
            .unwrap();
        let told = forwarded(&rig).remove(0).published.unwrap();
        choices.push(told.choices.iter().map(|choice| choice.node).collect());
    }
    let count = |nodes: &[u32]| choices.iter().filter(|choice| *choice == nodes).count();
    assert_eq!((count(&[]), count(&[7]), count(&[8])), (3, 3, 3));
    assert_eq!(publishes(&mut worker).len(), 3);

    // Chosen elsewhere, it is for this one.
    let elsewhere = |filter: &str| Published {
        message: Some(PlainMessage {
            topic: "dev/alice/x".into(),
            payload: Bytes::from_static(b"on"),
            ..Default::default()
        }),
        choices: vec![Choice {
            filter: filter.to_owned(),
            node: 1,
        }],
        ..Default::default()
    };
    rig.exchange.publish_from_elsewhere(elsewhere(CREW));
    rig.exchange
        .publish_from_elsewhere(elsewhere("$share/x/dev/alice/#"));
    assert_eq!(publishes(&mut worker).len(), 1);

    // With a node its members go, and with the last of all the group.
    at(&rig, 7, "", 0);
    at(&rig, 8, CREW, 0);
    lamp.send(Packet::Publish(publish("dev/alice/x", Qos::AtMostOnce, 0)))
        .unwrap();
    assert_eq!(publishes(&mut worker).len(), 1);
    worker.leave(Closed::ByClient);
    assert_eq!(shared(&rig), [(CREW.to_owned(), 0)]);
    assert!(rig.exchange.is_without_subscriptions());
}

/// What the last member here has not acknowledged goes to one elsewhere, and to nobody else again.
#[test]
fn what_a_member_leaves_goes_to_one_elsewhere() {
    const CREW: &str = "$share/crew/dev/alice/#";
    let rig = rig_with_others();
    let mut worker = rig.connect("alice", connect(Version::V5), None);
    let crew = SubscribeFilter::new(CREW, Qos::AtLeastOnce);
    subscribe(&mut worker, crew, None);
    let name = Connect {
        client_id: "lamp".into(),
        ..connect(Version::V5)
    };
    let mut lamp = rig.connect("alice", name, None);
    lamp.send(Packet::Publish(publish("dev/alice/x", Qos::AtLeastOnce, 1)))
        .unwrap();
    assert_eq!(publishes(&mut worker).len(), 1);
    at(&rig, 7, CREW, 1);
    forwarded(&rig);
    worker.leave(Closed::ByClient);
    let told = forwarded(&rig).remove(0).published.unwrap();
    assert!(told.again);
    let choice = Choice {
        filter: CREW.to_owned(),
        node: 7,
    };
    assert_eq!(told.choices, [choice]);
}

/// Groups that were there before are told when others come.
#[test]
fn groups_are_told_to_those_who_come_later() {
    let rig = rig();
    let mut worker = rig.connect("alice", connect(Version::V5), None);
    for filter in ["$share/a/dev/alice/#", "dev/alice/x"] {
        let filter = SubscribeFilter::new(filter, Qos::AtLeastOnce);
        subscribe(&mut worker, filter, None);
    }
    assert!(rig.told().is_empty());
    rig.exchange.begin_briefing(&Briefing {
        has_others: true,
        only_retained: true,
    });
    assert_eq!(shared(&rig), [("$share/a/dev/alice/#".to_owned(), 1)]);
}
