//! The two encodings of [`Up`] and [`Down`]: protobuf and canonical protobuf JSON.

use bytes::Bytes;
use prost::Message as _;

use crate::link;
use crate::v1::{Down, Message, Up, down};

/// How a payload is written. Chosen by the topic: `im/…` is protobuf, `imj/…` is JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// proto3 binary.
    Protobuf,
    /// Canonical protobuf JSON: lowerCamelCase out, camelCase or snake_case in, unknown fields refused.
    Json,
}

impl From<Format> for link::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Protobuf => link::Format::Protobuf,
            Format::Json => link::Format::Json,
        }
    }
}

/// A payload that is not what its topic promises.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no protobuf `Up`.
    #[error("not a protobuf Up: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// The text is no JSON `Up`; the text says where.
    #[error("not a JSON Up: {0}")]
    Json(#[from] serde_json::Error),
}

impl Format {
    /// Reads what a client asks.
    ///
    /// # Errors
    /// [`DecodeError`] when the payload is malformed or, in JSON, holds a field that `Up` does not have.
    pub fn decode_up(self, payload: Bytes) -> Result<Up, DecodeError> {
        match self {
            Format::Protobuf => Ok(Up::decode(payload)?),
            Format::Json => Ok(serde_json::from_slice(&payload)?),
        }
    }

    /// Writes a protobuf [`Down`] in this format; protobuf passes through without a copy.
    ///
    /// # Errors
    /// [`DecodeError`] when `payload` is no protobuf `Down`, or holds a timestamp out of JSON's range.
    pub fn from_protobuf(self, payload: &Bytes) -> Result<Bytes, DecodeError> {
        match self {
            Format::Protobuf => Ok(payload.clone()),
            Format::Json => {
                let down = Down::decode(payload.clone())?;
                Ok(serde_json::to_vec(&down)?.into())
            }
        }
    }
}

/// Encodes a [`Down`] as the protobuf that the link carries.
#[must_use]
pub fn encode_down(content: down::Content) -> Bytes {
    let down = Down {
        content: Some(content),
    };
    down.encode_to_vec().into()
}

/// [`encode_down`] of a message that is only borrowed: it is what a fan-out copies most.
#[must_use]
pub fn encode_message(message: &Message) -> Bytes {
    /// The number of `message` in `Down.content`.
    const TAG: u32 = 2;
    let mut bytes = Vec::with_capacity(message.encoded_len() + 8);
    prost::encoding::message::encode(TAG, message, &mut bytes);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Reply, send, to, up};

    fn text_of(up: Up) -> String {
        let Some(up::Command::Send(send)) = up.command else {
            panic!("not a send: {up:?}");
        };
        assert_eq!(
            send.to.and_then(|to| to.to),
            Some(to::To::User("bob".into()))
        );
        match send.content {
            Some(send::Content::Text(text)) => text,
            other => panic!("not a text: {other:?}"),
        }
    }

    #[test]
    fn json_takes_both_spellings_and_refuses_unknown_fields() {
        for json in [
            r#"{"clientMsgId":"m1","send":{"to":{"user":"bob"},"text":"hi"}}"#,
            r#"{"client_msg_id":"m1","send":{"to":{"user":"bob"},"text":"hi"}}"#,
        ] {
            let up = Format::Json.decode_up(json.into()).expect(json);
            assert_eq!(up.client_msg_id, "m1");
            assert_eq!(text_of(up), "hi");
        }
        for json in [
            "",
            "[]",
            r#"{"clientMsgId":"m1","shout":{}}"#,
            r#"{"send":{"to":{"user":"bob","group":"g"},"text":"hi"}}"#,
        ] {
            assert!(Format::Json.decode_up(json.into()).is_err(), "{json}");
        }
    }

    #[test]
    fn a_borrowed_message_is_written_like_an_owned_one() {
        let message = Message {
            msg_id: 7,
            sender: "alice".into(),
            ..Default::default()
        };
        let borrowed = encode_message(&message);
        assert_eq!(borrowed, encode_down(down::Content::Message(message)));
    }

    #[test]
    fn both_formats_say_the_same() {
        let content = down::Content::Reply(Reply {
            client_msg_id: "m1".into(),
            ..Default::default()
        });
        let protobuf = encode_down(content);
        assert_eq!(Format::Protobuf.from_protobuf(&protobuf).unwrap(), protobuf);
        let json = Format::Json.from_protobuf(&protobuf).unwrap();
        assert_eq!(json, r#"{"reply":{"clientMsgId":"m1"}}"#.as_bytes());
    }
}
