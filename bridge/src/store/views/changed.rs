//! Earlier messages of a conversation that something has happened to.

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, QueryResult};

use super::conversation::Membership;
use super::{MESSAGE_COLUMNS, VISIBLE, message, seq};
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
    let limit = limit.min(MESSAGES_MAX);
    // One more, to learn whether there is more.
    let filter = format!(
        "k.change_number > ? ORDER BY k.change_number, k.seq LIMIT {}",
        limit + 1
    );
    let mut rows = rows(db, uid, membership, after, &filter).await?;
    let (limit, newest) = (limit as usize, membership.changes);
    if rows.len() <= limit {
        let last = rows.last().map(number).transpose()?;
        return page(
            &rows,
            membership,
            bytes_max,
            last.unwrap_or(after).max(newest),
        );
    }
    // A page ends between two changes: one that concerned several messages is not torn apart.
    let next = number(&rows[limit])?;
    rows.truncate(limit);
    while let Some(last) = rows.last()
        && number(last)? == next
    {
        rows.pop();
    }
    if rows.is_empty() {
        rows = self::rows(
            db,
            uid,
            membership,
            next,
            "k.change_number = ? ORDER BY k.seq",
        )
        .await?;
    }
    let last = rows.last().map(number).transpose()?;
    let mut page = page(&rows, membership, bytes_max, last.unwrap_or(next))?;
    page.more = true;
    Ok(page)
}

async fn rows<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    membership: &Membership,
    change_number: u32,
    filter: &str,
) -> Result<Vec<QueryResult>, Error> {
    let text = format!(
        "SELECT k.change_number, {MESSAGE_COLUMNS} FROM changed_messages k
        JOIN messages x ON x.msg_id = k.msg_id
        JOIN members m ON m.conversation_id = k.conversation_id AND m.uid = ?
        WHERE k.conversation_id = ? AND x.seq > m.visible_seq AND {VISIBLE} AND {filter}"
    );
    let values = [
        uid.as_str().into(),
        membership.conversation_id.into(),
        i32::try_from(change_number).unwrap_or(i32::MAX).into(),
    ];
    Ok(sql::query(db, &text, values).await?)
}

/// The rows as far as `bytes_max` goes; it ends between two changes, and has one change at least.
fn page(
    rows: &[QueryResult],
    membership: &Membership,
    bytes_max: usize,
    changes: u32,
) -> Result<Changed, Error> {
    let mut page = Changed {
        changes,
        ..Changed::default()
    };
    let (mut bytes, mut before) = (0, None);
    for row in rows {
        let number = number(row)?;
        if let Some(before) = before
            && before != number
            && bytes >= bytes_max
        {
            page.more = true;
            page.changes = before;
            break;
        }
        before = Some(number);
        let message = message(row, &membership.name)?;
        bytes += prost::Message::encoded_len(&message);
        page.messages.push(message);
    }
    Ok(page)
}

fn number(row: &QueryResult) -> Result<u32, Error> {
    Ok(seq(row, "change_number")?)
}
