//! What a client takes from a `Down`.

use std::borrow::Cow;

use prost::Message as _;
use schema::Format;
use schema::v1::{self, down, message, reply};
use serde::Deserialize;

use super::stamp::{self, Stamp};

/// The parts that are measured and checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A message of one's own has got its place.
    Stored { number: u32, seq: u32 },
    /// A message of one's own was refused, for the reason told.
    Refused { number: u32, reason: String },
    /// A message of the peer.
    Message { stamp: Stamp, seq: u32 },
}

/// A `Down` that no message of this run can have caused, or no `Down` at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unexpected {
    #[error("not a protobuf Down: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("not a JSON Down: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a client_msg_id or a content that nobody has sent")]
    Unmarked,
}

/// Hands everything in `payload` to `take`; events are passed over.
pub(super) fn read(
    format: Format,
    payload: &[u8],
    mut take: impl FnMut(Received),
) -> Result<(), Unexpected> {
    match format {
        Format::Protobuf => match v1::Down::decode(payload)?.content {
            Some(down::Content::Reply(reply)) => take(from_reply(reply)?),
            Some(down::Content::Message(message)) => take(from_message(&message)?),
            Some(down::Content::Batch(batch)) => {
                for message in &batch.messages {
                    take(from_message(message)?);
                }
            }
            Some(down::Content::Event(_)) | None => {}
        },
        Format::Json => {
            let down: DownJson = serde_json::from_slice(payload)?;
            down.reply.map(ReplyJson::read).transpose()?.map(&mut take);
            let batch = down.batch.map(|batch| batch.messages).unwrap_or_default();
            for message in down.message.iter().chain(&batch) {
                take(marked(message.text.as_bytes(), message.seq)?);
            }
        }
    }
    Ok(())
}

fn from_reply(reply: v1::Reply) -> Result<Received, Unexpected> {
    let number = number(&reply.client_msg_id)?;
    match reply.result {
        Some(reply::Result::Ok(ok)) => Ok(Received::Stored {
            number,
            seq: ok.seq,
        }),
        Some(reply::Result::Error(error)) => Ok(Received::Refused {
            number,
            reason: format!("{}: {}", error.code, error.reason),
        }),
        None => Err(Unexpected::Unmarked),
    }
}

fn from_message(message: &v1::Message) -> Result<Received, Unexpected> {
    match &message.content {
        Some(message::Content::Body(body)) => marked(body, message.seq),
        Some(message::Content::Text(text)) => marked(text.as_bytes(), message.seq),
        None => Err(Unexpected::Unmarked),
    }
}

fn marked(content: &[u8], seq: u32) -> Result<Received, Unexpected> {
    let stamp = Stamp::read(content).ok_or(Unexpected::Unmarked)?;
    Ok(Received::Message { stamp, seq })
}

fn number(client_msg_id: &str) -> Result<u32, Unexpected> {
    stamp::read_number(client_msg_id.as_bytes()).ok_or(Unexpected::Unmarked)
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
    seq: u32,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct BatchJson<'a> {
    #[serde(borrow, default)]
    messages: Vec<MessageJson<'a>>,
}

impl ReplyJson<'_> {
    fn read(self) -> Result<Received, Unexpected> {
        let number = number(&self.client_msg_id)?;
        match (self.ok, self.error) {
            (Some(ok), None) => Ok(Received::Stored {
                number,
                seq: ok.seq,
            }),
            (None, Some(error)) => Ok(Received::Refused {
                number,
                reason: format!("{}: {}", error.code, error.reason),
            }),
            _ => Err(Unexpected::Unmarked),
        }
    }
}

#[cfg(test)]
mod tests {
    use schema::wire::encode_down;

    use super::*;

    fn read_all(content: down::Content) -> Vec<Received> {
        let protobuf = encode_down(content);
        let [from_protobuf, from_json] = [Format::Protobuf, Format::Json].map(|format| {
            let mut all = Vec::new();
            let payload = format.from_protobuf(&protobuf).unwrap();
            read(format, &payload, |received| all.push(received)).unwrap();
            all
        });
        assert_eq!(from_protobuf, from_json);
        from_protobuf
    }

    fn reply(result: reply::Result) -> down::Content {
        down::Content::Reply(v1::Reply {
            client_msg_id: "0000000a".into(),
            result: Some(result),
        })
    }

    fn text(seq: u32) -> v1::Message {
        v1::Message {
            conversation: "u:a:b".into(),
            seq,
            content: Some(message::Content::Text(format!("{:08x}{:016x}…", seq, 99))),
            ..Default::default()
        }
    }

    #[test]
    fn both_formats_are_understood() {
        let ok = v1::Ok {
            seq: 5,
            ..Default::default()
        };
        assert_eq!(
            read_all(reply(reply::Result::Ok(ok))),
            [Received::Stored { number: 10, seq: 5 }]
        );
        let error = v1::Error {
            code: "conflict".into(),
            reason: "a \"reason\"".into(),
            retry_after_ms: 3,
        };
        assert_eq!(
            read_all(reply(reply::Result::Error(error))),
            [Received::Refused {
                number: 10,
                reason: "conflict: a \"reason\"".into()
            }]
        );
        let message = |seq| Received::Message {
            stamp: Stamp {
                number: seq,
                due: 99,
            },
            seq,
        };
        assert_eq!(read_all(down::Content::Message(text(3))), [message(3)]);
        let batch = v1::Batch {
            messages: vec![text(3), text(4)],
            ..Default::default()
        };
        assert_eq!(
            read_all(down::Content::Batch(batch)),
            [message(3), message(4)]
        );
        assert_eq!(read_all(down::Content::Event(v1::Event::default())), []);
    }
}
