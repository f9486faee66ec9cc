//! What is stored about one user beside messages, in pages for an export.

use prost::Message as _;
use schema::{Timestamp, Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql};

/// The account, as its user may see it.
#[derive(Clone, Debug)]
pub struct Account {
    /// When it was made.
    pub created_at: Timestamp,
    /// `user` or `admin`
    pub role: String,
    /// Profile and settings.
    pub profile: v1::Profile,
}

/// The account of a user; `None`: there is none.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn account<C: ConnectionTrait>(db: &C, uid: &Uid) -> Result<Option<Account>, Error> {
    let text = "SELECT created_at, role, kind, name, avatar, about, status_text, read_receipts, strangers, presence
        FROM users WHERE uid = ? AND deleted_at IS NULL";
    let row = sql::query_one(db, text, [uid.as_str().into()]).await?;
    let account = |row: QueryResult| -> Result<Account, DbErr> {
        Ok(Account {
            created_at: Timestamp::from_millis(row.try_get("", "created_at")?),
            role: row.try_get("", "role")?,
            profile: v1::Profile {
                user: Some(v1::User {
                    uid: uid.to_string(),
                    name: row.try_get("", "name")?,
                    avatar: row.try_get("", "avatar")?,
                    about: row.try_get("", "about")?,
                    kind: row.try_get("", "kind")?,
                    deleted: false,
                }),
                read_receipts: row.try_get("", "read_receipts")?,
                strangers: row.try_get("", "strangers")?,
                presence: row.try_get("", "presence")?,
                text: row.try_get("", "status_text")?,
            },
        })
    };
    Ok(row.map(account).transpose()?)
}

/// Contacts, requests and blocks by the other's uid: the `limit` ones after `after`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn contacts<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    after: &str,
    limit: u32,
) -> Result<Vec<v1::Contact>, Error> {
    let text = format!(
        "SELECT other, state, remark, labels, text, blocked FROM contacts
        WHERE uid = ? AND other > ? ORDER BY other LIMIT {limit}"
    );
    let rows = sql::query(db, &text, [uid.as_str().into(), after.into()]).await?;
    Ok(rows.iter().map(contact).collect::<Result<_, _>>()?)
}

fn contact(row: &QueryResult) -> Result<v1::Contact, DbErr> {
    let labels: Vec<u8> = row.try_get("", "labels")?;
    let labels = v1::ContactLabels::decode(labels.as_slice())
        .map_err(|error| DbErr::Type(format!("labels of a contact: {error}")))?;
    let blocked: i32 = row.try_get("", "blocked")?;
    let blocked = match blocked {
        0 => "",
        1 => "refuse",
        _ => "silent",
    };
    Ok(v1::Contact {
        uid: row.try_get("", "other")?,
        state: row.try_get("", "state")?,
        remark: row.try_get("", "remark")?,
        groups: labels.names,
        text: row.try_get("", "text")?,
        blocked: blocked.to_owned(),
        user: None,
    })
}

/// A conversation that the user is in.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Its key in the database.
    pub id: i64,
    /// How the user sees it.
    pub state: v1::ConversationState,
    /// Of a group: what the user is there.
    pub group: Option<v1::Group>,
}

/// The user's conversations by their keys: the `limit` ones after `after`. Groups have their name, and of the members only
/// the user.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn conversations<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    after: i64,
    limit: u32,
) -> Result<Vec<Conversation>, Error> {
    let text = format!(
        "SELECT c.id, c.name, c.last_seq, m.last_read_seq, m.sent, m.sent_read, m.visible_seq, m.pinned_at, m.muted_until,
            m.archived, m.marked_unread, m.draft, m.role, m.nickname, g.gid, g.name AS group_name
        FROM members m JOIN conversations c ON c.id = m.conversation_id
        LEFT JOIN chat_groups g ON g.conversation_id = c.id
        WHERE m.uid = ? AND m.conversation_id > ? ORDER BY m.conversation_id LIMIT {limit}"
    );
    let rows = sql::query(db, &text, [uid.as_str().into(), after.into()]).await?;
    let conversation = |row: &QueryResult| {
        Ok(Conversation {
            id: row.try_get("", "id")?,
            state: state(row)?,
            group: group(row, uid)?,
        })
    };
    let conversations: Result<_, DbErr> = rows.iter().map(conversation).collect();
    Ok(conversations?)
}

fn state(row: &QueryResult) -> Result<v1::ConversationState, DbErr> {
    let count = |column: &str| -> Result<u32, DbErr> {
        let value: i32 = row.try_get("", column)?;
        Ok(value.cast_unsigned())
    };
    let (last_seq, last_read_seq) = (count("last_seq")?, count("last_read_seq")?);
    let own = count("sent")?.saturating_sub(count("sent_read")?);
    let pinned_at: Option<i64> = row.try_get("", "pinned_at")?;
    let muted_until: i64 = row.try_get("", "muted_until")?;
    let draft: Option<String> = row.try_get("", "draft")?;
    Ok(v1::ConversationState {
        conversation: row.try_get("", "name")?,
        last_seq,
        last_read_seq,
        unread: last_seq.saturating_sub(last_read_seq).saturating_sub(own),
        pinned_at: pinned_at.map(Timestamp::from_millis),
        muted_until: (muted_until > 0).then(|| Timestamp::from_millis(muted_until)),
        archived: row.try_get("", "archived")?,
        marked_unread: row.try_get("", "marked_unread")?,
        draft: draft.unwrap_or_default(),
        visible_seq: count("visible_seq")?,
        ..Default::default()
    })
}

fn group(row: &QueryResult, uid: &Uid) -> Result<Option<v1::Group>, DbErr> {
    let gid: Option<String> = row.try_get("", "gid")?;
    let Some(gid) = gid else { return Ok(None) };
    let own = v1::GroupMember {
        uid: uid.to_string(),
        role: row.try_get("", "role")?,
        nickname: row.try_get("", "nickname")?,
        ..Default::default()
    };
    Ok(Some(v1::Group {
        gid,
        name: row.try_get("", "group_name")?,
        conversation: row.try_get("", "name")?,
        members: vec![own],
        partial: true,
        ..Default::default()
    }))
}

/// Messages that are still to be sent, by id: the `limit` ones after `after`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn scheduled<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    after: i64,
    limit: u32,
) -> Result<Vec<(i64, Timestamp, v1::Send)>, Error> {
    let text = format!(
        "SELECT id, send_at, send FROM scheduled WHERE uid = ? AND id > ? ORDER BY id LIMIT {limit}"
    );
    let rows = sql::query(db, &text, [uid.as_str().into(), after.into()]).await?;
    let scheduled = |row: &QueryResult| {
        let send: Vec<u8> = row.try_get("", "send")?;
        let send = v1::Send::decode(send.as_slice())
            .map_err(|error| DbErr::Type(format!("a scheduled message: {error}")))?;
        let send_at = Timestamp::from_millis(row.try_get("", "send_at")?);
        Ok((row.try_get("", "id")?, send_at, send))
    };
    let scheduled: Result<_, DbErr> = rows.iter().map(scheduled).collect();
    Ok(scheduled?)
}
