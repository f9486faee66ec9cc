//! Messages that are pinned in a group for everybody. One whose content is gone counts no longer.

use schema::Uid;
use sea_orm::ConnectionTrait;

use crate::store::{Error, archives, sql};

/// Whether there is such a message in a conversation that has its content and that a user sees who sees only what
/// comes after `visible_seq`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn can_be_pinned<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    msg_id: u64,
    uid: &Uid,
    visible_seq: u32,
) -> Result<bool, Error> {
    let text = "SELECT x.seq FROM messages x
        WHERE x.msg_id = ? AND x.conversation_id = ? AND x.state = 0 AND x.seq > ?
        AND NOT EXISTS (SELECT 1 FROM hidden_messages h
            WHERE h.uid = ? AND h.conversation_id = x.conversation_id AND h.seq = x.seq)";
    let values = [
        msg_id.cast_signed().into(),
        conversation_id.into(),
        visible_seq.cast_signed().into(),
        uid.as_str().into(),
    ];
    if sql::query_one(db, text, values).await?.is_some() {
        return Ok(true);
    }
    let found = archives::find(db, uid, &[msg_id]).await?.pop();
    Ok(found.is_some_and(|found| {
        found.place.conversation_id == conversation_id && found.message.gone.is_empty()
    }))
}

/// Pins a message that is not pinned.
///
/// # Errors
/// [`Error::Exists`] when it is.
pub async fn add<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    msg_id: u64,
    at: i64,
) -> Result<(), Error> {
    let text = "INSERT INTO group_pins (conversation_id, msg_id, at) VALUES (?, ?, ?)";
    let values = [
        conversation_id.into(),
        msg_id.cast_signed().into(),
        at.into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Takes a pin back; tells whether there was one.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn remove<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    msg_id: u64,
) -> Result<bool, Error> {
    let text = "DELETE FROM group_pins WHERE conversation_id = ? AND msg_id = ?";
    let values = [conversation_id.into(), msg_id.cast_signed().into()];
    Ok(sql::execute(db, text, values).await? > 0)
}

/// The pinned messages, latest pin first.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    limit: usize,
) -> Result<Vec<u64>, Error> {
    // A pin of a message in a file goes with its content.
    let text = format!(
        "SELECT p.msg_id FROM group_pins p LEFT JOIN messages x ON x.msg_id = p.msg_id
        WHERE p.conversation_id = ? AND (x.state IS NULL OR x.state = 0)
        ORDER BY p.at DESC, p.msg_id DESC LIMIT {limit}"
    );
    let mut pinned = Vec::new();
    for row in sql::query(db, &text, [conversation_id.into()]).await? {
        let msg_id: i64 = row.try_get("", "msg_id")?;
        pinned.push(msg_id.cast_unsigned());
    }
    Ok(pinned)
}
