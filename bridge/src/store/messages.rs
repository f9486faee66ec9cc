//! Messages: stored once. What changes them afterwards is in [`operations`](super::operations).

use schema::{MsgId, Uid};
use sea_orm::ConnectionTrait;

use super::archives::{self, Order};
use super::{Error, sql};

/// A message to be stored.
#[derive(Debug)]
pub struct New<'a> {
    /// Its id.
    pub msg_id: MsgId,
    /// The conversation's key in the database.
    pub conversation_id: i64,
    /// Its place there.
    pub seq: u32,
    /// Who sent it.
    pub sender: &'a Uid,
    /// With which device.
    pub sender_device: &'a str,
    /// The id that the client gave it; empty: none.
    pub client_msg_id: &'a str,
    /// The device's counter.
    pub client_seq: u64,
    /// What the content is.
    pub kind: &'a str,
    /// As [`content::encode`](crate::content::encode) writes it.
    pub content: &'a [u8],
    /// When it disappears, in milliseconds since 1970; `None`: never.
    pub expires_at: Option<i64>,
    /// The member who does not get it, since he has blocked its sender silently.
    pub hidden_from: Option<&'a Uid>,
}

/// Stores messages.
///
/// # Errors
/// [`Error::Exists`] when a message with the same sender and `client_msg_id` is there.
pub async fn add<'a, C: ConnectionTrait>(
    db: &C,
    messages: impl IntoIterator<Item = New<'a>>,
) -> Result<(), Error> {
    // Most have nothing special, and their statement is the shorter one.
    let mut rows = sql::Rows::new(9);
    let mut special = sql::Rows::new(11);
    let mut expiring = sql::Rows::new(3);
    for message in messages {
        let msg_id = message.msg_id.0.cast_signed();
        let client_msg_id = Some(message.client_msg_id).filter(|id| !id.is_empty());
        let plain = [
            msg_id.into(),
            message.conversation_id.into(),
            message.seq.cast_signed().into(),
            message.sender.as_str().into(),
            message.sender_device.into(),
            client_msg_id.into(),
            message.client_seq.cast_signed().into(),
            message.kind.into(),
            message.content.into(),
        ];
        if message.expires_at.is_none() && message.hidden_from.is_none() {
            rows.push(plain);
            continue;
        }
        let [a, b, c, d, e, f, g, h, i] = plain;
        let hidden_from = message.hidden_from.map(Uid::as_str);
        let (expires_at, hidden_from) = (message.expires_at.into(), hidden_from.into());
        special.push([a, b, c, d, e, f, g, h, i, expires_at, hidden_from]);
        if let Some(at) = message.expires_at {
            expiring.push([msg_id.into(), message.conversation_id.into(), at.into()]);
        }
    }
    let text = "INSERT INTO messages (msg_id, conversation_id, seq, sender, sender_device, client_msg_id, client_seq,
        kind, content) VALUES {rows}";
    sql::execute_rows(db, text, rows).await?;
    let text = "INSERT INTO messages (msg_id, conversation_id, seq, sender, sender_device, client_msg_id, client_seq,
        kind, content, expires_at, hidden_from) VALUES {rows}";
    sql::execute_rows(db, text, special).await?;
    let text = "INSERT INTO expiring (msg_id, conversation_id, expires_at) VALUES {rows}";
    sql::execute_rows(db, text, expiring).await?;
    Ok(())
}

/// Notes whom messages mention: conversation, uid or `@all`, seq.
///
/// # Errors
/// [`Error::Exists`] when one of them is noted already.
pub async fn add_mentions<'a, C: ConnectionTrait>(
    db: &C,
    mentions: impl IntoIterator<Item = (i64, &'a str, u32)>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(3);
    for (conversation_id, uid, seq) in mentions {
        rows.push([conversation_id.into(), uid.into(), seq.cast_signed().into()]);
    }
    let text = "INSERT INTO mentions (conversation_id, uid, seq) VALUES {rows}";
    sql::execute_rows(db, text, rows).await?;
    Ok(())
}

/// Notes messages of kind image, video, audio and file: conversation, seq, kind.
///
/// # Errors
/// [`Error::Exists`] when one of them is noted already.
pub async fn add_attachments<'a, C: ConnectionTrait>(
    db: &C,
    attachments: impl IntoIterator<Item = (i64, u32, &'a str)>,
) -> Result<(), Error> {
    let mut rows = sql::Rows::new(3);
    for (conversation_id, seq, kind) in attachments {
        rows.push([
            conversation_id.into(),
            seq.cast_signed().into(),
            kind.into(),
        ]);
    }
    let text = "INSERT INTO attachments (conversation_id, seq, kind) VALUES {rows}";
    sql::execute_rows(db, text, rows).await?;
    Ok(())
}

/// A message that was stored for an earlier delivery of the same command.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// Who sent it.
    pub sender: String,
    /// The id that the client gave it.
    pub client_msg_id: String,
    /// Its id.
    pub msg_id: u64,
    /// The conversation's name on the wire.
    pub conversation: String,
    /// Its place.
    pub seq: u32,
}

/// The messages that exist of those senders with those client ids.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn find_by_client_ids<C: ConnectionTrait>(
    db: &C,
    keys: impl IntoIterator<Item = (&str, &str)>,
) -> Result<Vec<Earlier>, Error> {
    let mut rows = sql::Rows::new(2);
    for (sender, client_msg_id) in keys {
        rows.push([sender.into(), client_msg_id.into()]);
    }
    let text = "SELECT x.sender, x.client_msg_id, x.msg_id, x.seq, c.name
        FROM messages x JOIN conversations c ON c.id = x.conversation_id
        WHERE (x.sender, x.client_msg_id) {in}";
    let mut earlier = Vec::new();
    for row in sql::query_rows(db, text, rows).await? {
        let (msg_id, seq): (i64, i32) = (row.try_get("", "msg_id")?, row.try_get("", "seq")?);
        earlier.push(Earlier {
            sender: row.try_get("", "sender")?,
            client_msg_id: row.try_get("", "client_msg_id")?,
            msg_id: msg_id.cast_unsigned(),
            conversation: row.try_get("", "name")?,
            seq: seq.cast_unsigned(),
        });
    }
    Ok(earlier)
}

/// The id of the message at a place, wherever it is.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn id_at<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    seq: u32,
) -> Result<Option<u64>, Error> {
    let text = "SELECT msg_id FROM messages WHERE conversation_id = ? AND seq = ?";
    let values = [conversation_id.into(), seq.cast_signed().into()];
    let Some(row) = sql::query_one(db, text, values).await? else {
        return archives::id_at(db, conversation_id, seq).await;
    };
    let id: i64 = row.try_get("", "msg_id")?;
    Ok(Some(id.cast_unsigned()))
}

/// The newest seq of each conversation that has a message of that id or a larger one.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn newest_since<C: ConnectionTrait>(
    db: &C,
    since: MsgId,
) -> Result<Vec<(i64, u32)>, Error> {
    let text = "SELECT conversation_id, MAX(seq) AS newest FROM messages WHERE msg_id >= ?
        GROUP BY conversation_id";
    let mut newest = Vec::new();
    for row in sql::query(db, text, [since.0.cast_signed().into()]).await? {
        let seq: i32 = row.try_get("", "newest")?;
        newest.push((row.try_get("", "conversation_id")?, seq.cast_unsigned()));
    }
    Ok(newest)
}

/// The largest id that was ever given, to a message or to anything else; 0: none.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn newest_id<C: ConnectionTrait>(db: &C) -> Result<u64, Error> {
    let text = "SELECT MAX(id) AS newest FROM (
        SELECT MAX(msg_id) AS id FROM messages
        UNION ALL SELECT MAX(id) FROM conversations
        UNION ALL SELECT MAX(id) FROM scheduled
        UNION ALL SELECT MAX(id) FROM answers) ids";
    let row = sql::query_one(db, text, []).await?;
    let newest: Option<i64> = row
        .map(|row| row.try_get("", "newest"))
        .transpose()?
        .flatten();
    Ok(newest.unwrap_or_default().cast_unsigned())
}

/// The first places after a seq: seq and message id. Reads the index, not the messages; of those in files, the directory
/// of the first one.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn places<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    after_seq: u32,
    last_seq: u32,
    limit: u32,
) -> Result<Vec<(u32, u64)>, Error> {
    let text = format!(
        "SELECT seq, msg_id FROM messages WHERE {} ORDER BY conversation_id, seq LIMIT {limit}",
        sql::between(db.get_database_backend(), "conversation_id", "seq")
    );
    let values = [
        conversation_id.into(),
        after_seq.cast_signed().into(),
        conversation_id.into(),
        last_seq.cast_signed().saturating_add(1).into(),
    ];
    let mut places = Vec::new();
    for row in sql::query(db, &text, values).await? {
        let (seq, msg_id): (i32, i64) = (row.try_get("", "seq")?, row.try_get("", "msg_id")?);
        places.push((seq.cast_unsigned(), msg_id.cast_unsigned()));
    }
    let before = places
        .first()
        .map_or(last_seq.saturating_add(1), |(seq, _)| *seq);
    if before <= after_seq.saturating_add(1) {
        return Ok(places);
    }
    let range = (after_seq, before);
    match archives::between(db, conversation_id, range, Order::OldestFirst).await? {
        None => Ok(places),
        Some(file) => {
            let entries = file.directory.entries().iter();
            let entries = entries.filter(|entry| entry.seq > after_seq && entry.seq < before);
            let places = entries.map(|entry| (entry.seq, entry.msg_id));
            Ok(places.take(limit as usize).collect())
        }
    }
}
