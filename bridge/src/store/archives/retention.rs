//! Messages that are deleted for good, be they rows or in files.

use sea_orm::ConnectionTrait;

use super::{Order, between, ids, moving, rewriting, strays};
use crate::store::operations::{self, Place};
use crate::store::{Error, conversations, members, search, sql, users};

/// Rows that are dropped in one transaction.
const ROWS: usize = 500;
/// How long what was deleted may stay in an object of which other messages are still there: one file of a conversation is
/// written anew as often, and not every day.
const LEFT_FOR_MS: i64 = 30 * 24 * 3600 * 1000;

/// What is to be dropped next in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aged {
    conversation_id: i64,
    /// All messages up to this one.
    until: u32,
}

/// The oldest messages of a conversation, as far as their ids are smaller than `below_id`: those of one file, or some rows.
/// `None`: there are none.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn aged<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    below_id: u64,
) -> Result<Option<Aged>, Error> {
    let aged = |until| Aged {
        conversation_id,
        until,
    };
    let all = (0, i32::MAX.cast_unsigned());
    if let Some(file) = between(db, conversation_id, all, Order::OldestFirst).await? {
        let entries = file.directory.entries().iter();
        let old = entries.take_while(|entry| entry.msg_id < below_id);
        return Ok(old.last().map(|entry| aged(entry.seq)));
    }
    let text = format!(
        "SELECT seq, msg_id FROM messages WHERE conversation_id = ? ORDER BY seq LIMIT {ROWS}"
    );
    let mut until = None;
    for row in sql::query(db, &text, [conversation_id.into()]).await? {
        let (seq, msg_id): (i32, i64) = (row.try_get("", "seq")?, row.try_get("", "msg_id")?);
        if msg_id.cast_unsigned() >= below_id {
            break;
        }
        until = Some(seq.cast_unsigned());
    }
    Ok(until.map(aged))
}

/// Drops them, and returns how many they were. What members have not read of them is no longer unread, and nobody is behind for
/// their sake.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn drop_until<C: ConnectionTrait>(tx: &C, aged: &Aged, now: i64) -> Result<u64, Error> {
    let (id, until) = (aged.conversation_id, aged.until);
    conversations::lock(tx, &[id]).await?;
    // Who reads meanwhile is waited for: what counts is where the member stands by then.
    let text = format!(
        "SELECT uid, last_read_seq FROM members WHERE conversation_id = ? AND last_read_seq < ? ORDER BY uid{}",
        sql::for_update(tx.get_database_backend())
    );
    for row in sql::query(tx, &text, [id.into(), until.cast_signed().into()]).await? {
        let from: i32 = row.try_get("", "last_read_seq")?;
        let range = (from.cast_unsigned(), until);
        members::pass(tx, id, &users::uid(&row)?, range).await?;
    }
    members::hide_until(tx, id, until).await?;
    let in_files = drop_from_files(tx, aged, now).await?;
    let rows = drop_rows(tx, id, until).await?;
    let text = "DELETE FROM attachments WHERE conversation_id = ? AND seq <= ?";
    sql::execute(tx, text, [id.into(), until.cast_signed().into()]).await?;
    let text = "DELETE FROM hidden_messages WHERE conversation_id = ? AND seq <= ?
        AND uid IN (SELECT m.uid FROM members m WHERE m.conversation_id = ?)";
    let values = [id.into(), until.cast_signed().into(), id.into()];
    sql::execute(tx, text, values).await?;
    let text = "UPDATE conversations SET archived_seq = ? WHERE id = ? AND archived_seq < ?";
    let until = until.cast_signed();
    sql::execute(tx, text, [until.into(), id.into(), until.into()]).await?;
    Ok((in_files + rows) as u64)
}

async fn drop_from_files<C: ConnectionTrait>(
    tx: &C,
    aged: &Aged,
    now: i64,
) -> Result<usize, Error> {
    let mut count = 0;
    let id = aged.conversation_id;
    let range = (0, aged.until.saturating_add(1));
    while let Some(mut file) = between(tx, id, range, Order::OldestFirst).await? {
        let dropped = file.directory.entries().iter();
        let dropped = dropped.take_while(|entry| entry.seq <= aged.until);
        let dropped: Vec<u64> = dropped.map(|entry| entry.msg_id).collect();
        forget(tx, id, &dropped).await?;
        count += dropped.len();
        let last_seq = file.last_seq.cast_signed();
        if file.last_seq > aged.until {
            file.directory.drop_until(aged.until);
            file.first_seq = aged.until + 1;
            let text = "SELECT rewrite_at FROM archives WHERE conversation_id = ? AND last_seq = ?";
            let row = sql::query_one(tx, text, [id.into(), last_seq.into()]).await?;
            let rewrite_at: Option<i64> = match row {
                Some(row) => row.try_get("", "rewrite_at")?,
                None => None,
            };
            let rewrite_at = rewrite_at.unwrap_or(now + LEFT_FOR_MS);
            rewriting::note(tx, &file, Some(rewrite_at)).await?;
            break;
        }
        let text = "DELETE FROM archives WHERE conversation_id = ? AND last_seq = ?";
        sql::execute(tx, text, [id.into(), last_seq.into()]).await?;
        let mut people = sql::Rows::new(3);
        for uid in file.directory.people() {
            people.push([uid.as_str().into(), id.into(), last_seq.into()]);
        }
        let text = "DELETE FROM archive_people WHERE (uid, conversation_id, last_seq) {in}";
        sql::execute_in(tx, text, people).await?;
        strays::announce(tx, &file.object, now).await?;
    }
    Ok(count)
}

/// Deletes rows up to `until`, with all that hangs on them.
async fn drop_rows<C: ConnectionTrait>(
    tx: &C,
    conversation_id: i64,
    until: u32,
) -> Result<usize, Error> {
    let text = "SELECT msg_id, seq, content FROM messages WHERE conversation_id = ? AND seq <= ?";
    let values = || [conversation_id.into(), until.cast_signed().into()];
    let mut mentioning = Vec::new();
    for row in sql::query(tx, text, values()).await? {
        let (msg_id, seq): (i64, i32) = (row.try_get("", "msg_id")?, row.try_get("", "seq")?);
        let content: Vec<u8> = row.try_get("", "content")?;
        let place = Place {
            msg_id: msg_id.cast_unsigned(),
            conversation_id,
            seq: seq.cast_unsigned(),
        };
        mentioning.push((place, moving::mentioned(&content)));
    }
    let dropped = || mentioning.iter().map(|(place, _)| place.msg_id);
    for table in ["reactions", "revisions", "expiring"] {
        let text = format!("DELETE FROM {table} WHERE msg_id {{in}}");
        sql::execute_in(tx, &text, ids(dropped())).await?;
    }
    operations::forget_mentions(tx, &mentioning).await?;
    search::remove(tx, dropped()).await?;
    let dropped: Vec<u64> = dropped().collect();
    forget(tx, conversation_id, &dropped).await?;
    let text = "DELETE FROM messages WHERE conversation_id = ? AND seq <= ?";
    sql::execute(tx, text, values()).await?;
    Ok(dropped.len())
}

/// Forgets what is known of messages wherever they are.
async fn forget<C: ConnectionTrait>(
    tx: &C,
    conversation_id: i64,
    msg_ids: &[u64],
) -> Result<(), Error> {
    for table in ["changed_messages", "group_pins"] {
        let mut keys = sql::Rows::new(2);
        for msg_id in msg_ids {
            keys.push([conversation_id.into(), msg_id.cast_signed().into()]);
        }
        let text = format!("DELETE FROM {table} WHERE (conversation_id, msg_id) {{in}}");
        sql::execute_in(tx, &text, keys).await?;
    }
    let text = "DELETE FROM flags WHERE msg_id {in}";
    sql::execute_in(tx, text, ids(msg_ids.iter().copied())).await?;
    Ok(())
}
