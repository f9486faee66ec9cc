//! What a client takes from a `Down`. Only the parts that are measured and checked are read: most of what the load
//! generator does is to receive.

use std::borrow::Cow;

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use schema::Format;
use serde::Deserialize;

use super::stamp::{Mark, Stamp};

/// The parts that are measured and checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    /// A message of one's own has got its place.
    Stored { mark: Mark, seq: u32 },
    /// A message of one's own was refused, for the reason told.
    Refused { mark: Mark, reason: String },
    /// A message of someone else; or of one's own, where it is part of what was missed.
    Message(Delivered<'a>),
}

/// What is looked at of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivered<'a> {
    pub stamp: Stamp,
    /// Bytes of the content.
    pub size: usize,
    pub seq: u32,
    pub conversation: &'a str,
    /// The uid.
    pub sender: &'a str,
}

/// A `Down` that no message of this run can have caused, or no `Down` at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unexpected {
    #[error("not a protobuf Down: {0}")]
    Protobuf(#[from] DecodeError),
    #[error("a protobuf Down that is cut off")]
    CutOff,
    #[error("not a JSON Down: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a client_msg_id or a content that nobody has sent")]
    Unmarked,
}

/// Hands everything in `payload` to `take`; events are passed over.
pub(super) fn read(
    format: Format,
    payload: &[u8],
    mut take: impl FnMut(Received<'_>),
) -> Result<(), Unexpected> {
    match format {
        Format::Protobuf => read_protobuf(payload, &mut take),
        Format::Json => read_json(payload, &mut take),
    }
}

/// Field numbers, as in `proto/tidings/v1/tidings.proto`.
mod field {
    pub(super) mod down {
        pub(crate) const REPLY: u32 = 1;
        pub(crate) const MESSAGE: u32 = 2;
        pub(crate) const BATCH: u32 = 3;
    }
    pub(super) mod reply {
        pub(crate) const CLIENT_MSG_ID: u32 = 1;
        pub(crate) const OK: u32 = 2;
        pub(crate) const ERROR: u32 = 3;
    }
    pub(super) mod ok {
        pub(crate) const SEQ: u32 = 3;
    }
    pub(super) mod error {
        pub(crate) const CODE: u32 = 1;
        pub(crate) const REASON: u32 = 2;
    }
    pub(super) mod message {
        pub(crate) const CONVERSATION: u32 = 2;
        pub(crate) const SEQ: u32 = 3;
        pub(crate) const SENDER: u32 = 4;
        pub(crate) const TEXT: u32 = 9;
        pub(crate) const BODY: u32 = 10;
    }
    pub(super) mod batch {
        pub(crate) const MESSAGES: u32 = 2;
    }
}

/// The value of a field of a protobuf message.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(self) -> Result<u32, Unexpected> {
        match self {
            Value::Number(number) => u32::try_from(number).map_err(|_| Unexpected::Unmarked),
            Value::Bytes(_) => Err(Unexpected::Unmarked),
        }
    }

    fn bytes(self) -> Result<&'a [u8], Unexpected> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Number(_) => Err(Unexpected::Unmarked),
        }
    }

    fn text(self) -> Result<&'a str, Unexpected> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unexpected::Unmarked)
    }
}

/// The next field of a protobuf message, whose rest is `rest`.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, Value<'a>)>, Unexpected> {
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(rest)?;
        let value = match wire_type {
            WireType::Varint => Value::Number(decode_varint(rest)?),
            WireType::LengthDelimited => {
                let size = usize::try_from(decode_varint(rest)?).unwrap_or(usize::MAX);
                let parts = rest.split_at_checked(size);
                let (bytes, after) = parts.ok_or(Unexpected::CutOff)?;
                *rest = after;
                Value::Bytes(bytes)
            }
            _ => {
                skip_field(wire_type, tag, rest, DecodeContext::default())?;
                continue;
            }
        };
        return Ok(Some((tag, value)));
    }
    Ok(None)
}

fn read_protobuf(mut down: &[u8], take: &mut impl FnMut(Received<'_>)) -> Result<(), Unexpected> {
    while let Some((tag, value)) = next_field(&mut down)? {
        match tag {
            field::down::REPLY => take(reply(value.bytes()?)?),
            field::down::MESSAGE => take(message(value.bytes()?)?),
            field::down::BATCH => {
                let mut batch = value.bytes()?;
                while let Some((tag, value)) = next_field(&mut batch)? {
                    if tag == field::batch::MESSAGES {
                        take(message(value.bytes()?)?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn reply(mut reply: &[u8]) -> Result<Received<'_>, Unexpected> {
    let (mut mark, mut ok, mut error) = (None, None, None);
    while let Some((tag, value)) = next_field(&mut reply)? {
        match tag {
            field::reply::CLIENT_MSG_ID => mark = Mark::read(value.bytes()?),
            field::reply::OK => ok = Some(value.bytes()?),
            field::reply::ERROR => error = Some(value.bytes()?),
            _ => {}
        }
    }
    let mark = mark.ok_or(Unexpected::Unmarked)?;
    match (ok, error) {
        (Some(mut ok), None) => {
            let mut seq = 0;
            while let Some((tag, value)) = next_field(&mut ok)? {
                if tag == field::ok::SEQ {
                    seq = value.number()?;
                }
            }
            Ok(Received::Stored { mark, seq })
        }
        (None, Some(mut error)) => {
            let (mut code, mut reason) = ("", "");
            while let Some((tag, value)) = next_field(&mut error)? {
                match tag {
                    field::error::CODE => code = value.text()?,
                    field::error::REASON => reason = value.text()?,
                    _ => {}
                }
            }
            let reason = format!("{code}: {reason}");
            Ok(Received::Refused { mark, reason })
        }
        _ => Err(Unexpected::Unmarked),
    }
}

fn message(mut message: &[u8]) -> Result<Received<'_>, Unexpected> {
    let (mut conversation, mut seq, mut sender, mut content) = ("", 0, "", &[][..]);
    while let Some((tag, value)) = next_field(&mut message)? {
        match tag {
            field::message::CONVERSATION => conversation = value.text()?,
            field::message::SEQ => seq = value.number()?,
            field::message::SENDER => sender = value.text()?,
            field::message::TEXT | field::message::BODY => content = value.bytes()?,
            _ => {}
        }
    }
    let stamp = Stamp::read(content).ok_or(Unexpected::Unmarked)?;
    Ok(Received::Message(Delivered {
        stamp,
        size: content.len(),
        seq,
        conversation,
        sender,
    }))
}

fn read_json(payload: &[u8], take: &mut impl FnMut(Received<'_>)) -> Result<(), Unexpected> {
    let down: DownJson = serde_json::from_slice(payload)?;
    if let Some(reply) = down.reply {
        take(reply.read()?);
    }
    let batch = down.batch.map(|batch| batch.messages).unwrap_or_default();
    for message in down.message.iter().chain(&batch) {
        take(message.read()?);
    }
    Ok(())
}

/// The JSON of a `Down` as far as it is looked at: reading it whole would cost more than the server's part.
#[derive(Deserialize)]
struct DownJson<'a> {
    #[serde(borrow)]
    reply: Option<ReplyJson<'a>>,
    #[serde(borrow)]
    message: Option<MessageJson<'a>>,
    #[serde(borrow)]
    batch: Option<BatchJson<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReplyJson<'a> {
    #[serde(borrow)]
    client_msg_id: Cow<'a, str>,
    ok: Option<OkJson>,
    #[serde(borrow)]
    error: Option<ErrorJson<'a>>,
}

#[derive(Deserialize)]
struct OkJson {
    seq: u32,
}

#[derive(Deserialize)]
struct ErrorJson<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow, default)]
    reason: Cow<'a, str>,
}

#[derive(Deserialize)]
struct MessageJson<'a> {
    #[serde(borrow)]
    conversation: Cow<'a, str>,
    seq: u32,
    #[serde(borrow)]
    sender: Cow<'a, str>,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct BatchJson<'a> {
    #[serde(borrow, default)]
    messages: Vec<MessageJson<'a>>,
}

impl ReplyJson<'_> {
    fn read(self) -> Result<Received<'static>, Unexpected> {
        let mark = Mark::read(self.client_msg_id.as_bytes()).ok_or(Unexpected::Unmarked)?;
        match (self.ok, self.error) {
            (Some(OkJson { seq }), None) => Ok(Received::Stored { mark, seq }),
            (None, Some(error)) => {
                let reason = format!("{}: {}", error.code, error.reason);
                Ok(Received::Refused { mark, reason })
            }
            _ => Err(Unexpected::Unmarked),
        }
    }
}

impl MessageJson<'_> {
    fn read(&self) -> Result<Received<'_>, Unexpected> {
        let stamp = Stamp::read(self.text.as_bytes()).ok_or(Unexpected::Unmarked)?;
        Ok(Received::Message(Delivered {
            stamp,
            size: self.text.len(),
            seq: self.seq,
            conversation: &self.conversation,
            sender: &self.sender,
        }))
    }
}

#[cfg(test)]
mod tests {
    use schema::v1::{self, down, message, reply};
    use schema::wire::encode_down;

    use super::super::stamp;
    use super::*;

    fn read_all(content: down::Content, expected: &[Received<'_>]) {
        let protobuf = encode_down(content);
        for format in [Format::Protobuf, Format::Json] {
            let payload = format.from_protobuf(&protobuf).unwrap();
            let mut expected = expected.iter();
            read(format, &payload, |received| {
                assert_eq!(Some(&received), expected.next(), "{format:?}");
            })
            .unwrap();
            assert_eq!(expected.next(), None, "{format:?}");
        }
    }

    fn reply_with(result: reply::Result) -> down::Content {
        down::Content::Reply(v1::Reply {
            client_msg_id: "0000020000000a".into(),
            result: Some(result),
        })
    }

    fn text(seq: u32) -> v1::Message {
        v1::Message {
            msg_id: u64::MAX,
            conversation: "u:a:b".into(),
            seq,
            sender: "a".into(),
            content: Some(message::Content::Text(format!(
                "000002000001{seq:08x}{:012x}…",
                99
            ))),
            sent_at: Some(schema::Timestamp::from_millis(1_700_000_000_123)),
            ..Default::default()
        }
    }

    fn received(seq: u32) -> Received<'static> {
        let stamp = Stamp {
            talk: 2,
            sender: 1,
            number: seq,
            due: 99,
        };
        Received::Message(Delivered {
            stamp,
            size: stamp::SIZE + "…".len(),
            seq,
            conversation: "u:a:b",
            sender: "a",
        })
    }

    #[test]
    fn both_formats_are_understood() {
        let mark = Mark {
            talk: 2,
            number: 10,
        };
        let ok = reply::Result::Ok(v1::Ok {
            msg_id: 7,
            conversation: "u:a:b".into(),
            seq: 5,
            ..Default::default()
        });
        read_all(reply_with(ok), &[Received::Stored { mark, seq: 5 }]);
        let error = reply::Result::Error(v1::Error {
            code: "conflict".into(),
            reason: "a \"reason\"".into(),
            retry_after_ms: 3,
        });
        let reason = "conflict: a \"reason\"".to_owned();
        read_all(reply_with(error), &[Received::Refused { mark, reason }]);
        read_all(down::Content::Message(text(3)), &[received(3)]);
        let batch = v1::Batch {
            conversation: "u:a:b".into(),
            messages: vec![text(3), text(4)],
            last_seq: 4,
            more: true,
            ..Default::default()
        };
        read_all(down::Content::Batch(batch), &[received(3), received(4)]);
        read_all(down::Content::Event(v1::Event::default()), &[]);
    }

    #[test]
    fn a_body_counts_like_a_text() {
        let mut message = text(3);
        if let Some(message::Content::Text(text)) = message.content.take() {
            message.content = Some(message::Content::Body(text.into_bytes().into()));
        }
        let payload = encode_down(down::Content::Message(message));
        let mut count = 0;
        let read = read(Format::Protobuf, &payload, |message| {
            assert_eq!(message, received(3));
            count += 1;
        });
        assert!(read.is_ok() && count == 1);
    }

    #[test]
    fn what_nobody_has_sent_is_told() {
        let mut message = text(3);
        message.content = Some(message::Content::Text("hello".into()));
        let strange = encode_down(down::Content::Message(message));
        let good = encode_down(down::Content::Message(text(3)));
        for payload in [&strange[..], &good[..good.len() - 1], b"\xff"] {
            assert!(read(Format::Protobuf, payload, |_| ()).is_err());
        }
        for payload in ["{\"message\":{\"seq\":1}}", "x"] {
            assert!(read(Format::Json, payload.as_bytes(), |_| ()).is_err());
        }
    }
}
