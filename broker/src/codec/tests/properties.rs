//! What holds for all packets and for all bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use arbitrary::{packet, version};

/// Bytes of which nothing is known: decoding ends, and what it accepts can be written and read
/// again without growing, but for the length of no properties, which DISCONNECT may leave out and is written with.
fn check_survives(version: Version, bytes: &[u8]) {
    let mut buf = BytesMut::from(bytes);
    let mut left = buf.len();
    while let Ok(Some(packet)) = decode(version, &mut buf, NO_LIMIT) {
        let consumed = left - buf.len();
        left = buf.len();
        let may_grow = packet.packet_type() == PacketType::Disconnect;
        assert!(
            packet.size(version) <= consumed + usize::from(may_grow),
            "{packet:?} out of {consumed} bytes"
        );
        assert_eq!(
            buf[..],
            bytes[bytes.len() - left..],
            "the rest is untouched"
        );
        let written = encode_all(version, &packet);
        assert_eq!(decode_all(version, &written), Ok(packet));
    }
    let _ = decode_connect(&mut BytesMut::from(bytes), NO_LIMIT);
    let _ = connect_version(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn packets_survive_the_wire((version, packet) in packet()) {
        let bytes = encode_all(version, &packet);
        prop_assert_eq!(decode_all(version, &bytes), Ok(packet));
    }

    #[test]
    fn bytes_never_panic(version in version(), bytes in vec(any::<u8>(), 0..64)) {
        check_survives(version, &bytes);
    }

    #[test]
    fn damaged_packets_never_panic(
        (version, packet) in packet(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
        other in version(),
    ) {
        let mut bytes = encode_all(version, &packet);
        check_survives(other, &bytes);
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        check_survives(version, &bytes);
    }

    #[test]
    fn numbers_keep_the_length_right(version in version(), payload_len in 0..70_000_usize) {
        let publish = Publish {
            topic: "t".into(),
            payload: Bytes::from(vec![0; payload_len]),
            ..Default::default()
        };
        let packet = Packet::Publish(publish);
        prop_assert_eq!(decode_all(version, &encode_all(version, &packet)), Ok(packet));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn split_points_do_not_matter((version, packet) in packet(), (_, next) in packet()) {
        let bytes = encode_all(version, &packet);
        let first_of_next = next.packet_type() as u8;
        for split in 0..bytes.len() {
            let mut buf = BytesMut::from(&bytes[..split]);
            prop_assert_eq!(decode(version, &mut buf, NO_LIMIT), Ok(None));
            prop_assert_eq!(&buf[..], &bytes[..split]);
            buf.extend_from_slice(&bytes[split..]);
            buf.extend_from_slice(&[first_of_next]);
            prop_assert_eq!(&decode(version, &mut buf, NO_LIMIT).unwrap(), &Some(packet.clone()));
            prop_assert_eq!(&buf[..], &[first_of_next]);
        }
    }
}
