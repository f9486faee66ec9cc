//! A group and its members.

use schema::{ConversationId, Gid, Timestamp, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{seq, unsigned};
use crate::store::{Error, sql};

/// The group with all its members, ordered by uid.
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
    let members = "SELECT uid, role, last_ack_msgid, last_ack_seq, last_read_seq
        FROM members WHERE conversation_id = ? ORDER BY uid";
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

fn member(row: &QueryResult) -> Result<v1::GroupMember, DbErr> {
    Ok(v1::GroupMember {
        uid: row.try_get("", "uid")?,
        role: row.try_get("", "role")?,
        last_ack_msgid: unsigned(row, "last_ack_msgid")?,
        last_ack_seq: seq(row, "last_ack_seq")?,
        last_read_seq: seq(row, "last_read_seq")?,
        ..Default::default()
    })
}
