//! The nodes on the database, each with a number that no other has at the same time. All times are by the database's clock.

use std::time::{Duration, SystemTime};

use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::{Error, sql};
use crate::clock;

/// Numbers that there are: 10 bits of an id.
const NUMBERS: i32 = 1024;
/// How long a node that is gone without a word may still have something under way: an answer to its last transaction, which
/// it has never got. Its number is nobody else's before that.
pub const GRACE: Duration = Duration::from_secs(30);

/// A node that is there, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub number: u32,
    /// For people.
    pub name: String,
    /// Since when it has the number.
    pub since: SystemTime,
    /// Whether it has it now.
    pub is_alive: bool,
}

/// Takes a number that nobody has, for as long as `lease` says; `None`: somebody else was faster, or there is none.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn claim<C: ConnectionTrait>(
    db: &C,
    boot: &str,
    name: &str,
    lease: Duration,
) -> Result<Option<u32>, Error> {
    let now = sql::now(db.get_database_backend());
    let text = "SELECT number, until FROM nodes ORDER BY number";
    let mut unused = 0;
    let mut left: Option<(i64, i32)> = None;
    for row in sql::query(db, text, []).await? {
        let (number, until): (i32, i64) = (row.try_get("", "number")?, row.try_get("", "until")?);
        if number == unused {
            unused += 1;
        }
        left = Some(left.map_or((until, number), |left| left.min((until, number))));
    }
    // The one that was left first, if it is free by now; a node that is gone for good takes no number with it.
    if let Some((until, number)) = left {
        let text = format!(
            "UPDATE nodes SET boot = ?, name = ?, since = {now}, until = {now} + ?, floor = 0
            WHERE number = ? AND until = ? AND until + ? < {now}"
        );
        let values = [
            boot.into(),
            name.into(),
            millis(lease).into(),
            number.into(),
            until.into(),
            millis(GRACE).into(),
        ];
        if sql::execute(db, &text, values).await? == 1 {
            return Ok(Some(number.cast_unsigned()));
        }
    }
    if unused == NUMBERS {
        return Ok(None);
    }
    let text = format!(
        "INSERT INTO nodes (number, boot, name, since, until, floor) VALUES (?, ?, ?, {now}, {now} + ?, 0)"
    );
    let values = [
        unused.into(),
        boot.into(),
        name.into(),
        millis(lease).into(),
    ];
    match sql::execute(db, &text, values).await.map_err(Error::from) {
        Ok(_) => Ok(Some(unused.cast_unsigned())),
        Err(Error::Exists(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes over the number of a node that was this one before it was started anew, and what that one has looked after; `None`:
/// another has the number by now.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn succeed<C: ConnectionTrait>(
    db: &C,
    before: &str,
    boot: &str,
    name: &str,
    lease: Duration,
) -> Result<Option<u32>, Error> {
    let now = sql::now(db.get_database_backend());
    let text = format!(
        "UPDATE nodes SET boot = ?, name = ?, since = {now}, until = {now} + ?, floor = 0 WHERE boot = ?"
    );
    let values = [
        boot.into(),
        name.into(),
        millis(lease).into(),
        before.into(),
    ];
    if sql::execute(db, &text, values).await? == 0 {
        return Ok(None);
    }
    let text = "UPDATE leases SET holder = ? WHERE holder = ?";
    sql::execute(db, text, [boot.into(), before.into()]).await?;
    let text = "SELECT number FROM nodes WHERE boot = ?";
    let row = sql::query_one(db, text, [boot.into()]).await?;
    let number: Option<i32> = row.map(|row| row.try_get("", "number")).transpose()?;
    Ok(number.map(i32::cast_unsigned))
}

/// Keeps a number for as long as `lease` says from now; nothing that the node is about to store has an id below `floor`.
/// `false`: the number is another's by now.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn renew<C: ConnectionTrait>(
    db: &C,
    (number, boot): (u32, &str),
    lease: Duration,
    floor: u64,
) -> Result<bool, Error> {
    let now = sql::now(db.get_database_backend());
    let text =
        format!("UPDATE nodes SET until = {now} + ?, floor = ? WHERE number = ? AND boot = ?");
    let values = [
        millis(lease).into(),
        floor.cast_signed().into(),
        number.cast_signed().into(),
        boot.into(),
    ];
    Ok(sql::execute(db, &text, values).await? == 1)
}

/// Gives a number back: the node stores nothing more.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn release<C: ConnectionTrait>(db: &C, (number, boot): (u32, &str)) -> Result<(), Error> {
    let now = sql::now(db.get_database_backend());
    let text = format!("UPDATE nodes SET until = {now}, floor = ? WHERE number = ? AND boot = ?");
    let values = [i64::MAX.into(), number.cast_signed().into(), boot.into()];
    sql::execute(db, &text, values).await?;
    Ok(())
}

/// Below this id nothing new is stored any more by any node; `None`: there is no node.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn floor<C: ConnectionTrait>(db: &C) -> Result<Option<u64>, Error> {
    let now = sql::now(db.get_database_backend());
    let text = format!("SELECT MIN(floor) AS floor FROM nodes WHERE until + ? > {now}");
    let row = sql::query_one(db, &text, [millis(GRACE).into()]).await?;
    let floor: Option<Option<i64>> = row.map(|row| row.try_get("", "floor")).transpose()?;
    Ok(floor.flatten().map(i64::cast_unsigned))
}

/// All nodes, by number.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list<C: ConnectionTrait>(db: &C) -> Result<Vec<Listed>, Error> {
    let now = sql::now(db.get_database_backend());
    let text =
        format!("SELECT number, name, since, until, {now} AS now FROM nodes ORDER BY number");
    let listed = |row: &QueryResult| {
        let number: i32 = row.try_get("", "number")?;
        let (until, now): (i64, i64) = (row.try_get("", "until")?, row.try_get("", "now")?);
        Ok(Listed {
            number: number.cast_unsigned(),
            name: row.try_get("", "name")?,
            since: clock::from_millis(row.try_get("", "since")?),
            is_alive: until > now,
        })
    };
    let rows = sql::query(db, &text, []).await?;
    let nodes: Result<_, DbErr> = rows.iter().map(listed).collect();
    Ok(nodes?)
}

/// What the database's clock says.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn now<C: ConnectionTrait>(db: &C) -> Result<SystemTime, Error> {
    let text = format!("SELECT {} AS now", sql::now(db.get_database_backend()));
    let row = sql::query_one(db, &text, []).await?;
    let now: Option<i64> = row.map(|row| row.try_get("", "now")).transpose()?;
    Ok(clock::from_millis(now.unwrap_or_default()))
}

pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    const LEASE: Duration = Duration::from_secs(10);

    /// As if so much time had passed since.
    async fn pass(store: &Store, number: u32, secs: i64) {
        let text = "UPDATE nodes SET until = until - ? WHERE number = ?";
        let values = [(secs * 1000).into(), number.cast_signed().into()];
        sql::execute(store.writer(), text, values).await.unwrap();
    }

    #[tokio::test]
    async fn a_number_is_one_nodes_until_its_time_has_run_out() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let claim = async |boot: &str| claim(db, boot, "a host", LEASE).await.unwrap();
        assert_eq!(claim("a").await, Some(0));
        assert_eq!(claim("b").await, Some(1));
        assert!(renew(db, (0, "a"), LEASE, 7).await.unwrap());
        assert!(!renew(db, (0, "b"), LEASE, 7).await.unwrap());
        let alive = |nodes: Vec<Listed>| -> Vec<bool> {
            nodes.into_iter().map(|node| node.is_alive).collect()
        };
        pass(&store, 0, 11).await;
        assert_eq!(alive(list(db).await.unwrap()), [false, true]);
        assert_eq!(
            claim("c").await,
            Some(2),
            "it may still have something under way"
        );
        // It was slow, and is back before anybody has taken its number.
        assert!(renew(db, (0, "a"), LEASE, 7).await.unwrap());
        pass(&store, 0, 60).await;
        assert_eq!(claim("d").await, Some(0));
        for (before, number) in [("b", Some(1)), ("a", None)] {
            let found = succeed(db, before, "b again", "", LEASE).await.unwrap();
            assert_eq!(found, number, "{before}");
        }
        assert!(!renew(db, (0, "a"), LEASE, 7).await.unwrap());
        assert_eq!(alive(list(db).await.unwrap()), [true, true, true]);
        let drift = now(db).await.unwrap().duration_since(SystemTime::now());
        assert!(drift.unwrap_or_default() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn the_floor_is_that_of_the_slowest_node() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        assert_eq!(floor(db).await.unwrap(), None);
        for (number, boot) in [(0, "a"), (1, "b")] {
            assert_eq!(claim(db, boot, "", LEASE).await.unwrap(), Some(number));
        }
        assert!(renew(db, (0, "a"), LEASE, 70).await.unwrap());
        assert_eq!(
            floor(db).await.unwrap(),
            Some(0),
            "the other one has not said any"
        );
        assert!(renew(db, (1, "b"), LEASE, 90).await.unwrap());
        assert_eq!(floor(db).await.unwrap(), Some(70));
        pass(&store, 0, 15).await;
        assert_eq!(
            floor(db).await.unwrap(),
            Some(70),
            "it may still store something"
        );
        pass(&store, 0, 60).await;
        assert_eq!(floor(db).await.unwrap(), Some(90));
        release(db, (1, "b")).await.unwrap();
        assert!(floor(db).await.unwrap().is_none_or(|floor| floor > 90));
    }
}
