//! What is left of deleted accounts. Each function removes a bounded part and can be called again, whatever was removed
//! before.

mod messages;

use std::time::SystemTime;

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::members::{self, Role};
use super::{Error, devices, sql, users};
use crate::clock;

pub use messages::{blank_messages, remove_reactions};

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
    members::set_role(db, conversation_id, &heir, Role::Owner).await?;
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

#[cfg(test)]
mod tests;
