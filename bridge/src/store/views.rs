//! What people look at: conversations, pages of history, groups. Reads only.

mod changed;
mod conversation;
mod conversation_list;
mod group;
mod history;

pub use changed::{Changed, changed_messages};
pub use conversation::{Conversation, Membership, conversations, departed, membership};
pub use conversation_list::{Asked, Listed, PageKey, list, unread_total};
pub use group::group;
pub use history::{Page, Range, history, messages_by_id};

use schema::{MsgId, v1};
use sea_orm::{DbErr, QueryResult};

/// The columns of `messages` that make a [`v1::Message`], under the alias `x`.
const MESSAGE_COLUMNS: &str = "x.msg_id, x.seq, x.sender, x.sender_device, x.client_msg_id, x.client_seq, \
     x.kind, x.content";

/// Which of the messages `x` above a member's `visible_seq` are there for `who`: a column with the uid, or `?` twice.
fn visible_to(who: &str) -> String {
    format!(
        "(x.hidden_from IS NULL OR x.hidden_from <> {who}) AND NOT EXISTS (SELECT 1 FROM hidden_messages h
        WHERE h.uid = {who} AND h.conversation_id = x.conversation_id AND h.seq = x.seq)"
    )
}

/// A message of the conversation with that name.
fn message(row: &QueryResult, conversation: &str) -> Result<v1::Message, DbErr> {
    let msg_id = unsigned(row, "msg_id")?;
    let client_msg_id: Option<String> = row.try_get("", "client_msg_id")?;
    let mut message = v1::Message {
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
    };
    let content: Vec<u8> = row.try_get("", "content")?;
    crate::content::decode(&content, &mut message)
        .map_err(|error| DbErr::Type(format!("content of message {msg_id}: {error}")))?;
    Ok(message)
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
