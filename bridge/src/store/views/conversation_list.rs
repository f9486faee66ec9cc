//! The conversations that a user is in, page by page: pinned ones first, then by latest activity.

use std::cmp::Reverse;

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::conversation::newest_visible;
use crate::store::{Error, sql};

/// Where a conversation stands in the list; the greatest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageKey {
    /// When it was pinned, in milliseconds since 1970; 0: it is not.
    pub pinned: i64,
    /// The id of its newest message, or of itself where there is none: ids of both kinds are made in the order of time.
    pub activity: i64,
}

/// Which conversations are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Only those with these names; empty: all.
    pub names: &'a [String],
    /// Only archived ones, or only others.
    pub archived: Option<bool>,
    /// Only those that come after this.
    pub after: Option<PageKey>,
    /// So many at most.
    pub limit: u32,
}

/// A conversation's key in the database, and its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The conversation.
    pub id: i64,
    /// Its place.
    pub key: PageKey,
}

/// The user's conversations in their order. What the user has deleted is not listed.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    asked: Asked<'_>,
) -> Result<Vec<Listed>, Error> {
    if asked.names.is_empty() {
        all(db, uid, asked).await
    } else {
        named(db, uid, asked).await
    }
}

/// What is listed of the member `m` in `c`.
fn listed_columns() -> String {
    let newest = newest_visible();
    format!(
        "c.id, COALESCE(m.pinned_at, 0) AS pinned, COALESCE(({newest}), c.id) AS activity, m.archived"
    )
}

async fn all<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    asked: Asked<'_>,
) -> Result<Vec<Listed>, Error> {
    let mut values = vec![uid.as_str().into()];
    let (mut archived, mut after) = ("", "");
    if let Some(wanted) = asked.archived {
        archived = "AND m.archived = ?";
        values.push(wanted.into());
    }
    if let Some(key) = asked.after {
        after = "WHERE t.pinned < ? OR (t.pinned = ? AND t.activity < ?)";
        values.extend([key.pinned.into(), key.pinned.into(), key.activity.into()]);
    }
    let text = format!(
        "SELECT t.id, t.pinned, t.activity FROM (
            SELECT {} FROM members m JOIN conversations c ON c.id = m.conversation_id
            WHERE m.uid = ? AND c.last_seq > m.deleted_seq {archived}) t
        {after} ORDER BY t.pinned DESC, t.activity DESC LIMIT {}",
        listed_columns(),
        asked.limit
    );
    let rows = sql::query(db, &text, values).await?;
    Ok(rows.iter().map(listed_of).collect::<Result<_, _>>()?)
}

async fn named<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    asked: Asked<'_>,
) -> Result<Vec<Listed>, Error> {
    let mut names = sql::Rows::new(2);
    for name in asked.names {
        names.push([uid.as_str().into(), name.as_str().into()]);
    }
    let text = format!(
        "SELECT {} FROM conversations c JOIN members m ON m.conversation_id = c.id
        WHERE (m.uid, c.name) {{in}} AND c.last_seq > m.deleted_seq",
        listed_columns()
    );
    let mut found = Vec::new();
    for row in sql::query_rows(db, &text, names).await? {
        let archived: bool = row.try_get("", "archived")?;
        let listed = listed_of(&row)?;
        let is_wanted = asked.archived.is_none_or(|wanted| wanted == archived)
            && asked.after.is_none_or(|after| listed.key < after);
        if is_wanted {
            found.push(listed);
        }
    }
    found.sort_unstable_by_key(|listed| Reverse(listed.key));
    found.truncate(asked.limit as usize);
    Ok(found)
}

fn listed_of(row: &QueryResult) -> Result<Listed, DbErr> {
    Ok(Listed {
        id: row.try_get("", "id")?,
        key: PageKey {
            pinned: row.try_get("", "pinned")?,
            activity: row.try_get("", "activity")?,
        },
    })
}

/// Unread messages in all conversations of a user.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn unread_total<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<u64, Error> {
    const UNREAD: &str = "c.last_seq - m.last_read_seq - (m.sent - m.sent_read)";
    // Added up here: the databases don't agree on the type of a sum.
    let text = format!(
        "SELECT {UNREAD} AS unread FROM members m JOIN conversations c ON c.id = m.conversation_id
        WHERE m.uid = ? AND {UNREAD} > 0"
    );
    let mut total = 0;
    for row in sql::query(db, &text, [uid.as_str().into()]).await? {
        total += u64::from(super::seq(&row, "unread")?);
    }
    Ok(total)
}
