//! What administrators have done. Rows are added in the transaction of what they tell of, and stay.

use std::time::SystemTime;

use schema::MsgId;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql};
use crate::clock;

/// Who acts by the command line. No user can have it.
pub const OPERATOR: &str = "$operator";

/// Characters of a row's detail.
const DETAIL_MAX: usize = 1024;

/// Something that an administrator does.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    /// The administrator's uid, or [`OPERATOR`].
    pub by: &'a str,
    /// In a word, like `user.delete`.
    pub action: &'a str,
    /// Whom or what it is done to.
    pub target: &'a str,
    /// What else there is to say; empty: nothing.
    pub detail: &'a str,
}

/// What an administrator has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Grows with time.
    pub id: u64,
    /// As in [`Act`], like the following.
    pub by: String,
    /// In a word.
    pub action: String,
    /// Whom or what it was done to.
    pub target: String,
    /// What else there is to say.
    pub detail: String,
    /// When it was.
    pub at: SystemTime,
}

/// Which part of the log.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// Only of this administrator.
    pub by: Option<&'a str>,
    /// Only smaller ids.
    pub before: Option<u64>,
    /// So many at most.
    pub limit: u32,
}

/// Adds a row.
///
/// # Errors
/// [`Error`] when the database can't do it; [`Error::Conflict`] where somebody else adds one at the same time.
pub async fn add<C: ConnectionTrait>(db: &C, act: Act<'_>, now: SystemTime) -> Result<(), Error> {
    let newest = sql::query_one(db, "SELECT MAX(id) AS newest FROM audit", []).await?;
    let newest: Option<i64> = match newest {
        Some(row) => row.try_get("", "newest")?,
        None => None,
    };
    let id = MsgId::at(now).0.cast_signed();
    let id = newest.map_or(id, |newest| id.max(newest + 1));
    let detail: String = act.detail.chars().take(DETAIL_MAX).collect();
    let values = [
        id.into(),
        act.by.into(),
        act.action.into(),
        act.target.into(),
        detail.into(),
        clock::millis(now).into(),
    ];
    let text = "INSERT INTO audit (id, uid, action, target, detail, at) VALUES (?, ?, ?, ?, ?, ?)";
    match sql::execute(db, text, values).await.map_err(Error::from) {
        Ok(_) => Ok(()),
        Err(Error::Exists(error)) => Err(Error::Conflict(error)),
        Err(error) => Err(error),
    }
}

/// What was done, latest first.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(db: &C, range: Range<'_>) -> Result<Vec<Entry>, Error> {
    let before = range
        .before
        .map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    let mut values = vec![before.into()];
    let mut only = "";
    if let Some(by) = range.by {
        only = "AND uid = ?";
        values.push(by.into());
    }
    let text = format!(
        "SELECT id, uid, action, target, detail, at FROM audit WHERE id < ? {only}
        ORDER BY id DESC LIMIT {}",
        range.limit
    );
    let rows = sql::query(db, &text, values).await?;
    let entries: Result<_, DbErr> = rows.iter().map(entry).collect();
    Ok(entries?)
}

fn entry(row: &QueryResult) -> Result<Entry, DbErr> {
    let id: i64 = row.try_get("", "id")?;
    Ok(Entry {
        id: id.cast_unsigned(),
        by: row.try_get("", "uid")?,
        action: row.try_get("", "action")?,
        target: row.try_get("", "target")?,
        detail: row.try_get("", "detail")?,
        at: clock::from_millis(row.try_get("", "at")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn the_log_is_read_from_its_end() {
        let (store, _folder) = Store::fresh().await;
        let now = SystemTime::now();
        for (by, target) in [("root", "a"), (OPERATOR, "b"), ("root", "c")] {
            let act = Act {
                by,
                action: "user.kick",
                target,
                detail: "",
            };
            // In the same millisecond they keep their order.
            add(store.writer(), act, now).await.unwrap();
        }
        let targets = async |by, before, limit| {
            let range = Range { by, before, limit };
            let found = list(store.reader(), range).await.unwrap();
            let ids: Vec<u64> = found.iter().map(|entry| entry.id).collect();
            let targets: Vec<String> = found.into_iter().map(|entry| entry.target).collect();
            (targets.concat(), ids)
        };
        let (all, ids) = targets(None, None, 9).await;
        assert_eq!(all, "cba");
        assert_eq!(targets(None, Some(ids[0]), 1).await.0, "b");
        assert_eq!(targets(Some("root"), None, 9).await.0, "ca");
        assert_eq!(targets(Some("nobody"), None, 9).await.0, "");
    }
}
