//! Packets that have to be refused, and for which reason.

use super::*;

use ReasonCode::{MalformedPacket, PacketTooLarge, ProtocolError, TopicNameInvalid};
use Version::{V4, V5};

/// Each packet is refused with its code, in the versions that it is given for.
const CASES: &[(&[Version], &str, ReasonCode)] = &[
    // Fixed header: types and reserved flags, judged by the first byte alone.
    (&[V4, V5], "00", MalformedPacket),
    (&[V4], "F0", MalformedPacket),
    (&[V4, V5], "11", MalformedPacket),
    (&[V4, V5], "21", MalformedPacket),
    (&[V4, V5], "36", MalformedPacket),
    (&[V4, V5], "3E", MalformedPacket),
    (&[V4, V5], "42", MalformedPacket),
    (&[V4, V5], "52", MalformedPacket),
    (&[V4, V5], "60", MalformedPacket),
    (&[V4, V5], "72", MalformedPacket),
    (&[V4, V5], "80", MalformedPacket),
    (&[V4, V5], "83", MalformedPacket),
    (&[V4, V5], "92", MalformedPacket),
    (&[V4, V5], "A0", MalformedPacket),
    (&[V4, V5], "B2", MalformedPacket),
    (&[V4, V5], "C1", MalformedPacket),
    (&[V4, V5], "D8", MalformedPacket),
    (&[V4, V5], "E1", MalformedPacket),
    (&[V5], "F1", MalformedPacket),
    // Remaining length: a fifth byte, padding, over the limit.
    (&[V4, V5], "30 FFFFFFFF", MalformedPacket),
    (&[V4, V5], "30 8080808001", MalformedPacket),
    (&[V4, V5], "C0 8000", MalformedPacket),
    (&[V4, V5], "30 858000", MalformedPacket),
    (&[V4, V5], "30 FFFFFF7F", PacketTooLarge),
    // CONNECT: name, flags, fields.
    (&[V4, V5], "10 00", MalformedPacket),
    (
        &[V4, V5],
        "10 0C 0004'MQTU' 04 02 003C 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0C 0004'MQTT' 04 03 003C 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0C 0004'MQTT' 04 0A 003C 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0C 0004'MQTT' 04 22 003C 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 12 0004'MQTT' 04 1E 003C 0000 0001't' 0001'p'",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0F 0004'MQTT' 04 42 003C 0000 0001'p'",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0D 0004'MQTT' 04 02 003C 0000 00",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0C 0004'MQTT' 04 02 003C 0001",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0C 0004'MQTT' 04 82 003C 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 12 0004'MQTT' 04 06 003C 0000 0001'#' 0001'p'",
        TopicNameInvalid,
    ),
    (
        &[V4, V5],
        "10 11 0004'MQTT' 04 06 003C 0000 0000 0001'p'",
        ProtocolError,
    ),
    (
        &[V4, V5],
        "10 0E 0004'MQTT' 04 02 003C 0002 C328",
        MalformedPacket,
    ),
    // CONNECT: properties.
    (
        &[V4, V5],
        "10 10 0004'MQTT' 05 02 003C 03 210000 0000",
        ProtocolError,
    ),
    (
        &[V4, V5],
        "10 12 0004'MQTT' 05 02 003C 05 2700000000 0000",
        ProtocolError,
    ),
    (
        &[V4, V5],
        "10 0F 0004'MQTT' 05 02 003C 02 1702 0000",
        ProtocolError,
    ),
    (
        &[V4, V5],
        "10 0F 0004'MQTT' 05 02 003C 02 1902 0000",
        ProtocolError,
    ),
    (
        &[V4, V5],
        "10 11 0004'MQTT' 05 02 003C 04 1701 1701 0000",
        ProtocolError,
    ),
    (
        &[V4, V5],
        "10 11 0004'MQTT' 05 02 003C 04 160001'd' 0000",
        ProtocolError,
    ),
    (
        &[V4, V5],
        "10 0F 0004'MQTT' 05 02 003C 02 0101 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0F 0004'MQTT' 05 02 003C 02 7F01 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0F 0004'MQTT' 05 02 003C 7F 1701 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0F 0004'MQTT' 05 02 003C 02 2100 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 0E 0004'MQTT' 05 02 003C 8000 0000",
        MalformedPacket,
    ),
    (
        &[V4, V5],
        "10 18 0004'MQTT' 05 06 003C 00 0000 040800 01'+' 0001't' 0001'p'",
        TopicNameInvalid,
    ),
    // CONNACK.
    (&[V4, V5], "20 00", MalformedPacket),
    (&[V4], "20 02 02 00", MalformedPacket),
    (&[V4], "20 02 00 06", MalformedPacket),
    (&[V4], "20 02 01 05", ProtocolError),
    (&[V4], "20 03 00 00 00", MalformedPacket),
    (&[V5], "20 03 00 7F 00", MalformedPacket),
    (&[V5], "20 03 00 8E 00", ProtocolError),
    (&[V5], "20 03 01 87 00", ProtocolError),
    (&[V5], "20 05 00 00 02 2402", ProtocolError),
    (&[V5], "20 02 00 00", MalformedPacket),
    // PUBLISH.
    (&[V4, V5], "30 00", MalformedPacket),
    (&[V4], "38 03 0001'a'", ProtocolError),
    (&[V5], "38 04 0001'a' 00", ProtocolError),
    (&[V4], "32 05 0001'a' 0000", ProtocolError),
    (&[V5], "34 06 0001'a' 0000 00", ProtocolError),
    (&[V4], "32 03 0001'a'", MalformedPacket),
    (&[V4, V5], "30 03 0002'a'", MalformedPacket),
    (&[V4], "30 02 0000", ProtocolError),
    (&[V5], "30 03 0000 00", ProtocolError),
    (&[V4], "30 05 0003'a/+'", TopicNameInvalid),
    (&[V5], "30 04 0001'#' 00", TopicNameInvalid),
    (&[V5], "30 07 0001'#' 03 230001", TopicNameInvalid),
    (&[V4, V5], "30 06 0003'a' 00 'b' 00", MalformedPacket),
    (&[V4, V5], "30 06 0003 EDA080 00", MalformedPacket),
    (&[V4, V5], "30 05 0002 C0AF 00", MalformedPacket),
    (&[V5], "30 07 0001'a' 03 230000", ProtocolError),
    (&[V5], "30 06 0001'a' 02 0102", ProtocolError),
    (&[V5], "30 06 0001'a' 02 0B00", ProtocolError),
    (&[V5], "30 0A 0001'a' 06 230001 230001", ProtocolError),
    (&[V5], "30 08 0001'a' 04 080001'#'", TopicNameInvalid),
    (&[V5], "30 07 0001'a' 03 210001", MalformedPacket),
    (&[V5], "30 05 0001'a' 01 26", MalformedPacket),
    (&[V5], "30 0A 0001'a' 06 26 0001 FF 0000", MalformedPacket),
    (&[V5], "30 04 0001'a' 7F", MalformedPacket),
    (&[V5], "30 03 0001'a'", MalformedPacket),
    // PUBACK and its kin.
    (&[V4, V5], "40 02 0000", ProtocolError),
    (&[V4, V5], "40 01 00", MalformedPacket),
    (&[V4], "40 03 0001 00", MalformedPacket),
    (&[V5], "40 03 0001 92", ProtocolError),
    (&[V5], "40 03 0001 7F", MalformedPacket),
    (&[V5], "40 05 0001 00 00 00", MalformedPacket),
    (&[V5], "62 03 0001 10", ProtocolError),
    (&[V5], "62 02 0000", ProtocolError),
    (&[V5], "50 0C 0001 00 08 1F0001'a' 1F0001'b'", ProtocolError),
    (&[V5], "70 07 0001 00 03 210001", MalformedPacket),
    // SUBSCRIBE and UNSUBSCRIBE.
    (&[V4], "82 02 0001", ProtocolError),
    (&[V5], "82 03 0001 00", ProtocolError),
    (&[V4], "82 06 0000 0001'a' 00", ProtocolError),
    (&[V4], "82 06 0001 0001'a' 03", MalformedPacket),
    (&[V4], "82 06 0001 0001'a' 04", MalformedPacket),
    (&[V4], "82 05 0001 0001'a'", MalformedPacket),
    (&[V4], "82 05 0001 0000 00", ProtocolError),
    (&[V5], "82 07 0001 00 0001'a' 03", MalformedPacket),
    (&[V5], "82 07 0001 00 0001'a' 30", ProtocolError),
    (&[V5], "82 07 0001 00 0001'a' 40", MalformedPacket),
    (&[V5], "82 07 0001 00 0001'a' 80", MalformedPacket),
    (&[V5], "82 10 0001 00 000A'$share/g/a' 04", ProtocolError),
    (&[V5], "82 09 0001 02 0B00 0001'a' 00", ProtocolError),
    (&[V5], "82 0B 0001 04 0B01 0B01 0001'a' 00", ProtocolError),
    (&[V5], "82 0A 0001 03 0B8000 0001'a' 00", MalformedPacket),
    (&[V4], "A2 02 0001", ProtocolError),
    (&[V5], "A2 03 0001 00", ProtocolError),
    (&[V4], "A2 04 0001 0000", ProtocolError),
    (&[V4], "A2 05 0000 0001'a'", ProtocolError),
    (&[V4], "A2 06 0001 0002 'a' 00", MalformedPacket),
    (&[V5], "A2 08 0001 02 0B01 0001'a'", MalformedPacket),
    // SUBACK and UNSUBACK.
    (&[V4], "90 02 0001", ProtocolError),
    (&[V5], "90 03 0001 00", ProtocolError),
    (&[V4], "90 03 0001 03", MalformedPacket),
    (&[V5], "90 04 0001 00 11", ProtocolError),
    (&[V4], "B0 03 0001 00", MalformedPacket),
    (&[V5], "B0 03 0001 00", ProtocolError),
    (&[V5], "B0 04 0001 00 01", ProtocolError),
    // The rest.
    (&[V4, V5], "C0 01 00", MalformedPacket),
    (&[V4, V5], "D0 01 00", MalformedPacket),
    (&[V4], "E0 01 00", MalformedPacket),
    (&[V5], "E0 01 01", ProtocolError),
    (&[V5], "E0 06 00 04 210001 00", MalformedPacket),
    (&[V5], "E0 03 00 00 00", MalformedPacket),
    (&[V5], "F0 01 18", MalformedPacket),
    (&[V5], "F0 02 80 00", ProtocolError),
];

#[test]
fn malformed_packets_are_refused() {
    for (versions, bytes, expected) in CASES {
        for version in *versions {
            let read = decode(*version, &mut wire(bytes), NO_LIMIT);
            let reason = read.as_ref().map_err(DecodeError::reason);
            assert_eq!(
                reason.err(),
                Some(*expected),
                "{version:?} {bytes}: {read:?}"
            );
        }
    }
}

#[test]
fn whole_malformed_packets_are_consumed_whole() {
    // The cases above would prove little if their lengths were wrong.
    for (versions, bytes, _) in CASES {
        let mut buf = wire(bytes);
        let Ok(Some(header)) = FixedHeader::peek(versions[0], &buf) else {
            continue;
        };
        if header.packet_len() <= NO_LIMIT {
            assert_eq!(header.packet_len(), buf.len(), "{bytes}");
            assert!(decode(versions[0], &mut buf, NO_LIMIT).is_err() && buf.is_empty());
        }
    }
}
