use std::time::Duration;

use super::*;
use crate::content;
use crate::store::operations;

/// In `g:g` 200 messages of alice's, some of them in some way remarkable; the first ten are no rows.
async fn group() -> (Store, tempfile::TempDir) {
    let (store, folder) = Store::fresh().await;
    let db = store.writer();
    for text in [
        "INSERT INTO conversations (id, name, last_seq, created_at) VALUES (7, 'g:g', 200, 0)",
        "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
            last_read_seq, sent, sent_read) VALUES (7, 'alice', 'owner', 0, 0, 0, 0, 0, 0, 0),
            (7, 'bob', 'member', 0, 20, 0, 0, 0, 0, 0), (7, 'carol', 'member', 0, 170, 0, 0, 0, 0, 0)",
    ] {
        sql::execute(db, text, []).await.unwrap();
    }
    for seq in 11..=200_i32 {
        let text = v1::message::Content::Text(format!("text {seq}"));
        let values = [
            i64::from(seq + 100).into(),
            seq.into(),
            content::encode(&text, 0, &["bob".to_owned()]).into(),
        ];
        let text = "INSERT INTO messages (msg_id, conversation_id, seq, sender, sender_device, client_msg_id, client_seq,
            kind, content) VALUES (?, 7, ?, 'alice', 'phone', NULL, 0, 'text', ?)";
        sql::execute(db, text, values).await.unwrap();
    }
    for text in [
        "UPDATE messages SET hidden_from = 'bob' WHERE seq IN (150, 199)",
        "UPDATE messages SET state = 1, content = x'' WHERE seq IN (151, 190)",
        "UPDATE messages SET edited_at = 5 WHERE seq = 189",
        "UPDATE messages SET expires_at = 1000 WHERE seq = 188",
        "UPDATE messages SET expires_at = 9999999999999 WHERE seq = 187",
        "INSERT INTO reactions (msg_id, emoji, uid, at) VALUES (300, 'x', 'bob', 0), (300, 'x', 'carol', 1), (290, 'x', 'bob', 0)",
    ] {
        sql::execute(db, text, []).await.unwrap();
    }
    (store, folder)
}

async fn now(store: &Store) -> cache::State {
    state(store.reader(), 7).await.unwrap().unwrap()
}

async fn member(store: &Store, name: &str) -> Membership {
    let uid: Uid = name.parse().unwrap();
    let found = super::super::membership(store.reader(), &uid, "g:g").await;
    found.unwrap().unwrap()
}

/// Whatever page is asked for, of what is kept it is the one that the database has, or none.
#[tokio::test]
async fn a_page_of_what_is_kept_is_that_of_the_database() {
    let (store, _folder) = group().await;
    let kept = read(store.reader(), 7, now(&store).await).await.unwrap();
    let kept = kept.unwrap();
    assert_eq!((kept.after_seq, kept.entries.len()), (72, 128));
    let bounds = [
        None,
        Some(0),
        Some(72),
        Some(73),
        Some(148),
        Some(188),
        Some(199),
        Some(200),
    ];
    let mut pages = 0;
    for name in ["alice", "bob", "carol"] {
        let uid = name.parse().unwrap();
        let member = member(&store, name).await;
        for (after_seq, before_seq) in bounds.iter().flat_map(|a| bounds.map(|b| (*a, b))) {
            for (limit, bytes_max) in [(1, 999), (29, 999), (31, 120), (100, 9999), (400, 9999)] {
                let range = Range {
                    after_seq,
                    before_seq,
                    limit,
                    bytes_max,
                };
                let Some(page) = cut(&kept, &uid, &member, range) else {
                    continue;
                };
                pages += 1;
                let truth = history(&store, &uid, 7, "g:g", member.visible_seq, range).await;
                assert_eq!(page, truth.unwrap(), "{name}: {range:?}");
            }
        }
    }
    assert!(pages > 500, "{pages}");
}

/// Nothing is kept where the state was another one before or after, or where messages are missing.
#[tokio::test]
async fn only_one_state_is_kept() {
    let (store, _folder) = group().await;
    let before = now(&store).await;
    for text in [
        "UPDATE conversations SET changes = changes + 1",
        "UPDATE conversations SET last_msg_id = 1",
        "UPDATE conversations SET last_seq = 201",
    ] {
        let known = now(&store).await;
        sql::execute(store.writer(), text, []).await.unwrap();
        assert_ne!(now(&store).await, known);
        assert_eq!(
            read(store.reader(), 7, known).await.unwrap(),
            None,
            "{text}"
        );
    }
    // The newest message is not there.
    assert_eq!(
        read(store.reader(), 7, now(&store).await).await.unwrap(),
        None
    );
    assert_eq!(read(store.reader(), 8, before).await.unwrap(), None);
}

/// What was kept with its content is shown without it from its time on.
#[test]
fn what_runs_out_while_it_is_kept_is_gone() {
    let message = v1::Message {
        seq: 3,
        content: Some(v1::message::Content::Text("hi".into())),
        expires_at: Some(Timestamp::from_millis(5000)),
        mentions: vec!["bob".into()],
        ..Default::default()
    };
    let at = |millis| {
        as_of(
            SystemTime::UNIX_EPOCH + Duration::from_millis(millis),
            message.clone(),
        )
    };
    assert_eq!(at(4999), message);
    let gone = at(5000);
    assert_eq!(
        (
            gone.gone.as_str(),
            gone.content.clone(),
            gone.mentions.len()
        ),
        ("expired", None, 0)
    );
    assert_eq!((gone.seq, gone.expires_at), (3, message.expires_at));
}

/// Whoever has deleted one of the messages that are kept reads the database.
#[tokio::test]
async fn what_is_deleted_for_oneself_is_noticed() {
    let (store, _folder) = group().await;
    let bob: Uid = "bob".parse().unwrap();
    let columns = format!("{}, c.name", state_columns());
    let hides = async || {
        let text = format!(
            "SELECT {columns} FROM conversations c JOIN members m ON m.conversation_id = c.id WHERE m.uid = 'bob'"
        );
        let row = sql::query_one(store.reader(), &text, [])
            .await
            .unwrap()
            .unwrap();
        state_of(&row, &member(&store, "bob").await)
            .unwrap()
            .is_none()
    };
    assert!(!hides().await);
    for (seq, is_noticed) in [(72, false), (73, true)] {
        operations::hide(store.writer(), &bob, 7, [seq])
            .await
            .unwrap();
        assert_eq!(hides().await, is_noticed, "{seq}");
    }
}
