//! First answers of commands whose repetition must change nothing.

use prost::Message as _;
use schema::{Uid, v1};
use sea_orm::ConnectionTrait;

use super::{Error, sql};

/// Keeps an answer.
///
/// # Errors
/// [`Error::Exists`] when the command was answered before.
pub async fn add<C: ConnectionTrait>(
    db: &C,
    id: u64,
    uid: &Uid,
    reply: &v1::Reply,
) -> Result<(), Error> {
    let text = "INSERT INTO answers (id, uid, client_msg_id, reply) VALUES (?, ?, ?, ?)";
    let values = [
        id.cast_signed().into(),
        uid.as_str().into(),
        reply.client_msg_id.as_str().into(),
        reply.encode_to_vec().into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// The answers that exist to those users' commands: uid and answer.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find<C: ConnectionTrait>(
    db: &C,
    keys: impl IntoIterator<Item = (&str, &str)>,
) -> Result<Vec<(String, v1::Reply)>, Error> {
    let mut rows = sql::Rows::new(2);
    for (uid, client_msg_id) in keys {
        rows.push([uid.into(), client_msg_id.into()]);
    }
    let text = "SELECT uid, reply FROM answers WHERE (uid, client_msg_id) {in}";
    let mut answers = Vec::new();
    for row in sql::query_rows(db, text, rows).await? {
        let blob: Vec<u8> = row.try_get("", "reply")?;
        let reply = v1::Reply::decode(blob.as_slice())
            .map_err(|error| sea_orm::DbErr::Type(format!("an answer is damaged: {error}")))?;
        answers.push((row.try_get("", "uid")?, reply));
    }
    Ok(answers)
}

/// Drops answers whose id is smaller.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn forget_before<C: ConnectionTrait>(db: &C, id: u64) -> Result<(), Error> {
    let text = "DELETE FROM answers WHERE id < ?";
    sql::execute(db, text, [id.cast_signed().into()]).await?;
    Ok(())
}
