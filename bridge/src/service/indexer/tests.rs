use crate::service::search::tests::{Fixture, id_at, query};
use crate::store::sql;

use super::*;

#[tokio::test]
async fn it_goes_on_where_it_was() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let many = vec!["one of many"; 2 * MESSAGES_MAX];
    fixture.say(1, "alice", 1, &many).await;
    fixture.index().await;
    fixture.say(1, "alice", 1000, &["one more"]).await;
    assert_eq!(fixture.texts("bob", query("more")).await.len(), 0);
    fixture.index().await;
    fixture.index().await;
    assert_eq!(fixture.texts("bob", query("more")).await, ["one more"]);
    let position = search::position(store.reader()).await.unwrap();
    assert_eq!(position, Some(id_at(1000)));
}

#[tokio::test]
async fn what_has_changed_is_found_by_what_it_says_now() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.say(1, "alice", 1, &["apple", "pear", "plum"]).await;
    // Nobody looks for marks where no index is kept yet.
    search::mark(store.writer(), &[id_at(1)]).await.unwrap();
    assert_eq!(marks(store).await, 0);
    fixture.index().await;
    let now = content("cherry");
    let text = "UPDATE messages SET content = ? WHERE msg_id = ?";
    let values = [now.into(), id_at(1).cast_signed().into()];
    sql::execute(store.writer(), text, values).await.unwrap();
    fixture
        .execute("UPDATE messages SET content = x'', state = 1 WHERE seq = 2")
        .await;
    assert!(fixture.texts("bob", query("apple")).await.is_empty());
    assert!(fixture.texts("bob", query("pear")).await.is_empty());
    let changed = [id_at(1), id_at(2), id_at(1)];
    search::mark(store.writer(), &changed[..2]).await.unwrap();
    search::mark(store.writer(), &changed[2..]).await.unwrap();
    fixture.index().await;
    assert_eq!(fixture.texts("bob", query("cherry")).await, ["cherry"]);
    assert_eq!(fixture.texts("bob", query("plum")).await, ["plum"]);
    assert_eq!(marks(store).await, 0);
    let count = "SELECT COUNT(*) AS n FROM search_index";
    let row = sql::query_one(store.reader(), count, []).await.unwrap();
    assert_eq!(row.unwrap().try_get::<i64>("", "n").unwrap(), 2);
}

#[tokio::test]
async fn an_index_that_is_not_kept_is_dropped_and_made_anew() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.say(1, "alice", 1, &["apple"]).await;
    fixture.index().await;
    search::mark(store.writer(), &[id_at(1)]).await.unwrap();
    drop_all(store).await.unwrap();
    drop_all(store).await.unwrap();
    assert_eq!(search::position(store.reader()).await.unwrap(), None);
    assert!(fixture.texts("bob", query("apple")).await.is_empty());
    fixture.index().await;
    assert_eq!(fixture.texts("bob", query("apple")).await, ["apple"]);
}

#[tokio::test]
async fn two_nodes_do_not_index_a_message_twice() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    fixture.say(1, "alice", 1, &["apple", "pear"]).await;
    let (_commits, seen) = watch::channel(0);
    let behind = Behind::default();
    let mut late = Indexer::new(store.clone(), seen, behind.clone(), Duty::always());
    let mut position = search::begin(store.writer()).await.unwrap();
    fixture.index().await;
    late.index_new(&mut position).await.unwrap();
    assert_eq!(position, id_at(2));
    assert!(behind.since(SystemTime::now()) > Duration::ZERO);
    late.catch_up().await.unwrap();
    assert_eq!(behind.since(SystemTime::now()), Duration::ZERO);
    assert_eq!(fixture.texts("bob", query("apple")).await, ["apple"]);
}

/// Nobody asks it: it follows the pipeline's commits.
#[tokio::test]
async fn it_wakes_when_something_was_committed() {
    let fixture = Fixture::new().await;
    let (commits, seen) = watch::channel(0);
    let indexer = Indexer::new(
        fixture.store.clone(),
        seen,
        Behind::default(),
        Duty::always(),
    );
    let task = tokio::spawn(indexer.run());
    for (at, text) in [(1, "apple"), (2, "pear")] {
        fixture.say(1, "alice", at, &[text]).await;
        commits.send_modify(|commits| *commits += 1);
        while fixture.texts("bob", query(text)).await.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    }
    drop(commits);
    task.await.unwrap();
}

async fn marks(store: &Store) -> usize {
    let marked = search::marked(store.reader(), id_at(9), 9).await;
    marked.unwrap().len()
}

fn content(text: &str) -> Vec<u8> {
    let content = schema::v1::message::Content::Text(text.to_owned());
    crate::content::encode(&content, 0, &[])
}
