//! Earlier messages of a conversation that something has happened to.

use prost::Message as _;
use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::conversation::Membership;
use super::history::messages_by_id;
use super::{seq, unsigned, visible_to};
use crate::store::{Error, sql};

/// Messages of a page at most, so that a page of large ones is not loaded many times over.
const MESSAGES_MAX: u32 = 64;

/// Messages as they are now, in the order of their changes.
#[derive(Debug, Default)]
pub struct Changed {
    /// The messages.
    pub messages: Vec<v1::Message>,
    /// Everything up to this value of the conversation's `changes` is among them.
    pub changes: u32,
    /// Whether there is more.
    pub more: bool,
}

/// A message's last change: the conversation's `changes` then, and the message's id.
type Change = (u32, u64);

/// What has happened in a conversation after a value of its `changes`, as far as its member `uid` may see the messages.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn changed_messages<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    membership: &Membership,
    after: u32,
    limit: u32,
    bytes_max: usize,
) -> Result<Changed, Error> {
    let limit = limit.min(MESSAGES_MAX) as usize;
    // One more, to learn whether there is more.
    let filter = format!(
        "k.change_number > ? ORDER BY k.change_number, k.seq LIMIT {}",
        limit + 1
    );
    let mut changes = changes(db, uid, membership, after, &filter).await?;
    let mut more = false;
    if let Some((next, _)) = changes.get(limit).copied() {
        // A page ends between two changes: one that concerned several messages is not torn apart.
        more = true;
        changes.retain(|(number, _)| *number < next);
        if changes.is_empty() {
            let filter = "k.change_number = ? ORDER BY k.seq";
            changes = self::changes(db, uid, membership, next, filter).await?;
        }
    }
    let last = changes.last().map_or(after, |(number, _)| *number);
    let ids: Vec<u64> = changes.iter().map(|(_, msg_id)| *msg_id).collect();
    let mut messages = messages_by_id(db, uid, &ids).await?;
    let mut page = Changed {
        changes: if more {
            last
        } else {
            last.max(membership.changes)
        },
        more,
        ..Changed::default()
    };
    let mut bytes = 0;
    for change in changes.chunk_by(|one, other| one.0 == other.0) {
        if bytes >= bytes_max && !page.messages.is_empty() {
            page.more = true;
            // The change before this one, or any number between the two.
            page.changes = change[0].0 - 1;
            break;
        }
        for (_, msg_id) in change {
            if let Some(mut message) = messages.remove(msg_id) {
                message.conversation.clone_from(&membership.name);
                bytes += message.encoded_len();
                page.messages.push(message);
            }
        }
    }
    Ok(page)
}

async fn changes<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    membership: &Membership,
    change_number: u32,
    filter: &str,
) -> Result<Vec<Change>, Error> {
    let text = format!(
        "SELECT k.change_number, k.msg_id FROM changed_messages k
        JOIN messages x ON x.msg_id = k.msg_id
        JOIN members m ON m.conversation_id = k.conversation_id AND m.uid = ?
        WHERE k.conversation_id = ? AND x.seq > m.visible_seq AND {} AND {filter}",
        visible_to("m.uid")
    );
    let values = [
        uid.as_str().into(),
        membership.conversation_id.into(),
        i32::try_from(change_number).unwrap_or(i32::MAX).into(),
    ];
    let change = |row: &QueryResult| Ok((seq(row, "change_number")?, unsigned(row, "msg_id")?));
    let rows = sql::query(db, &text, values).await?;
    let changes: Result<_, DbErr> = rows.iter().map(change).collect();
    Ok(changes?)
}
