//! Rows of `users`.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql, user_words};
use crate::clock;

/// What a user may do beyond chatting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    User,
    /// Administer the server.
    Admin,
}

impl Role {
    /// The word in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Admin => "admin",
        }
    }
}

/// One who may connect.
#[derive(Clone, Debug)]
pub struct User {
    /// The name to log in with.
    pub uid: Uid,
    /// person, bot or device
    pub kind: String,
    /// What the user may do.
    pub role: Role,
    /// Argon2id in PHC form.
    pub password_hash: String,
    /// When the account was made.
    pub created_at: SystemTime,
    /// When the password was replaced; `None`: it is the first one.
    pub password_changed_at: Option<SystemTime>,
}

impl User {
    /// Since when the password is what it is. Each of a user's passwords has another time.
    #[must_use]
    pub fn password_set_at(&self) -> SystemTime {
        self.password_changed_at.unwrap_or(self.created_at)
    }
}

/// A password that was replaced.
#[derive(Clone, Debug)]
pub struct PasswordChange {
    /// Whose.
    pub uid: Uid,
    /// When; see [`User::password_set_at`].
    pub changed_at: SystemTime,
}

/// The hash of no password.
const NO_PASSWORD: &str = "!";

const COLUMNS: &str = "uid, kind, role, password_hash, created_at, password_changed_at";

/// The user with that uid, unless the account is deleted.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<User>, Error> {
    let text = format!("SELECT {COLUMNS} FROM users WHERE uid = ? AND deleted_at IS NULL");
    let row = sql::query_one(db, &text, [uid.as_str().into()]).await?;
    Ok(row.as_ref().map(from_row).transpose()?)
}

/// Whether somebody has or had that uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn is_taken<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<bool, Error> {
    let text = "SELECT uid FROM users WHERE uid = ?";
    let row = sql::query_one(db, text, [uid.as_str().into()]).await?;
    Ok(row.is_some())
}

/// Which of the users exist; deleted ones don't.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn existing<C: ConnectionTrait>(db: &C, uids: &[Uid]) -> Result<Vec<Uid>, Error> {
    let mut rows = sql::Rows::new(1);
    for uid in uids {
        rows.push([uid.as_str().into()]);
    }
    let text = "SELECT uid FROM users WHERE uid {in} AND deleted_at IS NULL";
    let mut existing = Vec::with_capacity(uids.len());
    for row in sql::query_rows(db, text, rows).await? {
        let uid: String = row.try_get("", "uid")?;
        existing.extend(uid.parse::<Uid>().ok());
    }
    Ok(existing)
}

/// Since when the passwords of these users are what they are; see [`User::password_set_at`]. Deleted ones are left out.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn passwords_set_at<C: ConnectionTrait>(
    db: &C,
    uids: impl IntoIterator<Item = &Uid>,
) -> Result<HashMap<Uid, SystemTime>, Error> {
    let mut rows = sql::Rows::new(1);
    for uid in uids {
        rows.push([uid.as_str().into()]);
    }
    let text = "SELECT uid, COALESCE(password_changed_at, created_at) AS set_at FROM users
        WHERE uid {in} AND deleted_at IS NULL";
    let mut found = HashMap::new();
    for row in sql::query_rows(db, text, rows).await? {
        found.insert(uid(&row)?, clock::from_millis(row.try_get("", "set_at")?));
    }
    Ok(found)
}

/// Keeps other nodes from changing users, and what two of them have to do with each other, to the end of the transaction.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lock<'a, C: ConnectionTrait>(
    db: &C,
    uids: impl IntoIterator<Item = &'a Uid>,
) -> Result<(), Error> {
    let lock = sql::for_update(db.get_database_backend());
    // There is no other node on SQLite.
    if lock.is_empty() {
        return Ok(());
    }
    // In one order on all nodes, so that two transactions don't wait for each other.
    let uids: BTreeSet<&Uid> = uids.into_iter().collect();
    let mut rows = sql::Rows::new(1);
    for uid in uids {
        rows.push([uid.as_str().into()]);
    }
    let text = format!("SELECT uid FROM users WHERE uid {{in}} ORDER BY uid{lock}");
    sql::query_rows(db, &text, rows).await?;
    Ok(())
}

/// All users, by uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(db: &C) -> Result<Vec<User>, Error> {
    let text = format!("SELECT {COLUMNS} FROM users WHERE deleted_at IS NULL ORDER BY uid");
    let rows = sql::query(db, &text, []).await?;
    Ok(rows.iter().map(from_row).collect::<Result<_, _>>()?)
}

/// An account as administrators see it, also a deleted one.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The name to log in with.
    pub uid: Uid,
    /// person, bot or device
    pub kind: String,
    /// What the user may do.
    pub role: Role,
    /// What others see.
    pub name: String,
    /// When the account was made.
    pub created_at: SystemTime,
    /// When it was deleted.
    pub deleted_at: Option<SystemTime>,
}

const LISTED_COLUMNS: &str = "uid, kind, role, name, created_at, deleted_at";

/// The account with that uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn listed<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<Listed>, Error> {
    let text = format!("SELECT {LISTED_COLUMNS} FROM users WHERE uid = ?");
    let row = sql::query_one(db, &text, [uid.as_str().into()]).await?;
    Ok(row.as_ref().map(listed_from_row).transpose()?)
}

/// Accounts whose uids begin with `prefix`, by uid: the `limit` ones after `after`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn page<C: ConnectionTrait>(
    db: &C,
    prefix: &str,
    after: &str,
    limit: u32,
) -> Result<Vec<Listed>, Error> {
    let text = format!(
        "SELECT {LISTED_COLUMNS} FROM users WHERE uid >= ? AND uid < ? AND uid > ? ORDER BY uid LIMIT {limit}"
    );
    // Greater than every character of a uid.
    let end = format!("{prefix}~");
    let rows = sql::query(db, &text, [prefix.into(), end.into(), after.into()]).await?;
    Ok(rows.iter().map(listed_from_row).collect::<Result<_, _>>()?)
}

fn listed_from_row(row: &QueryResult) -> Result<Listed, DbErr> {
    let deleted_at: Option<i64> = row.try_get("", "deleted_at")?;
    Ok(Listed {
        uid: uid(row)?,
        kind: row.try_get("", "kind")?,
        role: role(row)?,
        name: row.try_get("", "name")?,
        created_at: clock::from_millis(row.try_get("", "created_at")?),
        deleted_at: deleted_at.map(clock::from_millis),
    })
}

/// Adds a user, who is found by the uid from then on.
///
/// # Errors
/// [`Error::Exists`] when the uid is taken.
pub async fn add<C: ConnectionTrait>(db: &C, user: &User) -> Result<(), Error> {
    let values = [
        user.uid.as_str().into(),
        user.kind.as_str().into(),
        user.role.as_str().into(),
        user.password_hash.as_str().into(),
        clock::millis(user.created_at).into(),
        user.password_changed_at.map(clock::millis).into(),
    ];
    let text = format!("INSERT INTO users ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)");
    sql::execute(db, &text, values).await?;
    user_words::add(db, &user.uid, "").await
}

/// Whom users let write to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Openness {
    /// Whether users who are no contacts may.
    pub strangers: bool,
    /// The account is deleted.
    pub is_deleted: bool,
}

/// The same of those of the users who have ever existed.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn openness<C: ConnectionTrait>(
    db: &C,
    uids: &[&Uid],
) -> Result<HashMap<Uid, Openness>, Error> {
    let mut rows = sql::Rows::new(1);
    for uid in uids {
        rows.push([uid.as_str().into()]);
    }
    let text = "SELECT uid, strangers, deleted_at FROM users WHERE uid {in}";
    let mut found = HashMap::with_capacity(uids.len());
    for row in sql::query_rows(db, text, rows).await? {
        let deleted_at: Option<i64> = row.try_get("", "deleted_at")?;
        let openness = Openness {
            strangers: row.try_get("", "strangers")?,
            is_deleted: deleted_at.is_some(),
        };
        found.insert(uid(&row)?, openness);
    }
    Ok(found)
}

/// Replaces what others see of a user, and what the user is found by.
///
/// # Errors
/// [`Error`] when the database can't do it; call it in a transaction.
pub async fn set_profile<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    name: &str,
    avatar: &str,
    about: &str,
) -> Result<(), Error> {
    let text =
        "UPDATE users SET name = ?, avatar = ?, about = ?, profile_changes = profile_changes + 1
        WHERE uid = ?";
    let values = [
        name.into(),
        avatar.into(),
        about.into(),
        uid.as_str().into(),
    ];
    sql::execute(db, text, values).await?;
    user_words::replace(db, uid, name).await
}

/// Replaces a user's settings.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_settings<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    read_receipts: bool,
    strangers: bool,
    presence: &str,
) -> Result<(), Error> {
    let text =
        "UPDATE users SET read_receipts = ?, strangers = ?, presence = ?, changes = changes + 1
        WHERE uid = ?";
    let values = [
        read_receipts.into(),
        strangers.into(),
        presence.into(),
        uid.as_str().into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Replaces the password's hash `old` of a user, or whatever it is where none is given; returns when that was.
/// `Ok(None)`: there is no such user, or the hash is another. Call it in a transaction.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_password_hash<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    old: Option<&str>,
    new: &str,
    now: SystemTime,
) -> Result<Option<SystemTime>, Error> {
    let mut text = "UPDATE users SET password_hash = ?, password_changed_at =
            CASE WHEN COALESCE(password_changed_at, created_at) < ? THEN ?
            ELSE COALESCE(password_changed_at, created_at) + 1 END
        WHERE uid = ? AND deleted_at IS NULL"
        .to_owned();
    let mut values = vec![
        new.into(),
        clock::millis(now).into(),
        clock::millis(now).into(),
        uid.as_str().into(),
    ];
    if let Some(old) = old {
        text.push_str(" AND password_hash = ?");
        values.push(old.into());
    }
    if sql::execute(db, &text, values).await? == 0 {
        return Ok(None);
    }
    let user = lookup(db, uid).await?;
    Ok(user.and_then(|user| user.password_changed_at))
}

/// Deletes the account of a user with the password's hash `old`, or whatever it is where none is given: nobody can log in,
/// and nothing is left to be seen but the uid. Returns when the password was replaced by none; `Ok(None)`: there is no
/// such user, or the hash is another. Call it in a transaction.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn delete<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    old: Option<&str>,
    now: SystemTime,
) -> Result<Option<SystemTime>, Error> {
    let changed_at = set_password_hash(db, uid, old, NO_PASSWORD, now).await?;
    if changed_at.is_some() {
        let text =
            "UPDATE users SET deleted_at = ?, role = 'user', name = '', avatar = '', about = '',
                status_text = '', last_seen_at = NULL, profile_changes = profile_changes + 1
            WHERE uid = ?";
        let values = [clock::millis(now).into(), uid.as_str().into()];
        sql::execute(db, text, values).await?;
    }
    Ok(changed_at)
}

/// The passwords that were replaced after `since`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn password_changes_since<C: ConnectionTrait>(
    db: &C,
    since: SystemTime,
) -> Result<Vec<PasswordChange>, Error> {
    let text = "SELECT uid, password_changed_at FROM users WHERE password_changed_at > ?";
    let rows = sql::query(db, text, [clock::millis(since).into()]).await?;
    let change = |row: &QueryResult| {
        Ok(PasswordChange {
            uid: uid(row)?,
            changed_at: clock::from_millis(row.try_get("", "password_changed_at")?),
        })
    };
    let changes: Result<_, DbErr> = rows.iter().map(change).collect();
    Ok(changes?)
}

fn from_row(row: &QueryResult) -> Result<User, DbErr> {
    let password_changed_at: Option<i64> = row.try_get("", "password_changed_at")?;
    Ok(User {
        uid: uid(row)?,
        kind: row.try_get("", "kind")?,
        role: role(row)?,
        password_hash: row.try_get("", "password_hash")?,
        created_at: clock::from_millis(row.try_get("", "created_at")?),
        password_changed_at: password_changed_at.map(clock::from_millis),
    })
}

/// The column `role`; an unknown word gives no rights.
pub(super) fn role(row: &QueryResult) -> Result<Role, DbErr> {
    let role: String = row.try_get("", "role")?;
    Ok(if role == Role::Admin.as_str() {
        Role::Admin
    } else {
        Role::User
    })
}

/// The column `uid`.
pub(super) fn uid(row: &QueryResult) -> Result<Uid, DbErr> {
    let uid: String = row.try_get("", "uid")?;
    uid.parse()
        .map_err(|error| DbErr::Type(format!("uid {uid:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, views};

    /// Of a deleted user the uid is left, which nobody can write to and nobody finds.
    #[tokio::test]
    async fn a_deleted_user_is_gone() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let uids: Vec<Uid> = ["Alice", "alicia"].map(|uid| uid.parse().unwrap()).into();
        for uid in &uids {
            let user = User {
                uid: uid.clone(),
                kind: "person".to_owned(),
                role: Role::User,
                password_hash: String::new(),
                created_at: SystemTime::UNIX_EPOCH,
                password_changed_at: None,
            };
            add(db, &user).await.unwrap();
            set_profile(db, uid, "Al", "", "").await.unwrap();
        }
        let found = views::find_users(db, "ali", 10).await.unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        let delete = "UPDATE users SET deleted_at = 5 WHERE uid = 'Alice'";
        sql::execute(db, delete, []).await.unwrap();
        assert_eq!(existing(db, &uids).await.unwrap(), uids[1..]);
        let found = views::find_users(db, "al", 10).await.unwrap();
        assert_eq!((found.len(), found[0].uid.as_str()), (1, "alicia"));
        let seen = views::users(db, &uids).await.unwrap();
        assert!(seen[0].deleted && seen[0].name.is_empty());
        assert_eq!(seen[1].name, "Al");
        let openness = openness(db, &[&uids[0], &uids[1]]).await.unwrap();
        assert!(openness[&uids[0]].is_deleted && !openness[&uids[1]].is_deleted);
    }
}
