//! How missed messages travel: a run of one conversation's messages goes as batches, so that a device which was away for
//! long needs few publishes; what is alone or among others goes as it would have gone live.

use prost::Message as _;
use schema::link::{self, Missed, Subscribed};
use schema::wire::{encode_down, encode_message};
use schema::{Format, v1};

use super::job::position;
use super::packed;

/// A run of up to so many messages stays single messages, which the simplest clients understand.
const SINGLE_MAX: usize = 8;
/// A batch ends after so many messages, or before it has more bytes.
const BATCH_MESSAGES: usize = 100;
const BATCH_BYTES: usize = 48 * 1024;
/// What a PUBLISH with a batch has besides messages: header, topic, properties, and what surrounds the messages.
const SURROUNDINGS: usize = 768;

/// What a session takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packing {
    format: Format,
    /// Bytes of the messages in a batch, in that format.
    bytes_max: usize,
    /// Whether batches are compressed.
    pub(super) is_zstd: bool,
}

impl Default for Packing {
    fn default() -> Self {
        Packing {
            format: Format::Protobuf,
            bytes_max: BATCH_BYTES,
            is_zstd: false,
        }
    }
}

impl From<&Subscribed> for Packing {
    fn from(subscribed: &Subscribed) -> Self {
        let sure = match subscribed.packet_size_max as usize {
            0 => usize::MAX,
            max => max.saturating_sub(SURROUNDINGS),
        };
        Packing {
            format: match subscribed.format() {
                link::Format::Json => Format::Json,
                link::Format::Protobuf | link::Format::Unspecified => Format::Protobuf,
            },
            bytes_max: BATCH_BYTES.min(sure),
            is_zstd: false,
        }
    }
}

/// Something for a session that catches up.
#[derive(Debug)]
pub(super) enum Piece {
    /// It is no message.
    Notice(Missed),
    Message {
        conversation_id: i64,
        /// The conversation's newest seq.
        last_seq: u32,
        message: Box<v1::Message>,
    },
}

impl Piece {
    fn conversation(&self) -> Option<i64> {
        match self {
            Piece::Notice(_) => None,
            Piece::Message {
                conversation_id, ..
            } => Some(*conversation_id),
        }
    }
}

/// A page's publishes, in the order of its pieces.
pub(super) fn pack(pieces: Vec<Piece>, packing: Packing) -> Vec<Missed> {
    let mut publishes = Vec::with_capacity(pieces.len());
    let mut run = Run::default();
    for piece in pieces {
        if piece.conversation() != run.conversation() {
            std::mem::take(&mut run).pack(packing, &mut publishes);
        }
        match piece {
            Piece::Notice(missed) => publishes.push(missed),
            Piece::Message {
                conversation_id,
                last_seq,
                message,
            } => {
                run.conversation_id = conversation_id;
                run.last_seq = last_seq;
                run.messages.push(*message);
            }
        }
    }
    run.pack(packing, &mut publishes);
    publishes
}

/// Messages of one conversation that follow each other.
#[derive(Debug, Default)]
struct Run {
    conversation_id: i64,
    last_seq: u32,
    messages: Vec<v1::Message>,
}

impl Run {
    fn conversation(&self) -> Option<i64> {
        (!self.messages.is_empty()).then_some(self.conversation_id)
    }

    fn pack(self, packing: Packing, publishes: &mut Vec<Missed>) {
        let is_short = self.messages.len() <= SINGLE_MAX;
        let mut batch: Vec<v1::Message> = Vec::new();
        let mut bytes = 0;
        for message in self.messages {
            let size = size(&message, packing.format);
            let has_room = batch.len() < BATCH_MESSAGES && bytes + size <= packing.bytes_max;
            if is_short || !has_room {
                let full = std::mem::take(&mut batch);
                publishes.extend(publish(full, self.conversation_id, self.last_seq, packing));
                bytes = 0;
            }
            bytes += size;
            batch.push(message);
        }
        publishes.extend(publish(batch, self.conversation_id, self.last_seq, packing));
    }
}

/// What a message takes in a batch.
fn size(message: &v1::Message, format: Format) -> usize {
    /// Before each message: its tag and length, or a comma.
    const BETWEEN: usize = 6;
    let size = match format {
        Format::Protobuf => message.encoded_len(),
        // One that has no JSON is left out by the edge, too.
        Format::Json => serde_json::to_vec(message).map_or(0, |json| json.len()),
    };
    size + BETWEEN
}

/// One publish with all of the messages; its acknowledgement stands for the last one.
fn publish(
    messages: Vec<v1::Message>,
    conversation_id: i64,
    last_seq: u32,
    packing: Packing,
) -> Option<Missed> {
    let last = messages.last()?;
    let position = Some(position(conversation_id, last));
    if messages.len() == 1 {
        let payload = encode_message(last);
        return Some(Missed { payload, position });
    }
    let mut batch = v1::Batch {
        conversation: last.conversation.clone(),
        messages,
        last_seq,
        ..Default::default()
    };
    if packing.is_zstd {
        batch = packed::batch(batch);
    }
    let payload = encode_down(v1::down::Content::Batch(batch));
    Some(Missed { payload, position })
}

#[cfg(test)]
mod tests {
    use schema::v1::down;

    use super::*;

    fn piece(conversation_id: i64, seq: u32, text: &str) -> Piece {
        Piece::Message {
            conversation_id,
            last_seq: 1000,
            message: Box::new(v1::Message {
                msg_id: seq.into(),
                conversation: format!("g:{conversation_id}"),
                seq,
                content: Some(v1::message::Content::Text(text.to_owned())),
                ..Default::default()
            }),
        }
    }

    fn run(conversation_id: i64, count: u32, text: &str) -> Vec<Piece> {
        (1..=count)
            .map(|seq| piece(conversation_id, seq, text))
            .collect()
    }

    /// What is in each publish: conversation, and seqs.
    fn contents(publishes: &[Missed]) -> Vec<(String, Vec<u32>)> {
        let content = |missed: &Missed| {
            let down = v1::Down::decode(missed.payload.clone()).unwrap();
            let (conversation, messages) = match down.content.unwrap() {
                down::Content::Message(message) => (message.conversation.clone(), vec![message]),
                down::Content::Batch(batch) => {
                    assert_eq!((batch.last_seq, batch.more), (1000, false));
                    assert!(batch.messages.len() > 1);
                    (batch.conversation, batch.messages)
                }
                other => panic!("{other:?}"),
            };
            let seqs: Vec<u32> = messages.iter().map(|message| message.seq).collect();
            let position = missed.position.unwrap();
            assert_eq!(Some(&position.seq), seqs.last());
            assert_eq!(format!("g:{}", position.conversation), conversation);
            (conversation, seqs)
        };
        publishes.iter().map(content).collect()
    }

    fn sizes(pieces: Vec<Piece>, packing: Packing) -> Vec<usize> {
        let publishes = pack(pieces, packing);
        let contents = contents(&publishes);
        contents.iter().map(|(_, seqs)| seqs.len()).collect()
    }

    #[test]
    fn long_runs_go_as_batches() {
        for (count, expected) in [
            (1, vec![1]),
            (8, vec![1; 8]),
            (9, vec![9]),
            (101, vec![100, 1]),
            (250, vec![100, 100, 50]),
        ] {
            assert_eq!(sizes(run(1, count, "x"), Packing::default()), expected);
        }
    }

    #[test]
    fn what_is_among_others_stays_in_its_place() {
        let mut pieces = run(1, 9, "x");
        pieces.extend([piece(2, 1, "x"), piece(1, 10, "x"), piece(2, 2, "x")]);
        pieces.extend((11..=20).map(|seq| piece(1, seq, "x")));
        let found = contents(&pack(pieces, Packing::default()));
        let expected = [
            ("g:1", (1..=9).collect()),
            ("g:2", vec![1]),
            ("g:1", vec![10]),
            ("g:2", vec![2]),
            ("g:1", (11..=20).collect()),
        ];
        let expected = expected.map(|(name, seqs): (&str, Vec<u32>)| (name.to_owned(), seqs));
        assert_eq!(found, expected);
    }

    /// No publish is larger than what the client takes, unless one message alone is.
    #[test]
    fn a_batch_is_no_larger_than_the_client_takes() {
        let texts = ["x".repeat(700), "\u{1}".repeat(300), "é".repeat(500)];
        for (format, text) in [link::Format::Protobuf, link::Format::Json]
            .iter()
            .flat_map(|format| texts.iter().map(move |text| (*format, text)))
        {
            let subscribed = Subscribed {
                format: format.into(),
                packet_size_max: 10 * 1024,
                ..Default::default()
            };
            let packing = Packing::from(&subscribed);
            let publishes = pack(run(1, 60, text), packing);
            assert!(publishes.len() < 30, "{}", publishes.len());
            for missed in &publishes {
                let payload = packing.format.from_protobuf(&missed.payload).unwrap();
                assert!(payload.len() <= 10 * 1024 - 256, "{}", payload.len());
            }
            let small = Subscribed {
                packet_size_max: 500,
                ..subscribed
            };
            assert_eq!(sizes(run(1, 20, text), Packing::from(&small)), [1; 20]);
        }
    }

    #[test]
    fn zstd_is_for_who_asks() {
        let packing = Packing {
            is_zstd: true,
            ..Packing::default()
        };
        let publishes = pack(run(1, 50, "again and again"), packing);
        assert_eq!(publishes.len(), 1);
        assert_eq!(publishes[0].position.unwrap().seq, 50);
        let down = v1::Down::decode(publishes[0].payload.clone()).unwrap();
        let Some(down::Content::Batch(batch)) = down.content else {
            panic!("{down:?}");
        };
        let plain = zstd::bulk::decompress(&batch.zstd, 64 * 1024).unwrap();
        let batch = v1::Batch::decode(&*plain).unwrap();
        assert_eq!(batch.messages.len(), 50);
    }
}
