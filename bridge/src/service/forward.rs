//! Forwarding: copies of messages that the sender can see.

use std::sync::Arc;

use prost::Message as _;
use schema::v1;

use super::job::Job;
use super::rates::Rates;
use super::refused::Refused;
use super::send::{LookedUp, MERGED, SYSTEM, Send};
use super::single::Failed;
use super::{Limits, archived};
use crate::code::Code;
use crate::content;
use crate::store::{self, Store, Transaction, views};

/// Messages that are forwarded together.
const MESSAGES_MAX: usize = 100;
/// Longest title, in characters.
const TITLE_MAX: usize = 255;
/// How deep merged messages are in each other.
const DEPTH_MAX: usize = 3;
/// What is copied may be so many times as large as a text.
const SIZE_FACTOR: usize = 4;
/// Bytes that one transaction reads in order to copy them: a command of some bytes must not make it do much.
const READ_MAX: usize = 16 * 1024 * 1024;

/// Which messages are copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Their ids, each once.
    pub msg_ids: Vec<u64>,
    /// For people, above several.
    pub title: String,
}

/// A content that stood elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Copied {
    pub(super) kind: String,
    pub(super) content: v1::message::Content,
    /// Where it comes from, if it is one message's.
    pub(super) forwarded: Option<Box<v1::Forwarded>>,
    /// What is stored as a blob.
    pub(super) stored: Vec<u8>,
}

/// Checks what is to be forwarded.
///
/// # Errors
/// [`Code::InvalidArgument`] or [`Code::TooLarge`].
pub(super) fn check(asked: v1::Forward) -> Result<Forward, Refused> {
    if asked.msg_ids.is_empty() {
        return Err(Refused::invalid("there is nothing to forward"));
    }
    if asked.msg_ids.len() > MESSAGES_MAX || asked.title.chars().count() > TITLE_MAX {
        let reason = "at most 100 messages are forwarded together, with a title of 255 characters";
        return Err(Refused::new(Code::TooLarge, reason));
    }
    let mut sorted = asked.msg_ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < asked.msg_ids.len() {
        return Err(Refused::invalid("a message is named twice"));
    }
    Ok(Forward {
        msg_ids: asked.msg_ids,
        title: asked.title,
    })
}

/// Copies what the sends forward.
pub(super) async fn copy(
    store: &Store,
    tx: &Transaction,
    sends: &[(&Job, &Send)],
    limits: &Limits,
    looked_up: &mut LookedUp,
) -> Result<(), store::Error> {
    let mut bytes = 0;
    for (index, (job, send)) in sends.iter().enumerate() {
        let special = send.special.as_deref();
        let Some(forward) = special.and_then(|special| special.forward.as_ref()) else {
            continue;
        };
        // What was scheduled can't be told to come again, and comes in small portions.
        let is_scheduled = special.is_some_and(|special| special.scheduled.is_some());
        if looked_up.refused.contains_key(&index) || looked_up.settled.contains(&index) {
            continue;
        }
        if bytes >= READ_MAX && !is_scheduled {
            let reason = "too much is being forwarded";
            let refused = Refused::new(Code::Unavailable, reason);
            looked_up.refused.insert(index, refused);
            continue;
        }
        let seen = views::seen(tx, &job.caller.uid, &forward.msg_ids).await?;
        let originals = seen.into_iter().map(|seen| seen.message);
        let mut originals: Vec<v1::Message> = originals.collect();
        match in_files(store, tx, job, forward, &originals, &limits.rates).await {
            Ok(archived) => originals.extend(archived),
            Err(Failed::Refused(refused)) => {
                looked_up.refused.insert(index, refused);
                continue;
            }
            Err(Failed::Store(error)) => return Err(error),
        }
        bytes += originals
            .iter()
            .map(v1::Message::encoded_len)
            .sum::<usize>();
        match copied(forward, originals, send, limits.text_max * SIZE_FACTOR) {
            Ok(copied) => {
                looked_up.copied.insert(index, Arc::new(copied));
            }
            Err(refused) => {
                looked_up.refused.insert(index, refused);
            }
        }
    }
    Ok(())
}

/// Those of the messages that are in files.
async fn in_files(
    store: &Store,
    tx: &Transaction,
    job: &Job,
    forward: &Forward,
    rows: &[v1::Message],
    rates: &Rates,
) -> Result<Vec<v1::Message>, Failed> {
    let is_row = |msg_id: &u64| rows.iter().any(|row| row.msg_id == *msg_id);
    let missing = forward.msg_ids.iter().filter(|msg_id| !is_row(msg_id));
    let missing: Vec<u64> = missing.copied().collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let uid = &job.caller.uid;
    let found = archived::find(rates, tx, uid, &missing).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    Ok(archived::at_hand(store, tx, uid, &found).await??)
}

/// The copy of the messages that were found.
fn copied(
    forward: &Forward,
    mut originals: Vec<v1::Message>,
    send: &Send,
    size_max: usize,
) -> Result<Copied, Refused> {
    if originals.len() < forward.msg_ids.len() {
        return Err(Refused::not_found("there is no such message"));
    }
    if originals.iter().any(|original| !original.gone.is_empty()) {
        let reason = "there is nothing left of a message";
        return Err(Refused::new(Code::Conflict, reason));
    }
    if originals
        .iter()
        .any(|original| original.expires_at.is_some())
    {
        let reason = "what disappears is not forwarded";
        return Err(Refused::new(Code::Conflict, reason));
    }
    if originals.iter().any(|original| original.kind == SYSTEM) {
        let reason = "what the server says is not forwarded";
        return Err(Refused::new(Code::Conflict, reason));
    }
    let place = |id: u64| forward.msg_ids.iter().position(|asked| *asked == id);
    originals.sort_by_key(|original| place(original.msg_id));
    let (kind, content, forwarded) = if originals.len() == 1 {
        single(originals.remove(0))?
    } else {
        merged(forward, originals)?
    };
    let message = v1::Message {
        content: Some(content.clone()),
        reply_to: send.reply_to,
        mentions: send.mentions.clone(),
        forwarded: forwarded.clone(),
        ..Default::default()
    };
    let stored = content::encode_message(&message);
    if stored.len() > size_max {
        let reason = format!("what is forwarded has more than {size_max} bytes");
        return Err(Refused::new(Code::TooLarge, reason));
    }
    Ok(Copied {
        kind,
        content,
        forwarded,
        stored,
    })
}

type Parts = (String, v1::message::Content, Option<Box<v1::Forwarded>>);

fn single(original: v1::Message) -> Result<Parts, Refused> {
    let (content, author) = take_apart(original)?;
    let forwarded = v1::Forwarded {
        sender: author.sender,
        sent_at: author.sent_at,
    };
    Ok((author.kind, content, Some(Box::new(forwarded))))
}

fn merged(forward: &Forward, originals: Vec<v1::Message>) -> Result<Parts, Refused> {
    let mut messages = Vec::with_capacity(originals.len());
    for original in originals {
        let (content, author) = take_apart(original)?;
        messages.push(v1::Message {
            content: Some(content),
            ..author
        });
    }
    let merged = v1::Merged {
        title: forward.title.clone(),
        messages,
    };
    if depth(&merged) > DEPTH_MAX {
        let reason = "merged messages are at most 3 deep in each other";
        return Err(Refused::new(Code::TooLarge, reason));
    }
    let content = v1::message::Content::Merged(Box::new(merged));
    Ok((MERGED.to_owned(), content, None))
}

/// A message's content; and its kind with who wrote it, and when. Of one that was forwarded, its first author.
fn take_apart(original: v1::Message) -> Result<(v1::message::Content, v1::Message), Refused> {
    let Some(content) = original.content else {
        let reason = "there is nothing left of a message";
        return Err(Refused::new(Code::Conflict, reason));
    };
    let (sender, sent_at) = match original.forwarded {
        Some(forwarded) => (forwarded.sender, forwarded.sent_at),
        None => (original.sender, original.sent_at),
    };
    let author = v1::Message {
        kind: original.kind,
        sender,
        sent_at,
        ..Default::default()
    };
    Ok((content, author))
}

fn depth(merged: &v1::Merged) -> usize {
    let inner = merged
        .messages
        .iter()
        .map(|message| match &message.content {
            Some(v1::message::Content::Merged(inner)) => depth(inner),
            _ => 0,
        });
    1 + inner.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(msg_id: u64, sender: &str) -> v1::Message {
        v1::Message {
            msg_id,
            sender: sender.to_owned(),
            kind: "text".to_owned(),
            content: Some(v1::message::Content::Text(format!("text {msg_id}"))),
            reply_to: 9,
            mentions: vec!["carol".to_owned()],
            sent_at: Some(schema::MsgId(msg_id).timestamp()),
            ..Default::default()
        }
    }

    fn send() -> Send {
        Send {
            conversation: "g:team".parse().unwrap(),
            name: "g:team".to_owned(),
            kind: String::new(),
            content: None,
            reply_to: 4,
            mentions: Vec::new(),
            client_seq: 0,
            stored: Vec::new(),
            special: None,
        }
    }

    fn forward(msg_ids: &[u64]) -> Forward {
        Forward {
            msg_ids: msg_ids.to_vec(),
            title: "What they said".to_owned(),
        }
    }

    fn copy_of(originals: &[v1::Message]) -> Result<Copied, Refused> {
        let ids: Vec<u64> = originals.iter().map(|message| message.msg_id).collect();
        copied(&forward(&ids), originals.to_vec(), &send(), 1 << 16)
    }

    /// Whoever forwards what was forwarded names its first author; nothing else of the original is copied.
    #[test]
    fn one_message_keeps_its_author() {
        let copy = copy_of(&[text(1, "alice")]).unwrap();
        assert_eq!(copy.kind, "text");
        let mut stored = v1::Message {
            msg_id: 2,
            sender: "bob".to_owned(),
            kind: copy.kind.clone(),
            ..Default::default()
        };
        content::decode(&copy.stored, &mut stored).unwrap();
        assert_eq!((stored.reply_to, stored.mentions.len()), (4, 0));
        let again = copy_of(&[stored]).unwrap();
        assert_eq!(again.forwarded, copy.forwarded);
        assert_eq!(again.forwarded.unwrap().sender, "alice");
        assert_eq!(again.content, copy.content);
    }

    #[test]
    fn several_messages_are_one_in_the_order_asked_for() {
        let found = vec![text(1, "alice"), text(2, "bob")];
        let copy = copied(&forward(&[2, 1]), found, &send(), 1 << 16).unwrap();
        assert_eq!((copy.kind.as_str(), copy.forwarded), (MERGED, None));
        let v1::message::Content::Merged(merged) = copy.content else {
            panic!("not merged");
        };
        assert_eq!(merged.title, "What they said");
        let senders: Vec<&str> = merged
            .messages
            .iter()
            .map(|it| it.sender.as_str())
            .collect();
        assert_eq!(senders, ["bob", "alice"]);
        assert_eq!(
            (merged.messages[0].msg_id, merged.messages[0].reply_to),
            (0, 0)
        );
    }

    #[test]
    fn what_can_not_be_copied_is_refused() {
        let gone = v1::Message {
            gone: "recalled".to_owned(),
            content: None,
            ..text(1, "alice")
        };
        let system = v1::Message {
            kind: SYSTEM.to_owned(),
            ..text(1, "alice")
        };
        for (name, ids, originals, size_max, code) in [
            (
                "unknown",
                vec![1, 2],
                vec![text(1, "a")],
                999,
                Code::NotFound,
            ),
            ("gone", vec![1], vec![gone], 999, Code::Conflict),
            ("system", vec![1], vec![system], 999, Code::Conflict),
            ("large", vec![1], vec![text(1, "a")], 5, Code::TooLarge),
        ] {
            let refused = copied(&forward(&ids), originals, &send(), size_max).unwrap_err();
            assert_eq!(refused.code, code, "{name}");
        }
        let mut nested = text(1, "alice");
        for level in 1..=DEPTH_MAX {
            let copy = copy_of(&[nested, text(2, "bob")]).unwrap();
            nested = v1::Message {
                kind: copy.kind,
                content: Some(copy.content),
                ..text(100 + level as u64, "alice")
            };
        }
        let refused = copy_of(&[nested.clone(), text(2, "bob")]).unwrap_err();
        assert_eq!(refused.code, Code::TooLarge);
        copy_of(&[nested]).expect("alone it stays as deep as it is");
    }
}
