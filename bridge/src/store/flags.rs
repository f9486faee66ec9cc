//! Messages that the word filter has marked for administrators.

use std::time::SystemTime;

use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql};
use crate::clock;

/// A marked message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The message.
    pub msg_id: u64,
    /// The key in the database of the conversation that it is in, and its name.
    pub conversation_id: i64,
    /// See there.
    pub conversation: String,
    /// Where it is there, if it is in a file.
    pub archived_seq: Option<u32>,
    /// The words that it was marked for.
    pub words: String,
    /// When an administrator has dealt with it.
    pub done_at: Option<SystemTime>,
}

/// Marks messages; one that is marked gets its new words, and is to be dealt with again.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set<'a, C: ConnectionTrait>(
    db: &C,
    flags: impl IntoIterator<Item = (u64, &'a str)>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(2);
    for (msg_id, words) in flags {
        rows.push([msg_id.cast_signed().into(), words.into()]);
    }
    let backend = db.get_database_backend();
    let text = format!(
        "INSERT INTO flags (msg_id, words) VALUES {{rows}}{}words = {}, done_at = NULL",
        sql::on_conflict(backend, "msg_id"),
        sql::excluded(backend, "words"),
    );
    sql::execute_rows(db, &text, rows).await?;
    Ok(())
}

/// Marked messages, latest first: only those that are dealt with, or only others, or all; with smaller ids than
/// `before`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(
    db: &C,
    is_done: Option<bool>,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<Flag>, Error> {
    let done = match is_done {
        None => "",
        Some(true) => "AND f.done_at IS NOT NULL",
        Some(false) => "AND f.done_at IS NULL",
    };
    let before = before.map_or(i64::MAX, u64::cast_signed);
    let text = format!(
        "SELECT f.msg_id, f.words, f.done_at, f.seq, c.id, c.name FROM flags f
        LEFT JOIN messages x ON x.msg_id = f.msg_id
        JOIN conversations c ON c.id = COALESCE(x.conversation_id, f.conversation_id)
        WHERE f.msg_id < ? {done} ORDER BY f.msg_id DESC LIMIT {limit}"
    );
    let rows = sql::query(db, &text, [before.into()]).await?;
    let flags: Result<_, DbErr> = rows.iter().map(flag).collect();
    Ok(flags?)
}

/// Notes that a marked message is dealt with; tells whether there is one.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_done<C: ConnectionTrait>(
    db: &C,
    msg_id: u64,
    now: SystemTime,
) -> Result<bool, Error> {
    let text = "UPDATE flags SET done_at = COALESCE(done_at, ?) WHERE msg_id = ?";
    let values = [clock::millis(now).into(), msg_id.cast_signed().into()];
    // An update that changes nothing counts no row on MySQL.
    if sql::execute(db, text, values).await? > 0 {
        return Ok(true);
    }
    let text = "SELECT 1 FROM flags WHERE msg_id = ?";
    let row = sql::query_one(db, text, [msg_id.cast_signed().into()]).await?;
    Ok(row.is_some())
}

fn flag(row: &QueryResult) -> Result<Flag, DbErr> {
    let msg_id: i64 = row.try_get("", "msg_id")?;
    let done_at: Option<i64> = row.try_get("", "done_at")?;
    let seq: Option<i32> = row.try_get("", "seq")?;
    Ok(Flag {
        msg_id: msg_id.cast_unsigned(),
        conversation_id: row.try_get("", "id")?,
        conversation: row.try_get("", "name")?,
        archived_seq: seq.map(i32::cast_unsigned),
        words: row.try_get("", "words")?,
        done_at: done_at.map(clock::from_millis),
    })
}
