//! Earlier messages of a conversation that something has happened to.

use std::collections::HashMap;

use prost::Message as _;
use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::archived::archived_messages;
use super::conversation::Membership;
use super::history::messages_by_id;
use super::{seq, unsigned, visible_to};
use crate::store::{Error, Store, sql};

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

/// A message's last change.
struct Change {
    /// The conversation's `changes` then.
    number: u32,
    msg_id: u64,
    seq: u32,
}

/// What has happened in a conversation after a value of its `changes`, as far as its member `uid` may see the messages.
///
/// # Errors
/// [`Error`] when the database or the archive can't answer.
pub async fn changed_messages(
    store: &Store,
    uid: &Uid,
    membership: &Membership,
    after: u32,
    limit: u32,
    bytes_max: usize,
) -> Result<Changed, Error> {
    let db = store.reader();
    let limit = limit.min(MESSAGES_MAX) as usize;
    // One more, to learn whether there is more.
    let filter = format!(
        "k.change_number > ? ORDER BY k.change_number, k.seq LIMIT {}",
        limit + 1
    );
    let mut changes = changes(db, uid, membership, after, &filter).await?;
    let mut more = false;
    if let Some(next) = changes.get(limit).map(|change| change.number) {
        // A page ends between two changes: one that concerned several messages is not torn apart.
        more = true;
        changes.retain(|change| change.number < next);
        if changes.is_empty() {
            let filter = "k.change_number = ? ORDER BY k.seq";
            changes = self::changes(db, uid, membership, next, filter).await?;
        }
    }
    let last = changes.last().map_or(after, |change| change.number);
    let mut messages = now(store, uid, membership, &changes).await?;
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
    for change in changes.chunk_by(|one, other| one.number == other.number) {
        if bytes >= bytes_max && !page.messages.is_empty() {
            page.more = true;
            // The change before this one, or any number between the two.
            page.changes = change[0].number - 1;
            break;
        }
        for Change { msg_id, .. } in change {
            if let Some(mut message) = messages.remove(msg_id) {
                message.conversation.clone_from(&membership.name);
                bytes += message.encoded_len();
                page.messages.push(message);
            }
        }
    }
    Ok(page)
}

/// The messages as they are now, by id: rows first, then those that are in files.
async fn now(
    store: &Store,
    uid: &Uid,
    membership: &Membership,
    changes: &[Change],
) -> Result<HashMap<u64, v1::Message>, Error> {
    let ids: Vec<u64> = changes.iter().map(|change| change.msg_id).collect();
    let mut messages = messages_by_id(store.reader(), uid, &ids).await?;
    let missing = changes
        .iter()
        .filter(|change| !messages.contains_key(&change.msg_id));
    let missing: Vec<u32> = missing.map(|change| change.seq).collect();
    if !missing.is_empty() {
        let conversation = (membership.conversation_id, membership.name.as_str());
        let found = archived_messages(store, uid, conversation, &missing).await?;
        messages.extend(found.into_iter().map(|message| (message.msg_id, message)));
    }
    Ok(messages)
}

async fn changes<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    membership: &Membership,
    change_number: u32,
    filter: &str,
) -> Result<Vec<Change>, Error> {
    let text = format!(
        "SELECT k.change_number, k.msg_id, k.seq FROM changed_messages k
        LEFT JOIN messages x ON x.msg_id = k.msg_id
        JOIN members m ON m.conversation_id = k.conversation_id AND m.uid = ?
        WHERE k.conversation_id = ? AND k.seq > m.visible_seq AND {} AND {filter}",
        visible_to("m.uid")
    );
    let values = [
        uid.as_str().into(),
        membership.conversation_id.into(),
        i32::try_from(change_number).unwrap_or(i32::MAX).into(),
    ];
    let change = |row: &QueryResult| {
        Ok(Change {
            number: seq(row, "change_number")?,
            msg_id: unsigned(row, "msg_id")?,
            seq: seq(row, "seq")?,
        })
    };
    let rows = sql::query(db, &text, values).await?;
    let changes: Result<_, DbErr> = rows.iter().map(change).collect();
    Ok(changes?)
}
