//! Who is in a conversation, and how far.

use schema::Uid;
use sea_orm::ConnectionTrait;

use super::{Error, sql};

/// What a member may do in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Made the group; can't be removed.
    Owner,
    /// May add and remove members.
    Admin,
    /// May write.
    Member,
}

impl Role {
    /// As the database and the wire have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Admin => "admin",
            Role::Member => "member",
        }
    }

    /// The reverse of [`Role::as_str`]; an unknown word may do least.
    #[must_use]
    pub fn parse(role: &str) -> Self {
        match role {
            "owner" => Role::Owner,
            "admin" => Role::Admin,
            _ => Role::Member,
        }
    }
}

/// Lets users in, as of the conversation's message `start_seq`.
///
/// # Errors
/// [`Error::Exists`] when one is in already.
pub async fn add<'a, C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    start_seq: u32,
    members: impl IntoIterator<Item = (&'a Uid, Role)>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(10);
    let start = start_seq.cast_signed();
    for (uid, role) in members {
        rows.push([
            conversation_id.into(),
            uid.as_str().into(),
            role.as_str().into(),
            start.into(),
            start.into(),
            start.into(),
            0_i64.into(),
            start.into(),
            0.into(),
            0.into(),
        ]);
    }
    let text =
        "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
        last_read_seq, sent, sent_read) VALUES {rows}";
    sql::execute_rows(db, text, rows).await?;
    Ok(())
}

/// Takes a user out, who may be out already.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn remove<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
) -> Result<(), Error> {
    let key = || [conversation_id.into(), uid.as_str().into()];
    // Who comes back later starts anew.
    let cursors = "DELETE FROM cursors WHERE conversation_id = ? AND uid = ?";
    sql::execute(db, cursors, key()).await?;
    let member = "DELETE FROM members WHERE conversation_id = ? AND uid = ?";
    sql::execute(db, member, key()).await?;
    Ok(())
}

/// A group's members with their roles.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn roles<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
) -> Result<Vec<(Uid, Role)>, Error> {
    let text = "SELECT uid, role FROM members WHERE conversation_id = ?";
    let mut roles = Vec::new();
    for row in sql::query(db, text, [conversation_id.into()]).await? {
        let (uid, role): (String, String) = (row.try_get("", "uid")?, row.try_get("", "role")?);
        if let Ok(uid) = uid.parse() {
            roles.push((uid, Role::parse(&role)));
        }
    }
    Ok(roles)
}

/// The first `limit` members, by uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn some<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    limit: u32,
) -> Result<Vec<Uid>, Error> {
    let text =
        format!("SELECT uid FROM members WHERE conversation_id = ? ORDER BY uid LIMIT {limit}");
    let mut uids = Vec::new();
    for row in sql::query(db, &text, [conversation_id.into()]).await? {
        uids.push(super::users::uid(&row)?);
    }
    Ok(uids)
}

/// A user's role in a conversation; `None`: not a member.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn role<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &str,
) -> Result<Option<Role>, Error> {
    let text = "SELECT role FROM members WHERE conversation_id = ? AND uid = ?";
    let row = sql::query_one(db, text, [conversation_id.into(), uid.into()]).await?;
    let role: Option<String> = row.map(|row| row.try_get("", "role")).transpose()?;
    Ok(role.as_deref().map(Role::parse))
}

/// Counts messages that members have sent, or that are not there for them: conversation, uid, how many more.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn count_sent<'a, C: ConnectionTrait>(
    db: &C,
    sent: impl IntoIterator<Item = (i64, &'a Uid, u32)>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(3);
    for (conversation_id, uid, more) in sent {
        rows.push([
            conversation_id.into(),
            uid.as_str().into(),
            more.cast_signed().into(),
        ]);
    }
    let columns = ["conversation_id", "uid", "more"];
    let on = "members.conversation_id = v.conversation_id AND members.uid = v.uid";
    let set = "sent = members.sent + v.more";
    sql::update_rows(db, "members", &columns, set, on, rows).await?;
    Ok(())
}

/// Moves the read position forward, counting what the user sent up to there, or what is not there for him.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn set_read<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
    from_seq: u32,
    to_seq: u32,
) -> Result<(), Error> {
    let text = "UPDATE members SET last_read_seq = ?, sent_read = sent_read + (
            SELECT COUNT(*) FROM messages x
            WHERE x.conversation_id = ? AND x.seq > ? AND x.seq <= ? AND (x.sender = ? OR x.hidden_from = ?
                OR EXISTS (SELECT 1 FROM hidden_messages h
                    WHERE h.uid = ? AND h.conversation_id = x.conversation_id AND h.seq = x.seq)))
        WHERE conversation_id = ? AND uid = ?";
    let (from, to) = (from_seq.cast_signed(), to_seq.cast_signed());
    let values = [
        to.into(),
        conversation_id.into(),
        from.into(),
        to.into(),
        uid.as_str().into(),
        uid.as_str().into(),
        uid.as_str().into(),
        conversation_id.into(),
        uid.as_str().into(),
    ];
    sql::execute(db, text, values).await?;
    Ok(())
}
