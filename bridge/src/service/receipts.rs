//! Who has received and read a message. It follows from where members stand; nothing is stored for it.
//!
//! Live: the pipeline hands on who has moved once that is committed ([`Moves`]); `collected` puts it together by
//! conversation, and `teller` tells those who have written what was reached, in one event for many members. What is
//! told may be behind by some hundred milliseconds, more the busier the server is, and is lost with a crash: who wants to
//! know asks ([`of_message`]).

mod collected;
mod memory;
mod teller;

use schema::{Uid, v1};

use super::refused::Refused;
use crate::store::devices::Cursor;
use crate::store::looks;
use crate::store::receipts::{self, Position};
use crate::store::{self, Store};

pub(super) use teller::Teller;

/// Who has moved, of what has just been committed.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Devices that have acknowledged; their members may have been there before.
    pub(super) cursors: Vec<Cursor>,
    /// Users who have read.
    pub(super) reads: Vec<Read>,
}

impl Moves {
    pub(super) fn is_empty(&self) -> bool {
        self.cursors.is_empty() && self.reads.is_empty()
    }
}

/// A user has read a part of a conversation.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) conversation_id: i64,
    pub(super) uid: Uid,
    /// Where the user stood before.
    pub(super) from_seq: u32,
}

/// How far everybody is for whom the caller's message was. A message of somebody else looks like none.
pub(super) async fn of_message(
    store: &Store,
    caller: &Uid,
    msg_id: u64,
) -> Result<Result<v1::Ok, Refused>, store::Error> {
    let db = store.reader();
    let Some(sent) = receipts::sent(db, caller, msg_id).await? else {
        return Ok(Err(Refused::not_found("there is no such message of yours")));
    };
    let seq = sent.seq;
    let mut members = receipts::audience(db, sent.conversation_id, seq, caller).await?;
    let is_direct = sent.conversation.starts_with("u:");
    for member in &mut members {
        if is_direct && looks::is_blocked(db, caller, &member.uid).await? {
            // The same whichever message is asked about, so that nobody learns since when he is not heard.
            let heard = receipts::newest_heard(db, sent.conversation_id, caller).await?;
            member.acked = member.acked.min(heard);
            member.read = member.read.min(heard);
        }
        if sent.hidden_from.as_deref() == Some(member.uid.as_str()) {
            // Later messages move the positions of one who never got this one.
            member.acked = member.acked.min(seq - 1);
            member.read = member.read.min(seq - 1);
        }
    }
    let count = |reached: fn(&Position) -> u32| {
        let there = members.iter().filter(|member| reached(member) >= seq);
        u32::try_from(there.count()).unwrap_or(u32::MAX)
    };
    Ok(Ok(v1::Ok {
        msg_id,
        conversation: sent.conversation.clone(),
        seq,
        answer: Some(v1::ok::Answer::Receipts(Box::new(v1::Receipts {
            read_count: count(|member| member.read),
            delivered_count: count(Position::delivered),
            conversation: sent.conversation,
            msg_id,
            seq,
            members: members.iter().map(receipt).collect(),
        }))),
        ..Default::default()
    }))
}

fn receipt(position: &Position) -> v1::Receipt {
    v1::Receipt {
        uid: position.uid.to_string(),
        delivered_seq: position.delivered(),
        read_seq: position.read,
    }
}
