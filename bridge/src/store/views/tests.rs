use schema::Uid;

use super::*;
use crate::store::{Store, sql};

/// A store in memory would be another one per connection, so it is a file.
async fn store(folder: &tempfile::TempDir) -> Store {
    let store = Store::connect(&Store::sqlite_url(folder.path()))
        .await
        .unwrap();
    store.migrate().await.unwrap();
    store
}

/// The group `g:g` of alice, who wrote ten messages, and bob, who came after the third and has read the fourth.
async fn write_group(store: &Store) {
    let db = store.writer();
    for text in [
        "INSERT INTO conversations (id, name, last_seq, created_at) VALUES (7, 'g:g', 10, 1500), (8, 'u:bob:carol', 0, 9)",
        "INSERT INTO chat_groups (conversation_id, gid, name) VALUES (7, 'g', 'A group')",
        "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
            last_read_seq, sent, sent_read) VALUES (7, 'alice', 'owner', 0, 0, 10, 4200, 0, 10, 0),
            (7, 'bob', 'member', 3, 3, 4, 4199, 4, 0, 0), (8, 'bob', 'member', 0, 0, 0, 0, 0, 0, 0)",
    ] {
        sql::execute(db, text, []).await.unwrap();
    }
    for seq in 1..=10_i32 {
        let content = v1::message::Content::Text(format!("text {seq}"));
        let values = [
            i64::from(seq + 100).into(),
            seq.into(),
            crate::content::encode(&content, 0, &[]).into(),
        ];
        let text = "INSERT INTO messages (msg_id, conversation_id, seq, sender, sender_device, client_msg_id, client_seq,
            kind, content) VALUES (?, 7, ?, 'alice', 'phone', NULL, 0, 'text', ?)";
        sql::execute(db, text, values).await.unwrap();
    }
}

fn uid(name: &str) -> Uid {
    name.parse().unwrap()
}

fn range(after_seq: Option<u32>, before_seq: Option<u32>, limit: u32) -> Range {
    Range {
        after_seq,
        before_seq,
        limit,
        bytes_max: usize::MAX,
    }
}

#[tokio::test]
async fn a_page_keeps_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    write_group(&store).await;
    for (name, start, range, seqs, more) in [
        ("newest", 3, range(None, None, 3), 8..=10, true),
        (
            "all that bob may see",
            3,
            range(None, None, 7),
            4..=10,
            false,
        ),
        ("older", 3, range(None, Some(6), 100), 4..=5, false),
        ("oldest first", 0, range(Some(0), None, 2), 1..=2, true),
        ("between", 0, range(Some(4), Some(8), 3), 5..=7, false),
        ("from the end", 0, range(Some(9), None, 1), 10..=10, false),
        (
            "by bytes",
            0,
            Range {
                bytes_max: 7,
                ..range(Some(0), None, 9)
            },
            1..=2,
            true,
        ),
        (
            "one at least",
            0,
            Range {
                bytes_max: 0,
                ..range(None, None, 9)
            },
            10..=10,
            true,
        ),
        (
            "large limit",
            0,
            range(Some(0), None, u32::MAX),
            1..=10,
            false,
        ),
    ] {
        let page = history(store.reader(), &uid("bob"), 7, "g:g", start, range)
            .await
            .unwrap();
        let found: Vec<u32> = page.messages.iter().map(|message| message.seq).collect();
        assert_eq!(found, seqs.collect::<Vec<_>>(), "{name}");
        assert_eq!(page.more, more, "{name}");
    }
    let nothing = history(
        store.reader(),
        &uid("bob"),
        7,
        "g:g",
        0,
        range(Some(10), None, 5),
    )
    .await
    .unwrap();
    assert_eq!(nothing, Page::default());
}

#[tokio::test]
async fn a_member_sees_own_conversations_and_exact_unread_counts() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    write_group(&store).await;
    let found = conversations(store.reader(), &uid("bob")).await.unwrap();
    let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["g:g", "u:bob:carol"]);
    assert_eq!(found[0].membership.unread, 6);
    let last = found[0].last_message.as_ref().unwrap();
    assert_eq!(
        (last.seq, last.content.clone()),
        (10, Some(v1::message::Content::Text("text 10".into())))
    );
    assert!(found[1].last_message.is_none());

    let alice = membership(store.reader(), &uid("alice"), "g:g")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((alice.conversation_id, alice.unread), (7, 0));
    assert_eq!(
        membership(store.reader(), &uid("carol"), "g:g")
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        membership(store.reader(), &uid("bob"), "g:x")
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn a_group_comes_with_its_members() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    write_group(&store).await;
    let found = group(store.reader(), &"g".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.name.as_str(), found.conversation.as_str()),
        ("A group", "g:g")
    );
    assert_eq!(found.created_at.unwrap().nanos, 500_000_000);
    assert_eq!(found.members.len(), 2);
    assert_eq!(
        (found.members[1].uid.as_str(), found.members[1].last_ack_seq),
        ("bob", 4)
    );
    assert_eq!(
        group(store.reader(), &"x".parse().unwrap()).await.unwrap(),
        None
    );
}
