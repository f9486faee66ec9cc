//! What nodes have decided and all others have to hear of. All times are by the database's clock.

use std::time::Duration;

use prost::Message as _;
use schema::bus::Decision;
use sea_orm::ConnectionTrait;

use super::nodes::millis;
use super::{Error, sql};

/// A decision as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Its id.
    pub id: i64,
    /// When.
    pub at: i64,
    /// `None`: it is damaged.
    pub decision: Option<Decision>,
}

/// Writes one. Call it in the transaction that decides.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn add<C: ConnectionTrait>(db: &C, decision: &Decision) -> Result<(), Error> {
    let now = sql::now(db.get_database_backend());
    let text = format!("INSERT INTO decisions (id, at, decision) VALUES (?, {now}, ?)");
    let id = decision.id.cast_signed();
    let values = [id.into(), decision.encode_to_vec().into()];
    sql::execute(db, &text, values).await?;
    Ok(())
}

/// Those that were written after `at`, in the order of their times.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn since<C: ConnectionTrait>(db: &C, at: i64) -> Result<Vec<Written>, Error> {
    let text = "SELECT id, at, decision FROM decisions WHERE at > ? ORDER BY at, id";
    let mut found = Vec::new();
    for row in sql::query(db, text, [at.into()]).await? {
        let blob: Vec<u8> = row.try_get("", "decision")?;
        found.push(Written {
            id: row.try_get("", "id")?,
            at: row.try_get("", "at")?,
            decision: Decision::decode(blob.as_slice()).ok(),
        });
    }
    Ok(found)
}

/// Drops those that are older.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn forget_older<C: ConnectionTrait>(db: &C, age: Duration) -> Result<(), Error> {
    let now = sql::now(db.get_database_backend());
    let text = format!("DELETE FROM decisions WHERE at < {now} - ?");
    sql::execute(db, &text, [millis(age).into()]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use schema::bus::decision;
    use schema::link::Kick;

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn they_are_found_until_they_are_old() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let kick = |id: u64| Decision {
            id,
            what: Some(decision::What::Kick(Kick {
                uid: format!("u{id}"),
                ..Kick::default()
            })),
        };
        for id in [7, u64::MAX] {
            add(db, &kick(id)).await.unwrap();
        }
        let all = since(db, 0).await.unwrap();
        let mut found: Vec<_> = all.iter().filter_map(|one| one.decision.clone()).collect();
        found.sort_by_key(|decision| decision.id);
        assert_eq!(found, [kick(7), kick(u64::MAX)]);
        assert!(since(db, all[1].at).await.unwrap().is_empty());
        forget_older(db, Duration::from_secs(60)).await.unwrap();
        assert_eq!(since(db, 0).await.unwrap().len(), 2);
        let text = "UPDATE decisions SET at = at - 60000 WHERE id = 7";
        sql::execute(db, text, []).await.unwrap();
        forget_older(db, Duration::from_secs(30)).await.unwrap();
        assert_eq!(since(db, 0).await.unwrap().len(), 1);
    }
}
