//! Messages that are in files: which file has which, and what the database still knows of each.
//!
//! A message is either a row of `messages` or an entry of the [`Directory`] of a row of `archives`; one transaction takes
//! it from here to there (`moving`), and none takes it back. So who reads the rows first and the directories then
//! misses nothing, and may see a message twice. What a directory says outweighs its object, which is written anew later
//! (`rewriting`). Objects that no row names are known, too (`strays`), so that nothing is left lying about.

mod directory;
mod moving;
mod retention;
mod rewriting;
mod strays;

use std::collections::{HashMap, HashSet};

use schema::{MsgId, Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

pub use directory::{Directory, Entry, NewEntry};
pub use moving::{Candidate, ROWS_MIN, Run, candidates, newest_kept, read_run, take};
pub use retention::{Aged, aged, drop_until};
pub use rewriting::{due, replace, rewritten};
pub use strays::{announce, claim, forget, idle_strays};

use super::members::Role;
use super::operations::{Gone, Place};
use super::{Error, sql, users};

/// The newest messages of a conversation stay rows, so that lists of conversations and who opens one need no file. Those
/// that one member does not get are not counted.
pub const NEWEST_KEPT: u32 = 50;

/// A row of `archives`.
#[derive(Clone, Debug)]
pub struct File {
    /// The conversation's key in the database.
    pub conversation_id: i64,
    /// The first message that still is.
    pub first_seq: u32,
    /// The last one.
    pub last_seq: u32,
    /// Its object's name.
    pub object: String,
    /// The messages.
    pub directory: Directory,
}

const COLUMNS: &str = "a.conversation_id, a.first_seq, a.last_seq, a.object, a.directory";

fn file(row: &QueryResult) -> Result<File, DbErr> {
    let (first, last): (i32, i32) = (row.try_get("", "first_seq")?, row.try_get("", "last_seq")?);
    let directory: Vec<u8> = row.try_get("", "directory")?;
    Ok(File {
        conversation_id: row.try_get("", "conversation_id")?,
        first_seq: first.cast_unsigned(),
        last_seq: last.cast_unsigned(),
        object: row.try_get("", "object")?,
        directory: Directory::decode(&directory)?,
    })
}

/// Which end of a conversation comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The oldest message.
    OldestFirst,
    /// The newest one.
    NewestFirst,
}

/// The first file of a conversation with messages between two seqs that are not part of it.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn between<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    range: (u32, u32),
    order: Order,
) -> Result<Option<File>, Error> {
    first(db, conversation_id, range, order, "").await
}

async fn first<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    (after, before): (u32, u32),
    order: Order,
    lock: &str,
) -> Result<Option<File>, Error> {
    let order = match order {
        Order::OldestFirst => "ASC",
        Order::NewestFirst => "DESC",
    };
    let text = format!(
        "SELECT {COLUMNS} FROM archives a
        WHERE a.conversation_id = ? AND a.last_seq > ? AND a.first_seq < ?
        ORDER BY a.last_seq {order} LIMIT 1{lock}"
    );
    let bound = |seq| i32::try_from(seq).unwrap_or(i32::MAX);
    let values = [
        conversation_id.into(),
        bound(after).into(),
        bound(before).into(),
    ];
    let row = sql::query_one(db, &text, values).await?;
    Ok(row.as_ref().map(file).transpose()?)
}

/// Up to where the messages of each conversation are in files, or deleted for good.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn archived_seqs<C: ConnectionTrait>(
    db: &C,
    conversations: impl Iterator<Item = i64>,
) -> Result<HashMap<i64, u32>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in conversations {
        rows.push([id.into()]);
    }
    let text = "SELECT id, archived_seq FROM conversations WHERE id {in}";
    let mut seqs = HashMap::new();
    for row in sql::query_rows(db, text, rows).await? {
        let seq: i32 = row.try_get("", "archived_seq")?;
        seqs.insert(row.try_get("", "id")?, seq.cast_unsigned());
    }
    Ok(seqs)
}

/// The file with the message at a place.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn with<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    seq: u32,
) -> Result<Option<File>, Error> {
    between(db, conversation_id, around(seq), Order::OldestFirst).await
}

/// The same as of now, for a transaction that changes it and has locked the conversation.
async fn locked<C: ConnectionTrait>(
    tx: &C,
    conversation_id: i64,
    seq: u32,
) -> Result<Option<File>, Error> {
    let lock = sql::for_update(tx.get_database_backend());
    first(tx, conversation_id, around(seq), Order::OldestFirst, lock).await
}

fn around(seq: u32) -> (u32, u32) {
    (seq.saturating_sub(1), seq.saturating_add(1))
}

/// The id of the message at a place, if it is in a file.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn id_at<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    seq: u32,
) -> Result<Option<u64>, Error> {
    let file = with(db, conversation_id, seq).await?;
    Ok(file.and_then(|file| file.directory.at(seq).map(|entry| entry.msg_id)))
}

/// A message in a file that a user can see.
#[derive(Clone, Debug)]
pub struct Found {
    /// What is known without the file: no content, and nothing that the sender's device has said.
    pub message: v1::Message,
    /// Where it is.
    pub place: Place,
    /// The user's role there.
    pub role: Role,
    /// The one who does not get it.
    pub hidden_from: Option<String>,
}

/// Those of the messages that are in files and that the user can see. Looks at a file of each conversation of the user's
/// that was written to at the time; where one of the messages is nowhere, the others are not looked for.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    msg_ids: &[u64],
) -> Result<Vec<Found>, Error> {
    let mut wanted: Vec<u64> = msg_ids.to_vec();
    let mut found = Vec::new();
    while let Some(msg_id) = wanted.pop() {
        let Some((file, room)) = locate(db, uid, msg_id).await? else {
            break;
        };
        wanted.push(msg_id);
        // Most often all are in this conversation.
        let mut next = Some(file);
        while let Some(file) = next {
            let entries = wanted.iter().filter_map(|id| file.directory.by_id(*id));
            found.extend(entries.map(|entry| seen(&file, entry, &room)));
            wanted.retain(|id| file.directory.by_id(*id).is_none());
            let around = match wanted.iter().max() {
                Some(newest) => file_around(db, file.conversation_id, *newest).await?,
                None => None,
            };
            next =
                around.filter(|file| wanted.iter().any(|id| file.directory.by_id(*id).is_some()));
        }
    }
    only_visible(db, uid, found).await
}

/// A conversation that the user is in.
struct Room {
    name: String,
    role: Role,
    visible_seq: u32,
}

fn seen(file: &File, entry: &Entry, room: &Room) -> (Found, u32) {
    let found = Found {
        message: bare(&file.directory, entry, &room.name),
        place: Place {
            msg_id: entry.msg_id,
            conversation_id: file.conversation_id,
            seq: entry.seq,
        },
        role: room.role,
        hidden_from: entry.hidden_from.clone(),
    };
    (found, room.visible_seq)
}

/// What the directory says of a message of the conversation with that name.
pub(super) fn bare(directory: &Directory, entry: &Entry, conversation: &str) -> v1::Message {
    v1::Message {
        msg_id: entry.msg_id,
        conversation: conversation.to_owned(),
        seq: entry.seq,
        sender: directory.sender(entry).to_owned(),
        kind: directory.kind(entry).to_owned(),
        sent_at: Some(MsgId(entry.msg_id).timestamp()),
        gone: entry.gone.map(Gone::as_str).unwrap_or_default().to_owned(),
        ..Default::default()
    }
}

/// The file of one of the user's conversations that has the message.
async fn locate<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    msg_id: u64,
) -> Result<Option<(File, Room)>, Error> {
    // First only where it could be, which the index knows.
    let text = "SELECT a.conversation_id, a.last_seq, c.name, m.role, m.visible_seq FROM members m
        JOIN archives a ON a.conversation_id = m.conversation_id
        JOIN conversations c ON c.id = m.conversation_id
        WHERE m.uid = ? AND a.max_id >= ? AND a.min_id <= ?";
    let id = msg_id.cast_signed();
    for row in sql::query(db, text, [uid.as_str().into(), id.into(), id.into()]).await? {
        let (conversation_id, last_seq): (i64, i32) = (
            row.try_get("", "conversation_id")?,
            row.try_get("", "last_seq")?,
        );
        let Some(file) = with(db, conversation_id, last_seq.cast_unsigned()).await? else {
            continue;
        };
        if file.directory.by_id(msg_id).is_some() {
            let role: String = row.try_get("", "role")?;
            let visible_seq: i32 = row.try_get("", "visible_seq")?;
            let room = Room {
                name: row.try_get("", "name")?,
                role: Role::parse(&role),
                visible_seq: visible_seq.cast_unsigned(),
            };
            return Ok(Some((file, room)));
        }
    }
    Ok(None)
}

/// A file of the conversation whose ids are around this one.
async fn file_around<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    msg_id: u64,
) -> Result<Option<File>, Error> {
    let text = format!(
        "SELECT {COLUMNS} FROM archives a
        WHERE a.conversation_id = ? AND a.max_id >= ? AND a.min_id <= ? ORDER BY a.max_id"
    );
    let id = msg_id.cast_signed();
    let rows = sql::query(db, &text, [conversation_id.into(), id.into(), id.into()]).await?;
    for row in &rows {
        let file = file(row)?;
        if file.directory.by_id(msg_id).is_some() {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Without what the user has not come in for, does not get, or has deleted.
async fn only_visible<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    found: Vec<(Found, u32)>,
) -> Result<Vec<Found>, Error> {
    let is_for_user = |(found, visible_seq): &(Found, u32)| {
        found.place.seq > *visible_seq && found.hidden_from.as_deref() != Some(uid.as_str())
    };
    let mut found: Vec<Found> = found
        .into_iter()
        .filter(is_for_user)
        .map(|(found, _)| found)
        .collect();
    let places = found
        .iter()
        .map(|found| (found.place.conversation_id, found.place.seq));
    let hidden = hidden(db, uid, places).await?;
    found.retain(|found| !hidden.contains(&(found.place.conversation_id, found.place.seq)));
    Ok(found)
}

/// Which of the places hold messages that the user has deleted for himself: conversation and seq.
pub(super) async fn hidden<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    places: impl Iterator<Item = (i64, u32)>,
) -> Result<HashSet<(i64, u32)>, Error> {
    let mut rows = sql::Rows::new(3);
    for (conversation_id, seq) in places {
        rows.push([
            uid.as_str().into(),
            conversation_id.into(),
            seq.cast_signed().into(),
        ]);
    }
    let text = "SELECT h.conversation_id, h.seq FROM hidden_messages h
        WHERE (h.uid, h.conversation_id, h.seq) {in}";
    let mut hidden = HashSet::new();
    for row in sql::query_rows(db, text, rows).await? {
        let seq: i32 = row.try_get("", "seq")?;
        hidden.insert((row.try_get("", "conversation_id")?, seq.cast_unsigned()));
    }
    Ok(hidden)
}

/// Who sees a message that is in a file.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn audience<C: ConnectionTrait>(db: &C, found: &Found) -> Result<Vec<Uid>, Error> {
    let text = "SELECT m.uid FROM members m WHERE m.conversation_id = ? AND m.visible_seq < ?
        AND NOT EXISTS (SELECT 1 FROM hidden_messages h
            WHERE h.uid = m.uid AND h.conversation_id = m.conversation_id AND h.seq = ?)";
    let seq = found.place.seq.cast_signed();
    let values = [found.place.conversation_id.into(), seq.into(), seq.into()];
    let mut uids = Vec::new();
    for row in sql::query(db, text, values).await? {
        let uid = users::uid(&row)?;
        if found.hidden_from.as_deref() != Some(uid.as_str()) {
            uids.push(uid);
        }
    }
    Ok(uids)
}

/// Of the messages in files after `after` up to `last`, how many the user has sent, does not get, or has deleted: those
/// that are never unread.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn count_never_unread<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    after: u32,
    last: u32,
) -> Result<u32, Error> {
    let mut count = 0;
    let mut after = after;
    let before = last.saturating_add(1);
    let now = sql::as_of_now(db.get_database_backend());
    let order = Order::OldestFirst;
    while let Some(file) = first(db, conversation_id, (after, before), order, now).await? {
        let directory = &file.directory;
        let entries = directory.entries().iter();
        let entries = entries.filter(|entry| entry.seq > after && entry.seq < before);
        let (own, others): (Vec<&Entry>, Vec<&Entry>) = entries.partition(|entry| {
            directory.sender(entry) == uid.as_str()
                || entry.hidden_from.as_deref() == Some(uid.as_str())
        });
        let others = others.iter().map(|entry| (conversation_id, entry.seq));
        count += own.len() + hidden(db, uid, others).await?.len();
        after = file.last_seq;
    }
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The newest of the user's messages in files there that the others get; 0: none.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn newest_heard<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
) -> Result<u32, Error> {
    let mut before = u32::MAX;
    while let Some(file) = between(db, conversation_id, (0, before), Order::NewestFirst).await? {
        let directory = &file.directory;
        let heard =
            directory.entries().iter().rev().find(|entry| {
                directory.sender(entry) == uid.as_str() && entry.hidden_from.is_none()
            });
        if let Some(entry) = heard {
            return Ok(entry.seq);
        }
        before = file.first_seq;
    }
    Ok(0)
}

/// Takes the content of a message in a file away: at once for all who read, and soon in the object. The conversation is
/// locked by the caller.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn take_away<C: ConnectionTrait>(
    tx: &C,
    place: Place,
    gone: Gone,
    now: i64,
) -> Result<(), Error> {
    let Some(mut file) = locked(tx, place.conversation_id, place.seq).await? else {
        return Ok(());
    };
    file.directory.take_away(place.seq, gone);
    rewriting::note(tx, &file, Some(now)).await?;
    forget_uses(tx, &[place]).await
}

/// Takes what a deleted account has left in the next file after one: its messages, which are returned, and its reactions.
/// Returns the file's key as well; `None`: there is no file left. The file is locked with its conversation.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn erase<C: ConnectionTrait>(
    tx: &C,
    uid: &Uid,
    after: (i64, u32),
    now: i64,
) -> Result<Option<((i64, u32), Vec<Place>)>, Error> {
    let text = "SELECT conversation_id, last_seq FROM archive_people
        WHERE uid = ? AND (conversation_id > ? OR (conversation_id = ? AND last_seq > ?))
        ORDER BY conversation_id, last_seq LIMIT 1";
    let values = [
        uid.as_str().into(),
        after.0.into(),
        after.0.into(),
        after.1.cast_signed().into(),
    ];
    let Some(row) = sql::query_one(tx, text, values).await? else {
        return Ok(None);
    };
    let conversation_id: i64 = row.try_get("", "conversation_id")?;
    let last_seq: i32 = row.try_get("", "last_seq")?;
    let key = (conversation_id, last_seq.cast_unsigned());
    super::conversations::lock(tx, &[conversation_id]).await?;
    let Some(mut file) = locked(tx, conversation_id, key.1).await? else {
        return Ok(Some((key, Vec::new())));
    };
    let before = file.directory.clone();
    let taken = file.directory.erase(uid.as_str()).into_iter();
    let taken: Vec<Place> = taken
        .map(|(seq, msg_id)| Place {
            msg_id,
            conversation_id,
            seq,
        })
        .collect();
    if file.directory != before {
        rewriting::note(tx, &file, Some(now)).await?;
        forget_uses(tx, &taken).await?;
        let flags = "DELETE FROM flags WHERE msg_id {in}";
        sql::execute_in(tx, flags, ids(taken.iter().map(|place| place.msg_id))).await?;
    }
    Ok(Some((key, taken)))
}

/// Whether files may still hold something of a user.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn holds<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<bool, Error> {
    let text = "SELECT 1 FROM archive_people WHERE uid = ? LIMIT 1";
    let row = sql::query_one(db, text, [uid.as_str().into()]).await?;
    Ok(row.is_some())
}

/// Messages without content are neither listed as media nor pinned.
async fn forget_uses<C: ConnectionTrait>(tx: &C, places: &[Place]) -> Result<(), Error> {
    let (mut by_seq, mut by_id) = (sql::Rows::new(2), sql::Rows::new(2));
    for place in places {
        by_seq.push([place.conversation_id.into(), place.seq.cast_signed().into()]);
        let msg_id = place.msg_id.cast_signed();
        by_id.push([place.conversation_id.into(), msg_id.into()]);
    }
    let text = "DELETE FROM attachments WHERE (conversation_id, seq) {in}";
    sql::execute_in(tx, text, by_seq).await?;
    let text = "DELETE FROM group_pins WHERE (conversation_id, msg_id) {in}";
    sql::execute_in(tx, text, by_id).await?;
    Ok(())
}

fn ids(msg_ids: impl Iterator<Item = u64>) -> sql::Rows {
    let mut rows = sql::Rows::new(1);
    for msg_id in msg_ids {
        rows.push([msg_id.cast_signed().into()]);
    }
    rows
}
