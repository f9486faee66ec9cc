//! A group and its members.

use schema::{ConversationId, Gid, Timestamp, Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{membership, seq, unsigned};
use crate::store::groups::{self, pins};
use crate::store::{Error, sql};

/// Pinned messages of a group, at most.
pub const PINS_MAX: usize = 50;
/// A group of more members is told of a change without those that it is not about.
pub const MEMBERS_TOLD: usize = 100;

/// The group with all its members, ordered by uid, as everybody in it may see it: of who does not tell how far he has
/// read, it isn't said.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn group<C: ConnectionTrait>(db: &C, gid: &Gid) -> Result<Option<v1::Group>, Error> {
    let Some((id, mut group)) = head(db, gid).await? else {
        return Ok(None);
    };
    group.members = all_members(db, id).await?;
    Ok(Some(group))
}

/// The group with all its members, or where these are more than [`MEMBERS_TOLD`], with so many of the members `about`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn group_about<C: ConnectionTrait>(
    db: &C,
    gid: &Gid,
    about: &[Uid],
) -> Result<Option<v1::Group>, Error> {
    let Some((id, mut group)) = head(db, gid).await? else {
        return Ok(None);
    };
    group.partial = group.member_count as usize > MEMBERS_TOLD;
    group.members = if group.partial {
        let about = &about[..about.len().min(MEMBERS_TOLD)];
        some_members(db, id, about).await?
    } else {
        all_members(db, id).await?
    };
    Ok(Some(group))
}

/// The group without members, and its conversation's key.
async fn head<C: ConnectionTrait>(db: &C, gid: &Gid) -> Result<Option<(i64, v1::Group)>, Error> {
    let text = format!(
        "SELECT g.conversation_id, c.created_at, {},
        (SELECT COUNT(*) FROM members m WHERE m.conversation_id = g.conversation_id) AS member_count
        FROM chat_groups g JOIN conversations c ON c.id = g.conversation_id
        WHERE g.gid = ? AND g.dissolved_at IS NULL",
        groups::SETTINGS
    );
    let Some(row) = sql::query_one(db, &text, [gid.as_str().into()]).await? else {
        return Ok(None);
    };
    let id: i64 = row.try_get("", "conversation_id")?;
    let group = v1::Group {
        gid: gid.to_string(),
        conversation: ConversationId::Group(gid.clone()).to_string(),
        pinned: pins::list(db, id, PINS_MAX).await?,
        ..described(&row)?
    };
    Ok(Some((id, group)))
}

/// What a group is, in a row with the columns [`groups::SETTINGS`], `created_at` and `member_count`.
pub(in crate::store) fn described(row: &QueryResult) -> Result<v1::Group, DbErr> {
    let member_count: i64 = row.try_get("", "member_count")?;
    let settings = groups::settings_of(row)?;
    Ok(v1::Group {
        name: settings.name,
        created_at: Some(Timestamp::from_millis(row.try_get("", "created_at")?)),
        avatar: settings.avatar,
        announcement: settings.announcement,
        join: settings.join.as_str().to_owned(),
        invite: settings.invite.as_str().to_owned(),
        post: settings.post.as_str().to_owned(),
        pin: settings.pin.as_str().to_owned(),
        history_visible: settings.history_visible,
        muted: settings.muted,
        member_count: u32::try_from(member_count).unwrap_or_default(),
        ..Default::default()
    })
}

const MEMBER_COLUMNS: &str = "m.uid, m.role, m.last_ack_msgid, m.last_ack_seq, m.last_read_seq, m.nickname, m.silenced_until,
    u.read_receipts";

async fn all_members<C: ConnectionTrait>(db: &C, id: i64) -> Result<Vec<v1::GroupMember>, Error> {
    let text = format!(
        "SELECT {MEMBER_COLUMNS} FROM members m LEFT JOIN users u ON u.uid = m.uid
        WHERE m.conversation_id = ? ORDER BY m.uid"
    );
    let rows = sql::query(db, &text, [id.into()]).await?;
    Ok(rows.iter().map(member).collect::<Result<_, _>>()?)
}

async fn some_members<C: ConnectionTrait>(
    db: &C,
    id: i64,
    uids: &[Uid],
) -> Result<Vec<v1::GroupMember>, Error> {
    let mut keys = sql::Rows::new(2);
    for uid in uids {
        keys.push([id.into(), uid.as_str().into()]);
    }
    let text = format!(
        "SELECT {MEMBER_COLUMNS} FROM v JOIN members m ON m.conversation_id = v.conversation AND m.uid = v.member
        LEFT JOIN users u ON u.uid = m.uid"
    );
    let rows = sql::select_from_rows(db, &["conversation", "member"], &text, keys).await?;
    Ok(rows.iter().map(member).collect::<Result<_, _>>()?)
}

/// The same as one of its members sees it, whose own row says all; `None`: no such group, or not a member.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn group_of<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    gid: &Gid,
) -> Result<Option<v1::Group>, Error> {
    // First, so that others don't even learn how long it takes.
    let name = ConversationId::Group(gid.clone()).to_string();
    let Some(membership) = membership(db, uid, &name).await? else {
        return Ok(None);
    };
    let Some(mut group) = group(db, gid).await? else {
        return Ok(None);
    };
    let mut members = group.members.iter_mut();
    let Some(own) = members.find(|member| member.uid == uid.as_str()) else {
        return Ok(None);
    };
    own.last_read_seq = membership.last_read_seq;
    Ok(Some(group))
}

fn member(row: &QueryResult) -> Result<v1::GroupMember, DbErr> {
    let tells: Option<bool> = row.try_get("", "read_receipts")?;
    let silenced_until: i64 = row.try_get("", "silenced_until")?;
    Ok(v1::GroupMember {
        uid: row.try_get("", "uid")?,
        role: row.try_get("", "role")?,
        last_ack_msgid: unsigned(row, "last_ack_msgid")?,
        last_ack_seq: seq(row, "last_ack_seq")?,
        last_read_seq: if tells == Some(false) {
            0
        } else {
            seq(row, "last_read_seq")?
        },
        nickname: row.try_get("", "nickname")?,
        muted_until: (silenced_until > 0).then(|| Timestamp::from_millis(silenced_until)),
    })
}
