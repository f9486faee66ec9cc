//! How users look to others: who may see it, what they say of themselves, and when they were there last.

use std::time::SystemTime;

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql};
use crate::clock;

/// What the database knows of how a user looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whose.
    pub uid: Uid,
    /// A text for people.
    pub text: String,
    /// When the user was last seen; `None`: not known.
    pub last_seen_at: Option<SystemTime>,
    /// Whether contacts see it, or nobody.
    pub is_shown: bool,
}

const COLUMNS: &str = "u.uid, u.status_text, u.last_seen_at, u.presence";

/// Two users, `a` of whom sees `b`: each is the other's contact, and neither has blocked the other.
const MUTUAL: &str = "contacts b ON b.uid = a.other AND b.other = a.uid
        AND b.state = 'contact' AND b.blocked = 0 AND a.state = 'contact' AND a.blocked = 0";

/// Of pairs who may see whom.
const PAIR: [&str; 2] = ["viewer", "uid"];
const PAIRS: &str = "FROM v JOIN contacts a ON a.uid = v.viewer AND a.other = v.uid";

/// How the user looks, whoever asks.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<Look>, Error> {
    let text = format!("SELECT {COLUMNS} FROM users u WHERE u.uid = ?");
    let row = sql::query_one(db, &text, [uid.as_str().into()]).await?;
    Ok(row.as_ref().map(look).transpose()?)
}

/// Those of the users whom `viewer` may see.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn visible<C: ConnectionTrait>(
    db: &C,
    viewer: &Uid,
    uids: &[Uid],
) -> Result<Vec<Look>, Error> {
    let mut rows = sql::Rows::new(2);
    for uid in uids {
        rows.push([viewer.as_str().into(), uid.as_str().into()]);
    }
    let text = format!(
        "SELECT {COLUMNS} {PAIRS} JOIN {MUTUAL}
        JOIN users u ON u.uid = v.uid AND u.presence = 'contacts'"
    );
    looks(&sql::select_from_rows(db, &PAIR, &text, rows).await?)
}

/// The first `limit` users whom `viewer` may see, by uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn all_visible<C: ConnectionTrait>(
    db: &C,
    viewer: &Uid,
    limit: u32,
) -> Result<Vec<Look>, Error> {
    let text = format!(
        "SELECT {COLUMNS} FROM contacts a JOIN {MUTUAL} JOIN users u ON u.uid = b.uid
        WHERE a.uid = ? AND u.presence = 'contacts' ORDER BY u.uid LIMIT {limit}"
    );
    looks(&sql::query(db, &text, [viewer.as_str().into()]).await?)
}

/// The first `limit` of the user's contacts, of whom those may see the user that [`viewers`] finds.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn contacts<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    limit: u32,
) -> Result<Vec<Uid>, Error> {
    let text = format!(
        "SELECT other FROM contacts WHERE uid = ? AND state = 'contact' AND blocked = 0
        ORDER BY other LIMIT {limit}"
    );
    uids(
        &sql::query(db, &text, [uid.as_str().into()]).await?,
        "other",
    )
}

/// Those of the users who may see `uid`, if it shows itself.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn viewers<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    among: &[Uid],
) -> Result<Vec<Uid>, Error> {
    let mut rows = sql::Rows::new(2);
    for viewer in among {
        rows.push([viewer.as_str().into(), uid.as_str().into()]);
    }
    let text = format!("SELECT a.uid {PAIRS} JOIN {MUTUAL}");
    let rows = sql::select_from_rows(db, &PAIR, &text, rows).await?;
    uids(&rows, "uid")
}

/// Whether one of the two users has blocked the other.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn is_blocked<C: ConnectionTrait>(db: &C, one: &Uid, other: &Uid) -> Result<bool, Error> {
    let pairs = [(one, other), (other, one)];
    Ok(!super::receipts::blocked(db, pairs).await?.is_empty())
}

/// Sets what the user says; tells whether it said something else before.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set_text<C: ConnectionTrait>(db: &C, uid: &Uid, says: &str) -> Result<bool, Error> {
    let text = "UPDATE users SET status_text = ?, changes = changes + 1
        WHERE uid = ? AND status_text <> ?";
    let values = [says.into(), uid.as_str().into(), says.into()];
    Ok(sql::execute(db, text, values).await? > 0)
}

/// Notes when users were last seen, unless they were seen later than that. Each may be there once.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn seen<C: ConnectionTrait>(db: &C, users: &[(Uid, SystemTime)]) -> Result<(), Error> {
    let mut rows = sql::Rows::new(2);
    for (uid, at) in users {
        rows.push([uid.as_str().into(), clock::millis(*at).into()]);
    }
    let set = "last_seen_at = v.at";
    let on = "users.uid = v.uid AND (users.last_seen_at IS NULL OR users.last_seen_at < v.at)";
    sql::update_rows(db, "users", &["uid", "at"], set, on, rows).await?;
    Ok(())
}

fn look(row: &QueryResult) -> Result<Look, DbErr> {
    let last_seen_at: Option<i64> = row.try_get("", "last_seen_at")?;
    let presence: String = row.try_get("", "presence")?;
    Ok(Look {
        uid: super::users::uid(row)?,
        text: row.try_get("", "status_text")?,
        last_seen_at: last_seen_at.map(clock::from_millis),
        is_shown: presence == "contacts",
    })
}

fn looks(rows: &[QueryResult]) -> Result<Vec<Look>, Error> {
    Ok(rows.iter().map(look).collect::<Result<_, DbErr>>()?)
}

fn uids(rows: &[QueryResult], column: &str) -> Result<Vec<Uid>, Error> {
    let mut uids = Vec::with_capacity(rows.len());
    for row in rows {
        let uid: String = row.try_get("", column)?;
        uids.extend(uid.parse::<Uid>().ok());
    }
    Ok(uids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    /// However many contacts and members there are, each is looked up by its key.
    #[tokio::test]
    async fn pairs_are_looked_up() {
        let (store, _folder) = Store::fresh().await;
        for (columns, select) in [
            (PAIR, format!("SELECT a.uid {PAIRS} JOIN {MUTUAL}")),
            (
                ["conversation_id", "uid"],
                "SELECT m.uid FROM v JOIN members m
                ON m.conversation_id = v.conversation_id AND m.uid = v.uid"
                    .to_owned(),
            ),
        ] {
            let (list, names) = ("('a','b'),('c','d')", columns.join(", "));
            let text = format!("EXPLAIN QUERY PLAN WITH v({names}) AS (VALUES {list}) {select}");
            let plan = sql::query(store.reader(), &text, []).await.unwrap();
            let detail = |row: &QueryResult| row.try_get::<String>("", "detail").unwrap();
            let steps: Vec<String> = plan.iter().map(detail).collect();
            let is_scan = |step: &&String| step.starts_with("SCAN") && !step.contains("CONSTANT");
            let scans: Vec<&String> = steps.iter().filter(is_scan).collect();
            assert_eq!(scans, ["SCAN v"], "{select}: {steps:?}");
        }
    }
}
