//! A conversation as one of its members sees it.

use std::collections::HashMap;

use schema::{Timestamp, Uid, cache, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::history::messages_by_id;
use super::{recent, seq, visible_to};
use crate::store::members::Wishes;
use crate::store::{Error, Store, sql};

/// How far below a conversation's newest message its latest one that the user may see is looked for.
const LOOK_BACK: u32 = 1024;

/// Where a member stands in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The conversation's key in the database.
    pub conversation_id: i64,
    /// Its name on the wire.
    pub name: String,
    /// owner, admin or member
    pub role: String,
    /// Only messages with a greater seq are the member's to see.
    pub visible_seq: u32,
    /// The conversation's newest message.
    pub last_seq: u32,
    /// Counts what has happened to its earlier messages and to the group.
    pub changes: u32,
    /// How far the user has read.
    pub last_read_seq: u32,
    /// Messages of others that the user has not read.
    pub unread: u32,
    /// Those of them that mention the user.
    pub mentions: u32,
    /// How the user wants to see it.
    pub wishes: Wishes,
}

impl Membership {
    /// As the wire has it.
    #[must_use]
    pub fn state(&self) -> v1::ConversationState {
        let wishes = &self.wishes;
        let muted_until = Some(wishes.muted_until).filter(|until| *until > 0);
        v1::ConversationState {
            conversation: self.name.clone(),
            last_seq: self.last_seq,
            last_read_seq: self.last_read_seq,
            unread: self.unread,
            first_pushed_seq: 0,
            pinned_at: wishes.pinned_at.map(Timestamp::from_millis),
            muted_until: muted_until.map(Timestamp::from_millis),
            archived: wishes.archived,
            marked_unread: wishes.marked_unread,
            draft: wishes.draft.clone().unwrap_or_default(),
            mentions: self.mentions,
            changes: self.changes,
            visible_seq: self.visible_seq,
            removed: wishes.deleted_seq.is_some_and(|seq| seq >= self.last_seq),
        }
    }
}

/// The state of a conversation that the user is no longer in.
#[must_use]
pub fn departed(name: String) -> v1::ConversationState {
    v1::ConversationState {
        conversation: name,
        removed: true,
        ..Default::default()
    }
}

/// A conversation as one of its members sees it.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Where the user stands.
    pub membership: Membership,
    /// The newest message that the user may see.
    pub last_message: Option<v1::Message>,
    /// Of a group: its name and avatar.
    pub group: Option<(String, String)>,
}

impl From<Conversation> for v1::Conversation {
    fn from(conversation: Conversation) -> Self {
        let (name, avatar) = conversation.group.unwrap_or_default();
        v1::Conversation {
            state: Some(conversation.membership.state()),
            last_message: conversation.last_message,
            name,
            avatar,
        }
    }
}

/// Where a user stands in the conversation of that name; `None`: not a member, or no such conversation.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn membership<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    name: &str,
) -> Result<Option<Membership>, Error> {
    let row = membership_row(db, uid, name, &membership_columns()).await?;
    Ok(row.as_ref().map(membership_of).transpose()?)
}

async fn membership_row<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    name: &str,
    columns: &str,
) -> Result<Option<QueryResult>, DbErr> {
    let text = format!(
        "SELECT {columns}
        FROM conversations c JOIN members m ON m.conversation_id = c.id
        WHERE c.name = ? AND m.uid = ?"
    );
    sql::query_one(db, &text, [name.into(), uid.as_str().into()]).await
}

/// A member who asks for pages.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Where he stands.
    pub membership: Membership,
    /// In which state the conversation was when that was read; `None`: its newest messages are kept nowhere, or they are not
    /// the same for this member as for others.
    pub(super) state: Option<cache::State>,
}

/// The same as [`membership`], for [`page`](super::page).
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn reader(store: &Store, uid: &Uid, name: &str) -> Result<Option<Reader>, Error> {
    let db = store.reader();
    let is_kept = store.recent().is_some() && name.starts_with("g:");
    if !is_kept {
        let membership = membership(db, uid, name).await?;
        let reader = |membership| Reader {
            membership,
            state: None,
        };
        return Ok(membership.map(reader));
    }
    let columns = format!("{}, {}", membership_columns(), recent::state_columns());
    let row = membership_row(db, uid, name, &columns).await?;
    let reader = |row: &QueryResult| -> Result<_, DbErr> {
        let membership = membership_of(row)?;
        let state = recent::state_of(row, &membership)?;
        Ok(Reader { membership, state })
    };
    Ok(row.as_ref().map(reader).transpose()?)
}

/// Those of the conversations that the user is in, in this order.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn conversations<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    ids: &[i64],
) -> Result<Vec<Conversation>, Error> {
    let mut rows = sql::Rows::new(2);
    for id in ids {
        rows.push([(*id).into(), uid.as_str().into()]);
    }
    let text = format!(
        "SELECT {}, ({}) AS newest, g.name AS group_name, g.avatar AS group_avatar
        FROM members m
        JOIN conversations c ON c.id = m.conversation_id
        LEFT JOIN chat_groups g ON g.conversation_id = c.id
        WHERE (m.conversation_id, m.uid) {{in}}",
        membership_columns(),
        newest_visible()
    );
    let mut found = HashMap::new();
    let mut newest_ids = Vec::new();
    for row in sql::query_rows(db, &text, rows).await? {
        let newest: Option<i64> = row.try_get("", "newest")?;
        newest_ids.extend(newest.map(i64::cast_unsigned));
        let conversation = conversation_of(&row)?;
        let id = conversation.membership.conversation_id;
        found.insert(id, (conversation, newest));
    }
    let mut messages = messages_by_id(db, uid, &newest_ids).await?;
    let mut ordered = Vec::with_capacity(ids.len());
    for id in ids {
        let Some((mut conversation, newest)) = found.remove(id) else {
            continue;
        };
        let newest = newest.map(i64::cast_unsigned);
        conversation.last_message = newest.and_then(|msg_id| messages.remove(&msg_id));
        if let Some(message) = &mut conversation.last_message {
            message
                .conversation
                .clone_from(&conversation.membership.name);
        }
        ordered.push(conversation);
    }
    Ok(ordered)
}

/// Mentions are counted among so many of the newest messages, so that a count is soon made.
const MENTIONS_WITHIN: u32 = 10_000;

/// What [`membership_of`] reads, of the conversation `c` and its member `m`.
fn membership_columns() -> String {
    format!(
        "c.id, c.name, c.last_seq, c.changes, m.role, m.visible_seq, m.last_read_seq, m.sent, m.sent_read,
        m.pinned_at, m.muted_until, m.archived, m.marked_unread, m.draft, m.deleted_seq, (
            SELECT COUNT(DISTINCT n.seq) FROM mentions n CROSS JOIN messages x
            WHERE n.conversation_id = c.id AND n.uid IN (m.uid, '@all')
                AND n.seq > m.last_read_seq AND n.seq > m.visible_seq AND n.seq > c.last_seq - {MENTIONS_WITHIN}
                AND x.conversation_id = n.conversation_id AND x.seq = n.seq
                AND x.sender <> m.uid AND x.state = 0 AND {}) AS mentions",
        visible_to("m.uid")
    )
}

/// The id of the newest message in `c` that its member `m` may see, if it is not too far below the conversation's newest.
pub(super) fn newest_visible() -> String {
    format!(
        "SELECT x.msg_id FROM messages x
        WHERE x.conversation_id = c.id AND x.seq > m.visible_seq AND x.seq > c.last_seq - {LOOK_BACK} AND {}
        ORDER BY x.seq DESC LIMIT 1",
        visible_to("m.uid")
    )
}

fn conversation_of(row: &QueryResult) -> Result<Conversation, DbErr> {
    let name: Option<String> = row.try_get("", "group_name")?;
    let avatar: Option<String> = row.try_get("", "group_avatar")?;
    Ok(Conversation {
        membership: membership_of(row)?,
        last_message: None,
        group: name.map(|name| (name, avatar.unwrap_or_default())),
    })
}

/// Messages of others that a member has not read, of `last_seq` in all, where `sent` counts the member's own: all, and those up to
/// where he has read.
pub(super) fn unread((last_seq, last_read_seq): (u32, u32), (sent, sent_read): (u32, u32)) -> u32 {
    let behind = last_seq.saturating_sub(last_read_seq);
    behind.saturating_sub(sent.saturating_sub(sent_read))
}

fn membership_of(row: &QueryResult) -> Result<Membership, DbErr> {
    let last_seq = seq(row, "last_seq")?;
    let last_read_seq = seq(row, "last_read_seq")?;
    let sent = (seq(row, "sent")?, seq(row, "sent_read")?);
    let mentions: i64 = row.try_get("", "mentions")?;
    let deleted_seq: i32 = row.try_get("", "deleted_seq")?;
    Ok(Membership {
        conversation_id: row.try_get("", "id")?,
        name: row.try_get("", "name")?,
        role: row.try_get("", "role")?,
        visible_seq: seq(row, "visible_seq")?,
        last_seq,
        changes: seq(row, "changes")?,
        last_read_seq,
        unread: unread((last_seq, last_read_seq), sent),
        mentions: u32::try_from(mentions).unwrap_or_default(),
        wishes: Wishes {
            pinned_at: row.try_get("", "pinned_at")?,
            muted_until: row.try_get("", "muted_until")?,
            archived: row.try_get("", "archived")?,
            marked_unread: row.try_get("", "marked_unread")?,
            draft: row.try_get("", "draft")?,
            deleted_seq: u32::try_from(deleted_seq).ok(),
        },
    })
}
