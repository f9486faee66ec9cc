use std::time::{Duration, SystemTime};

use schema::MsgId;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::cluster::duty::Duty;
use crate::content;
use crate::service::indexer::{Behind, Indexer};
use crate::store::sql;

/// A conversation of alice and bob (1), one of bob and carol (2), and a group of all, which bob sees from seq 3 on (3).
pub(in crate::service) struct Fixture {
    pub(in crate::service) store: Store,
    _folder: TempDir,
}

impl Fixture {
    pub(in crate::service) async fn new() -> Self {
        let (store, folder) = Store::fresh().await;
        for text in [
            "INSERT INTO conversations (id, name, last_seq, created_at)
                VALUES (1, 'u:alice:bob', 0, 0), (2, 'u:bob:carol', 0, 0), (3, 'g:g', 0, 0)",
            "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
                last_read_seq, sent, sent_read)
                VALUES (1, 'alice', 'member', 0, 0, 0, 0, 0, 0, 0), (1, 'bob', 'member', 0, 0, 0, 0, 0, 0, 0),
                (2, 'bob', 'member', 0, 0, 0, 0, 0, 0, 0), (2, 'carol', 'member', 0, 0, 0, 0, 0, 0, 0),
                (3, 'alice', 'owner', 0, 0, 0, 0, 0, 0, 0), (3, 'bob', 'member', 3, 3, 0, 0, 0, 0, 0)",
        ] {
            sql::execute(store.writer(), text, []).await.unwrap();
        }
        Fixture {
            store,
            _folder: folder,
        }
    }

    pub(in crate::service) async fn execute(&self, text: &str) {
        sql::execute(self.store.writer(), text, []).await.unwrap();
    }

    /// Writes texts into a conversation after those that are there, one a second from [`id_at`] `at` on.
    pub(in crate::service) async fn say(
        &self,
        conversation: i64,
        sender: &str,
        at: u64,
        texts: &[&str],
    ) {
        let tx = self.store.begin().await.unwrap();
        let text = "SELECT last_seq FROM conversations WHERE id = ?";
        let row = sql::query_one(&tx, text, [conversation.into()]).await;
        let mut seq: i32 = row.unwrap().unwrap().try_get("", "last_seq").unwrap();
        let mut rows = sql::Rows::new(5);
        for (number, text) in (at..).zip(texts) {
            seq += 1;
            let content = v1::message::Content::Text((*text).to_owned());
            rows.push([
                id_at(number).cast_signed().into(),
                conversation.into(),
                seq.into(),
                sender.into(),
                content::encode(&content, 0, &[]).into(),
            ]);
        }
        let text = "INSERT INTO messages (msg_id, conversation_id, seq, sender, content, sender_device, client_seq, kind)
            SELECT v.a, v.b, v.c, v.d, v.e, 'phone', 0, 'text' FROM (SELECT column1 AS a, column2 AS b, column3 AS c,
            column4 AS d, column5 AS e FROM (VALUES {rows})) v";
        sql::execute_rows(&tx, text, rows).await.unwrap();
        let text = "UPDATE conversations SET last_seq = ? WHERE id = ?";
        let values = [seq.into(), conversation.into()];
        sql::execute(&tx, text, values).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(in crate::service) async fn index(&self) {
        let (_commits, seen) = watch::channel(0);
        let mut indexer = Indexer::new(self.store.clone(), seen, Behind::default(), Duty::always());
        indexer.catch_up().await.unwrap();
    }

    pub(in crate::service) async fn search(&self, uid: &str, asked: v1::Search) -> v1::SearchPage {
        let asked = check(&asked).unwrap();
        let ok = page(&self.store, &uid.parse().unwrap(), &asked).await;
        match ok.unwrap().unwrap().answer {
            Some(v1::ok::Answer::Found(page)) => page,
            other => panic!("not a page: {other:?}"),
        }
    }

    pub(in crate::service) async fn texts(&self, uid: &str, asked: v1::Search) -> Vec<String> {
        let page = self.search(uid, asked).await;
        assert_eq!(page.next, 0);
        page.messages.iter().map(text_of).collect()
    }
}

fn text_of(message: &v1::Message) -> String {
    match &message.content {
        Some(v1::message::Content::Text(text)) => text.clone(),
        other => panic!("no text: {other:?}"),
    }
}

/// An id given so many seconds after 2024 began.
pub(in crate::service) fn id_at(secs: u64) -> u64 {
    MsgId::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_067_200 + secs)).0
}

fn time(secs: i64) -> Option<schema::Timestamp> {
    Some(schema::Timestamp::from_millis(
        (1_704_067_200 + secs) * 1000,
    ))
}

pub(in crate::service) fn query(query: &str) -> v1::Search {
    v1::Search {
        query: query.to_owned(),
        ..Default::default()
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let sender = |sender: &str| v1::Search {
        sender: sender.to_owned(),
        ..query("x")
    };
    for (asked, expected) in [
        (query(&"é".repeat(128)), true),
        (query(&"é".repeat(129)), false),
        (query(""), false),
        (query(" \u{3000}\u{200b}"), false),
        (query("\u{301}"), false),
        (sender("bob"), true),
        (sender("b ob"), false),
        (
            v1::Search {
                conversation: "u:bob:alice".to_owned(),
                ..query("x")
            },
            false,
        ),
        (
            v1::Search {
                limit: 101,
                ..query("x")
            },
            false,
        ),
        (
            v1::Search {
                before: Some(schema::Timestamp {
                    seconds: 0,
                    nanos: -1,
                }),
                ..query("x")
            },
            false,
        ),
        (
            v1::Search {
                page: u64::MAX,
                after: time(-100_000_000_000),
                before: time(100_000_000_000),
                ..query("x")
            },
            true,
        ),
    ] {
        assert_eq!(check(&asked).is_ok(), expected, "{asked:?}");
    }
}

#[tokio::test]
async fn filters_narrow_what_is_found() {
    let fixture = Fixture::new().await;
    fixture
        .say(1, "alice", 10, &["red apple", "green apple", "red pear"])
        .await;
    fixture.say(1, "bob", 20, &["red apple pie"]).await;
    fixture.say(2, "carol", 30, &["red apple juice"]).await;
    fixture.index().await;
    let within = |conversation: &str| v1::Search {
        conversation: conversation.to_owned(),
        ..query("apple")
    };
    let found = fixture.texts("bob", query("apple red")).await;
    assert_eq!(found, ["red apple juice", "red apple pie", "red apple"]);
    let found = fixture.texts("alice", query("APPLE")).await;
    assert_eq!(found, ["red apple pie", "green apple", "red apple"]);
    let found = fixture.texts("bob", within("u:bob:carol")).await;
    assert_eq!(found, ["red apple juice"]);
    for (asked, expected) in [
        (
            v1::Search {
                sender: "alice".to_owned(),
                ..query("apple")
            },
            vec!["green apple", "red apple"],
        ),
        (
            v1::Search {
                after: time(11),
                before: time(30),
                ..query("apple")
            },
            vec!["red apple pie", "green apple"],
        ),
        (
            v1::Search {
                before: time(10),
                ..query("apple")
            },
            vec![],
        ),
        (
            query("e"),
            vec![
                "red apple juice",
                "red apple pie",
                "red pear",
                "green apple",
                "red apple",
            ],
        ),
        (query("pple ear"), vec![]),
    ] {
        assert_eq!(
            fixture.texts("bob", asked.clone()).await,
            expected,
            "{asked:?}"
        );
    }
    let found = fixture.search("bob", within("u:bob:carol")).await;
    assert_eq!(found.messages[0].conversation, "u:bob:carol");
    for (uid, conversation) in [
        ("alice", "u:bob:carol"),
        ("alice", "g:nothing"),
        ("carol", "g:g"),
    ] {
        let asked = check(&within(conversation)).unwrap();
        let refused = page(&fixture.store, &uid.parse().unwrap(), &asked).await;
        assert_eq!(refused.unwrap().unwrap_err().code, Code::NotFound);
    }
}

/// Whatever the index says.
#[tokio::test]
async fn what_a_user_may_not_see_is_not_found() {
    let fixture = Fixture::new().await;
    let numbered: Vec<String> = (1..=9).map(|seq| format!("secret {seq}")).collect();
    let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
    fixture.say(3, "alice", 1, &numbered).await;
    fixture.index().await;
    for text in [
        "UPDATE messages SET state = 1 WHERE seq = 4",
        "UPDATE messages SET hidden_from = 'bob' WHERE seq = 5",
        "UPDATE messages SET hidden_from = 'alice' WHERE seq = 6",
        "INSERT INTO hidden_messages (uid, conversation_id, seq) VALUES ('bob', 3, 7), ('alice', 3, 8), ('bob', 1, 9)",
    ] {
        fixture.execute(text).await;
    }
    let found = fixture.texts("bob", query("secret")).await;
    assert_eq!(found, ["secret 9", "secret 8", "secret 6"]);
    let found = fixture.texts("alice", query("secret")).await;
    assert_eq!(
        found,
        [
            "secret 9", "secret 7", "secret 5", "secret 3", "secret 2", "secret 1"
        ]
    );
    assert!(fixture.texts("carol", query("secret")).await.is_empty());

    fixture
        .execute("UPDATE members SET visible_seq = 8 WHERE uid = 'bob' AND conversation_id = 3")
        .await;
    assert_eq!(fixture.texts("bob", query("secret")).await, ["secret 9"]);
    fixture
        .execute("DELETE FROM members WHERE uid = 'bob'")
        .await;
    assert!(fixture.texts("bob", query("secret")).await.is_empty());
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps() {
    let fixture = Fixture::new().await;
    let texts: Vec<String> = (1..=450).map(|n| format!("number {n} of many")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    fixture.say(1, "alice", 1, &texts).await;
    fixture.index().await;
    let mut found = Vec::new();
    let mut next = 0;
    loop {
        let asked = v1::Search {
            page: next,
            limit: 90,
            ..query("many number")
        };
        let page = fixture.search("bob", asked).await;
        found.extend(page.messages.iter().map(text_of));
        next = page.next;
        if next == 0 {
            break;
        }
        assert_eq!(page.messages.len(), 90);
    }
    let expected: Vec<&str> = texts.iter().rev().copied().collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_search_ends_and_goes_on_where_it_was() {
    let fixture = Fixture::new().await;
    fixture.say(1, "alice", 1, &["the word is aba"]).await;
    // The index takes them for what is looked for.
    let texts = vec!["ab ba"; LOOKED_AT_MAX + 300];
    fixture.say(1, "alice", 2, &texts).await;
    fixture.index().await;
    let first = fixture.search("bob", query("aba")).await;
    assert_eq!(first.messages, []);
    assert!(first.next > 0);
    let second = v1::Search {
        page: first.next,
        ..query("aba")
    };
    assert_eq!(fixture.texts("bob", second).await, ["the word is aba"]);
}

#[tokio::test]
async fn a_user_may_be_in_many_conversations() {
    let fixture = Fixture::new().await;
    for id in 10..10 + 2 * i64::try_from(ROOMS_STEP).unwrap() {
        let conversation = format!(
            "INSERT INTO conversations (id, name, last_seq, created_at) VALUES ({id}, 'g:g{id}', 0, 0)"
        );
        let member = format!(
            "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
            last_read_seq, sent, sent_read) VALUES ({id}, 'bob', 'member', 0, 0, 0, 0, 0, 0, 0)"
        );
        fixture.execute(&conversation).await;
        fixture.execute(&member).await;
        let at = u64::try_from(id).unwrap();
        fixture.say(id, "bob", at, &["hello there"]).await;
    }
    fixture.index().await;
    let mut ids = Vec::new();
    let mut next = 0;
    while ids.is_empty() || next != 0 {
        let asked = v1::Search {
            page: next,
            limit: 100,
            ..query("hello")
        };
        let page = fixture.search("bob", asked).await;
        ids.extend(page.messages.iter().map(|message| message.msg_id));
        next = page.next;
    }
    assert_eq!(ids.len(), 2 * ROOMS_STEP);
    assert!(ids.is_sorted_by(|newer, older| newer > older));
}
