//! Rows of `logins`: one per login by password, with the hash of the refresh token that is valid now.

use std::time::SystemTime;

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::users::{self, Role};
use super::{Error, sql};
use crate::clock;

/// A login that may still be used, or not.
#[derive(Clone, Debug)]
pub struct Login {
    /// Who logged in.
    pub uid: Uid,
    /// What the user may do now.
    pub role: Role,
    /// When the refresh token runs out.
    pub expires_at: SystemTime,
    /// Whether it was ended before its time.
    pub is_revoked: bool,
}

/// A login that was ended before its time.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// The login.
    pub id: String,
    /// Whose it was.
    pub uid: Uid,
    /// When it was ended.
    pub revoked_at: SystemTime,
}

/// A refresh token's life: from one hash to the next, valid until then.
#[derive(Clone, Copy, Debug)]
pub struct Refresh<'a> {
    /// SHA-256 of the token's secret half.
    pub hash: &'a [u8],
    /// When it runs out.
    pub expires_at: SystemTime,
}

/// Adds a login, unless the user's password has changed since `password_hash` was read; tells whether it did.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn add<C: ConnectionTrait>(
    db: &C,
    id: &str,
    uid: &Uid,
    refresh: Refresh<'_>,
    password_hash: &str,
) -> Result<bool, Error> {
    let text = "INSERT INTO logins (id, uid, refresh_hash, expires_at)
        SELECT ?, ?, ?, ? FROM users WHERE uid = ? AND password_hash = ?";
    let values = [
        id.into(),
        uid.as_str().into(),
        refresh.hash.to_vec().into(),
        clock::millis(refresh.expires_at).into(),
        uid.as_str().into(),
        password_hash.into(),
    ];
    Ok(sql::execute(db, text, values).await? == 1)
}

/// The login with that id.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(db: &C, id: &str) -> Result<Option<Login>, Error> {
    let text = "SELECT l.uid, u.role, l.expires_at, l.revoked_at
        FROM logins l JOIN users u ON u.uid = l.uid WHERE l.id = ?";
    let Some(row) = sql::query_one(db, text, [id.into()]).await? else {
        return Ok(None);
    };
    let revoked_at: Option<i64> = row.try_get("", "revoked_at")?;
    Ok(Some(Login {
        uid: users::uid(&row)?,
        role: users::role(&row)?,
        expires_at: clock::from_millis(row.try_get("", "expires_at")?),
        is_revoked: revoked_at.is_some(),
    }))
}

/// Replaces the refresh token `old` by `new`, and tells whether `old` was the valid one of a living login.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn rotate<C: ConnectionTrait>(
    db: &C,
    id: &str,
    old: &[u8],
    new: Refresh<'_>,
    now: SystemTime,
) -> Result<bool, Error> {
    let text = "UPDATE logins SET refresh_hash = ?, expires_at = ?
        WHERE id = ? AND refresh_hash = ? AND revoked_at IS NULL AND expires_at > ?";
    let values = [
        new.hash.to_vec().into(),
        clock::millis(new.expires_at).into(),
        id.into(),
        old.to_vec().into(),
        clock::millis(now).into(),
    ];
    Ok(sql::execute(db, text, values).await? == 1)
}

/// Ends one login of a user; one that has ended already keeps its time.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn revoke<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    id: &str,
    now: SystemTime,
) -> Result<(), Error> {
    let text = "UPDATE logins SET revoked_at = ? WHERE id = ? AND uid = ? AND revoked_at IS NULL";
    let values = [clock::millis(now).into(), id.into(), uid.as_str().into()];
    sql::execute(db, text, values).await?;
    Ok(())
}

/// Ends all logins of a user and returns their ids. Call it in a transaction.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn revoke_all<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    now: SystemTime,
) -> Result<Vec<String>, Error> {
    let living = "SELECT id FROM logins WHERE uid = ? AND revoked_at IS NULL";
    let rows = sql::query(db, living, [uid.as_str().into()]).await?;
    let text = "UPDATE logins SET revoked_at = ? WHERE uid = ? AND revoked_at IS NULL";
    let values = [clock::millis(now).into(), uid.as_str().into()];
    sql::execute(db, text, values).await?;
    let ids = rows.iter().map(|row| row.try_get("", "id"));
    Ok(ids.collect::<Result<_, _>>()?)
}

/// The logins that were ended after `since`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn revoked_since<C: ConnectionTrait>(
    db: &C,
    since: SystemTime,
) -> Result<Vec<Revocation>, Error> {
    let text = "SELECT id, uid, revoked_at FROM logins WHERE revoked_at > ?";
    let rows = sql::query(db, text, [clock::millis(since).into()]).await?;
    let revocation = |row: &QueryResult| {
        Ok(Revocation {
            id: row.try_get("", "id")?,
            uid: users::uid(row)?,
            revoked_at: clock::from_millis(row.try_get("", "revoked_at")?),
        })
    };
    let revocations: Result<_, DbErr> = rows.iter().map(revocation).collect();
    Ok(revocations?)
}

/// Forgets the logins of a user that have run out, or were ended before `revoked_before`.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn prune<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    now: SystemTime,
    revoked_before: SystemTime,
) -> Result<(), Error> {
    let text = "DELETE FROM logins WHERE uid = ? AND (expires_at < ? OR revoked_at < ?)";
    let values = [
        uid.as_str().into(),
        clock::millis(now).into(),
        clock::millis(revoked_before).into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}
