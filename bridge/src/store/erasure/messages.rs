//! What deleted accounts have written, and how they have reacted.

use std::collections::{BTreeMap, BTreeSet};

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::STEP;
use crate::content;
use crate::store::operations::{self, Gone, Place};
use crate::store::{Error, conversations, sql};

fn place(row: &QueryResult) -> Result<Place, DbErr> {
    let (msg_id, seq): (i64, i32) = (row.try_get("", "msg_id")?, row.try_get("", "seq")?);
    Ok(Place {
        msg_id: msg_id.cast_unsigned(),
        conversation_id: row.try_get("", "conversation_id")?,
        seq: seq.cast_unsigned(),
    })
}

/// Blanks messages that the user has sent, and removes what belongs to them. Returns where to go on; `None`: that was
/// all after `after`.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn blank_messages<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    after: i64,
) -> Result<Option<i64>, Error> {
    let found = some_messages(db, uid, after).await?;
    // Nobody changes them meanwhile.
    let id = |(row, _): &(QueryResult, bool)| row.try_get("", "conversation_id");
    let conversations: BTreeSet<i64> = found.iter().map(id).collect::<Result<_, _>>()?;
    conversations::lock(db, &Vec::from_iter(conversations)).await?;
    let rows = some_messages(db, uid, after).await?;
    let mut ids = sql::Rows::new(1);
    let mut messages = Vec::with_capacity(rows.len());
    let mut last = after;
    if rows.is_empty() {
        return Ok(None);
    }
    for (row, has_client_id) in &rows {
        let (place, state): (Place, i32) = (place(row)?, row.try_get("", "state")?);
        let id = place.msg_id.cast_signed();
        if !has_client_id {
            last = id;
        }
        if *has_client_id || state != Gone::Deleted.state() {
            ids.push([id.into()]);
            messages.push((place, mentioned(row)?));
        }
    }
    let blanked = messages
        .iter()
        .map(|(place, mentioned)| (*place, mentioned.as_slice()));
    let blanked: Vec<(Place, &[String])> = blanked.collect();
    operations::blank(db, Gone::Deleted, &blanked).await?;
    let flags = "DELETE FROM flags WHERE msg_id {in}";
    sql::execute_in(db, flags, ids.clone()).await?;
    // Without the client's id it is not found here again.
    let text = "UPDATE messages SET client_msg_id = NULL, sender_device = '', edited_at = NULL, expires_at = NULL
        WHERE msg_id {in}";
    sql::execute_in(db, text, ids).await?;
    let places: Vec<Place> = messages.iter().map(|(place, _)| *place).collect();
    operations::note_changes(db, &places).await?;
    Ok(Some(last))
}

/// Some messages of the user: those with a client's id, by which what is not blanked is found; then others, after `after`.
/// Tells which.
async fn some_messages<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    after: i64,
) -> Result<Vec<(QueryResult, bool)>, DbErr> {
    let select =
        "SELECT msg_id, conversation_id, seq, state, content FROM messages WHERE sender = ?";
    let text = format!("{select} AND client_msg_id > '' ORDER BY client_msg_id LIMIT {STEP}");
    let rows = sql::query(db, &text, [uid.as_str().into()]).await?;
    if !rows.is_empty() {
        return Ok(rows.into_iter().map(|row| (row, true)).collect());
    }
    // Blanked ones among them, so that a step is short wherever it begins.
    let text =
        format!("{select} AND client_msg_id IS NULL AND msg_id > ? ORDER BY msg_id LIMIT {STEP}");
    let rows = sql::query(db, &text, [uid.as_str().into(), after.into()]).await?;
    Ok(rows.into_iter().map(|row| (row, false)).collect())
}

/// Whom the message mentions. A damaged one is blanked all the same.
fn mentioned(row: &QueryResult) -> Result<Vec<String>, DbErr> {
    let blob: Vec<u8> = row.try_get("", "content")?;
    let mut message = v1::Message::default();
    let decoded = content::decode(&blob, &mut message);
    Ok(decoded.map_or_else(|_| Vec::new(), |()| message.mentions))
}

/// Takes reactions of the user back. Tells whether there may be more.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn remove_reactions<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<bool, Error> {
    let text = format!(
        "SELECT r.msg_id, r.emoji, x.conversation_id, x.seq FROM reactions r
        JOIN messages x ON x.msg_id = r.msg_id WHERE r.uid = ? LIMIT {STEP}"
    );
    let rows = sql::query(db, &text, [uid.as_str().into()]).await?;
    let mut keys = sql::Rows::new(3);
    let mut changed: BTreeMap<u64, Place> = BTreeMap::new();
    for row in &rows {
        let (place, emoji): (Place, String) = (place(row)?, row.try_get("", "emoji")?);
        let id = place.msg_id.cast_signed();
        keys.push([id.into(), emoji.into(), uid.as_str().into()]);
        changed.insert(place.msg_id, place);
    }
    // First, since it locks the conversations.
    let changed: Vec<Place> = changed.into_values().collect();
    operations::note_changes(db, &changed).await?;
    let text = "DELETE FROM reactions WHERE (msg_id, emoji, uid) {in}";
    sql::execute_in(db, text, keys).await?;
    Ok(!rows.is_empty())
}
