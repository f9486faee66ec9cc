//! Objects that no row names: not yet, or not any more.
//!
//! An object is announced here before it is written, and taken off the list by the transaction that names it in
//! `archives`; one that was replaced is put on the list by the transaction that replaces it. So an object that is left over
//! by a crash is found by its name. Who deletes objects claims them first, and nobody can name them from then on.

use sea_orm::ConnectionTrait;

use crate::store::{Error, sql};

/// Notes an object that is going to be written, and has to be named before `due_at`.
///
/// # Errors
/// [`Error::Exists`] when there is one of that name.
pub async fn announce<C: ConnectionTrait>(db: &C, object: &str, due_at: i64) -> Result<(), Error> {
    let text = "INSERT INTO archive_strays (object, due_at, claimed) VALUES (?, ?, ?)";
    sql::execute(db, text, [object.into(), due_at.into(), false.into()]).await?;
    Ok(())
}

/// Takes an announced object off the list, in the transaction that names it; `false`: it took too long, and the object is
/// being deleted.
pub(super) async fn adopt<C: ConnectionTrait>(tx: &C, object: &str) -> Result<bool, Error> {
    let text = "DELETE FROM archive_strays WHERE object = ? AND claimed = ?";
    Ok(sql::execute(tx, text, [object.into(), false.into()]).await? > 0)
}

/// Objects that nobody has named in time, or names any more: some that are due.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn idle_strays<C: ConnectionTrait>(
    db: &C,
    now: i64,
    limit: u32,
) -> Result<Vec<String>, Error> {
    let text = format!(
        "SELECT object FROM archive_strays WHERE due_at <= ? ORDER BY due_at LIMIT {limit}"
    );
    let rows = sql::query(db, &text, [now.into()]).await?;
    let names: Result<_, sea_orm::DbErr> =
        rows.iter().map(|row| row.try_get("", "object")).collect();
    Ok(names?)
}

/// Keeps others from naming a stray object, which is going to be deleted; `false`: somebody has named it.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn claim<C: ConnectionTrait>(db: &C, object: &str) -> Result<bool, Error> {
    let text = "UPDATE archive_strays SET claimed = ? WHERE object = ? AND claimed = ?";
    if sql::execute(db, text, [true.into(), object.into(), false.into()]).await? > 0 {
        return Ok(true);
    }
    // Claimed before, by somebody who did not come to delete it.
    let text = "SELECT 1 FROM archive_strays WHERE object = ?";
    let row = sql::query_one(db, text, [object.into()]).await?;
    Ok(row.is_some())
}

/// Forgets a stray object that was deleted.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn forget<C: ConnectionTrait>(db: &C, object: &str) -> Result<(), Error> {
    let text = "DELETE FROM archive_strays WHERE object = ?";
    sql::execute(db, text, [object.into()]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn an_object_is_either_named_or_deleted() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        for (object, due_at) in [("early", 10), ("late", 10), ("young", 11)] {
            announce(db, object, due_at).await.unwrap();
        }
        assert!(matches!(
            announce(db, "late", 0).await,
            Err(Error::Exists(_))
        ));
        assert!(adopt(db, "early").await.unwrap());
        assert_eq!(idle_strays(db, 10, 9).await.unwrap(), ["late"]);
        assert!(!claim(db, "early").await.unwrap());
        for _ in 0..2 {
            assert!(claim(db, "late").await.unwrap());
            assert!(!adopt(db, "late").await.unwrap());
        }
        forget(db, "late").await.unwrap();
        assert_eq!(idle_strays(db, 99, 9).await.unwrap(), ["young"]);
    }
}
