//! A user's PUBLISH, encoded once: what differs from message to message has a fixed width and is written over.

use std::num::NonZeroU16;

use broker::codec::{PublishHead, Qos, Version, encode_publish};
use bytes::BytesMut;
use prost::Message as _;
use schema::v1::{self, send, to, up};
use schema::{Format, Topic, Uid};

use super::stamp::{self, put_hex};

/// What stands for the digits that change; no topic and no uid can hold these characters.
const MSG_ID: &str = "!!!!!!!!";
const NUMBER: &str = "????????";
const TIME: &str = "~~~~~~~~~~~~~~~~";

/// The packet, and where in it the changing parts are.
pub(super) struct Template {
    packet: Vec<u8>,
    packet_id_at: usize,
    msg_id_at: usize,
    number_at: usize,
    time_at: usize,
}

impl Template {
    /// Messages from `uid` to `peer` whose content is `size` bytes, [`stamp::SIZE`] or more.
    pub(super) fn new(format: Format, uid: &Uid, peer: &Uid, size: usize) -> Template {
        let topic = Topic::Up(format, uid.clone()).to_string();
        let head = PublishHead {
            dup: false,
            qos: Qos::AtLeastOnce,
            retain: false,
            topic: &topic,
            packet_id: Some(NonZeroU16::MIN),
            properties: None,
        };
        let mut packet = BytesMut::new();
        encode_publish(Version::V4, &mut packet, head, &payload(format, peer, size));
        let find = |part: &str| {
            let mut windows = packet.windows(part.len());
            windows.position(|window| window == part.as_bytes())
        };
        let find = |part| find(part).expect("the packet holds what it was made of");
        Template {
            packet_id_at: find(&topic) + topic.len(),
            msg_id_at: find(MSG_ID),
            number_at: find(NUMBER),
            time_at: find(TIME),
            packet: packet.to_vec(),
        }
    }

    /// Appends the PUBLISH of one message.
    pub(super) fn write(&self, out: &mut BytesMut, packet_id: NonZeroU16, number: u32, due: u64) {
        let start = out.len();
        out.extend_from_slice(&self.packet);
        let packet = &mut out[start..];
        packet[self.packet_id_at..][..2].copy_from_slice(&packet_id.get().to_be_bytes());
        put_hex(&mut packet[self.msg_id_at..][..MSG_ID.len()], number.into());
        put_hex(&mut packet[self.number_at..][..NUMBER.len()], number.into());
        put_hex(&mut packet[self.time_at..][..TIME.len()], due);
    }
}

fn payload(format: Format, peer: &Uid, size: usize) -> Vec<u8> {
    let padding = "x".repeat(size.saturating_sub(stamp::SIZE));
    let content = format!("{NUMBER}{TIME}{padding}");
    let send = v1::Send {
        to: Some(v1::To {
            to: Some(to::To::User(peer.to_string())),
        }),
        content: Some(match format {
            Format::Protobuf => send::Content::Body(content.into_bytes().into()),
            Format::Json => send::Content::Text(content),
        }),
        ..Default::default()
    };
    let up = v1::Up {
        client_msg_id: MSG_ID.to_owned(),
        command: Some(up::Command::Send(send)),
    };
    match format {
        Format::Protobuf => up.encode_to_vec(),
        Format::Json => serde_json::to_vec(&up).expect("a message without timestamps is JSON"),
    }
}

#[cfg(test)]
mod tests {
    use broker::codec::{Packet, decode};

    use super::super::stamp::Stamp;
    use super::*;

    #[test]
    fn what_is_written_is_a_command() {
        let (alice, bob): (Uid, Uid) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        for format in [Format::Protobuf, Format::Json] {
            let template = Template::new(format, &alice, &bob, 200);
            let mut out = BytesMut::from(&b"before"[..]);
            let id = NonZeroU16::new(0x1234).unwrap();
            template.write(&mut out, id, 77, 123_456_789);
            let mut packet = out.split_off(6);
            let decoded = decode(Version::V4, &mut packet, 1024).unwrap().unwrap();
            let Packet::Publish(publish) = decoded else {
                panic!("not a PUBLISH: {decoded:?}");
            };
            assert_eq!(publish.packet_id, Some(id));
            assert_eq!(
                Topic::parse(&publish.topic),
                Topic::Up(format, alice.clone())
            );
            let up = format.decode_up(publish.payload).unwrap();
            assert_eq!(stamp::read_number(up.client_msg_id.as_bytes()), Some(77));
            let Some(up::Command::Send(send)) = up.command else {
                panic!("not a send");
            };
            let content = match send.content.unwrap() {
                send::Content::Text(text) => text.into_bytes(),
                send::Content::Body(body) => body.to_vec(),
            };
            assert_eq!(content.len(), 200);
            let stamp = Stamp {
                number: 77,
                due: 123_456_789,
            };
            assert_eq!(Stamp::read(&content), Some(stamp));
        }
    }
}
