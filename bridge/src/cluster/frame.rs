//! A frame's bytes. Notices are encoded once, when they are told; a frame is their concatenation behind its head.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key};
use schema::bus::{BusFrame, Notice};

use super::Identity;

/// The field of a frame that holds its notices.
const NOTICES: u32 = 4;
/// A node's number is part of the ids that it gives, and has so many bits there.
const NODE_BITS: u32 = 10;

/// Adds a notice to a frame's.
pub(super) fn append(notice: &Notice, to: &mut BytesMut) {
    encode_key(NOTICES, WireType::LengthDelimited, to);
    let encoded = notice.encode_length_delimited(to);
    encoded.expect("BytesMut grows");
}

/// What stands before the notices.
pub(super) fn head(from: Identity, number: u64) -> Vec<u8> {
    let frame = BusFrame {
        node: from.node,
        boot: from.boot,
        number,
        notices: Vec::new(),
    };
    frame.encode_to_vec()
}

/// `None`: no node has said that.
pub(super) fn decode(bytes: Bytes) -> Option<BusFrame> {
    let frame = BusFrame::decode(bytes).ok()?;
    let is_from_node = frame.node >> NODE_BITS == 0 && frame.boot > 0;
    is_from_node.then_some(frame)
}

#[cfg(test)]
mod tests {
    use schema::bus::notice;

    use super::*;

    #[test]
    fn a_frame_is_its_head_and_its_notices() {
        let notices = ["alice", "bob"].map(|uid| Notice {
            notice: Some(notice::Notice::Restyled(uid.to_owned())),
        });
        let from = Identity { node: 7, boot: 9 };
        let mut bytes = BytesMut::from(&*head(from, 3));
        for notice in &notices {
            append(notice, &mut bytes);
        }
        let frame = decode(bytes.freeze()).unwrap();
        assert_eq!((frame.node, frame.boot, frame.number), (7, 9, 3));
        assert_eq!(frame.notices, notices);
    }

    #[test]
    fn what_no_node_says_is_none() {
        for garbage in ["", "hello", "\u{ff}\u{ff}"] {
            assert!(decode(Bytes::from_static(garbage.as_bytes())).is_none());
        }
        let stranger = Identity {
            node: 1024,
            boot: 9,
        };
        assert!(decode(head(stranger, 1).into()).is_none());
    }
}
