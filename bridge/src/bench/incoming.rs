//! What a server says to a client that has been let in, read where it lies: there are too many packets to own each.

use std::num::NonZeroU16;

use broker::codec::{DecodeError, PacketType, Qos};

/// The longest packet that is taken from the server.
pub(super) const PACKET_MAX: usize = 1024 * 1024;

/// A packet of MQTT 3.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    Publish {
        topic: &'a str,
        /// None at QoS 0.
        packet_id: Option<NonZeroU16>,
        payload: &'a [u8],
    },
    PubAck(NonZeroU16),
    Other(PacketType),
}

/// Takes the next packet from the front of `bytes`; `None`: its end has not come yet.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Incoming<'a>>, DecodeError> {
    let Some((first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some((size, rest)) = split_size(rest)? else {
        return Ok(None);
    };
    if size > PACKET_MAX {
        return Err(DecodeError::TooLarge);
    }
    let Some((body, rest)) = rest.split_at_checked(size) else {
        return Ok(None);
    };
    let packet = parse(*first, body)?;
    *bytes = rest;
    Ok(Some(packet))
}

/// The remaining length, and what comes after it [MQTT 3.1.1: 2.2.3].
fn split_size(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, DecodeError> {
    let mut size = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        size |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((size, &bytes[index + 1..])));
        }
    }
    match bytes.len() {
        ..4 => Ok(None),
        _ => Err(DecodeError::Malformed("the remaining length is too long")),
    }
}

fn parse(first: u8, body: &[u8]) -> Result<Incoming<'_>, DecodeError> {
    let cut_off = || DecodeError::Malformed("the packet is too short");
    match PacketType::try_from(first >> 4)? {
        PacketType::Publish => {
            let (topic_size, rest) = body.split_first_chunk().ok_or_else(cut_off)?;
            let topic_size = usize::from(u16::from_be_bytes(*topic_size));
            let (topic, rest) = rest.split_at_checked(topic_size).ok_or_else(cut_off)?;
            let no_text = |_| DecodeError::Malformed("the topic is no text");
            let topic = std::str::from_utf8(topic).map_err(no_text)?;
            if Qos::try_from(first >> 1 & 0b11)? == Qos::AtMostOnce {
                return Ok(Incoming::Publish {
                    topic,
                    packet_id: None,
                    payload: rest,
                });
            }
            let (packet_id, payload) = split_packet_id(rest)?;
            Ok(Incoming::Publish {
                topic,
                packet_id: Some(packet_id),
                payload,
            })
        }
        PacketType::PubAck => Ok(Incoming::PubAck(split_packet_id(body)?.0)),
        other => Ok(Incoming::Other(other)),
    }
}

fn split_packet_id(bytes: &[u8]) -> Result<(NonZeroU16, &[u8]), DecodeError> {
    let parts = bytes.split_first_chunk();
    let (id, rest) = parts.ok_or(DecodeError::Malformed("no packet id"))?;
    let id = NonZeroU16::new(u16::from_be_bytes(*id));
    let id = id.ok_or(DecodeError::Malformed("packet id 0"))?;
    Ok((id, rest))
}

#[cfg(test)]
mod tests {
    use broker::codec::{AckKind, PublishHead, ReasonCode, Version, encode_ack, encode_publish};
    use bytes::BytesMut;

    use super::*;

    const TOPIC: &str = "im/alice/down";

    fn publish(out: &mut BytesMut, packet_id: Option<NonZeroU16>, payload: &[u8]) {
        let head = PublishHead {
            dup: false,
            qos: packet_id.map_or(Qos::AtMostOnce, |_| Qos::AtLeastOnce),
            retain: false,
            topic: TOPIC,
            packet_id,
            properties: None,
        };
        encode_publish(Version::V4, out, head, payload);
    }

    #[test]
    fn packets_are_read_one_by_one_and_only_whole() {
        let packet_id = NonZeroU16::new(0x1234).unwrap();
        let long = vec![7; 20_000];
        let mut out = BytesMut::new();
        publish(&mut out, Some(packet_id), &long);
        publish(&mut out, None, b"short");
        let success = ReasonCode::Success;
        encode_ack(AckKind::PubAck, Version::V4, &mut out, packet_id, success);
        out.extend_from_slice(&[0xd0, 0]);

        let expected = [
            Incoming::Publish {
                topic: TOPIC,
                packet_id: Some(packet_id),
                payload: &long,
            },
            Incoming::Publish {
                topic: TOPIC,
                packet_id: None,
                payload: b"short",
            },
            Incoming::PubAck(packet_id),
            Incoming::Other(PacketType::PingResp),
        ];
        let mut rest = &out[..];
        for packet in &expected {
            assert_eq!(next(&mut rest), Ok(Some(*packet)));
        }
        assert_eq!(next(&mut rest), Ok(None));
        for end in 0..out.len() {
            let mut part = &out[..end];
            let mut whole = expected.iter();
            while let Some(packet) = next(&mut part).unwrap() {
                assert_eq!(Some(&packet), whole.next());
            }
            assert!(whole.next().is_some(), "{end}");
        }
    }

    #[test]
    fn what_is_not_mqtt_is_refused() {
        for bytes in [
            &[0x00, 0][..],
            &[0x32, 0xff, 0xff, 0xff, 0xff],
            &[0x32, 0xff, 0xff, 0xff, 0x7f],
            &[0x32, 3, 0, 5, b'x'],
            &[0x32, 3, 0, 1, b'x'],
            &[0x30, 3, 0, 1, 0xff],
            &[0x40, 2, 0, 0],
        ] {
            assert!(next(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
    }
}
