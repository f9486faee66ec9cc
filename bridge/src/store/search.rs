//! What messages are found by. Each has a row of tokens, made elsewhere; a lookup asks for the messages that have all of
//! some tokens.
//!
//! Rows are written some time after their messages, in the order of `msg_id`; how far that has come is the task `search`
//! of `progress`. Whoever changes or removes a text that may be indexed calls [`mark`] in the same transaction.

use schema::v1;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult};

use super::{Error, sql};
use crate::content;

/// The row of `progress`.
const TASK: &str = "search";

/// A row of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The message.
    pub msg_id: u64,
    /// What it is found by: words of `0-9 a-z` with spaces between them, each once.
    pub tokens: String,
}

/// A message as far as it matters to the index.
#[derive(Clone, Debug)]
pub struct Source {
    /// The message.
    pub msg_id: u64,
    /// The conversation's key in the database.
    pub conversation_id: i64,
    /// Its content; nothing but the content is set.
    pub message: v1::Message,
}

/// What a lookup asks for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// All of these …
    pub all: &'a [String],
    /// … and one of these, of which there is one at least.
    pub any: &'a [String],
    /// Messages with this id or a greater one,
    pub from: u64,
    /// and a smaller one than this.
    pub below: u64,
    /// So many, the greatest ids first.
    pub limit: u32,
}

/// How far the index has come: all messages up to this id are in it. It begins to be kept where it was not.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn begin<C: ConnectionTrait>(db: &C) -> Result<u64, Error> {
    if let Some(position) = position(db).await? {
        return Ok(position);
    }
    let text = "INSERT INTO progress (task, position) VALUES (?, 0)";
    match sql::execute(db, text, [TASK.into()])
        .await
        .map_err(Error::from)
    {
        Ok(_) => Ok(0),
        // Another node was faster.
        Err(Error::Exists(_)) => Ok(position(db).await?.unwrap_or_default()),
        Err(error) => Err(error),
    }
}

/// [`begin`], for one that is kept.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn position<C: ConnectionTrait>(db: &C) -> Result<Option<u64>, Error> {
    let text = "SELECT position FROM progress WHERE task = ?";
    let row = sql::query_one(db, text, [TASK.into()]).await?;
    let position = row.map(|row| row.try_get::<i64>("", "position"));
    Ok(position.transpose()?.map(i64::cast_unsigned))
}

/// Drops the index, which is no longer kept.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn drop_all<C: ConnectionTrait>(db: &C) -> Result<(), Error> {
    let empty = match db.get_database_backend() {
        DbBackend::Sqlite => "INSERT INTO search_index (search_index) VALUES ('delete-all')",
        _ => "TRUNCATE TABLE search_index",
    };
    // The position last: whatever happens before, all of it is dropped the next time.
    sql::execute(db, empty, []).await?;
    sql::execute(db, "DELETE FROM search_marks", []).await?;
    let text = "DELETE FROM progress WHERE task = ?";
    sql::execute(db, text, [TASK.into()]).await?;
    Ok(())
}

/// The first messages after one, and below another.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn sources_after<C: ConnectionTrait>(
    db: &C,
    after: u64,
    below: u64,
    limit: usize,
) -> Result<Vec<Source>, Error> {
    let text = format!(
        "SELECT msg_id, conversation_id, content FROM messages WHERE msg_id > ? AND msg_id < ?
        ORDER BY msg_id LIMIT {limit}"
    );
    let values = [after.cast_signed().into(), below.cast_signed().into()];
    let rows = sql::query(db, &text, values).await?;
    Ok(rows.iter().map(source).collect::<Result<_, _>>()?)
}

fn source(row: &QueryResult) -> Result<Source, DbErr> {
    let msg_id: i64 = row.try_get("", "msg_id")?;
    let blob: Vec<u8> = row.try_get("", "content")?;
    let mut message = v1::Message::default();
    content::decode(&blob, &mut message)
        .map_err(|error| DbErr::Type(format!("content of message {msg_id}: {error}")))?;
    Ok(Source {
        msg_id: msg_id.cast_unsigned(),
        conversation_id: row.try_get("", "conversation_id")?,
        message,
    })
}

/// Adds rows for messages that have none, and notes that all messages after `from` up to `to` are dealt with. `false`:
/// another node has done so, and nothing may be committed.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn advance<C: ConnectionTrait>(
    tx: &C,
    (from, to): (u64, u64),
    entries: &[Entry],
) -> Result<bool, Error> {
    let text = "UPDATE progress SET position = ? WHERE task = ? AND position = ?";
    let values = [
        to.cast_signed().into(),
        TASK.into(),
        from.cast_signed().into(),
    ];
    if sql::execute(tx, text, values).await? == 0 {
        return Ok(false);
    }
    add(tx, entries).await?;
    Ok(true)
}

/// Adds rows for messages that have none.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn add<C: ConnectionTrait>(tx: &C, entries: &[Entry]) -> Result<(), Error> {
    let mut rows = sql::Rows::new(2);
    for entry in entries {
        rows.push([
            entry.msg_id.cast_signed().into(),
            entry.tokens.as_str().into(),
        ]);
    }
    match tx.get_database_backend() {
        DbBackend::Postgres => {
            let select = "SELECT msg_id, CAST(tokens AS TSVECTOR) FROM v";
            let columns = ["msg_id", "tokens"];
            sql::insert_from_rows(tx, "search_index", &columns, select, "", rows).await?;
        }
        backend => {
            let key = key(backend);
            let text = format!("INSERT INTO search_index ({key}, tokens) VALUES {{rows}}");
            sql::execute_rows(tx, &text, rows).await?;
        }
    }
    Ok(())
}

/// Notes that these messages don't say any longer what they said, in the transaction that changes them. Costs nothing to
/// speak of where no index is kept.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn mark<C: ConnectionTrait>(tx: &C, msg_ids: &[u64]) -> Result<(), Error> {
    let backend = tx.get_database_backend();
    let select = format!("SELECT v.msg_id FROM v CROSS JOIN progress p WHERE p.task = '{TASK}'");
    // A mark that is there is written again: it must not be taken away for what the message said before.
    let conflict = sql::on_conflict(backend, "msg_id");
    let conflict = format!("{conflict} msg_id = {}", sql::excluded(backend, "msg_id"));
    sql::insert_from_rows(
        tx,
        "search_marks",
        &["msg_id"],
        &select,
        &conflict,
        ids(msg_ids),
    )
    .await?;
    Ok(())
}

/// Takes messages out of the index for good. Costs nothing to speak of where no index is kept.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn remove<C: ConnectionTrait>(
    tx: &C,
    msg_ids: impl Iterator<Item = u64>,
) -> Result<(), Error> {
    if position(tx).await?.is_none() {
        return Ok(());
    }
    let msg_ids: Vec<u64> = msg_ids.collect();
    remove_rows(tx, &msg_ids).await?;
    Ok(())
}

/// Marks, and what messages are found by.
async fn remove_rows<C: ConnectionTrait>(tx: &C, msg_ids: &[u64]) -> Result<(), DbErr> {
    let text = "DELETE FROM search_marks WHERE msg_id {in}";
    sql::execute_in(tx, text, ids(msg_ids)).await?;
    let key = key(tx.get_database_backend());
    let text = format!("DELETE FROM search_index WHERE {key} {{in}}");
    sql::execute_in(tx, &text, ids(msg_ids)).await
}

/// Some of the marked messages, of those that the index has come to.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn marked<C: ConnectionTrait>(
    db: &C,
    position: u64,
    limit: usize,
) -> Result<Vec<u64>, Error> {
    let text =
        format!("SELECT msg_id FROM search_marks WHERE msg_id <= ? ORDER BY msg_id LIMIT {limit}");
    let rows = sql::query(db, &text, [position.cast_signed().into()]).await?;
    Ok(rows.iter().map(id).collect::<Result<_, _>>()?)
}

/// Takes the marks of messages away, and what they were found by; returns the messages that are there, as they are now.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn unmark<C: ConnectionTrait>(tx: &C, msg_ids: &[u64]) -> Result<Vec<Source>, Error> {
    // Before the messages are read: who changes one of them meanwhile marks it once more.
    remove_rows(tx, msg_ids).await?;
    let text = "SELECT msg_id, conversation_id, content FROM messages WHERE msg_id {in}";
    let rows = sql::query_rows(tx, text, ids(msg_ids)).await?;
    Ok(rows.iter().map(source).collect::<Result<_, _>>()?)
}

/// The messages that have what is wanted, as far as the index knows.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find<C: ConnectionTrait>(db: &C, wanted: &Wanted<'_>) -> Result<Vec<u64>, Error> {
    let backend = db.get_database_backend();
    let (key, limit) = (key(backend), wanted.limit);
    let matches = match backend {
        DbBackend::Sqlite => "search_index MATCH ?",
        DbBackend::Postgres => "tokens @@ CAST(? AS TSQUERY)",
        _ => "MATCH (tokens) AGAINST (? IN BOOLEAN MODE)",
    };
    let text = format!(
        "SELECT {key} AS msg_id FROM search_index WHERE {matches} AND {key} >= ? AND {key} < ?
        ORDER BY {key} DESC LIMIT {limit}"
    );
    let values = [
        expression(backend, wanted).into(),
        wanted.from.cast_signed().into(),
        wanted.below.cast_signed().into(),
    ];
    let rows = sql::query(db, &text, values).await?;
    Ok(rows.iter().map(id).collect::<Result<_, _>>()?)
}

/// Tokens have nothing that would need quotes.
fn expression(backend: DbBackend, wanted: &Wanted<'_>) -> String {
    let (and, or, all) = match backend {
        DbBackend::Sqlite => (" AND ", " OR ", ""),
        DbBackend::Postgres => (" & ", " | ", ""),
        _ => (" ", " ", "+"),
    };
    let any = format!("{all}({})", wanted.any.join(or));
    let all = wanted.all.iter().map(|token| format!("{all}{token}"));
    all.chain([any]).collect::<Vec<_>>().join(and)
}

fn key(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "rowid",
        _ => "msg_id",
    }
}

fn ids(msg_ids: &[u64]) -> sql::Rows {
    let mut rows = sql::Rows::new(1);
    for msg_id in msg_ids {
        rows.push([msg_id.cast_signed().into()]);
    }
    rows
}

fn id(row: &QueryResult) -> Result<u64, DbErr> {
    row.try_get::<i64>("", "msg_id").map(i64::cast_unsigned)
}
