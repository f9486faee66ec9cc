//! What users may do with the topics of other users' devices.

use schema::Uid;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};

use super::retained::key;
use super::{Error, sql};

/// A right on the topics that match a filter below `dev/{owner}/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose topics.
    pub owner: Uid,
    /// Who may use them.
    pub user: Uid,
    /// Which of them.
    pub filter: String,
    /// Whether the user may subscribe.
    pub read: bool,
    /// Whether the user may publish.
    pub write: bool,
}

/// Gives, changes or (where it neither lets read nor write) takes back.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set<C: ConnectionTrait>(db: &C, grant: &Grant) -> Result<(), Error> {
    let [owner, user, hash] = primary_key(&grant.owner, &grant.user, &grant.filter);
    if !grant.read && !grant.write {
        let text = "DELETE FROM grants WHERE owner = ? AND grantee = ? AND filter_hash = ?";
        sql::execute(db, text, [owner, user, hash]).await?;
        return Ok(());
    }
    let backend = db.get_database_backend();
    let text = format!(
        "INSERT INTO grants (owner, grantee, filter_hash, topic_filter, can_read, can_write)
        VALUES (?, ?, ?, ?, ?, ?){}can_read = {}, can_write = {}",
        sql::on_conflict(backend, "owner, grantee, filter_hash"),
        sql::excluded(backend, "can_read"),
        sql::excluded(backend, "can_write"),
    );
    let filter = grant.filter.as_str().into();
    let (read, write) = (grant.read.into(), grant.write.into());
    sql::execute(db, &text, [owner, user, hash, filter, read, write]).await?;
    Ok(())
}

/// How many other grants an owner has given than the one to that user for that filter.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn count_others<C: ConnectionTrait>(
    db: &C,
    owner: &Uid,
    user: &Uid,
    filter: &str,
) -> Result<u64, Error> {
    let text = "SELECT COUNT(*) AS others FROM grants
        WHERE owner = ? AND NOT (grantee = ? AND filter_hash = ?)";
    let row = sql::query_one(db, text, primary_key(owner, user, filter)).await?;
    let others: Option<i64> = row.map(|row| row.try_get("", "others")).transpose()?;
    Ok(others.unwrap_or_default().cast_unsigned())
}

/// What is granted to that user for that filter now: where nothing is, neither to read nor to write.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(
    db: &C,
    owner: &Uid,
    user: &Uid,
    filter: &str,
) -> Result<Grant, Error> {
    let text =
        format!("SELECT {COLUMNS} FROM grants WHERE owner = ? AND grantee = ? AND filter_hash = ?");
    let found = read(db, &text, primary_key(owner, user, filter)).await?;
    Ok(found.into_iter().next().unwrap_or_else(|| Grant {
        owner: owner.clone(),
        user: user.clone(),
        filter: filter.to_owned(),
        read: false,
        write: false,
    }))
}

/// What a user has granted to others, by their names.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn given<C: ConnectionTrait>(db: &C, owner: &Uid) -> Result<Vec<Grant>, Error> {
    let text = format!(
        "SELECT {COLUMNS} FROM grants WHERE owner = ? ORDER BY owner, grantee, filter_hash"
    );
    read(db, &text, [owner.as_str().into()]).await
}

/// What others have granted to a user, by their names: the first `limit`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn received<C: ConnectionTrait>(
    db: &C,
    user: &Uid,
    limit: u32,
) -> Result<Vec<Grant>, Error> {
    let text =
        format!("SELECT {COLUMNS} FROM grants WHERE grantee = ? ORDER BY owner LIMIT {limit}");
    read(db, &text, [user.as_str().into()]).await
}

/// All grants, in pages: the `limit` ones after `after`.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn page<C: ConnectionTrait>(
    db: &C,
    after: Option<&Grant>,
    limit: u32,
) -> Result<Vec<Grant>, Error> {
    let (clause, values) = match after {
        Some(last) => {
            let [owner, user, hash] = primary_key(&last.owner, &last.user, &last.filter);
            // Comparing all three at once would make MySQL read from the beginning.
            let clause = "WHERE owner >= ?
                AND (owner > ? OR grantee > ? OR (grantee = ? AND filter_hash > ?))";
            (clause, vec![owner.clone(), owner, user.clone(), user, hash])
        }
        None => ("", Vec::new()),
    };
    let text = format!(
        "SELECT {COLUMNS} FROM grants {clause} ORDER BY owner, grantee, filter_hash LIMIT {limit}"
    );
    read(db, &text, values).await
}

const COLUMNS: &str = "owner, grantee, topic_filter, can_read, can_write";

fn primary_key(owner: &Uid, user: &Uid, filter: &str) -> [Value; 3] {
    [
        owner.as_str().into(),
        user.as_str().into(),
        key(filter).into(),
    ]
}

async fn read<C: ConnectionTrait>(
    db: &C,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<Vec<Grant>, Error> {
    let rows = sql::query(db, text, values).await?;
    Ok(rows.iter().map(from_row).collect::<Result<_, _>>()?)
}

fn from_row(row: &QueryResult) -> Result<Grant, DbErr> {
    let uid = |column: &str| -> Result<Uid, DbErr> {
        let uid: String = row.try_get("", column)?;
        uid.parse()
            .map_err(|error| DbErr::Type(format!("{column} {uid:?}: {error}")))
    };
    Ok(Grant {
        owner: uid("owner")?,
        user: uid("grantee")?,
        filter: row.try_get("", "topic_filter")?,
        read: row.try_get("", "can_read")?,
        write: row.try_get("", "can_write")?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::store::Store;

    type Model = BTreeMap<(String, String, String), (bool, bool)>;

    fn model_of(grants: Vec<Grant>) -> Model {
        let count = grants.len();
        let entry = |grant: Grant| {
            let key = (
                grant.owner.to_string(),
                grant.user.to_string(),
                grant.filter,
            );
            (key, (grant.read, grant.write))
        };
        let model: Model = grants.into_iter().map(entry).collect();
        assert_eq!(model.len(), count, "none comes twice");
        model
    }

    async fn all(store: &Store, limit: u32) -> Model {
        let mut all: Vec<Grant> = Vec::new();
        loop {
            let page = page(store.reader(), all.last(), limit).await.unwrap();
            if page.is_empty() {
                return model_of(all);
            }
            all.extend(page);
        }
    }

    async fn check(store: &Store, changes: Vec<Grant>) {
        let emptied = sql::execute(store.writer(), "DELETE FROM grants", []).await;
        emptied.unwrap();
        let mut model = Model::new();
        for grant in changes {
            set(store.writer(), &grant).await.unwrap();
            let others = count_others(store.reader(), &grant.owner, &grant.user, &grant.filter);
            let others = others.await.unwrap();
            let rights = (grant.read, grant.write);
            let key = (
                grant.owner.to_string(),
                grant.user.to_string(),
                grant.filter.clone(),
            );
            let is_others = |other: &&(String, String, String)| other.0 == key.0 && **other != key;
            assert_eq!(others, model.keys().filter(is_others).count() as u64);
            let found = lookup(store.reader(), &grant.owner, &grant.user, &grant.filter);
            assert_eq!(found.await.unwrap(), grant);
            match rights {
                (false, false) => model.remove(&key),
                rights => model.insert(key, rights),
            };
        }
        for limit in [1, 3, 100] {
            assert_eq!(all(store, limit).await, model);
        }
        for name in ["a", "b", "B"] {
            let uid: Uid = name.parse().unwrap();
            let of = |index: fn(&(String, String, String)) -> &String| -> Model {
                let own = model.iter().filter(|(key, _)| index(key) == name);
                own.map(|(key, rights)| (key.clone(), *rights)).collect()
            };
            let given = given(store.reader(), &uid).await.unwrap();
            assert_eq!(model_of(given), of(|key| &key.0));
            let received = received(store.reader(), &uid, 100).await.unwrap();
            assert_eq!(model_of(received), of(|key| &key.1));
        }
    }

    #[test]
    fn grants_are_what_was_last_said() {
        let uid = || "[abB]".prop_map(|name| name.parse::<Uid>().unwrap());
        let filter = "(#|lamp|Lamp|kitchen/\\+)";
        let grant = (uid(), uid(), filter, any::<bool>(), any::<bool>());
        let grant = grant.prop_map(|(owner, user, filter, read, write)| Grant {
            owner,
            user,
            filter,
            read,
            write,
        });
        let changes = prop::collection::vec(grant, 0..40);

        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (store, _folder) = runtime.block_on(Store::fresh());
        let config = ProptestConfig {
            cases: 16,
            failure_persistence: None,
            ..Default::default()
        };
        let outcome = TestRunner::new(config).run(&changes, |changes| {
            runtime.block_on(check(&store, changes));
            Ok(())
        });
        outcome.unwrap();
    }
}
