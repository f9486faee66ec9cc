//! How one comes into a group without being added: its link, and requests to be let in.

use schema::{Gid, Timestamp, Uid, v1};
use sea_orm::ConnectionTrait;

use crate::store::{Error, sql};

/// Makes this the group's only link; `token_hash` is what the database keeps of its token.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_link<C: ConnectionTrait>(
    db: &C,
    id: i64,
    token_hash: &str,
    expires_at: Option<i64>,
) -> Result<(), Error> {
    let backend = db.get_database_backend();
    let text = format!(
        "INSERT INTO group_links (conversation_id, token_hash, expires_at) VALUES (?, ?, ?)
        {}token_hash = {}, expires_at = {}",
        sql::on_conflict(backend, "conversation_id"),
        sql::excluded(backend, "token_hash"),
        sql::excluded(backend, "expires_at"),
    );
    let values = [id.into(), token_hash.into(), expires_at.into()];
    sql::execute(db, &text, values).await?;
    Ok(())
}

/// Ends the group's link, if there is one.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn drop_link<C: ConnectionTrait>(db: &C, id: i64) -> Result<(), Error> {
    let text = "DELETE FROM group_links WHERE conversation_id = ?";
    sql::execute(db, text, [id.into()]).await?;
    Ok(())
}

/// The group whose link this is at the time `now`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find_by_link<C: ConnectionTrait>(
    db: &C,
    token_hash: &str,
    now: i64,
) -> Result<Option<Gid>, Error> {
    let text = "SELECT g.gid FROM group_links l
        JOIN chat_groups g ON g.conversation_id = l.conversation_id
        WHERE l.token_hash = ? AND (l.expires_at IS NULL OR l.expires_at > ?)";
    let row = sql::query_one(db, text, [token_hash.into(), now.into()]).await?;
    let gid: Option<String> = row.map(|row| row.try_get("", "gid")).transpose()?;
    // A gid in the database has been checked when the group was made.
    Ok(gid.and_then(|gid| gid.parse().ok()))
}

/// Notes that a user wants to be let in, or what the user says now.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_request<C: ConnectionTrait>(
    db: &C,
    id: i64,
    uid: &Uid,
    said: &str,
    at: i64,
) -> Result<(), Error> {
    let backend = db.get_database_backend();
    let text = format!(
        "INSERT INTO group_requests (conversation_id, uid, text, at) VALUES (?, ?, ?, ?)
        {}text = {}, at = {}",
        sql::on_conflict(backend, "conversation_id, uid"),
        sql::excluded(backend, "text"),
        sql::excluded(backend, "at"),
    );
    let values = [id.into(), uid.as_str().into(), said.into(), at.into()];
    sql::execute(db, &text, values).await?;
    Ok(())
}

/// What a user has said who waits to be let in.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find_request<C: ConnectionTrait>(
    db: &C,
    id: i64,
    uid: &Uid,
) -> Result<Option<String>, Error> {
    let text = "SELECT text FROM group_requests WHERE conversation_id = ? AND uid = ?";
    let row = sql::query_one(db, text, [id.into(), uid.as_str().into()]).await?;
    Ok(row.map(|row| row.try_get("", "text")).transpose()?)
}

/// How many wait to be let in.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn count_requests<C: ConnectionTrait>(db: &C, id: i64) -> Result<usize, Error> {
    let text = "SELECT COUNT(*) AS waiting FROM group_requests WHERE conversation_id = ?";
    let row = sql::query_one(db, text, [id.into()]).await?;
    let waiting: Option<i64> = row.map(|row| row.try_get("", "waiting")).transpose()?;
    Ok(usize::try_from(waiting.unwrap_or_default()).unwrap_or_default())
}

/// Who waits to be let into a group, in the order in which they asked.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn requests<C: ConnectionTrait>(
    db: &C,
    id: i64,
    gid: &Gid,
    limit: usize,
) -> Result<Vec<v1::GroupRequest>, Error> {
    let text = format!(
        "SELECT uid, text, at FROM group_requests WHERE conversation_id = ?
        ORDER BY at, uid LIMIT {limit}"
    );
    let mut requests = Vec::new();
    for row in sql::query(db, &text, [id.into()]).await? {
        requests.push(v1::GroupRequest {
            gid: gid.to_string(),
            uid: row.try_get("", "uid")?,
            text: row.try_get("", "text")?,
            at: Some(Timestamp::from_millis(row.try_get("", "at")?)),
        });
    }
    Ok(requests)
}

/// Those users do not wait any longer.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn drop_requests<'a, C: ConnectionTrait>(
    db: &C,
    id: i64,
    uids: impl IntoIterator<Item = &'a Uid>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(2);
    for uid in uids {
        rows.push([id.into(), uid.as_str().into()]);
    }
    let text = "DELETE FROM group_requests WHERE (conversation_id, uid) {in}";
    sql::execute_in(db, text, rows).await?;
    Ok(())
}
