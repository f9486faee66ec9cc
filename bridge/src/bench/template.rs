//! A client's PUBLISH, encoded once: what differs from message to message has a fixed width and is written over.

use std::num::NonZeroU16;

use broker::codec::{PublishHead, Qos, Version, encode_publish};
use bytes::BytesMut;
use prost::Message as _;
use schema::v1::{self, send, to, up};
use schema::{Format, Topic, Uid};

use super::stamp::{self, put_hex};

/// What stands for the digits that change; no topic and no uid can hold these characters.
const NUMBER: &str = "????????";
const TIME: &str = "~~~~~~~~~~~~";

/// Which messages a template is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// See [`Stamp::talk`](stamp::Stamp::talk).
    pub talk: u32,
    /// See [`Stamp::sender`](stamp::Stamp::sender).
    pub sender: u32,
    /// Bytes of the content, [`stamp::SIZE`] or more.
    pub size: usize,
}

/// The packet, and where in it the changing parts are.
#[derive(Debug)]
pub(super) struct Template {
    packet: Vec<u8>,
    packet_id_at: usize,
    /// Of the content, and before it of the `client_msg_id`, if there is one.
    numbers_at: Vec<usize>,
    time_at: usize,
}

impl Template {
    /// Commands of `uid` that send to `to`.
    pub(super) fn of_command(format: Format, uid: &Uid, to: to::To, kind: Kind) -> Template {
        let topic = Topic::Up(format, uid.clone()).to_string();
        Self::new(&topic, &command(format, to, kind))
    }

    /// The bare content, to a plain topic.
    pub(super) fn of_content(topic: &str, kind: Kind) -> Template {
        Self::new(topic, content(kind).as_bytes())
    }

    fn new(topic: &str, payload: &[u8]) -> Template {
        let head = PublishHead {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic,
            packet_id: Some(NonZeroU16::MIN),
            properties: None,
        };
        let mut packet = BytesMut::new();
        encode_publish(Version::V4, &mut packet, head, payload);
        let found = |part: &str| {
            let windows = packet.windows(part.len()).enumerate();
            let found = windows.filter(|(_, window)| *window == part.as_bytes());
            found.map(|(at, _)| at).collect::<Vec<usize>>()
        };
        let first = |part| found(part)[0];
        Template {
            packet_id_at: first(topic) + topic.len(),
            numbers_at: found(NUMBER),
            time_at: first(TIME),
            packet: packet.to_vec(),
        }
    }

    /// Appends the PUBLISH of one message.
    pub(super) fn write(&self, out: &mut BytesMut, packet_id: NonZeroU16, number: u32, due: u64) {
        let start = out.len();
        out.extend_from_slice(&self.packet);
        let packet = &mut out[start..];
        packet[self.packet_id_at..][..2].copy_from_slice(&packet_id.get().to_be_bytes());
        for at in &self.numbers_at {
            put_hex(&mut packet[*at..][..NUMBER.len()], number.into());
        }
        put_hex(&mut packet[self.time_at..][..TIME.len()], due);
    }
}

fn content(kind: Kind) -> String {
    let Kind { talk, sender, size } = kind;
    let padding = "x".repeat(size.saturating_sub(stamp::SIZE));
    format!("{talk:06x}{sender:06x}{NUMBER}{TIME}{padding}")
}

fn command(format: Format, to: to::To, kind: Kind) -> Vec<u8> {
    let content = content(kind);
    let send = v1::Send {
        to: Some(v1::To { to: Some(to) }),
        content: Some(match format {
            Format::Protobuf => send::Content::Body(content.into_bytes().into()),
            Format::Json => send::Content::Text(content),
        }),
        ..Default::default()
    };
    let up = v1::Up {
        client_msg_id: format!("{:06x}{NUMBER}", kind.talk),
        command: Some(up::Command::Send(send)),
    };
    match format {
        Format::Protobuf => up.encode_to_vec(),
        Format::Json => serde_json::to_vec(&up).expect("a message without timestamps is JSON"),
    }
}

#[cfg(test)]
mod tests {
    use broker::codec::{Packet, Publish, decode};

    use super::super::stamp::{Mark, Stamp};
    use super::*;

    const KIND: Kind = Kind {
        talk: 3,
        sender: 5,
        size: 200,
    };
    const STAMP: Stamp = Stamp {
        talk: 3,
        sender: 5,
        number: 77,
        due: 123_456_789,
    };

    fn written(template: &Template) -> Publish {
        let mut out = BytesMut::from(&b"before"[..]);
        let id = NonZeroU16::new(0x1234).unwrap();
        template.write(&mut out, id, STAMP.number, STAMP.due);
        let mut packet = out.split_off(6);
        let decoded = decode(Version::V4, &mut packet, 1024).unwrap().unwrap();
        let Packet::Publish(publish) = decoded else {
            panic!("not a PUBLISH: {decoded:?}");
        };
        assert_eq!(publish.packet_id, Some(id));
        publish
    }

    #[test]
    fn what_is_written_is_a_command() {
        let alice: Uid = "alice".parse().unwrap();
        for format in [Format::Protobuf, Format::Json] {
            let to = to::To::Group("friends".into());
            let publish = written(&Template::of_command(format, &alice, to.clone(), KIND));
            let topic = Topic::parse(&publish.topic);
            assert_eq!(topic, Topic::Up(format, alice.clone()));
            let up = format.decode_up(publish.payload).unwrap();
            let mark = Mark {
                talk: 3,
                number: 77,
            };
            assert_eq!(Mark::read(up.client_msg_id.as_bytes()), Some(mark));
            let Some(up::Command::Send(send)) = up.command else {
                panic!("not a send");
            };
            assert_eq!(send.to.unwrap().to, Some(to));
            let content = match send.content.unwrap() {
                send::Content::Text(text) => text.into_bytes(),
                send::Content::Body(body) => body.to_vec(),
                other => panic!("{other:?}"),
            };
            assert_eq!(content.len(), 200);
            assert_eq!(Stamp::read(&content), Some(STAMP));
        }
    }

    #[test]
    fn a_plain_message_is_its_content() {
        let publish = written(&Template::of_content("bench/1/group", KIND));
        assert_eq!(publish.topic, "bench/1/group");
        assert_eq!(publish.payload.len(), 200);
        assert_eq!(Stamp::read(&publish.payload), Some(STAMP));
    }
}
