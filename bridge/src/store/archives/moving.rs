//! From rows to a file.
//!
//! The rows are read without a lock (`reading`), and taken away under the conversation's lock if nothing has happened to
//! them meanwhile, which `changed_messages` tells.

mod reading;

use schema::{archive, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

pub use reading::read_run;

use super::{Directory, NEWEST_KEPT, ids, strays};
use crate::content;
use crate::store::operations::{self, Place};
use crate::store::{Error, search, sql};

/// Fewer messages, or bytes, than this are left where they are until there are more.
const MESSAGES_MIN: usize = 50;
const BYTES_MIN: usize = 256 * 1024;

/// A conversation, with what tells whether it is worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its key in the database.
    pub conversation_id: i64,
    /// Its newest message.
    pub last_seq: u32,
    /// Messages up to here are in files already.
    pub archived_seq: u32,
    /// Counts what happens to its messages.
    pub changes: u32,
    /// The id of its oldest message that is a row; `None`: there are too few rows to be looked at.
    pub oldest_row: Option<u64>,
}

/// Fewer rows than this are never moved, whatever their age.
pub const ROWS_MIN: u32 = NEWEST_KEPT + MESSAGES_MIN as u32;

impl Candidate {
    /// Whether there are enough messages for a file, whatever their age.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.last_seq.saturating_sub(self.archived_seq) >= ROWS_MIN
    }

    /// Whether the oldest row has an id below this one.
    #[must_use]
    pub fn has_row_below(&self, msg_id: u64) -> bool {
        self.oldest_row.is_some_and(|oldest| oldest < msg_id)
    }
}

/// Conversations by their keys, the first `limit` ones after `after`. The oldest row is looked up of those with at least
/// `rows_min` rows: they may be far more than memory holds.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn candidates<C: ConnectionTrait>(
    db: &C,
    after: i64,
    limit: u32,
    rows_min: u32,
) -> Result<Vec<Candidate>, Error> {
    let text = format!(
        "SELECT c.id, c.last_seq, c.archived_seq, c.changes, CASE WHEN c.last_seq - c.archived_seq >= {rows_min} THEN (
            SELECT x.msg_id FROM messages x WHERE x.conversation_id = c.id ORDER BY x.seq LIMIT 1) END AS oldest_row
        FROM conversations c WHERE c.id > ? ORDER BY c.id LIMIT {limit}"
    );
    let rows = sql::query(db, &text, [after.into()]).await?;
    let count = |row: &QueryResult, column| row.try_get("", column).map(i32::cast_unsigned);
    let candidate = |row: &QueryResult| {
        let oldest_row: Option<i64> = row.try_get("", "oldest_row")?;
        Ok(Candidate {
            conversation_id: row.try_get("", "id")?,
            last_seq: count(row, "last_seq")?,
            archived_seq: count(row, "archived_seq")?,
            changes: count(row, "changes")?,
            oldest_row: oldest_row.map(i64::cast_unsigned),
        })
    };
    let candidates: Result<_, DbErr> = rows.iter().map(candidate).collect();
    Ok(candidates?)
}

/// The first of the newest messages that stay rows; `None`: all do.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn newest_kept<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
) -> Result<Option<u32>, Error> {
    let text = format!(
        "SELECT seq FROM messages WHERE conversation_id = ? AND hidden_from IS NULL
        ORDER BY seq DESC LIMIT {NEWEST_KEPT}"
    );
    let rows = sql::query(db, &text, [conversation_id.into()]).await?;
    let Some(first) = rows.get(NEWEST_KEPT as usize - 1) else {
        return Ok(None);
    };
    Ok(Some(first.try_get("", "seq").map(i32::cast_unsigned)?))
}

/// Messages that go to a file together.
#[derive(Clone, Debug)]
pub struct Run {
    conversation_id: i64,
    /// Where they begin: messages up to here are in files already.
    after: u32,
    last_seq: u32,
    /// What the conversation's `changes` were before they were read.
    changes: u32,
    /// What the file will hold.
    pub stored: archive::Run,
    /// What the database will know of them.
    pub directory: Directory,
    bytes: usize,
}

impl Run {
    /// The name of their object, which nobody gives twice.
    #[must_use]
    pub fn object(&self, nonce: u64) -> String {
        object_name(self.conversation_id, self.after + 1, self.last_seq, nonce)
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stored.messages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stored.messages.is_empty()
    }

    fn is_worth_a_file(&self) -> bool {
        self.len() >= MESSAGES_MIN || self.bytes >= BYTES_MIN
    }
}

/// The first part is spread evenly, so that stores which divide their load by name can do so.
pub(super) fn object_name(conversation_id: i64, first: u32, last: u32, nonce: u64) -> String {
    // A conversation's id ends with a counter.
    let part = conversation_id
        .cast_unsigned()
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        >> 56;
    format!("{part:02x}/{conversation_id:016x}/{first:08x}-{last:08x}-{nonce:016x}")
}

/// Names the object that holds the run, and takes the rows away. `false`: something has happened to them since they were
/// read, or somebody else was faster; nothing may be committed then.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn take<C: ConnectionTrait>(
    tx: &C,
    run: &Run,
    object: &str,
    bytes: usize,
) -> Result<bool, Error> {
    let id = run.conversation_id;
    let (after, last) = (run.after.cast_signed(), run.last_seq.cast_signed());
    if !is_unchanged(tx, run).await? || !strays::adopt(tx, object).await? {
        return Ok(false);
    }
    add_file(tx, run, object, bytes).await?;
    let text = "UPDATE conversations SET archived_seq = ? WHERE id = ?";
    sql::execute(tx, text, [last.into(), id.into()]).await?;
    let text = "DELETE FROM messages WHERE conversation_id = ? AND seq > ? AND seq <= ?";
    let taken = sql::execute(tx, text, [id.into(), after.into(), last.into()]).await?;
    if taken != run.len() as u64 {
        return Ok(false);
    }
    take_what_hangs_on(tx, run).await?;
    Ok(true)
}

/// Locks the conversation to the end of the transaction.
async fn is_unchanged<C: ConnectionTrait>(tx: &C, run: &Run) -> Result<bool, Error> {
    let text = format!(
        "SELECT archived_seq FROM conversations WHERE id = ?{}",
        sql::for_update(tx.get_database_backend())
    );
    let id = run.conversation_id;
    let row = sql::query_one(tx, &text, [id.into()]).await?;
    let archived: Option<i32> = row.map(|row| row.try_get("", "archived_seq")).transpose()?;
    if archived != Some(run.after.cast_signed()) {
        return Ok(false);
    }
    let text = "SELECT 1 FROM changed_messages
        WHERE conversation_id = ? AND change_number > ? AND seq > ? AND seq <= ? LIMIT 1";
    let values = [
        id.into(),
        run.changes.cast_signed().into(),
        run.after.cast_signed().into(),
        run.last_seq.cast_signed().into(),
    ];
    Ok(sql::query_one(tx, text, values).await?.is_none())
}

async fn add_file<C: ConnectionTrait>(
    tx: &C,
    run: &Run,
    object: &str,
    bytes: usize,
) -> Result<(), Error> {
    let (min_id, max_id) = run.directory.ids();
    let id = run.conversation_id;
    let text = "INSERT INTO archives (conversation_id, last_seq, first_seq, min_id, max_id, object, bytes, directory)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    let values = [
        id.into(),
        run.last_seq.cast_signed().into(),
        (run.after + 1).cast_signed().into(),
        min_id.cast_signed().into(),
        max_id.cast_signed().into(),
        object.into(),
        i32::try_from(bytes).unwrap_or(i32::MAX).into(),
        run.directory.encode().into(),
    ];
    sql::execute(tx, text, values).await?;
    let mut people = sql::Rows::new(3);
    for uid in run.directory.people() {
        people.push([
            uid.as_str().into(),
            id.into(),
            run.last_seq.cast_signed().into(),
        ]);
    }
    let text = "INSERT INTO archive_people (uid, conversation_id, last_seq) VALUES {rows}";
    sql::execute_rows(tx, text, people).await?;
    Ok(())
}

/// What is in the file now, and what nobody asks for of messages that are that old. What stays: which have changed, which
/// are media, which are pinned, and who has deleted which for himself.
async fn take_what_hangs_on<C: ConnectionTrait>(tx: &C, run: &Run) -> Result<(), Error> {
    let messages = &run.stored.messages;
    let reacted = messages
        .iter()
        .filter(|message| !message.reactions.is_empty());
    let reacted = ids(reacted.map(|message| message.msg_id));
    sql::execute_in(tx, "DELETE FROM reactions WHERE msg_id {in}", reacted).await?;
    let edited = messages
        .iter()
        .filter(|message| !message.revisions.is_empty());
    let edited = ids(edited.map(|message| message.msg_id));
    sql::execute_in(tx, "DELETE FROM revisions WHERE msg_id {in}", edited).await?;
    let mut mentioning = Vec::new();
    for message in messages {
        let place = Place {
            msg_id: message.msg_id,
            conversation_id: run.conversation_id,
            seq: message.seq,
        };
        mentioning.push((place, mentioned(&message.content)));
    }
    operations::forget_mentions(tx, &mentioning).await?;
    search::remove(tx, messages.iter().map(|message| message.msg_id)).await?;
    move_flags(tx, run).await
}

/// Whom the message mentions. A damaged one is moved all the same.
pub(super) fn mentioned(content: &[u8]) -> Vec<String> {
    let mut message = v1::Message::default();
    let decoded = content::decode(content, &mut message);
    decoded.map_or_else(|_| Vec::new(), |()| message.mentions)
}

/// Marks of the word filter go along.
async fn move_flags<C: ConnectionTrait>(tx: &C, run: &Run) -> Result<(), Error> {
    let messages = &run.stored.messages;
    let text = "SELECT msg_id FROM flags WHERE msg_id {in}";
    let all = ids(messages.iter().map(|message| message.msg_id));
    for row in sql::query_rows(tx, text, all).await? {
        let msg_id: i64 = row.try_get("", "msg_id")?;
        let entry = run.directory.by_id(msg_id.cast_unsigned());
        let seq = entry.map_or(0, |entry| entry.seq);
        let text = "UPDATE flags SET conversation_id = ?, seq = ? WHERE msg_id = ?";
        let values = [
            run.conversation_id.into(),
            seq.cast_signed().into(),
            msg_id.into(),
        ];
        sql::execute(tx, text, values).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_by_what_they_hold() {
        let name = object_name(0x1234_5678, 1, 1000, 0xabc);
        let (part, rest) = name.split_once('/').unwrap();
        assert_eq!(part.len(), 2);
        assert_eq!(rest, "0000000012345678/00000001-000003e8-0000000000000abc");
        assert!(name.len() <= 160);
    }
}
