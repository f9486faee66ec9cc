//! What people look at: conversations, pages of history, groups, contacts, users. Reads only.
//!
//! Whoever reads messages for a user goes through `message`, which says nothing of what is gone, and asks for
//! `visible_to`, so that nobody gets what is not his to see.

mod archived;
mod changed;
mod contact;
mod conversation;
mod conversation_list;
mod found;
mod group;
mod history;
mod kept_list;
mod media;
mod reactions;
mod recent;
mod seen;
mod user;

pub use archived::{AtHand, archived_at_hand, archived_messages, archived_revisions};
pub use changed::{Changed, changed_messages};
pub use contact::{ContactPage, Which, contacts};
pub use conversation::{
    Conversation, Membership, Reader, conversations, departed, membership, reader,
};
pub use conversation_list::{Asked, List, PageKey, list};
pub use found::{Place, Room, rooms, visible};
pub(super) use group::described;
pub use group::{MEMBERS_TOLD, PINS_MAX, group, group_about, group_of};
pub use history::{Page, Range, history, members_messages_by_id, messages_by_id};
pub use media::{MEDIA_KINDS, Medium, media, media_messages};
pub use reactions::reactions;
pub use recent::page;
pub use seen::{Expired, Seen, expired, repliable, seen};
pub use user::{find_users, profile, users};

use std::time::SystemTime;

use schema::{MsgId, Timestamp, v1};
use sea_orm::{DbErr, QueryResult};

use super::operations::Gone;
use crate::clock;

/// The columns of `messages` that make a [`v1::Message`], under the alias `x`.
const MESSAGE_COLUMNS: &str = "x.msg_id, x.seq, x.sender, x.sender_device, x.client_msg_id, x.client_seq, \
     x.kind, x.content, x.state, x.edited_at, x.expires_at";

/// Which of the messages `x` above a member's `visible_seq` are there for `who`: a column with the uid, or `?` twice.
pub(super) fn visible_to(who: &str) -> String {
    format!(
        "(x.hidden_from IS NULL OR x.hidden_from <> {who}) AND NOT EXISTS (SELECT 1 FROM hidden_messages h
        WHERE h.uid = {who} AND h.conversation_id = x.conversation_id AND h.seq = x.seq)"
    )
}

/// A message of the conversation with that name, as it is now. Of one that is gone nothing is left but its place.
fn message(row: &QueryResult, conversation: &str) -> Result<v1::Message, DbErr> {
    let expires_at: Option<i64> = row.try_get("", "expires_at")?;
    let gone = gone(row, expires_at)?;
    let mut message = v1::Message {
        expires_at: expires_at.map(Timestamp::from_millis),
        gone: gone.map(Gone::as_str).unwrap_or_default().to_owned(),
        ..bare_message(row, conversation)?
    };
    if gone.is_none() {
        read_content(row, &mut message)?;
        let edited_at: Option<i64> = row.try_get("", "edited_at")?;
        message.edited_at = edited_at.map(Timestamp::from_millis);
    }
    Ok(message)
}

/// A message without anything that can change.
fn bare_message(row: &QueryResult, conversation: &str) -> Result<v1::Message, DbErr> {
    let msg_id = unsigned(row, "msg_id")?;
    let client_msg_id: Option<String> = row.try_get("", "client_msg_id")?;
    Ok(v1::Message {
        msg_id,
        conversation: conversation.to_owned(),
        seq: seq(row, "seq")?,
        sender: row.try_get("", "sender")?,
        sender_device: row.try_get("", "sender_device")?,
        client_msg_id: client_msg_id.unwrap_or_default(),
        client_seq: unsigned(row, "client_seq")?,
        kind: row.try_get("", "kind")?,
        sent_at: Some(MsgId(msg_id).timestamp()),
        ..Default::default()
    })
}

fn read_content(row: &QueryResult, message: &mut v1::Message) -> Result<(), DbErr> {
    let content: Vec<u8> = row.try_get("", "content")?;
    let msg_id = message.msg_id;
    crate::content::decode(&content, message)
        .map_err(|error| DbErr::Type(format!("content of message {msg_id}: {error}")))
}

/// Why there is no content any more. What has run out is gone, even where it has not been taken away yet.
fn gone(row: &QueryResult, expires_at: Option<i64>) -> Result<Option<Gone>, DbErr> {
    let gone = Gone::of_state(row.try_get("", "state")?);
    let has_run_out = || expires_at.is_some_and(|at| at <= clock::millis(SystemTime::now()));
    Ok(gone.or_else(|| has_run_out().then_some(Gone::Expired)))
}

/// A column that counts messages.
fn seq(row: &QueryResult, column: &str) -> Result<u32, DbErr> {
    let value: i32 = row.try_get("", column)?;
    u32::try_from(value).map_err(|_| DbErr::Type(format!("{column} is negative: {value}")))
}

/// A 64-bit column whose bits are an unsigned number's; the database has only signed ones.
fn unsigned(row: &QueryResult, column: &str) -> Result<u64, DbErr> {
    let value: i64 = row.try_get("", column)?;
    Ok(value.cast_unsigned())
}

#[cfg(test)]
mod tests;
