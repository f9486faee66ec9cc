//! The conversations that a user is in.

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{MESSAGE_COLUMNS, message, seq};
use crate::clock;
use crate::store::{Error, sql};

/// Where a member stands in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The conversation's key in the database.
    pub conversation_id: i64,
    /// owner, admin or member
    pub role: String,
    /// Only messages with a greater seq are the member's to see.
    pub visible_seq: u32,
    /// The conversation's newest message.
    pub last_seq: u32,
    /// How far the user has read.
    pub last_read_seq: u32,
    /// Messages of others that the user has not read.
    pub unread: u32,
}

/// A conversation as one of its members sees it.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// `u:{a}:{b}` or `g:{gid}`
    pub name: String,
    /// Where the user stands.
    pub membership: Membership,
    /// The newest message that the user may see.
    pub last_message: Option<v1::Message>,
}

const MEMBERSHIP_COLUMNS: &str =
    "c.id, c.last_seq, m.role, m.visible_seq, m.last_read_seq, m.sent, m.sent_read";

/// All conversations of a user, latest activity first.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn conversations<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
) -> Result<Vec<Conversation>, Error> {
    let text = format!(
        "SELECT {MEMBERSHIP_COLUMNS}, c.name, c.created_at, {MESSAGE_COLUMNS}
        FROM members m
        JOIN conversations c ON c.id = m.conversation_id
        LEFT JOIN messages x ON x.conversation_id = c.id AND x.seq = c.last_seq AND x.seq > m.visible_seq
        WHERE m.uid = ?"
    );
    let rows = sql::query(db, &text, [uid.as_str().into()]).await?;
    let mut dated = rows
        .iter()
        .map(dated_conversation)
        .collect::<Result<Vec<_>, _>>()?;
    dated.sort_by_key(|(activity, _)| std::cmp::Reverse(*activity));
    Ok(dated
        .into_iter()
        .map(|(_, conversation)| conversation)
        .collect())
}

/// Where a user stands in the conversation of that name; `None`: not a member, or no such conversation.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn membership<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    name: &str,
) -> Result<Option<Membership>, Error> {
    let text = format!(
        "SELECT {MEMBERSHIP_COLUMNS}
        FROM conversations c JOIN members m ON m.conversation_id = c.id
        WHERE c.name = ? AND m.uid = ?"
    );
    let row = sql::query_one(db, &text, [name.into(), uid.as_str().into()]).await?;
    Ok(row.as_ref().map(membership_of).transpose()?)
}

/// A conversation with the time of its latest activity, in milliseconds since 1970 and then by message.
fn dated_conversation(row: &QueryResult) -> Result<((i64, u64), Conversation), DbErr> {
    let name: String = row.try_get("", "name")?;
    let msg_id: Option<i64> = row.try_get("", "msg_id")?;
    let last_message = msg_id.map(|_| message(row, &name)).transpose()?;
    let activity = match &last_message {
        Some(last) => {
            let sent_at = schema::MsgId(last.msg_id).time();
            (clock::millis(sent_at), last.msg_id)
        }
        None => (row.try_get("", "created_at")?, 0),
    };
    let conversation = Conversation {
        name,
        membership: membership_of(row)?,
        last_message,
    };
    Ok((activity, conversation))
}

fn membership_of(row: &QueryResult) -> Result<Membership, DbErr> {
    let last_seq = seq(row, "last_seq")?;
    let last_read_seq = seq(row, "last_read_seq")?;
    let (sent, sent_read) = (seq(row, "sent")?, seq(row, "sent_read")?);
    let behind = last_seq.saturating_sub(last_read_seq);
    Ok(Membership {
        conversation_id: row.try_get("", "id")?,
        role: row.try_get("", "role")?,
        visible_seq: seq(row, "visible_seq")?,
        last_seq,
        last_read_seq,
        unread: behind.saturating_sub(sent.saturating_sub(sent_read)),
    })
}
