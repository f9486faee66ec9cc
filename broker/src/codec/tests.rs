//! The codec against literal bytes and against arbitrary ones.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::*;

mod arbitrary;
mod malformed;
mod properties;
mod vectors;

/// Large enough for every packet of these tests, in bytes.
const NO_LIMIT: usize = 1 << 20;

/// Bytes from hexadecimal digits and 'quoted text', spaces aside.
fn wire(notation: &str) -> BytesMut {
    let mut bytes = BytesMut::new();
    for (index, part) in notation.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(|byte| *byte != b' ').collect();
        for pair in digits.chunks(2) {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes.extend_from_slice(&[u8::from_str_radix(pair, 16).expect(notation)]);
        }
    }
    bytes
}

/// Decodes exactly one packet from all of `bytes`.
fn decode_all(version: Version, bytes: &[u8]) -> Result<Packet, DecodeError> {
    let mut buf = BytesMut::from(bytes);
    let packet = decode(version, &mut buf, NO_LIMIT)?.expect("a whole packet");
    assert!(buf.is_empty(), "{} bytes left after {packet:?}", buf.len());
    Ok(packet)
}

/// Encodes one packet and checks that its size was foretold.
fn encode_all(version: Version, packet: &Packet) -> BytesMut {
    let mut out = BytesMut::new();
    packet.encode(version, &mut out);
    assert_eq!(out.len(), packet.size(version), "size of {packet:?}");
    out
}

fn id(packet_id: u16) -> NonZeroU16 {
    NonZeroU16::new(packet_id).unwrap()
}

fn user(name: &str, value: &str) -> Vec<UserProperty> {
    vec![(name.into(), value.into())]
}

#[test]
fn packets_are_small() {
    assert!(size_of::<Publish>() <= 96, "{}", size_of::<Publish>());
    assert!(size_of::<Packet>() <= 104, "{}", size_of::<Packet>());
}

#[test]
fn payload_and_topic_are_slices_of_the_read_buffer() {
    let mut buf = wire("30 06 0001'a' 'xyz'");
    let read = buf.as_ptr_range();
    let packet = decode(Version::V4, &mut buf, NO_LIMIT).unwrap();
    let Some(Packet::Publish(publish)) = packet else {
        panic!("{packet:?}")
    };
    assert!(read.contains(&publish.payload.as_ptr()));
    assert!(read.contains(&publish.topic.as_ptr()));
}

#[test]
fn limit_counts_the_whole_packet_and_strikes_before_the_body_arrives() {
    let whole = wire("30 05 0001'a' 'xy'");
    let decode = |bytes: &[u8], limit| decode(Version::V5, &mut BytesMut::from(bytes), limit);
    assert_eq!(decode(&whole, 6), Err(DecodeError::TooLarge));
    assert_eq!(decode(&whole[..2], 6), Err(DecodeError::TooLarge));
    assert_eq!(decode(&whole[..2], 7), Ok(None));
    assert!(decode(&wire("30 05 0001'a' 00 'y'"), 7).unwrap().is_some());

    // 256 MiB are announced; nothing is reserved for them.
    let mut buf = wire("30 FFFFFF7F");
    assert_eq!(super::decode(Version::V5, &mut buf, usize::MAX), Ok(None));
    assert!(buf.capacity() < 1024);
}

#[test]
fn first_packet_has_to_be_connect() {
    let check = |bytes: &str, expected| {
        assert_eq!(decode_connect(&mut wire(bytes), 64), expected, "{bytes}");
    };
    check("", Ok(None));
    check("10", Ok(None));
    check("10 0C 0004'MQTT'", Ok(None));
    check("30", Err(DecodeError::NotConnect));
    check("C0 00", Err(DecodeError::NotConnect));
    check("00", Err(DecodeError::NotConnect));
    check("'GET / HTTP/1.1'", Err(DecodeError::NotConnect));
    check("10 3F", Err(DecodeError::TooLarge));
    check(
        "10 0E 0006'MQIsdp' 03 02 003C 0000",
        Err(DecodeError::UnsupportedVersion),
    );
    check(
        "10 0C 0004'MQTT' 03 02 003C 0000",
        Err(DecodeError::UnsupportedVersion),
    );
    check(
        "10 0C 0004'MQTT' 06 02 003C 0000",
        Err(DecodeError::UnsupportedVersion),
    );
    check(
        "10 0C 0004'MQTT' 84 02 003C 0000",
        Err(DecodeError::UnsupportedVersion),
    );
}

#[test]
fn version_shows_before_the_packet_is_complete() {
    let check = |bytes: &str, expected| assert_eq!(connect_version(&wire(bytes)), expected);
    check("10 7F 0004'MQTT' 04", Some(Version::V4));
    check("10 FF01 0004'MQTT' 05", Some(Version::V5));
    check("10 7F 0004'MQTT'", None);
    check("10 7F 0004'MQTT' 03", None);
    check("10 7F 0004'MQTU' 05", None);
    check("20 7F 0004'MQTT' 05", None);
    check("", None);
}

#[test]
fn free_functions_write_what_packets_write() {
    let publish = Publish {
        dup: true,
        qos: Qos::AtLeastOnce,
        retain: true,
        topic: "a/b".into(),
        packet_id: Some(id(7)),
        payload: Bytes::from_static(b"xyz"),
        properties: Some(Box::new(PublishProperties {
            message_expiry_interval: Some(1),
            ..Default::default()
        })),
    };
    for version in [Version::V4, Version::V5] {
        let mut out = BytesMut::new();
        encode_publish(version, &mut out, publish.head(), &publish.payload);
        assert_eq!(out, encode_all(version, &Packet::Publish(publish.clone())));
        assert_eq!(out.len(), publish_size(version, &publish.head(), 3));
    }

    let check = |kind, version, reason, expected: &str| {
        let mut out = BytesMut::new();
        encode_ack(kind, version, &mut out, id(0x0102), reason);
        assert_eq!(out, wire(expected));
    };
    check(
        AckKind::PubAck,
        Version::V4,
        ReasonCode::NotAuthorized,
        "40 02 0102",
    );
    check(
        AckKind::PubRec,
        Version::V5,
        ReasonCode::Success,
        "50 02 0102",
    );
    check(
        AckKind::PubRel,
        Version::V5,
        ReasonCode::PacketIdentifierNotFound,
        "62 03 0102 92",
    );
    check(
        AckKind::PubComp,
        Version::V4,
        ReasonCode::Success,
        "70 02 0102",
    );
}

#[test]
fn long_reason_string_is_cut_between_characters() {
    let reason_string = Some(ByteString::from("é".repeat(40_000)));
    let properties = Some(Box::new(AckProperties {
        reason_string,
        ..Default::default()
    }));
    let ack = Packet::PubAck(Ack {
        properties,
        ..Ack::success(id(1))
    });
    let bytes = encode_all(Version::V5, &ack);
    let Packet::PubAck(read) = decode_all(Version::V5, &bytes).unwrap() else {
        panic!()
    };
    let text = read.properties.unwrap().reason_string.unwrap();
    assert_eq!(text.len(), 65_534);
}

#[test]
fn return_codes_of_v4() {
    let check = |reason, written: u8, read| {
        let connack = ConnAck {
            reason,
            session_present: true,
            properties: None,
        };
        let bytes = encode_all(Version::V4, &Packet::ConnAck(Box::new(connack)));
        let session_present = u8::from(reason == ReasonCode::Success);
        assert_eq!(bytes[..], [0x20, 2, session_present, written], "{reason:?}");
        let packet = decode_all(Version::V4, &bytes).unwrap();
        assert!(matches!(packet, Packet::ConnAck(connack) if connack.reason == read));
    };
    use ReasonCode::*;
    check(Success, 0, Success);
    check(UnsupportedProtocolVersion, 1, UnsupportedProtocolVersion);
    check(ClientIdentifierNotValid, 2, ClientIdentifierNotValid);
    check(ServerBusy, 3, ServerUnavailable);
    check(ProtocolError, 3, ServerUnavailable);
    check(BadUserNameOrPassword, 4, BadUserNameOrPassword);
    check(Banned, 5, NotAuthorized);
}

#[test]
fn reason_codes_follow_the_table() {
    // MQTT 5, table 2-6, per packet type.
    let check = |packet, expected: &str| {
        let allowed = (0..=u8::MAX).filter(|code| {
            ReasonCode::try_from(*code).is_ok_and(|reason| reason.is_allowed_in(packet))
        });
        assert_eq!(
            allowed.collect::<Vec<u8>>(),
            wire(expected)[..],
            "{packet:?}"
        );
    };
    check(
        PacketType::ConnAck,
        "00 80818283848586878889 8A 8C 90 95 97 999A9B9C9D 9F",
    );
    check(PacketType::PubAck, "00 10 80 83 87 90 91 97 99");
    check(PacketType::PubRec, "00 10 80 83 87 90 91 97 99");
    check(PacketType::PubRel, "00 92");
    check(PacketType::PubComp, "00 92");
    check(PacketType::SubAck, "00 01 02 80 83 87 8F 91 97 9E A1 A2");
    check(PacketType::UnsubAck, "00 11 80 83 87 8F 91");
    check(
        PacketType::Disconnect,
        "00 04 80818283 87 89 8B8C8D8E8F 90 939495969798999A9B9C9D9E9F A0A1A2",
    );
    check(PacketType::Auth, "00 18 19");
    check(PacketType::Publish, "");
}

#[test]
fn debug_form_of_connect_keeps_secrets() {
    let bytes = wire("10 1C 0004'MQTT' 04 C2 003C 0002'id' 0004'name' 0006'secret'");
    let packet = decode_all(Version::V4, &bytes).unwrap();
    let text = format!("{packet:?}");
    assert!(text.contains("\"id\"") && !text.contains("name\"") && !text.contains("secret"));
}
