//! Answers as zstd, for clients that ask for it.

use bytes::Bytes;
use prost::Message;
use schema::v1;

/// zstd's own default: what is left to gain by more is little, and others wait meanwhile.
const LEVEL: i32 = 3;

/// The page, packed where that makes it smaller.
pub(super) fn batch(batch: v1::Batch) -> v1::Batch {
    match frame(&batch) {
        Some(zstd) => v1::Batch {
            messages: Vec::new(),
            zstd,
            ..batch
        },
        None => batch,
    }
}

/// The changes, packed where that makes them smaller.
pub(super) fn changes(changes: v1::Changes) -> v1::Changes {
    match frame(&changes) {
        Some(zstd) => v1::Changes {
            version: changes.version,
            more: changes.more,
            zstd,
            ..Default::default()
        },
        None => changes,
    }
}

/// `None`: it would not become smaller by a quarter, which base64 in JSON would take again. How large it can become is up to the caller, who keeps pages small.
fn frame(message: &impl Message) -> Option<Bytes> {
    let plain = message.encode_to_vec();
    // The frame tells the size of what is in it, so that a reader can bound it.
    let frame = zstd::bulk::compress(&plain, LEVEL).ok()?;
    (frame.len() * 4 <= plain.len() * 3).then(|| frame.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> v1::Batch {
        let message = |seq| v1::Message {
            seq,
            content: Some(v1::message::Content::Text(text.to_owned())),
            ..Default::default()
        };
        v1::Batch {
            conversation: "g:team".into(),
            messages: (1..=20).map(message).collect(),
            last_seq: 20,
            more: true,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_packed_is_the_same() {
        let plain = page("always the same");
        let packed = batch(plain.clone());
        assert!(packed.encoded_len() < plain.encoded_len());
        assert_eq!((packed.last_seq, packed.more), (20, true));
        assert!(packed.messages.is_empty());
        let bytes = zstd::bulk::decompress(&packed.zstd, plain.encoded_len()).unwrap();
        assert_eq!(v1::Batch::decode(&*bytes).unwrap(), plain);
    }

    #[test]
    fn what_would_grow_is_left_as_it_is() {
        let nothing = v1::Changes {
            version: 7,
            ..Default::default()
        };
        assert_eq!(changes(nothing.clone()), nothing);
    }
}
