//! Single messages: those that a user can see, and those that nobody is to see any longer.

use schema::{Timestamp, Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::reactions::{self, REACTED};
use super::{MESSAGE_COLUMNS, bare_message, message, read_content, unsigned, visible_to};
use crate::store::members::Role;
use crate::store::operations::Gone;
use crate::store::{Error, sql};

/// A message that a user can see, and where.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The message as it is now.
    pub message: v1::Message,
    /// Its conversation's key in the database.
    pub conversation_id: i64,
    /// The user's role there.
    pub role: Role,
}

/// Those of the messages that the user can see: unknown ones, and those that are not the user's, are left out.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn seen<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    msg_ids: &[u64],
) -> Result<Vec<Seen>, Error> {
    let mut rows = sql::Rows::new(2);
    for id in msg_ids {
        rows.push([id.cast_signed().into(), uid.as_str().into()]);
    }
    let text = format!(
        "SELECT {MESSAGE_COLUMNS}, {REACTED}, c.name, m.conversation_id, m.role FROM v
        JOIN messages x ON x.msg_id = v.msg_id
        JOIN conversations c ON c.id = x.conversation_id
        JOIN members m ON m.conversation_id = x.conversation_id AND m.uid = v.uid
        WHERE x.seq > m.visible_seq AND {}",
        visible_to("m.uid")
    );
    let rows = sql::select_from_rows(db, &["msg_id", "uid"], &text, rows).await?;
    let mut found: Vec<Seen> = rows.iter().map(seen_of).collect::<Result<_, _>>()?;
    let reacted = with_reactions(&rows, found.iter().map(|seen| &seen.message))?;
    let messages = found.iter_mut().map(|seen| &mut seen.message);
    reactions::add_to(db, messages, &reacted).await?;
    Ok(found)
}

fn seen_of(row: &QueryResult) -> Result<Seen, DbErr> {
    let (name, role): (String, String) = (row.try_get("", "name")?, row.try_get("", "role")?);
    Ok(Seen {
        message: message(row, &name)?,
        conversation_id: row.try_get("", "conversation_id")?,
        role: Role::parse(&role),
    })
}

/// The ids of the messages that have reactions to be shown; the rows have a column `reacted`.
pub(super) fn with_reactions<'a>(
    rows: &[QueryResult],
    messages: impl Iterator<Item = &'a v1::Message>,
) -> Result<Vec<u64>, DbErr> {
    let mut reacted = Vec::new();
    for (row, message) in rows.iter().zip(messages) {
        if is_reacted(row)? && message.gone.is_empty() {
            reacted.push(message.msg_id);
        }
    }
    Ok(reacted)
}

pub(super) fn is_reacted(row: &QueryResult) -> Result<bool, DbErr> {
    let reacted: i32 = row.try_get("", "reacted")?;
    Ok(reacted == 1)
}

/// Which of the messages their users can see: message, user, and the name of its conversation.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn repliable<'a, C: ConnectionTrait>(
    db: &C,
    wanted: impl IntoIterator<Item = (u64, &'a Uid)>,
) -> Result<Vec<(u64, String, String)>, Error> {
    let mut rows = sql::Rows::new(2);
    for (msg_id, uid) in wanted {
        rows.push([msg_id.cast_signed().into(), uid.as_str().into()]);
    }
    let text = format!(
        "SELECT x.msg_id, m.uid, c.name FROM v
        JOIN messages x ON x.msg_id = v.msg_id
        JOIN conversations c ON c.id = x.conversation_id
        JOIN members m ON m.conversation_id = x.conversation_id AND m.uid = v.uid
        WHERE x.seq > m.visible_seq AND {}",
        visible_to("m.uid")
    );
    let found = sql::select_from_rows(db, &["msg_id", "uid"], &text, rows).await?;
    let place = |row: &QueryResult| -> Result<_, DbErr> {
        let (uid, name) = (row.try_get("", "uid")?, row.try_get("", "name")?);
        Ok((unsigned(row, "msg_id")?, uid, name))
    };
    Ok(found.iter().map(place).collect::<Result<_, _>>()?)
}

/// A message whose time has run out.
#[derive(Clone, Debug)]
pub struct Expired {
    /// What is left of it.
    pub message: v1::Message,
    /// Its conversation's key in the database.
    pub conversation_id: i64,
    /// Whom it mentions.
    pub mentions: Vec<String>,
}

/// Up to `limit` messages whose time has run out by `now` and whose content is still there, those first that have waited
/// for longest.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn expired<C: ConnectionTrait>(
    db: &C,
    now: i64,
    limit: u32,
) -> Result<Vec<Expired>, Error> {
    let text = format!(
        "SELECT {MESSAGE_COLUMNS}, c.name, x.conversation_id FROM expiring e
        JOIN messages x ON x.msg_id = e.msg_id
        JOIN conversations c ON c.id = x.conversation_id
        WHERE e.expires_at <= ? ORDER BY e.expires_at, e.msg_id LIMIT {limit}"
    );
    let mut expired = Vec::new();
    for row in sql::query(db, &text, [now.into()]).await? {
        let name: String = row.try_get("", "name")?;
        let expires_at: Option<i64> = row.try_get("", "expires_at")?;
        let mut content = v1::Message::default();
        read_content(&row, &mut content)?;
        expired.push(Expired {
            message: v1::Message {
                expires_at: expires_at.map(Timestamp::from_millis),
                gone: Gone::Expired.as_str().to_owned(),
                ..bare_message(&row, &name)?
            },
            conversation_id: row.try_get("", "conversation_id")?,
            mentions: content.mentions,
        });
    }
    Ok(expired)
}
