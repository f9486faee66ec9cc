//! Conversations and the sequence of each.

use std::collections::{BTreeSet, HashMap};

use schema::Uid;
use sea_orm::{ConnectionTrait, DbBackend};

use super::{Error, sql};

/// A conversation and who is in it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Key in the database.
    pub id: i64,
    /// Name on the wire.
    pub name: String,
    /// Everybody who is in it now.
    pub members: Vec<Uid>,
}

/// The conversations that exist of those names, with their members.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(db: &C, names: &[&str]) -> Result<Vec<Found>, Error> {
    let mut rows = sql::Rows::new(1);
    for name in names {
        rows.push([(*name).into()]);
    }
    let text = "SELECT c.id, c.name, m.uid FROM conversations c
        LEFT JOIN members m ON m.conversation_id = c.id
        WHERE c.name {in} ORDER BY c.id";
    let mut found: Vec<Found> = Vec::new();
    for row in sql::query_rows(db, text, rows).await? {
        let id = row.try_get("", "id")?;
        if found.last().is_none_or(|last| last.id != id) {
            found.push(Found {
                id,
                name: row.try_get("", "name")?,
                members: Vec::new(),
            });
        }
        let uid: Option<String> = row.try_get("", "uid")?;
        // A uid in the database has been checked when it was registered.
        let uid = uid.and_then(|uid| uid.parse().ok());
        if let (Some(last), Some(uid)) = (found.last_mut(), uid) {
            last.members.push(uid);
        }
    }
    Ok(found)
}

/// The names of a user's conversations with single others.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn direct_names<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Vec<String>, Error> {
    let text = "SELECT c.name FROM members m JOIN conversations c ON c.id = m.conversation_id
        WHERE m.uid = ? AND c.name >= 'u:' AND c.name < 'u;'";
    let mut names = Vec::new();
    for row in sql::query(db, text, [uid.as_str().into()]).await? {
        names.push(row.try_get("", "name")?);
    }
    Ok(names)
}

/// Adds a conversation without messages.
///
/// # Errors
/// [`Error::Exists`] when another has the name.
pub async fn add<C: ConnectionTrait>(
    db: &C,
    id: i64,
    name: &str,
    created_at: i64,
) -> Result<(), Error> {
    let text = "INSERT INTO conversations (id, name, last_seq, created_at) VALUES (?, ?, 0, ?)";
    sql::execute(db, text, [id.into(), name.into(), created_at.into()]).await?;
    Ok(())
}

/// The newest seq of each, whose rows stay locked to the end of the transaction.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lock<C: ConnectionTrait>(db: &C, ids: &[i64]) -> Result<Vec<(i64, u32)>, Error> {
    lock_counter(db, "last_seq", ids).await
}

async fn lock_counter<C: ConnectionTrait>(
    db: &C,
    counter: &str,
    ids: &[i64],
) -> Result<Vec<(i64, u32)>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in ids {
        rows.push([(*id).into()]);
    }
    let text = format!(
        "SELECT id, {counter} FROM conversations WHERE id {{in}} ORDER BY id{}",
        sql::for_update(db.get_database_backend())
    );
    let mut locked = Vec::with_capacity(ids.len());
    for row in sql::query_rows(db, &text, rows).await? {
        let count: i32 = row.try_get("", counter)?;
        locked.push((row.try_get("", "id")?, count.cast_unsigned()));
    }
    Ok(locked)
}

/// Gives so many places in each conversation, whose rows stay locked to the end of the transaction; returns the newest
/// seq before them.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn advance<C: ConnectionTrait>(
    db: &C,
    more: HashMap<i64, u32>,
) -> Result<HashMap<i64, u32>, Error> {
    count(db, "last_seq", more).await
}

/// Counts so many changes in each conversation, whose rows stay locked to the end of the transaction; returns the number
/// of the newest change before them.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn count_changes<C: ConnectionTrait>(
    db: &C,
    more: HashMap<i64, u32>,
) -> Result<HashMap<i64, u32>, Error> {
    count(db, "changes", more).await
}

async fn count<C: ConnectionTrait>(
    db: &C,
    counter: &str,
    more: HashMap<i64, u32>,
) -> Result<HashMap<i64, u32>, Error> {
    let mut rows = sql::Rows::new(2);
    // In one order on all nodes, so that two transactions don't wait for each other.
    let ids: BTreeSet<i64> = more.keys().copied().collect();
    for id in &ids {
        rows.push([(*id).into(), more[id].cast_signed().into()]);
    }
    let (table, columns, on) = ("conversations", ["id", "more"], "conversations.id = v.id");
    let set = format!("{counter} = conversations.{counter} + v.more");
    // There is no other node on SQLite, and one statement is enough.
    if db.get_database_backend() != DbBackend::Sqlite {
        let ids: Vec<i64> = ids.into_iter().collect();
        let before = lock_counter(db, counter, &ids).await?.into_iter().collect();
        sql::update_rows(db, table, &columns, &set, on, rows).await?;
        return Ok(before);
    }
    let returning = format!("RETURNING id, {counter}");
    let mut before = HashMap::with_capacity(ids.len());
    for row in sql::update_rows_returning(db, table, &columns, &set, on, &returning, rows).await? {
        let (id, count): (i64, i32) = (row.try_get("", "id")?, row.try_get("", counter)?);
        before.insert(id, count.cast_unsigned() - more[&id]);
    }
    Ok(before)
}

/// Makes a conversation a group's.
///
/// # Errors
/// [`Error::Exists`] when there is a group of that gid.
pub async fn add_group<C: ConnectionTrait>(
    db: &C,
    id: i64,
    gid: &str,
    name: &str,
) -> Result<(), Error> {
    let text = "INSERT INTO chat_groups (conversation_id, gid, name) VALUES (?, ?, ?)";
    sql::execute(db, text, [id.into(), gid.into(), name.into()]).await?;
    Ok(())
}
