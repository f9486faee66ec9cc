//! What the `content` column of a message holds: the parts of a [`v1::Message`] that have no column of their own.

use prost::{DecodeError, Message as _};
use schema::v1;

/// Content, `reply_to` and mentions as one blob.
#[must_use]
pub fn encode(content: &v1::message::Content, reply_to: u64, mentions: &[String]) -> Vec<u8> {
    let stored = v1::Message {
        content: Some(content.clone()),
        reply_to,
        mentions: mentions.to_vec(),
        ..Default::default()
    };
    stored.encode_to_vec()
}

/// The same of a message that may hold somebody else's content.
#[must_use]
pub fn encode_message(message: &v1::Message) -> Vec<u8> {
    let stored = v1::Message {
        content: message.content.clone(),
        reply_to: message.reply_to,
        mentions: message.mentions.clone(),
        forwarded: message.forwarded.clone(),
        ..Default::default()
    };
    stored.encode_to_vec()
}

/// Adds what [`encode`] wrote to a message that has the rest.
///
/// # Errors
/// [`DecodeError`] when the blob is damaged.
pub fn decode(blob: &[u8], message: &mut v1::Message) -> Result<(), DecodeError> {
    message.merge(blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_comes_back_and_the_rest_stays() {
        let message = v1::Message {
            msg_id: 5,
            sender: "alice".into(),
            content: Some(v1::message::Content::Text("hi".into())),
            reply_to: 4,
            mentions: vec!["bob".into()],
            ..Default::default()
        };
        let mut read = v1::Message {
            msg_id: 5,
            sender: "alice".into(),
            ..Default::default()
        };
        let content = message.content.as_ref().unwrap();
        let stored = encode(content, message.reply_to, &message.mentions);
        decode(&stored, &mut read).unwrap();
        assert_eq!(read, message);
        assert!(decode(b"\xff", &mut read).is_err());
    }
}
