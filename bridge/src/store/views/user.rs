//! Users as everybody sees them, and as they see themselves.

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use crate::store::{Error, sql, user_words};

/// The columns of `users` that make a [`v1::User`], under the alias `u`.
pub(super) const USER_COLUMNS: &str = "u.uid, u.name, u.avatar, u.about, u.kind, u.deleted_at";

/// Those of the users who exist or have existed, by uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn users<C: ConnectionTrait>(db: &C, uids: &[Uid]) -> Result<Vec<v1::User>, Error> {
    let mut rows = sql::Rows::new(1);
    for uid in uids {
        rows.push([uid.as_str().into()]);
    }
    let text = format!("SELECT {USER_COLUMNS} FROM users u WHERE u.uid {{in}}");
    let found = sql::query_rows(db, &text, rows).await?;
    let mut users = found.iter().map(user).collect::<Result<Vec<_>, _>>()?;
    users.sort_unstable_by(|one, other| one.uid.cmp(&other.uid));
    Ok(users)
}

/// The users of whom a word begins so, the closest first. `beginning` is folded.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find_users<C: ConnectionTrait>(
    db: &C,
    beginning: &str,
    limit: usize,
) -> Result<Vec<v1::User>, Error> {
    let uids = user_words::find(db, beginning, limit).await?;
    let mut found = users(db, &uids).await?;
    let place = |user: &v1::User| uids.iter().position(|uid| uid.as_str() == user.uid);
    found.sort_by_cached_key(place);
    Ok(found)
}

/// The user's own profile and settings; `None`: there is no such user.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn profile<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<v1::Profile>, Error> {
    let text = format!(
        "SELECT {USER_COLUMNS}, u.read_receipts, u.strangers, u.presence, u.status_text
        FROM users u WHERE u.uid = ?"
    );
    let Some(row) = sql::query_one(db, &text, [uid.as_str().into()]).await? else {
        return Ok(None);
    };
    Ok(Some(v1::Profile {
        user: Some(user(&row)?),
        read_receipts: row.try_get("", "read_receipts")?,
        strangers: row.try_get("", "strangers")?,
        presence: row.try_get("", "presence")?,
        text: row.try_get("", "status_text")?,
    }))
}

/// The columns of [`USER_COLUMNS`]. Of a deleted user nothing is shown but the uid.
pub(super) fn user(row: &QueryResult) -> Result<v1::User, DbErr> {
    let uid = row.try_get("", "uid")?;
    let deleted_at: Option<i64> = row.try_get("", "deleted_at")?;
    if deleted_at.is_some() {
        return Ok(v1::User {
            uid,
            deleted: true,
            ..Default::default()
        });
    }
    Ok(v1::User {
        uid,
        name: row.try_get("", "name")?,
        avatar: row.try_get("", "avatar")?,
        about: row.try_get("", "about")?,
        kind: row.try_get("", "kind")?,
        deleted: false,
    })
}
