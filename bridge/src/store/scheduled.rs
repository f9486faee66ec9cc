//! Messages that are to be sent later.

use std::collections::HashSet;

use prost::Message as _;
use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql};

/// A message that is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduled {
    /// What its user calls it.
    pub id: u64,
    /// Who sends it.
    pub uid: String,
    /// With which device it was scheduled.
    pub device: String,
    /// The id that the message will have from its client: made of `id`.
    pub client_msg_id: String,
    /// When it is sent, in milliseconds since 1970.
    pub send_at: i64,
    /// What was asked for, without `send_at`.
    pub send: v1::Send,
}

const COLUMNS: &str = "id, uid, sender_device, client_msg_id, send_at, send";

/// Stores one.
///
/// # Errors
/// [`Error::Exists`] when there is one with that id.
pub async fn add<C: ConnectionTrait>(db: &C, new: &Scheduled) -> Result<(), Error> {
    let text = format!("INSERT INTO scheduled ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)");
    let values = [
        new.id.cast_signed().into(),
        new.uid.as_str().into(),
        new.device.as_str().into(),
        new.client_msg_id.as_str().into(),
        new.send_at.into(),
        new.send.encode_to_vec().into(),
    ];
    sql::execute(db, &text, values).await?;
    Ok(())
}

/// How many of a user's are waiting, and their bytes together.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn waiting<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<(usize, u64), Error> {
    let text = "SELECT LENGTH(send) AS bytes FROM scheduled WHERE uid = ?";
    let rows = sql::query(db, text, [uid.as_str().into()]).await?;
    let mut bytes = 0;
    for row in &rows {
        let length: i32 = row.try_get("", "bytes")?;
        bytes += u64::from(length.unsigned_abs());
    }
    Ok((rows.len(), bytes))
}

/// A user's, in the order in which they will be sent.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Vec<Scheduled>, Error> {
    let text = format!("SELECT {COLUMNS} FROM scheduled WHERE uid = ? ORDER BY send_at, id");
    let rows = sql::query(db, &text, [uid.as_str().into()]).await?;
    Ok(rows.iter().map(scheduled).collect::<Result<_, _>>()?)
}

/// One of a user's.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    id: u64,
) -> Result<Option<Scheduled>, Error> {
    let text = format!("SELECT {COLUMNS} FROM scheduled WHERE uid = ? AND id = ?");
    let values = [uid.as_str().into(), id.cast_signed().into()];
    let row = sql::query_one(db, &text, values).await?;
    Ok(row.as_ref().map(scheduled).transpose()?)
}

/// Up to `limit` that are to be sent by `now`, in their order.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn due<C: ConnectionTrait>(
    db: &C,
    now: i64,
    limit: u32,
) -> Result<Vec<Scheduled>, Error> {
    let text = format!(
        "SELECT {COLUMNS} FROM scheduled WHERE send_at <= ? ORDER BY send_at, id LIMIT {limit}"
    );
    let rows = sql::query(db, &text, [now.into()]).await?;
    Ok(rows.iter().map(scheduled).collect::<Result<_, _>>()?)
}

/// When the next one is to be sent, in milliseconds since 1970; `None`: there is none.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn next<C: ConnectionTrait>(db: &C) -> Result<Option<i64>, Error> {
    let text = "SELECT MIN(send_at) AS next FROM scheduled";
    let row = sql::query_one(db, text, []).await?;
    let next: Option<Option<i64>> = row.map(|row| row.try_get("", "next")).transpose()?;
    Ok(next.flatten())
}

/// Takes those away that are there; returns which they were.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn take<C: ConnectionTrait>(db: &C, ids: &[u64]) -> Result<HashSet<u64>, Error> {
    let rows = || {
        let mut rows = sql::Rows::new(1);
        for id in ids {
            rows.push([id.cast_signed().into()]);
        }
        rows
    };
    let text = format!(
        "SELECT id FROM scheduled WHERE id {{in}} ORDER BY id{}",
        sql::for_update(db.get_database_backend())
    );
    let mut taken = HashSet::new();
    for row in sql::query_rows(db, &text, rows()).await? {
        let id: i64 = row.try_get("", "id")?;
        taken.insert(id.cast_unsigned());
    }
    sql::execute_in(db, "DELETE FROM scheduled WHERE id {in}", rows()).await?;
    Ok(taken)
}

fn scheduled(row: &QueryResult) -> Result<Scheduled, DbErr> {
    let id: i64 = row.try_get("", "id")?;
    let blob: Vec<u8> = row.try_get("", "send")?;
    let send = v1::Send::decode(blob.as_slice())
        .map_err(|error| DbErr::Type(format!("scheduled message {id}: {error}")))?;
    Ok(Scheduled {
        id: id.cast_unsigned(),
        uid: row.try_get("", "uid")?,
        device: row.try_get("", "sender_device")?,
        client_msg_id: row.try_get("", "client_msg_id")?,
        send_at: row.try_get("", "send_at")?,
        send,
    })
}
