//! What is left of deleted accounts. Each function removes a bounded part and can be called again, whatever was removed
//! before.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::members::Role;
use super::{Error, conversations, devices, search, sql, users};
use crate::{clock, content};

/// Rows that one call removes.
const STEP: usize = 256;

/// An account whose data is being erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Whose it was.
    pub uid: Uid,
    /// When it was deleted.
    pub at: SystemTime,
}

/// Notes that an account's data is to be erased.
///
/// # Errors
/// [`Error::Exists`] when that is noted already.
pub async fn add<C: ConnectionTrait>(db: &C, uid: &Uid, now: SystemTime) -> Result<(), Error> {
    let text = "INSERT INTO erasures (uid, at) VALUES (?, ?)";
    let values = [uid.as_str().into(), clock::millis(now).into()];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// The accounts whose data is being erased.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(db: &C) -> Result<Vec<Erasure>, Error> {
    let rows = sql::query(db, "SELECT uid, at FROM erasures ORDER BY at", []).await?;
    let erasure = |row: &QueryResult| {
        Ok(Erasure {
            uid: users::uid(row)?,
            at: clock::from_millis(row.try_get("", "at")?),
        })
    };
    let erasures: Result<_, DbErr> = rows.iter().map(erasure).collect();
    Ok(erasures?)
}

/// Notes that nothing is left.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn remove<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<(), Error> {
    let text = "DELETE FROM erasures WHERE uid = ?";
    sql::execute(db, text, [uid.as_str().into()]).await?;
    Ok(())
}

/// What only the user had: devices, drafts of the future, answers, what was hidden. Tells whether there may be more.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn remove_own<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<bool, Error> {
    let key = || [uid.as_str().into()];
    for table in ["scheduled", "group_requests", "departures", "user_words"] {
        let text = format!("DELETE FROM {table} WHERE uid = ?");
        sql::execute(db, &text, key()).await?;
    }
    let text = "SELECT device FROM devices WHERE uid = ? LIMIT 1";
    if let Some(row) = sql::query_one(db, text, key()).await? {
        let device: String = row.try_get("", "device")?;
        devices::forget(db, (uid, &device)).await?;
        return Ok(true);
    }
    sql::execute(db, "DELETE FROM cursors WHERE uid = ?", key()).await?;
    let text = "SELECT conversation_id FROM hidden_messages WHERE uid = ? LIMIT 1";
    if let Some(row) = sql::query_one(db, text, key()).await? {
        let id: i64 = row.try_get("", "conversation_id")?;
        let text = "DELETE FROM hidden_messages WHERE uid = ? AND conversation_id = ?";
        sql::execute(db, text, [uid.as_str().into(), id.into()]).await?;
        return Ok(true);
    }
    let text = format!("SELECT id FROM answers WHERE uid = ? LIMIT {STEP}");
    let mut ids = sql::Rows::new(1);
    let rows = sql::query(db, &text, key()).await?;
    for row in &rows {
        let id: i64 = row.try_get("", "id")?;
        ids.push([id.into()]);
    }
    sql::execute_in(db, "DELETE FROM answers WHERE id {in}", ids).await?;
    Ok(!rows.is_empty())
}

/// A conversation that a user is in.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its key in the database.
    pub conversation_id: i64,
    /// Its name on the wire.
    pub name: String,
    /// What the user is there.
    pub role: Role,
}

/// One of the conversations that the user is still in.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn place<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<Place>, Error> {
    let text = "SELECT c.id, c.name, m.role FROM members m
        JOIN conversations c ON c.id = m.conversation_id WHERE m.uid = ? LIMIT 1";
    let row = sql::query_one(db, text, [uid.as_str().into()]).await?;
    let place = |row: QueryResult| -> Result<Place, DbErr> {
        let role: String = row.try_get("", "role")?;
        Ok(Place {
            conversation_id: row.try_get("", "id")?,
            name: row.try_get("", "name")?,
            role: Role::parse(&role),
        })
    };
    Ok(row.map(place).transpose()?)
}

/// Makes the admin who has been there for the longest time the owner, or without one the member; returns who that is.
/// `None`: nobody is left.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn pass_ownership_on<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
) -> Result<Option<Uid>, Error> {
    let text = "SELECT uid FROM members WHERE conversation_id = ?
        ORDER BY CASE role WHEN 'admin' THEN 0 ELSE 1 END, start_seq, uid LIMIT 1";
    let Some(row) = sql::query_one(db, text, [conversation_id.into()]).await? else {
        return Ok(None);
    };
    let heir = users::uid(&row)?;
    let text =
        "UPDATE members SET role = ?, changes = changes + 1 WHERE conversation_id = ? AND uid = ?";
    let role = Role::Owner.as_str().into();
    let values = [role, conversation_id.into(), heir.as_str().into()];
    sql::execute(db, text, values).await?;
    Ok(Some(heir))
}

/// Ends a group that nobody is in any more.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn dissolve<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    now: SystemTime,
) -> Result<(), Error> {
    for table in ["group_links", "group_requests", "group_pins"] {
        let text = format!("DELETE FROM {table} WHERE conversation_id = ?");
        sql::execute(db, &text, [conversation_id.into()]).await?;
    }
    let text = "UPDATE chat_groups SET dissolved_at = ?
        WHERE conversation_id = ? AND dissolved_at IS NULL";
    let values = [clock::millis(now).into(), conversation_id.into()];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Counts a change of a conversation that concerns no message.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn note_change<C: ConnectionTrait>(db: &C, conversation_id: i64) -> Result<(), Error> {
    let text = "UPDATE conversations SET changes = changes + 1 WHERE id = ?";
    sql::execute(db, text, [conversation_id.into()]).await?;
    Ok(())
}

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
    let erased: Vec<u64> = changed.iter().map(|at| at.msg_id.cast_unsigned()).collect();
    search::mark(db, &erased).await?;
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

/// Removes what the user has noted of others, and ends what others have had to do with the user. Tells whether there may
/// be more.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn remove_contacts<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<bool, Error> {
    let own = format!("SELECT other AS uid FROM contacts WHERE uid = ? LIMIT {STEP}");
    let own = contact_keys(db, &own, uid).await?;
    let mut keys = sql::Rows::new(2);
    for other in &own {
        keys.push([uid.as_str().into(), other.as_str().into()]);
    }
    sql::execute_in(db, "DELETE FROM contacts WHERE (uid, other) {in}", keys).await?;
    let others = format!(
        "SELECT uid FROM contacts WHERE other = ? AND (state <> 'none' OR text <> '') LIMIT {STEP}"
    );
    let others = contact_keys(db, &others, uid).await?;
    let mut keys = sql::Rows::new(2);
    for other in &others {
        keys.push([other.as_str().into(), uid.as_str().into()]);
    }
    let set = "state = 'none', text = '', changes = contacts.changes + 1";
    let on = "contacts.uid = v.uid AND contacts.other = v.other";
    sql::update_rows(db, "contacts", &["uid", "other"], set, on, keys).await?;
    Ok(!own.is_empty() || !others.is_empty())
}

async fn contact_keys<C: ConnectionTrait>(
    db: &C,
    text: &str,
    uid: &Uid,
) -> Result<Vec<String>, DbErr> {
    let rows = sql::query(db, text, [uid.as_str().into()]).await?;
    rows.iter().map(|row| row.try_get("", "uid")).collect()
}
