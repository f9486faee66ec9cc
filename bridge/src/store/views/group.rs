//! A group and its members.

use schema::{ConversationId, Gid, Timestamp, Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{membership, seq, unsigned};
use crate::store::{Error, sql};

/// The group with all its members, ordered by uid, as everybody in it may see it: of who does not tell how far he has
/// read, it isn't said.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn group<C: ConnectionTrait>(db: &C, gid: &Gid) -> Result<Option<v1::Group>, Error> {
    let text = "SELECT g.conversation_id, g.name, c.created_at
        FROM chat_groups g JOIN conversations c ON c.id = g.conversation_id
        WHERE g.gid = ?";
    let Some(row) = sql::query_one(db, text, [gid.as_str().into()]).await? else {
        return Ok(None);
    };
    let conversation_id: i64 = row.try_get("", "conversation_id")?;
    let members = "SELECT m.uid, m.role, m.last_ack_msgid, m.last_ack_seq, m.last_read_seq, u.read_receipts
        FROM members m LEFT JOIN users u ON u.uid = m.uid WHERE m.conversation_id = ? ORDER BY m.uid";
    let members = sql::query(db, members, [conversation_id.into()]).await?;
    Ok(Some(v1::Group {
        gid: gid.to_string(),
        name: row.try_get("", "name")?,
        conversation: ConversationId::Group(gid.clone()).to_string(),
        created_at: Some(Timestamp::from_millis(row.try_get("", "created_at")?)),
        members: members.iter().map(member).collect::<Result<_, _>>()?,
        ..Default::default()
    }))
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
    let Some(mut group) = group(db, gid).await? else {
        return Ok(None);
    };
    let mut members = group.members.iter_mut();
    let Some(own) = members.find(|member| member.uid == uid.as_str()) else {
        return Ok(None);
    };
    if let Some(membership) = membership(db, uid, &group.conversation).await? {
        own.last_read_seq = membership.last_read_seq;
    }
    Ok(Some(group))
}

fn member(row: &QueryResult) -> Result<v1::GroupMember, DbErr> {
    let tells: Option<bool> = row.try_get("", "read_receipts")?;
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
        ..Default::default()
    })
}
