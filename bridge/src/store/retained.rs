//! Retained messages: the newest of each plain topic that has one.

use std::collections::HashMap;
use std::fmt::Write as _;

use prost::Message as _;
use schema::link::PlainMessage;
use sea_orm::{ConnectionTrait, Value};
use sha2::{Digest as _, Sha256};

use super::{Error, sql};

/// Keeps messages, each instead of the one that its topic had; one without payload takes that one away. Each topic may
/// be there once.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn set<C: ConnectionTrait>(db: &C, messages: &[PlainMessage]) -> Result<(), Error> {
    let mut kept = sql::Rows::new(3);
    let mut gone = sql::Rows::new(1);
    for message in messages {
        let key = key(&message.topic);
        if message.payload.is_empty() {
            gone.push([key.into()]);
        } else {
            kept.push([key.into(), message.encode_to_vec().into(), expiry(message)]);
        }
    }
    let backend = db.get_database_backend();
    let columns = ["message", "expires_at"];
    let replace = columns.map(|column| format!("{column} = {}", sql::excluded(backend, column)));
    let text = format!(
        "INSERT INTO retained (topic_hash, message, expires_at) VALUES {{rows}}{}{}",
        sql::on_conflict(backend, "topic_hash"),
        replace.join(", "),
    );
    sql::execute_rows(db, &text, kept).await?;
    let text = "DELETE FROM retained WHERE topic_hash {in}";
    sql::execute_in(db, text, gone).await?;
    Ok(())
}

/// Some of the messages that have not run out by `now`.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In no order that means anything.
    pub messages: Vec<PlainMessage>,
    /// What to ask the next page with; `None`: this was the last one.
    pub next: Option<String>,
}

/// `limit` messages after those of the page that gave `after`, which is empty for the first one.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn page<C: ConnectionTrait>(
    db: &C,
    after: &str,
    limit: u32,
    now: i64,
) -> Result<Page, Error> {
    let text = format!(
        "SELECT topic_hash, message FROM retained
        WHERE topic_hash > ? AND (expires_at IS NULL OR expires_at > ?)
        ORDER BY topic_hash LIMIT {limit}"
    );
    let mut page = Page::default();
    for row in sql::query(db, &text, [after.into(), now.into()]).await? {
        let blob: Vec<u8> = row.try_get("", "message")?;
        match PlainMessage::decode(blob.as_slice()) {
            Ok(message) => page.messages.push(message),
            // The others must not be lost with it.
            Err(error) => tracing::error!(%error, "a retained message is damaged"),
        }
        page.next = Some(row.try_get("", "topic_hash")?);
    }
    Ok(page)
}

/// What is retained for each of the topics now: nothing is a message without payload.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn lookup<C: ConnectionTrait>(
    db: &C,
    topics: &[String],
    now: i64,
) -> Result<Vec<PlainMessage>, Error> {
    let mut keys = sql::Rows::new(1);
    for topic in topics {
        keys.push([key(topic).into()]);
    }
    let text = "SELECT message, expires_at FROM retained WHERE topic_hash {in}";
    let mut found: HashMap<String, PlainMessage> = HashMap::new();
    for row in sql::query_rows(db, text, keys).await? {
        let expires_at: Option<i64> = row.try_get("", "expires_at")?;
        let blob: Vec<u8> = row.try_get("", "message")?;
        if expires_at.is_none_or(|at| at > now)
            && let Ok(message) = PlainMessage::decode(blob.as_slice())
        {
            found.insert(message.topic.clone(), message);
        }
    }
    let nothing = |topic: &String| PlainMessage {
        topic: topic.clone(),
        ..PlainMessage::default()
    };
    let mut now = |topic: &String| found.remove(topic).unwrap_or_else(|| nothing(topic));
    Ok(topics.iter().map(&mut now).collect())
}

/// Drops the messages that have run out.
///
/// # Errors
/// [`Error`] when the database can't do it.
pub async fn forget_expired<C: ConnectionTrait>(db: &C, now: i64) -> Result<(), Error> {
    let text = "DELETE FROM retained WHERE expires_at <= ?";
    sql::execute(db, text, [now.into()]).await?;
    Ok(())
}

/// The column `expires_at`; what runs out later than the database can say never does.
fn expiry(message: &PlainMessage) -> Value {
    let at = i64::try_from(message.expires_at).ok();
    at.filter(|at| *at > 0).into()
}

/// What a topic or a filter is found by, since both can be longer than a key: their SHA-256 in hexadecimal.
pub(super) fn key(topic: &str) -> String {
    let digest = Sha256::digest(topic);
    let mut key = String::with_capacity(2 * digest.len());
    for byte in digest {
        // Writing to a `String` can't fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::Store;

    fn message(topic: &str, payload: &str, expires_at: u64) -> PlainMessage {
        PlainMessage {
            topic: topic.to_owned(),
            payload: payload.to_owned().into(),
            expires_at,
            content_type: Some("text/plain".into()),
            ..Default::default()
        }
    }

    /// Everything, read in pages of `limit`.
    async fn all(store: &Store, limit: u32, now: i64) -> BTreeMap<String, PlainMessage> {
        let mut all = BTreeMap::new();
        let mut after = String::new();
        loop {
            let page = page(store.reader(), &after, limit, now).await.unwrap();
            for message in page.messages {
                let earlier = all.insert(message.topic.clone(), message);
                assert_eq!(earlier, None);
            }
            match page.next {
                Some(next) => after = next,
                None => return all,
            }
        }
    }

    #[tokio::test]
    async fn a_topic_has_its_newest_message_until_it_runs_out() {
        let (store, _folder) = Store::fresh().await;
        let db = store.writer();
        let long = format!("dev/alice/{}", "x".repeat(60_000));
        let many: Vec<PlainMessage> = (0..100)
            .map(|n| message(&format!("dev/alice/{n}"), "old", 0))
            .chain([message(&long, "far", u64::MAX), message("soon", "x", 500)])
            .collect();
        set(db, &many).await.unwrap();
        let changes = [
            message("dev/alice/1", "new", 0),
            message("dev/alice/2", "", 0),
            message("dev/alice/nothing", "", 0),
        ];
        set(db, &changes).await.unwrap();

        for limit in [1, 7, 1000] {
            let all = all(&store, limit, 499).await;
            assert_eq!(all.len(), 101);
            assert_eq!(all["dev/alice/1"], changes[0]);
            assert_eq!(all[&long].payload, "far");
            assert!(all.contains_key("soon") && !all.contains_key("dev/alice/2"));
        }
        let topics = ["dev/alice/1", "dev/alice/2", "soon"].map(str::to_owned);
        let found = lookup(db, &topics, 500).await.unwrap();
        let expected = [&changes[0], &changes[1], &message("soon", "", 0)];
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(
                (&found.topic, &found.payload),
                (&expected.topic, &expected.payload)
            );
        }
        assert!(!all(&store, 7, 500).await.contains_key("soon"));
        forget_expired(db, 500).await.unwrap();
        assert_eq!(all(&store, 7, 0).await.len(), 100);
    }
}
