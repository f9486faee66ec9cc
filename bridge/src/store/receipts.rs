//! How far the members of conversations are, for those who have written to them. Reads only.

use std::collections::HashMap;

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, archives, sql};

/// A message whose receipts are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The conversation's key in the database.
    pub conversation_id: i64,
    /// The conversation's name on the wire.
    pub conversation: String,
    /// The message's place there.
    pub seq: u32,
    /// The one who does not get it.
    pub hidden_from: Option<String>,
}

/// A member, and how far the member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The member.
    pub uid: Uid,
    /// What was sent up to here was not for the member.
    pub start_seq: u32,
    /// Everything up to here has reached one of the member's devices.
    pub acked: u32,
    /// Everything up to here is read; 0 where the member does not tell.
    pub read: u32,
}

impl Position {
    /// What is read has been delivered, whichever way it came.
    #[must_use]
    pub fn delivered(&self) -> u32 {
        self.acked.max(self.read)
    }
}

const POSITION_COLUMNS: &str =
    "m.conversation_id, m.uid, m.start_seq, m.last_ack_seq, m.last_read_seq, u.read_receipts";

/// The message, if the user has sent it and is still in its conversation.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn sent<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    msg_id: u64,
) -> Result<Option<Sent>, Error> {
    let text = "SELECT x.conversation_id, x.seq, x.hidden_from, c.name FROM messages x
        JOIN conversations c ON c.id = x.conversation_id
        JOIN members m ON m.conversation_id = x.conversation_id AND m.uid = x.sender
        WHERE x.msg_id = ? AND x.sender = ?";
    let values = [msg_id.cast_signed().into(), uid.as_str().into()];
    let Some(row) = sql::query_one(db, text, values).await? else {
        return sent_and_archived(db, uid, msg_id).await;
    };
    let sent = |row: QueryResult| {
        Ok::<_, DbErr>(Sent {
            conversation_id: row.try_get("", "conversation_id")?,
            conversation: row.try_get("", "name")?,
            seq: seq(&row, "seq")?,
            hidden_from: row.try_get("", "hidden_from")?,
        })
    };
    Ok(Some(sent(row)?))
}

async fn sent_and_archived<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    msg_id: u64,
) -> Result<Option<Sent>, Error> {
    let found = archives::find(db, uid, &[msg_id]).await?.pop();
    let own = found.filter(|found| found.message.sender == uid.as_str());
    Ok(own.map(|found| Sent {
        conversation_id: found.place.conversation_id,
        conversation: found.message.conversation,
        seq: found.place.seq,
        hidden_from: found.hidden_from,
    }))
}

/// The newest of the user's messages there that the others get; 0: none.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn newest_heard<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    uid: &Uid,
) -> Result<u32, Error> {
    let text =
        "SELECT seq FROM messages WHERE conversation_id = ? AND sender = ? AND hidden_from IS NULL
        ORDER BY seq DESC LIMIT 1";
    let values = [conversation_id.into(), uid.as_str().into()];
    match sql::query_one(db, text, values).await? {
        Some(row) => Ok(seq(&row, "seq")?),
        None => archives::newest_heard(db, conversation_id, uid).await,
    }
}

/// Everybody for whom the conversation's message `seq` was, but its sender, by uid.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn audience<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    before_seq: u32,
    sender: &Uid,
) -> Result<Vec<Position>, Error> {
    let text = format!(
        "SELECT {POSITION_COLUMNS} FROM members m JOIN users u ON u.uid = m.uid
        WHERE m.conversation_id = ? AND m.start_seq < ? AND m.uid <> ? ORDER BY m.uid"
    );
    let values = [
        conversation_id.into(),
        before_seq.cast_signed().into(),
        sender.as_str().into(),
    ];
    let rows = sql::query(db, &text, values).await?;
    let positions: Result<_, DbErr> = rows.iter().map(position).collect();
    Ok(positions?)
}

/// Where members stand now; who is not a member is not found.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn positions<C: ConnectionTrait>(
    db: &C,
    members: impl IntoIterator<Item = (i64, &Uid)>,
) -> Result<HashMap<i64, Vec<Position>>, Error> {
    let mut rows = sql::Rows::new(2);
    for (conversation_id, uid) in members {
        rows.push([conversation_id.into(), uid.as_str().into()]);
    }
    let text = format!(
        "SELECT {POSITION_COLUMNS} FROM v
        JOIN members m ON m.conversation_id = v.conversation_id AND m.uid = v.uid
        JOIN users u ON u.uid = v.uid"
    );
    let columns = ["conversation_id", "uid"];
    let mut found: HashMap<i64, Vec<Position>> = HashMap::new();
    for row in sql::select_from_rows(db, &columns, &text, rows).await? {
        let conversation_id: i64 = row.try_get("", "conversation_id")?;
        let positions = found.entry(conversation_id).or_default();
        positions.push(position(&row)?);
    }
    Ok(found)
}

/// The names on the wire of conversations, by their keys.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn names<C: ConnectionTrait>(
    db: &C,
    ids: impl IntoIterator<Item = i64>,
) -> Result<Vec<(i64, String)>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in ids {
        rows.push([id.into()]);
    }
    let text = "SELECT id, name FROM conversations WHERE id {in}";
    let mut names = Vec::new();
    for row in sql::query_rows(db, text, rows).await? {
        names.push((row.try_get("", "id")?, row.try_get("", "name")?));
    }
    Ok(names)
}

/// Who has sent messages with a greater seq than `after_seq` up to `last_seq` that are not in files, and is a member now.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn senders<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    after_seq: u32,
    last_seq: u32,
) -> Result<Vec<Uid>, Error> {
    let text = "SELECT DISTINCT x.sender FROM messages x
        JOIN members m ON m.conversation_id = x.conversation_id AND m.uid = x.sender
        WHERE x.conversation_id = ? AND x.seq > ? AND x.seq <= ?";
    let values = [
        conversation_id.into(),
        after_seq.cast_signed().into(),
        last_seq.cast_signed().into(),
    ];
    let mut senders = Vec::new();
    for row in sql::query(db, text, values).await? {
        let sender: String = row.try_get("", "sender")?;
        senders.extend(sender.parse::<Uid>().ok());
    }
    Ok(senders)
}

/// Which of the pairs is of a user who has blocked the other one.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn blocked<C: ConnectionTrait>(
    db: &C,
    pairs: impl IntoIterator<Item = (&Uid, &Uid)>,
) -> Result<Vec<(String, String)>, Error> {
    let mut rows = sql::Rows::new(2);
    for (uid, other) in pairs {
        rows.push([uid.as_str().into(), other.as_str().into()]);
    }
    let text = "SELECT c.uid, c.other FROM v
        JOIN contacts c ON c.uid = v.uid AND c.other = v.other WHERE c.blocked <> 0";
    let mut blocked = Vec::new();
    for row in sql::select_from_rows(db, &["uid", "other"], text, rows).await? {
        blocked.push((row.try_get("", "uid")?, row.try_get("", "other")?));
    }
    Ok(blocked)
}

fn position(row: &QueryResult) -> Result<Position, DbErr> {
    let tells: bool = row.try_get("", "read_receipts")?;
    Ok(Position {
        uid: super::users::uid(row)?,
        start_seq: seq(row, "start_seq")?,
        acked: seq(row, "last_ack_seq")?,
        read: if tells { seq(row, "last_read_seq")? } else { 0 },
    })
}

fn seq(row: &QueryResult, column: &str) -> Result<u32, DbErr> {
    let value: i32 = row.try_get("", column)?;
    u32::try_from(value).map_err(|_| DbErr::Type(format!("{column} is negative: {value}")))
}
