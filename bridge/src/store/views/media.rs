//! Pictures, films, sounds and files of a conversation.

use schema::Uid;
use sea_orm::ConnectionTrait;

use super::unsigned;
use crate::store::{Error, sql};

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
) -> Result<Vec<u64>, Error> {
    let list = vec!["?"; kinds.len()].join(", ");
    let text = format!(
        "SELECT x.msg_id FROM attachments a
        JOIN messages x ON x.conversation_id = a.conversation_id AND x.seq = a.seq
        WHERE a.conversation_id = ? AND a.seq > ? AND a.seq < ?
            AND x.state = 0 AND (x.hidden_from IS NULL OR x.hidden_from <> ?)
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
    let ids = rows.iter().map(|row| unsigned(row, "msg_id"));
    Ok(ids.collect::<Result<_, _>>()?)
}
