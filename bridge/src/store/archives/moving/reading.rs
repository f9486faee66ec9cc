//! What goes to a file together: messages with what they said before and who has reacted to them.

use std::collections::{BTreeMap, HashMap};

use schema::archive;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Candidate, Run};
use crate::store::archives::{Directory, NewEntry, ids};
use crate::store::operations::Gone;
use crate::store::{Error, sql};

/// A file ends after so many messages, or with the one that brings it to so many bytes.
const MESSAGES_MAX: usize = 1000;
const BYTES_MAX: usize = 1024 * 1024;
/// A message that takes more stays a row, and so do those after it: whoever reads one of a file's messages has all of the
/// file in memory. By default one takes a tenth of it at most.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages that are read at once: bodies may be large.
const STEP: usize = 250;
/// What a message takes in a file beside its content, about; and a revision or a reaction.
const ROW_BYTES: usize = 100;
const PART_BYTES: usize = 16;

/// The oldest rows of a conversation below `below_seq` and with ids below `below_id`, as far as they fit into a file, and
/// where they are enough for one. It ends before a message that is still to disappear, or is too large with all that
/// hangs on it.
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
        let mut step = read_rows(db, candidate.conversation_id, (after, below_seq)).await?;
        let is_last = step.len() < STEP;
        weigh(db, &mut step).await?;
        for row in step {
            let is_full = rows.len() >= MESSAGES_MAX || bytes >= BYTES_MAX;
            let stays = row.will_disappear || row.bytes > MESSAGE_BYTES_MAX;
            if is_full || row.stored.msg_id >= below_id || stays {
                break 'steps;
            }
            after = row.stored.seq;
            bytes += row.bytes;
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
    /// What it takes in a file, about, with its revisions and reactions.
    bytes: usize,
}

async fn read_rows<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    (after, below): (u32, u32),
) -> Result<Vec<Row>, Error> {
    let text = format!(
        "SELECT msg_id, seq, sender, sender_device, client_msg_id, client_seq, kind, content, state, edited_at,
            expires_at, hidden_from
        FROM messages WHERE {} ORDER BY conversation_id, seq LIMIT {STEP}",
        sql::between(db.get_database_backend(), "conversation_id", "seq")
    );
    let values = [
        conversation_id.into(),
        after.cast_signed().into(),
        conversation_id.into(),
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
        bytes: content.len() + ROW_BYTES,
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

/// Adds to the rows' bytes what revisions and reactions take. Those are read only when it is known that they fit: of one
/// message that was edited again and again they may be megabytes.
async fn weigh<C: ConnectionTrait>(db: &C, rows: &mut [Row]) -> Result<(), Error> {
    let mut bytes: HashMap<u64, i64> = HashMap::new();
    for (table, each, found) in [
        ("revisions", "LENGTH(content)", edited(rows)),
        ("reactions", "LENGTH(uid) + LENGTH(emoji)", ids_of(rows)),
    ] {
        let sum = sql::sum(db.get_database_backend(), &format!("{each} + {PART_BYTES}"));
        let text = format!(
            "SELECT msg_id, {sum} AS bytes FROM {table} WHERE msg_id {{in}} GROUP BY msg_id"
        );
        for row in sql::query_rows(db, &text, found).await? {
            let msg_id: i64 = row.try_get("", "msg_id")?;
            let sum: i64 = row.try_get("", "bytes")?;
            *bytes.entry(msg_id.cast_unsigned()).or_default() += sum;
        }
    }
    for row in rows {
        let more = bytes.remove(&row.stored.msg_id).unwrap_or_default();
        row.bytes += usize::try_from(more).unwrap_or(usize::MAX / 2);
    }
    Ok(())
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
    let text = "SELECT msg_id, number, content, at FROM revisions WHERE msg_id {in}";
    let mut found: BTreeMap<(u64, i32), archive::Revision> = BTreeMap::new();
    for row in sql::query_rows(db, text, edited(rows)).await? {
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

/// Only what was edited has revisions.
fn edited(rows: &[Row]) -> sql::Rows {
    let edited = rows.iter().filter(|row| row.stored.edited_at != 0);
    ids(edited.map(|row| row.stored.msg_id))
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
