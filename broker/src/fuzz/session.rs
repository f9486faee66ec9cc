//! The session's state machine, with another session and the exchange beside it.

use bytes::BytesMut;
use schema::link::Position;

use crate::closed::Closed;
use crate::codec::{Connect, ConnectProperties, Packet, ReasonCode, Version, Will, decode};
use crate::options::{Options, RetainedOptions};
use crate::outbox::Delivery;
use crate::payload::Payload;
use crate::plain::policy::Rules;
use crate::session::Lasting;
use crate::session::rig::{Client, Rig, connect};

/// Longest packet taken, in bytes.
const PACKET_MAX: usize = 1024;

/// Two users, mallory (who sends whatever the bytes say) and bob (who has subscribed to all that is his), against the
/// session's state machine and the exchange: nothing panics, whatever is written can be decoded, and neither sees
/// anything of the other's topics.
///
/// # Panics
/// When one of these does not hold.
pub fn session(data: &[u8]) {
    let Some((&flags, mut data)) = data.split_first() else {
        return;
    };
    let rig = Rig::new(
        Options {
            receive_maximum: 4,
            delivery_window: 4,
            session_queue: 4096,
            subscriptions_max: 4,
            topic_alias_max: 2,
            retained: RetainedOptions {
                messages_max: 4,
                bytes_max: 4096,
                per_user_max: 2,
                bytes_per_user_max: 2048,
            },
            ..Options::for_tests()
        },
        Rules::default(),
    );
    let version = match flags & 1 {
        0 => Version::V4,
        _ => Version::V5,
    };
    let mut bob = rig.connect("bob", connect(Version::V5), None);
    let mut mallory = Some(rig.connect("mallory", hello(version, flags), None));
    let mut lasting: Option<Lasting> = None;
    while let Some((&step, rest)) = data.split_first() {
        let from_here = std::mem::replace(&mut data, rest);
        let mut client = mallory
            .take()
            .unwrap_or_else(|| rig.connect("mallory", hello(version, flags), lasting.take()));
        let outcome = match step {
            // No packet begins with these.
            0..=7 => answer(&mut client, step.into()),
            8..=11 => deliver(&mut client, step),
            12 => {
                client.handle.outbox.go_live(1, Vec::new());
                client.look()
            }
            13 => Err(Closed::Lost),
            14 => bob_speaks(&mut bob).and_then(|()| client.look()),
            15 => client.look(),
            _ => {
                data = from_here;
                take_packet(&mut client, version, &mut data)
            }
        };
        rig.retains();
        check(&mut client, "mallory", "bob");
        bob.look().expect("nobody ends bob's session");
        check(&mut bob, "bob", "mallory");
        match outcome {
            Ok(()) => mallory = Some(client),
            Err(reason) => lasting = client.leave(reason),
        }
    }
}

fn hello(version: Version, flags: u8) -> Connect {
    let mut hello = connect(version);
    hello.clean_start = flags & 2 == 0;
    if flags & 4 != 0 {
        hello.will = Some(Will {
            qos: Default::default(),
            retain: flags & 8 != 0,
            topic: "dev/mallory/will".into(),
            payload: b"gone".as_slice().into(),
            properties: None,
        });
    }
    if version == Version::V5 {
        hello.properties = Some(Box::new(ConnectProperties {
            session_expiry_interval: Some(u32::from(flags & 2) * 30),
            topic_alias_maximum: Some(u16::from(flags >> 4)),
            ..ConnectProperties::default()
        }));
    }
    hello
}

/// The bridge answers a publish, or says nonsense.
fn answer(client: &mut Client, token: u32) -> Result<(), Closed> {
    let reason = match token % 3 {
        0 => ReasonCode::NotAuthorized,
        _ => ReasonCode::Success,
    };
    client.answer(token, reason)
}

/// The bridge delivers a message of a chat.
fn deliver(client: &mut Client, seq: u8) -> Result<(), Closed> {
    let position = Position {
        conversation: 1,
        seq: seq.into(),
        msg_id: seq.into(),
    };
    let payload = std::sync::Arc::new(Payload::new(b"\x12\x00"));
    client
        .handle
        .outbox
        .deliver_live(&Delivery::Message(payload, position));
    client.look()
}

fn bob_speaks(bob: &mut Client) -> Result<(), Closed> {
    let mut speech = BytesMut::new();
    for packet in [
        subscribe("dev/bob/#"),
        publish("dev/bob/door", true),
        publish("dev/bob/door", false),
    ] {
        packet.encode(Version::V5, &mut speech);
    }
    while let Ok(Some(packet)) = decode(Version::V5, &mut speech, usize::MAX) {
        bob.send(packet)?;
    }
    Ok(())
}

fn subscribe(filter: &str) -> Packet {
    use crate::codec::{Qos, Subscribe, SubscribeFilter};
    Packet::Subscribe(Subscribe {
        packet_id: std::num::NonZeroU16::MIN,
        filters: vec![SubscribeFilter::new(filter, Qos::AtMostOnce)],
        subscription_identifier: None,
        user_properties: Vec::new(),
    })
}

fn publish(topic: &str, retain: bool) -> Packet {
    Packet::Publish(crate::codec::Publish {
        topic: topic.into(),
        retain,
        payload: b"open".as_slice().into(),
        ..Default::default()
    })
}

/// Mallory sends the packet that comes next. A session without room is not read from: the packet is lost then.
fn take_packet(client: &mut Client, version: Version, data: &mut &[u8]) -> Result<(), Closed> {
    let mut input = BytesMut::from(*data);
    let decoded = decode(version, &mut input, PACKET_MAX);
    let taken = match decoded {
        Ok(Some(_)) => data.len() - input.len(),
        _ => data.len(),
    };
    *data = &data[taken..];
    match decoded? {
        Some(packet) if client.session.has_room() => client.send(packet),
        _ => Ok(()),
    }
}

/// Everything written is a packet, and nothing of another's topics is among it.
fn check(client: &mut Client, own: &str, other: &str) {
    for packet in client.packets() {
        if let Packet::Publish(publish) = packet {
            assert!(
                !publish.topic.contains(other),
                "{own} has got {:?}",
                publish.topic
            );
        }
    }
}
