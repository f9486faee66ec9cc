//! Pictures, films, sounds and files of a conversation.

use std::collections::HashMap;

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::archived::archived_messages;
use super::history::messages_by_id;
use super::seq;
use crate::store::{Error, Store, sql};

/// A medium: its message's seq, and the id where it is a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Medium {
    /// Its place in the conversation.
    pub seq: u32,
    /// `None`: the message is in a file.
    pub msg_id: Option<u64>,
}

/// The kinds that [`media`] knows.
pub const MEDIA_KINDS: [&str; 4] = ["image", "video", "audio", "file"];

/// The newest messages of these kinds that the user may see, between two seqs that are not part of it: newest first.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn media<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    conversation_id: i64,
    (visible_seq, before_seq): (u32, u32),
    kinds: &[String],
    limit: u32,
) -> Result<Vec<Medium>, Error> {
    let list = vec!["?"; kinds.len()].join(", ");
    let text = format!(
        "SELECT a.seq, x.msg_id FROM attachments a
        LEFT JOIN messages x ON x.conversation_id = a.conversation_id AND x.seq = a.seq
        WHERE a.conversation_id = ? AND a.seq > ? AND a.seq < ?
            AND (x.state IS NULL OR x.state = 0) AND (x.hidden_from IS NULL OR x.hidden_from <> ?)
            AND NOT EXISTS (SELECT 1 FROM hidden_messages h
                WHERE h.uid = ? AND h.conversation_id = a.conversation_id AND h.seq = a.seq)
            AND a.kind IN ({list})
        ORDER BY a.seq DESC LIMIT {limit}"
    );
    let before_seq = i32::try_from(before_seq).unwrap_or(i32::MAX);
    let mut values = vec![
        conversation_id.into(),
        visible_seq.cast_signed().into(),
        before_seq.into(),
        uid.as_str().into(),
        uid.as_str().into(),
    ];
    values.extend(kinds.iter().map(|kind| kind.as_str().into()));
    let rows = sql::query(db, &text, values).await?;
    let medium = |row: &QueryResult| {
        let msg_id: Option<i64> = row.try_get("", "msg_id")?;
        Ok(Medium {
            seq: seq(row, "seq")?,
            msg_id: msg_id.map(i64::cast_unsigned),
        })
    };
    let media: Result<_, DbErr> = rows.iter().map(medium).collect();
    Ok(media?)
}

/// The messages of these media that are there for the user, by seq.
///
/// # Errors
/// [`Error`] when the database or the archive can't answer.
pub async fn media_messages(
    store: &Store,
    uid: &Uid,
    conversation: (i64, &str),
    media: &[Medium],
) -> Result<HashMap<u32, v1::Message>, Error> {
    let ids: Vec<u64> = media.iter().filter_map(|medium| medium.msg_id).collect();
    let rows = messages_by_id(store.reader(), uid, &ids).await?;
    let mut found: HashMap<u32, v1::Message> = rows
        .into_values()
        .map(|message| (message.seq, message))
        .collect();
    // One that was a row may have gone to a file since.
    let missing = media
        .iter()
        .filter(|medium| !found.contains_key(&medium.seq));
    let missing: Vec<u32> = missing.map(|medium| medium.seq).collect();
    if !missing.is_empty() {
        let archived = archived_messages(store, uid, conversation, &missing).await?;
        let there = archived
            .into_iter()
            .filter(|message| message.gone.is_empty());
        found.extend(there.map(|message| (message.seq, message)));
    }
    Ok(found)
}
