//! How people have reacted to messages.

use std::collections::HashMap;

use schema::v1;
use sea_orm::ConnectionTrait;

use super::unsigned;
use crate::store::{Error, sql};

/// Of so many users the names are told; the others are counted.
pub(super) const NAMED_MAX: usize = 20;

/// Whether there are reactions to the messages `x`: 1 or 0, as a column `reacted`. Not as EXISTS, which PostgreSQL may answer
/// by reading all reactions there are.
pub(super) const REACTED: &str =
    "COALESCE((SELECT 1 FROM reactions r WHERE r.msg_id = x.msg_id LIMIT 1), 0) AS reacted";

/// The reactions to those messages that have any, by message; the emoji that was first used comes first.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn reactions<C: ConnectionTrait>(
    db: &C,
    msg_ids: &[u64],
) -> Result<HashMap<u64, Vec<v1::Reaction>>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in msg_ids {
        rows.push([id.cast_signed().into()]);
    }
    let text = format!(
        "SELECT msg_id, emoji, uid, total FROM (
            SELECT msg_id, emoji, uid, at, COUNT(*) OVER (PARTITION BY msg_id, emoji) AS total,
                ROW_NUMBER() OVER (PARTITION BY msg_id, emoji ORDER BY at, uid) AS place
            FROM reactions WHERE msg_id {{in}}) r
        WHERE place <= {NAMED_MAX} ORDER BY msg_id, place, at, emoji"
    );
    let mut found: HashMap<u64, Vec<v1::Reaction>> = HashMap::new();
    for row in sql::query_rows(db, &text, rows).await? {
        let reactions = found.entry(unsigned(&row, "msg_id")?).or_default();
        let emoji: String = row.try_get("", "emoji")?;
        let uid: String = row.try_get("", "uid")?;
        match reactions.iter_mut().find(|known| known.emoji == emoji) {
            Some(known) => known.uids.push(uid),
            None => {
                let count: i64 = row.try_get("", "total")?;
                reactions.push(v1::Reaction {
                    emoji,
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                    uids: vec![uid],
                });
            }
        }
    }
    Ok(found)
}

/// Puts their reactions into those of the messages that have any.
pub(super) async fn add_to<C: ConnectionTrait>(
    db: &C,
    messages: impl IntoIterator<Item = &mut v1::Message>,
    reacted: &[u64],
) -> Result<(), Error> {
    if reacted.is_empty() {
        return Ok(());
    }
    let mut found = reactions(db, reacted).await?;
    for message in messages {
        if let Some(reactions) = found.remove(&message.msg_id) {
            message.reactions = reactions;
        }
    }
    Ok(())
}
