//! Files whose object does not say what their directory says: content that was taken away, or deleted for good, is still
//! in it, until a new object takes its place.

use sea_orm::ConnectionTrait;

use super::{COLUMNS, File, file, locked, moving, strays};
use crate::store::{Error, conversations, sql};

/// Stores what the directory of a file says now, and from when on the object is to be written anew.
pub(super) async fn note<C: ConnectionTrait>(
    tx: &C,
    file: &File,
    rewrite_at: Option<i64>,
) -> Result<(), Error> {
    let (min_id, max_id) = file.directory.ids();
    let text =
        "UPDATE archives SET first_seq = ?, min_id = ?, max_id = ?, directory = ?, rewrite_at = ?
        WHERE conversation_id = ? AND last_seq = ?";
    let values = [
        file.first_seq.cast_signed().into(),
        min_id.cast_signed().into(),
        max_id.cast_signed().into(),
        file.directory.encode().into(),
        rewrite_at.into(),
        file.conversation_id.into(),
        file.last_seq.cast_signed().into(),
    ];
    sql::execute(tx, text, values).await?;
    Ok(())
}

/// Files whose object is to be written anew by now.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn due<C: ConnectionTrait>(db: &C, now: i64, limit: u32) -> Result<Vec<File>, Error> {
    let text = format!(
        "SELECT {COLUMNS} FROM archives a WHERE a.rewrite_at <= ? ORDER BY a.rewrite_at LIMIT {limit}"
    );
    let rows = sql::query(db, &text, [now.into()]).await?;
    Ok(rows.iter().map(file).collect::<Result<_, _>>()?)
}

/// The name of the object that is to take the place of a file's object.
#[must_use]
pub fn rewritten(file: &File, nonce: u64) -> String {
    moving::object_name(file.conversation_id, file.first_seq, file.last_seq, nonce)
}

/// Puts an object in the place of the one that the file had when it was read. If the file has changed since, the new object
/// will be written anew, too. `false`: somebody else was faster, and nothing may be committed.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn replace<C: ConnectionTrait>(
    tx: &C,
    before: &File,
    (object, bytes): (&str, usize),
    now: i64,
) -> Result<bool, Error> {
    conversations::lock(tx, &[before.conversation_id]).await?;
    let current = locked(tx, before.conversation_id, before.last_seq).await?;
    let current = current.filter(|current| current.object == before.object);
    let (Some(mut current), true) = (current, strays::adopt(tx, object).await?) else {
        return Ok(false);
    };
    let key = || {
        [
            current.conversation_id.into(),
            current.last_seq.cast_signed().into(),
        ]
    };
    let text =
        "UPDATE archives SET object = ?, bytes = ? WHERE conversation_id = ? AND last_seq = ?";
    let [id, last_seq] = key();
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    sql::execute(tx, text, [object.into(), bytes.into(), id, last_seq]).await?;
    strays::announce(tx, &before.object, now).await?;
    let text = "DELETE FROM archive_people WHERE uid = ? AND conversation_id = ? AND last_seq = ?";
    if current.directory == before.directory {
        for uid in current.directory.erased() {
            let [id, last_seq] = key();
            sql::execute(tx, text, [uid.as_str().into(), id, last_seq]).await?;
        }
        current.directory.forget_erased();
        note(tx, &current, None).await?;
    }
    Ok(true)
}
