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
    /// Counts changes of all this, and of what two users may write to each other.
    pub revision: i64,
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
    let text =
        "SELECT c.id, c.name, c.revision, m.uid, m.role, m.silenced_until, g.post_by, g.muted
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
                revision: row.try_get("", "revision")?,
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

/// Who is in each of these conversations now.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn members<C: ConnectionTrait>(
    db: &C,
    ids: &[i64],
) -> Result<HashMap<i64, Vec<String>>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in ids {
        rows.push([(*id).into()]);
    }
    let text = "SELECT conversation_id, uid FROM members WHERE conversation_id {in}";
    let mut members: HashMap<i64, Vec<String>> = HashMap::new();
    for row in sql::query_rows(db, text, rows).await? {
        let conversation = members
            .entry(row.try_get("", "conversation_id")?)
            .or_default();
        conversation.push(row.try_get("", "uid")?);
    }
    Ok(members)
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

/// A conversation whose row is locked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Locked {
    /// Its newest seq.
    pub last_seq: u32,
    /// The number of its newest change.
    pub changes: u32,
    /// Counts changes of who is in it, and who may send.
    pub revision: i64,
}

/// Locks the conversations' rows to the end of the transaction.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lock<C: ConnectionTrait>(db: &C, ids: &[i64]) -> Result<Vec<(i64, Locked)>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in ids {
        rows.push([(*id).into()]);
    }
    let text = format!(
        "SELECT id, last_seq, changes, revision FROM conversations WHERE id {{in}} ORDER BY id{}",
        sql::for_update(db.get_database_backend())
    );
    let mut locked = Vec::with_capacity(ids.len());
    for row in sql::query_rows(db, &text, rows).await? {
        let last_seq: i32 = row.try_get("", "last_seq")?;
        let changes: i32 = row.try_get("", "changes")?;
        let found = Locked {
            last_seq: last_seq.cast_unsigned(),
            changes: changes.cast_unsigned(),
            revision: row.try_get("", "revision")?,
        };
        locked.push((row.try_get("", "id")?, found));
    }
    Ok(locked)
}

/// The revisions of conversations as they are now; see [`Found::revision`].
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn revisions<C: ConnectionTrait>(
    db: &C,
    ids: &[i64],
) -> Result<HashMap<i64, i64>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in ids {
        rows.push([(*id).into()]);
    }
    let text = "SELECT id, revision FROM conversations WHERE id {in}";
    let mut revisions = HashMap::with_capacity(ids.len());
    for row in sql::query_rows(db, text, rows).await? {
        revisions.insert(row.try_get("", "id")?, row.try_get("", "revision")?);
    }
    Ok(revisions)
}

/// Places that are wanted in a conversation.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Key in the database.
    pub id: i64,
    /// How many.
    pub places: u32,
    /// The id of the message that gets the last of them.
    pub last_msg_id: u64,
}

/// A conversation as it was before places were taken in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Its newest seq.
    pub last_seq: u32,
    /// The newest message's id; 0: there was none. On SQLite always 0: nobody else gives ids there, and nobody is told.
    pub last_msg_id: u64,
    /// Counts changes of who is in it, and who may send.
    pub revision: i64,
}

/// Takes places in conversations, each of which is named once, and whose rows stay locked to the end of the transaction.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn advance<C: ConnectionTrait>(
    db: &C,
    wanted: &[Wanted],
) -> Result<HashMap<i64, Before>, Error> {
    // In one order on all nodes, so that two transactions don't wait for each other.
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable_by_key(|wanted| wanted.id);
    let mut rows = sql::Rows::new(3);
    for wanted in &wanted {
        let (places, newest) = (
            wanted.places.cast_signed(),
            wanted.last_msg_id.cast_signed(),
        );
        rows.push([wanted.id.into(), places.into(), newest.into()]);
    }
    let (table, columns) = ("conversations", ["id", "more", "newest"]);
    let set = "last_seq = conversations.last_seq + v.more, last_msg_id = v.newest";
    let on = "conversations.id = v.id";
    match db.get_database_backend() {
        DbBackend::Sqlite => {
            let more: HashMap<i64, u32> = wanted
                .iter()
                .map(|wanted| (wanted.id, wanted.places))
                .collect();
            let returning = "RETURNING id, last_seq, revision";
            let found = sql::update_rows_returning(db, table, &columns, set, on, returning, rows);
            let mut before = HashMap::with_capacity(more.len());
            for row in found.await? {
                let (id, seq): (i64, i32) = (row.try_get("", "id")?, row.try_get("", "last_seq")?);
                let taken = more.get(&id).copied().unwrap_or_default();
                let found = Before {
                    last_seq: seq.cast_unsigned() - taken,
                    last_msg_id: 0,
                    revision: row.try_get("", "revision")?,
                };
                before.insert(id, found);
            }
            Ok(before)
        }
        DbBackend::Postgres => {
            // What the locked rows say is what was committed last, also after waiting for another node.
            let text = "WITH v(id, more, newest) AS (VALUES {rows}),
                b AS (SELECT c.id, c.last_seq, c.last_msg_id, c.revision, v.more, v.newest
                    FROM conversations c JOIN v ON v.id = c.id ORDER BY c.id FOR UPDATE OF c)
                UPDATE conversations SET last_seq = b.last_seq + b.more, last_msg_id = b.newest
                FROM b WHERE conversations.id = b.id
                RETURNING b.id, b.last_seq, b.last_msg_id, b.revision";
            before(&sql::query_each(db, text, rows).await?)
        }
        _ => {
            let mut ids = sql::Rows::new(1);
            for wanted in &wanted {
                ids.push([wanted.id.into()]);
            }
            let text = format!("{LOCK} WHERE id {{in}} ORDER BY id FOR UPDATE");
            let found = sql::query_rows(db, &text, ids).await?;
            sql::update_rows(db, table, &columns, set, on, rows).await?;
            before(&found)
        }
    }
}

const LOCK: &str = "SELECT id, last_seq, last_msg_id, revision FROM conversations";

fn before(rows: &[QueryResult]) -> Result<HashMap<i64, Before>, Error> {
    let before = |row: &QueryResult| {
        let seq: i32 = row.try_get("", "last_seq")?;
        let newest: i64 = row.try_get("", "last_msg_id")?;
        let before = Before {
            last_seq: seq.cast_unsigned(),
            last_msg_id: newest.cast_unsigned(),
            revision: row.try_get("", "revision")?,
        };
        Ok((row.try_get("", "id")?, before))
    };
    let before: Result<_, DbErr> = rows.iter().map(before).collect();
    Ok(before?)
}

/// Notes other newest messages than [`advance`] was told, in the same transaction.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_last_msg_ids<C: ConnectionTrait>(
    db: &C,
    newest: impl IntoIterator<Item = (i64, u64)>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(2);
    for (id, msg_id) in newest {
        rows.push([id.into(), msg_id.cast_signed().into()]);
    }
    let (set, on) = ("last_msg_id = v.newest", "conversations.id = v.id");
    sql::update_rows(db, "conversations", &["id", "newest"], set, on, rows).await?;
    Ok(())
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
    let mut rows = sql::Rows::new(2);
    // In one order on all nodes, so that two transactions don't wait for each other.
    let ids: BTreeSet<i64> = more.keys().copied().collect();
    for id in &ids {
        rows.push([(*id).into(), more[id].cast_signed().into()]);
    }
    let (table, columns, on) = ("conversations", ["id", "more"], "conversations.id = v.id");
    let set = "changes = conversations.changes + v.more";
    // There is no other node on SQLite, and one statement is enough.
    if db.get_database_backend() != DbBackend::Sqlite {
        let ids: Vec<i64> = ids.into_iter().collect();
        let locked = lock(db, &ids).await?.into_iter();
        let before = locked.map(|(id, locked)| (id, locked.changes)).collect();
        sql::update_rows(db, table, &columns, set, on, rows).await?;
        return Ok(before);
    }
    let returning = "RETURNING id, changes";
    let mut before = HashMap::with_capacity(ids.len());
    for row in sql::update_rows_returning(db, table, &columns, set, on, returning, rows).await? {
        let (id, count): (i64, i32) = (row.try_get("", "id")?, row.try_get("", "changes")?);
        before.insert(id, count.cast_unsigned() - more[&id]);
    }
    Ok(before)
}

/// Counts a change of who is in a conversation, who may send to it, or what its group is: devices that were away learn of
/// it, and who has the conversation in memory reads it again.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn count_change<C: ConnectionTrait>(db: &C, id: i64) -> Result<(), Error> {
    let text =
        "UPDATE conversations SET changes = changes + 1, revision = revision + 1 WHERE id = ?";
    sql::execute(db, text, [id.into()]).await?;
    Ok(())
}

/// Has who has one of the conversations in memory read it again, though its members see no change; those that don't exist
/// don't matter. The rows stay locked to the end of the transaction.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn revise<C: ConnectionTrait>(db: &C, names: &[String]) -> Result<(), Error> {
    let mut rows = sql::Rows::new(1);
    for name in names {
        rows.push([name.as_str().into()]);
    }
    let lock = sql::for_update(db.get_database_backend());
    if !lock.is_empty() {
        // In one order on all nodes, so that two transactions don't wait for each other.
        let text = format!("SELECT id FROM conversations WHERE name {{in}} ORDER BY id{lock}");
        sql::query_rows(db, &text, rows.clone()).await?;
    }
    let text = "UPDATE conversations SET revision = revision + 1 WHERE name {in}";
    sql::execute_in(db, text, rows).await?;
    Ok(())
}
