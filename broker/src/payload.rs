//! One payload for many receivers, encoded at most once per format.

use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use schema::{Format, v1, wire};
use tracing::error;

/// A protobuf `Down`, and its JSON form once somebody has asked for it.
#[derive(Debug)]
pub(crate) struct Payload {
    protobuf: Bytes,
    json: OnceLock<Bytes>,
}

impl Payload {
    /// Copies the bytes: they are a slice of a whole frame, which would live as long as the slowest receiver.
    pub(crate) fn new(protobuf: &[u8]) -> Self {
        Payload {
            protobuf: Bytes::copy_from_slice(protobuf),
            json: OnceLock::new(),
        }
    }

    pub(crate) fn in_format(&self, format: Format) -> &Bytes {
        match format {
            Format::Protobuf => &self.protobuf,
            Format::Json => self.json.get_or_init(|| self.to_json()),
        }
    }

    fn to_json(&self) -> Bytes {
        Format::Json
            .from_protobuf(&self.protobuf)
            .unwrap_or_else(|error| {
                error!(%error, "the bridge sent a payload that has no JSON form");
                Bytes::from_static(b"{}")
            })
    }

    /// Bytes that it holds against a session's queue.
    pub(crate) fn size(&self) -> usize {
        self.protobuf.len()
    }
}

/// What tells a client that events were lost.
pub(crate) fn outdated() -> &'static Payload {
    static OUTDATED: LazyLock<Payload> = LazyLock::new(|| {
        let event = Some(v1::event::Event::Outdated(v1::Outdated {}));
        Payload::new(&wire::encode_down(v1::down::Content::Event(v1::Event {
            event,
        })))
    });
    &OUTDATED
}
