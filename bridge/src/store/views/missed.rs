//! What a device that comes back is sent.

use std::collections::HashMap;

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{MESSAGE_COLUMNS, VISIBLE, message};
use crate::store::{Error, sql};

/// Those of the messages that exist and are the user's to see, by id. Their conversation's name is left empty.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn missed_messages<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    ids: &[u64],
) -> Result<HashMap<u64, v1::Message>, Error> {
    let mut rows = sql::Rows::new(1);
    for id in ids {
        rows.push([id.cast_signed().into()]);
    }
    // CROSS: SQLite keeps this order, and so begins with the few messages.
    let text = format!(
        "SELECT {MESSAGE_COLUMNS} FROM messages x CROSS JOIN members m
        WHERE m.uid = ? AND m.conversation_id = x.conversation_id AND x.seq > m.visible_seq AND {VISIBLE}
            AND x.msg_id {{in}}"
    );
    let found = sql::query_rows_with(db, &text, &[uid.as_str().into()], rows).await?;
    let by_id = |row: &QueryResult| message(row, "").map(|message| (message.msg_id, message));
    let found: Result<_, DbErr> = found.iter().map(by_id).collect();
    Ok(found?)
}
