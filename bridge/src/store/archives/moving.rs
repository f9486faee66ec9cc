//! From rows to a file.
//!
//! The rows are read without a lock, and taken away under the conversation's lock if nothing has happened to them
//! meanwhile, which `changed_messages` tells.

use std::collections::BTreeMap;

use schema::{archive, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Directory, NEWEST_KEPT, NewEntry, ids, strays};
use crate::content;
use crate::store::operations::{self, Gone, Place};
use crate::store::{Error, search, sql};

/// A file ends after so many messages, or with the one that brings it to so many bytes.
const MESSAGES_MAX: usize = 1000;
const BYTES_MAX: usize = 1024 * 1024;
/// Fewer messages, or bytes, than this are left where they are until there are more.
const MESSAGES_MIN: usize = 50;
const BYTES_MIN: usize = 256 * 1024;
/// Messages that are read at once: bodies may be large.
const STEP: usize = 250;
/// What a message takes in a file beside its content, about.
const ROW_BYTES: usize = 100;

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

/// The oldest rows of a conversation below `below_seq` and with ids below `below_id`, as far as they fit into a file, and
/// where they are enough for one. It ends before a message that is still to disappear.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn read_run<C: ConnectionTrait>(
    db: &C,
    candidate: &Candidate,
    below_seq: u32,
    below_id: u64,
) -> Result<Option<Run>, Error> {
    let mut rows: Vec<Row> = Vec::new();
    let mut bytes = 0;
    let mut after = candidate.archived_seq;
    'steps: loop {
        let step = read_rows(db, candidate.conversation_id, (after, below_seq)).await?;
        let is_last = step.len() < STEP;
        for row in step {
            let is_full = rows.len() >= MESSAGES_MAX || bytes >= BYTES_MAX;
            if is_full || row.stored.msg_id >= below_id || row.will_disappear {
                break 'steps;
            }
            after = row.stored.seq;
            bytes += row.stored.content.len() + ROW_BYTES;
            rows.push(row);
        }
        if is_last {
            break;
        }
    }
    add_reactions(db, &mut rows).await?;
    add_revisions(db, &mut rows).await?;
    let run = Run {
        conversation_id: candidate.conversation_id,
        after: candidate.archived_seq,
        last_seq: after,
        changes: candidate.changes,
        directory: directory(&rows),
        stored: archive::Run {
            conversation: candidate.conversation_id,
            messages: rows.into_iter().map(|row| row.stored).collect(),
        },
        bytes,
    };
    Ok(run.is_worth_a_file().then_some(run))
}

struct Row {
    stored: archive::Stored,
    gone: Option<Gone>,
    hidden_from: Option<String>,
    /// Its time has not run out.
    will_disappear: bool,
}

async fn read_rows<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    (after, below): (u32, u32),
) -> Result<Vec<Row>, Error> {
    let text = format!(
        "SELECT msg_id, seq, sender, sender_device, client_msg_id, client_seq, kind, content, state, edited_at,
            expires_at, hidden_from
        FROM messages WHERE conversation_id = ? AND seq > ? AND seq < ? ORDER BY seq LIMIT {STEP}"
    );
    let values = [
        conversation_id.into(),
        after.cast_signed().into(),
        below.cast_signed().into(),
    ];
    let rows = sql::query(db, &text, values).await?;
    Ok(rows.iter().map(row_of).collect::<Result<_, _>>()?)
}

fn row_of(row: &QueryResult) -> Result<Row, DbErr> {
    let gone = Gone::of_state(row.try_get("", "state")?);
    let expires_at: Option<i64> = row.try_get("", "expires_at")?;
    let client_msg_id: Option<String> = row.try_get("", "client_msg_id")?;
    let edited_at: Option<i64> = row.try_get("", "edited_at")?;
    let content: Vec<u8> = row.try_get("", "content")?;
    Ok(Row {
        stored: archive::Stored {
            msg_id: row.try_get("", "msg_id").map(i64::cast_unsigned)?,
            seq: row.try_get("", "seq").map(i32::cast_unsigned)?,
            sender: row.try_get("", "sender")?,
            sender_device: row.try_get("", "sender_device")?,
            client_msg_id: client_msg_id.unwrap_or_default(),
            client_seq: row.try_get("", "client_seq").map(i64::cast_unsigned)?,
            kind: row.try_get("", "kind")?,
            content: content.into(),
            edited_at: edited_at.unwrap_or_default(),
            ..Default::default()
        },
        gone,
        hidden_from: row.try_get("", "hidden_from")?,
        will_disappear: gone.is_none() && expires_at.is_some(),
    })
}

async fn add_reactions<C: ConnectionTrait>(db: &C, rows: &mut [Row]) -> Result<(), Error> {
    let text = "SELECT msg_id, emoji, uid, at FROM reactions WHERE msg_id {in}";
    let mut found: BTreeMap<u64, Vec<(i64, archive::Reaction)>> = BTreeMap::new();
    for row in sql::query_rows(db, text, ids_of(rows)).await? {
        let msg_id: i64 = row.try_get("", "msg_id")?;
        let reaction = archive::Reaction {
            emoji: row.try_get("", "emoji")?,
            uid: row.try_get("", "uid")?,
        };
        let reactions = found.entry(msg_id.cast_unsigned()).or_default();
        reactions.push((row.try_get("", "at")?, reaction));
    }
    for row in rows {
        if let Some(mut reactions) = found.remove(&row.stored.msg_id) {
            reactions.sort_by(|(at, one), (other_at, other)| {
                (at, &one.uid, &one.emoji).cmp(&(other_at, &other.uid, &other.emoji))
            });
            let reactions = reactions.into_iter().map(|(_, reaction)| reaction);
            row.stored.reactions = reactions.collect();
        }
    }
    Ok(())
}

async fn add_revisions<C: ConnectionTrait>(db: &C, rows: &mut [Row]) -> Result<(), Error> {
    // Only what was edited has any.
    let mut edited = sql::Rows::new(1);
    for row in rows.iter().filter(|row| row.stored.edited_at != 0) {
        edited.push([row.stored.msg_id.cast_signed().into()]);
    }
    let text = "SELECT msg_id, number, content, at FROM revisions WHERE msg_id {in}";
    let mut found: BTreeMap<(u64, i32), archive::Revision> = BTreeMap::new();
    for row in sql::query_rows(db, text, edited).await? {
        let msg_id: i64 = row.try_get("", "msg_id")?;
        let content: Vec<u8> = row.try_get("", "content")?;
        let revision = archive::Revision {
            content: content.into(),
            at: row.try_get("", "at")?,
        };
        found.insert(
            (msg_id.cast_unsigned(), row.try_get("", "number")?),
            revision,
        );
    }
    for row in rows {
        let id = row.stored.msg_id;
        let revisions = found.range((id, 0)..=(id, i32::MAX));
        row.stored.revisions = revisions.map(|(_, revision)| revision.clone()).collect();
    }
    Ok(())
}

fn ids_of(rows: &[Row]) -> sql::Rows {
    ids(rows.iter().map(|row| row.stored.msg_id))
}

fn directory(rows: &[Row]) -> Directory {
    let entries = rows.iter().map(|row| NewEntry {
        seq: row.stored.seq,
        msg_id: row.stored.msg_id,
        sender: &row.stored.sender,
        kind: &row.stored.kind,
        gone: row.gone,
        hidden_from: row.hidden_from.as_deref(),
    });
    let reactions = rows.iter().flat_map(|row| &row.stored.reactions);
    Directory::new(entries, reactions.map(|reaction| reaction.uid.as_str()))
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
