//! Rows of `users`.

use std::time::SystemTime;

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql};
use crate::clock;

/// What a user may do beyond chatting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    User,
    /// See and change other people's accounts.
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
}

const COLUMNS: &str = "uid, kind, role, password_hash, created_at";

/// The user with that uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<User>, Error> {
    let text = format!("SELECT {COLUMNS} FROM users WHERE uid = ?");
    let row = sql::query_one(db, &text, [uid.as_str().into()]).await?;
    Ok(row.as_ref().map(from_row).transpose()?)
}

/// Which of the users exist.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn existing<C: ConnectionTrait>(db: &C, uids: &[Uid]) -> Result<Vec<Uid>, Error> {
    let mut rows = sql::Rows::new(1);
    for uid in uids {
        rows.push([uid.as_str().into()]);
    }
    let mut existing = Vec::with_capacity(uids.len());
    for row in sql::query_rows(db, "SELECT uid FROM users WHERE uid {in}", rows).await? {
        let uid: String = row.try_get("", "uid")?;
        existing.extend(uid.parse::<Uid>().ok());
    }
    Ok(existing)
}

/// All users, by uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(db: &C) -> Result<Vec<User>, Error> {
    let text = format!("SELECT {COLUMNS} FROM users ORDER BY uid");
    let rows = sql::query(db, &text, []).await?;
    Ok(rows.iter().map(from_row).collect::<Result<_, _>>()?)
}

/// Adds a user.
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
    ];
    let text = format!("INSERT INTO users ({COLUMNS}) VALUES (?, ?, ?, ?, ?)");
    sql::execute(db, &text, values).await?;
    Ok(())
}

/// Replaces a password's hash and tells whether there is such a user.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_password_hash<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    password_hash: &str,
) -> Result<bool, Error> {
    let text = "UPDATE users SET password_hash = ? WHERE uid = ?";
    let values = [password_hash.into(), uid.as_str().into()];
    Ok(sql::execute(db, text, values).await? == 1)
}

fn from_row(row: &QueryResult) -> Result<User, DbErr> {
    Ok(User {
        uid: uid(row)?,
        kind: row.try_get("", "kind")?,
        role: role(row)?,
        password_hash: row.try_get("", "password_hash")?,
        created_at: clock::from_millis(row.try_get("", "created_at")?),
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
