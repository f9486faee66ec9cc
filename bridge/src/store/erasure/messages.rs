//! What deleted accounts have written, and how they have reacted.

use std::collections::{BTreeMap, HashMap};

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::STEP;
use crate::content;
use crate::store::{Error, conversations, sql};

/// A message's key and place.
#[derive(Clone, Copy, Debug)]
struct At {
    msg_id: i64,
    conversation_id: i64,
    seq: i32,
}

impl At {
    fn of(row: &QueryResult) -> Result<Self, DbErr> {
        Ok(At {
            msg_id: row.try_get("", "msg_id")?,
            conversation_id: row.try_get("", "conversation_id")?,
            seq: row.try_get("", "seq")?,
        })
    }
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
    let rows = unblanked(db, uid, after).await?;
    let (mut ids, mut places) = (sql::Rows::new(1), sql::Rows::new(2));
    let (mut mentions, mut pins) = (sql::Rows::new(3), sql::Rows::new(2));
    let mut blank = sql::Rows::new(2);
    let mut changed = Vec::with_capacity(rows.len());
    let mut last = after;
    for (row, has_client_id) in &rows {
        let at = At::of(row)?;
        ids.push([at.msg_id.into()]);
        places.push([at.conversation_id.into(), at.seq.into()]);
        pins.push([at.conversation_id.into(), at.msg_id.into()]);
        for mention in mentioned(row)? {
            mentions.push([at.conversation_id.into(), mention.into(), at.seq.into()]);
        }
        blank.push([at.msg_id.into(), Vec::<u8>::new().into()]);
        changed.push(at);
        if !has_client_id {
            last = at.msg_id;
        }
    }
    if changed.is_empty() {
        return Ok(None);
    }
    for table in ["revisions", "reactions", "expiring", "flags"] {
        let text = format!("DELETE FROM {table} WHERE msg_id {{in}}");
        sql::execute_in(db, &text, ids.clone()).await?;
    }
    let text = "DELETE FROM attachments WHERE (conversation_id, seq) {in}";
    sql::execute_in(db, text, places).await?;
    let text = "DELETE FROM mentions WHERE (conversation_id, uid, seq) {in}";
    sql::execute_in(db, text, mentions).await?;
    let text = "DELETE FROM group_pins WHERE (conversation_id, msg_id) {in}";
    sql::execute_in(db, text, pins).await?;
    // Without the client's id it is not found here again.
    let set = "content = v.content, state = 3, client_msg_id = NULL, sender_device = '', edited_at = NULL,
        expires_at = NULL";
    let on = "messages.msg_id = v.msg_id";
    let columns = ["msg_id", "content"];
    sql::update_rows(db, "messages", &columns, set, on, blank).await?;
    note_changes(db, &changed).await?;
    Ok(Some(last))
}

/// Some messages of the user that are not blanked: those with a client's id, by which they are found; then others, after
/// `after`. Tells which.
async fn unblanked<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    after: i64,
) -> Result<Vec<(QueryResult, bool)>, DbErr> {
    let select = "SELECT msg_id, conversation_id, seq, content FROM messages WHERE sender = ?";
    let text = format!("{select} AND client_msg_id > '' ORDER BY client_msg_id LIMIT {STEP}");
    let rows = sql::query(db, &text, [uid.as_str().into()]).await?;
    if !rows.is_empty() {
        return Ok(rows.into_iter().map(|row| (row, true)).collect());
    }
    let text = format!(
        "{select} AND client_msg_id IS NULL AND msg_id > ? AND state <> 3 ORDER BY msg_id LIMIT {STEP}"
    );
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

/// Numbers changes of messages, one after another in each conversation.
async fn note_changes<C: ConnectionTrait>(db: &C, changed: &[At]) -> Result<(), Error> {
    let mut by_conversation: BTreeMap<i64, Vec<At>> = BTreeMap::new();
    for at in changed {
        by_conversation
            .entry(at.conversation_id)
            .or_default()
            .push(*at);
    }
    let ids: Vec<i64> = by_conversation.keys().copied().collect();
    conversations::lock(db, &ids).await?;
    let mut counts = change_counts(db, &ids).await?;
    let (mut rows, mut more) = (sql::Rows::new(4), sql::Rows::new(2));
    for (id, changed) in by_conversation {
        let count = counts.entry(id).or_default();
        for at in &changed {
            *count += 1;
            rows.push([id.into(), at.msg_id.into(), at.seq.into(), (*count).into()]);
        }
        more.push([id.into(), (*count).into()]);
    }
    let backend = db.get_database_backend();
    let text = format!(
        "INSERT INTO changed_messages (conversation_id, msg_id, seq, change_number)
        VALUES {{rows}}{}change_number = {}",
        sql::on_conflict(backend, "conversation_id, msg_id"),
        sql::excluded(backend, "change_number"),
    );
    sql::execute_rows(db, &text, rows).await?;
    let (columns, on) = (["id", "changes"], "conversations.id = v.id");
    sql::update_rows(
        db,
        "conversations",
        &columns,
        "changes = v.changes",
        on,
        more,
    )
    .await?;
    Ok(())
}

async fn change_counts<C: ConnectionTrait>(
    db: &C,
    ids: &[i64],
) -> Result<HashMap<i64, i32>, DbErr> {
    let mut rows = sql::Rows::new(1);
    for id in ids {
        rows.push([(*id).into()]);
    }
    let text = "SELECT id, changes FROM conversations WHERE id {in}";
    let found = sql::query_rows(db, text, rows).await?;
    let count = |row: &QueryResult| Ok((row.try_get("", "id")?, row.try_get("", "changes")?));
    found.iter().map(count).collect()
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
    let mut changed: BTreeMap<i64, At> = BTreeMap::new();
    for row in &rows {
        let (at, emoji): (At, String) = (At::of(row)?, row.try_get("", "emoji")?);
        keys.push([at.msg_id.into(), emoji.into(), uid.as_str().into()]);
        changed.insert(at.msg_id, at);
    }
    let text = "DELETE FROM reactions WHERE (msg_id, emoji, uid) {in}";
    sql::execute_in(db, text, keys).await?;
    let changed: Vec<At> = changed.into_values().collect();
    note_changes(db, &changed).await?;
    Ok(!rows.is_empty())
}
