//! What only one node does at a time, and which one that is. All times are by the database's clock.

use std::time::Duration;

use sea_orm::ConnectionTrait;

use super::nodes::millis;
use super::{Error, sql};

/// Takes something for as long as `lease` says, or keeps it; `false`: it is another's.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn hold<C: ConnectionTrait>(
    db: &C,
    name: &str,
    holder: &str,
    lease: Duration,
) -> Result<bool, Error> {
    let now = sql::now(db.get_database_backend());
    let lease = millis(lease);
    let text = format!(
        "UPDATE leases SET holder = ?, until = {now} + ? WHERE name = ? AND (holder = ? OR until < {now})"
    );
    let values = [holder.into(), lease.into(), name.into(), holder.into()];
    if sql::execute(db, &text, values).await? == 1 {
        return Ok(true);
    }
    let text = "SELECT name FROM leases WHERE name = ?";
    if sql::query_one(db, text, [name.into()]).await?.is_some() {
        return Ok(false);
    }
    let text = format!("INSERT INTO leases (name, holder, until) VALUES (?, ?, {now} + ?)");
    let added = sql::execute(db, &text, [name.into(), holder.into(), lease.into()]).await;
    match added.map_err(Error::from) {
        Ok(_) => Ok(true),
        Err(Error::Exists(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives back all that a node has.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn release<C: ConnectionTrait>(db: &C, holder: &str) -> Result<(), Error> {
    let text = "UPDATE leases SET until = 0 WHERE holder = ?";
    sql::execute(db, text, [holder.into()]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn one_node_at_a_time_holds_it() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let hold = async |holder: &str| {
            let lease = Duration::from_secs(5);
            hold(db, "expiry", holder, lease).await.unwrap()
        };
        assert!(hold("a").await);
        assert!(!hold("b").await);
        assert!(hold("a").await);
        release(db, "b").await.unwrap();
        assert!(!hold("b").await);
        release(db, "a").await.unwrap();
        assert!(hold("b").await);
        assert!(!hold("a").await);
        let text = "UPDATE leases SET until = until - 6000";
        sql::execute(db, text, []).await.unwrap();
        assert!(hold("a").await);
    }
}
