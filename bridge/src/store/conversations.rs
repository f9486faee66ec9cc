//! Conversations and the sequence of each.

use std::collections::{BTreeSet, HashMap};

use schema::Uid;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult};

use super::groups::Policy;
use super::members::Role;
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
    /// Of a group: who may send.
    pub group: Option<Senders>,
}

/// Who may send to a group.
#[derive(Clone, Debug)]
pub struct Senders {
    /// The least role that may.
    pub post: Policy,
    /// Whether only owner and admins may for now.
    pub muted: bool,
    /// Owner and admins.
    pub managers: Vec<(Uid, Role)>,
    /// Who may not, and until when in milliseconds since 1970, which may be past.
    pub silenced: Vec<(Uid, i64)>,
}

/// The conversations that exist of those names, with their members. A group that was dissolved is none.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(db: &C, names: &[&str]) -> Result<Vec<Found>, Error> {
    let mut rows = sql::Rows::new(1);
    for name in names {
        rows.push([(*name).into()]);
    }
    let text = "SELECT c.id, c.name, m.uid, m.role, m.silenced_until, g.post_by, g.muted
        FROM conversations c
        LEFT JOIN members m ON m.conversation_id = c.id
        LEFT JOIN chat_groups g ON g.conversation_id = c.id
        WHERE c.name {in} AND g.dissolved_at IS NULL ORDER BY c.id";
    let mut found: Vec<Found> = Vec::new();
    for row in sql::query_rows(db, text, rows).await? {
        let id = row.try_get("", "id")?;
        if found.last().is_none_or(|last| last.id != id) {
            found.push(Found {
                id,
                name: row.try_get("", "name")?,
                members: Vec::new(),
                group: senders(&row)?,
            });
        }
        let uid: Option<String> = row.try_get("", "uid")?;
        // A uid in the database has been checked when it was registered.
        let uid: Option<Uid> = uid.and_then(|uid| uid.parse().ok());
        if let (Some(last), Some(uid)) = (found.last_mut(), uid) {
            if let Some(group) = &mut last.group {
                add_sender(group, &uid, &row)?;
            }
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

/// `None`: it is no group's row.
fn senders(row: &QueryResult) -> Result<Option<Senders>, DbErr> {
    let post: Option<String> = row.try_get("", "post_by")?;
    let muted: Option<bool> = row.try_get("", "muted")?;
    Ok(post.map(|post| Senders {
        post: Policy::parse(&post).unwrap_or(Policy::Owner),
        muted: muted.unwrap_or_default(),
        managers: Vec::new(),
        silenced: Vec::new(),
    }))
}

/// Adds a member, where the member is not one like most.
fn add_sender(group: &mut Senders, uid: &Uid, row: &QueryResult) -> Result<(), DbErr> {
    let role: String = row.try_get("", "role")?;
    let role = Role::parse(&role);
    if role != Role::Member {
        group.managers.push((uid.clone(), role));
    }
    let silenced_until: i64 = row.try_get("", "silenced_until")?;
    if silenced_until > 0 {
        group.silenced.push((uid.clone(), silenced_until));
    }
    Ok(())
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

/// Counts a change of the group, so that devices which were away learn of it.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn count_change<C: ConnectionTrait>(db: &C, id: i64) -> Result<(), Error> {
    let text = "UPDATE conversations SET changes = changes + 1 WHERE id = ?";
    sql::execute(db, text, [id.into()]).await?;
    Ok(())
}
