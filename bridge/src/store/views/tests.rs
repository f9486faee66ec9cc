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
        let page = history(&store, &uid("bob"), 7, "g:g", start, range)
            .await
            .unwrap();
        let found: Vec<u32> = page.messages.iter().map(|message| message.seq).collect();
        assert_eq!(found, seqs.collect::<Vec<_>>(), "{name}");
        assert_eq!(page.more, more, "{name}");
    }
    let nothing = history(&store, &uid("bob"), 7, "g:g", 0, range(Some(10), None, 5))
        .await
        .unwrap();
    assert_eq!(nothing, Page::default());
}

#[tokio::test]
async fn a_member_sees_own_conversations_and_exact_unread_counts() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    write_group(&store).await;
    let list = listed(&store, Asked::default()).await;
    assert_eq!(names(&list), ["g:g", "u:bob:carol"]);
    assert_eq!(list.total_unread, 6);
    let found = list.conversations;
    assert_eq!(found[0].state.as_ref().unwrap().unread, 6);
    let last = found[0].last_message.as_ref().unwrap();
    assert_eq!(
        (last.seq, last.content.clone()),
        (10, Some(v1::message::Content::Text("text 10".into())))
    );
    assert_eq!(found[0].name, "A group");
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

/// Bob's conversations as they are listed, all that are asked for where no limit is set.
async fn listed(store: &Store, asked: Asked<'_>) -> List {
    let asked = Asked {
        limit: if asked.limit == 0 { 10 } else { asked.limit },
        bytes_max: usize::MAX,
        ..asked
    };
    list(store, &uid("bob"), asked).await.unwrap()
}

fn names(list: &List) -> Vec<String> {
    let states = list.conversations.iter().flat_map(|found| &found.state);
    states.map(|state| state.conversation.clone()).collect()
}

async fn run(store: &Store, texts: &[&str]) {
    for text in texts {
        sql::execute(store.writer(), text, []).await.unwrap();
    }
}

#[tokio::test]
async fn the_list_is_ordered_and_comes_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    write_group(&store).await;
    run(
        &store,
        &[
            "INSERT INTO conversations (id, name, last_seq, created_at) VALUES (20, 'g:new', 0, 9), (21, 'g:put', 0, 9),
                (22, 'g:gone', 3, 9), (23, 'g:back', 4, 9), (24, 'g:top', 0, 9)",
            "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
                last_read_seq, sent, sent_read, archived, deleted_seq, pinned_at) VALUES
                (20, 'bob', 'member', 0, 0, 0, 0, 0, 0, 0, FALSE, -1, NULL),
                (21, 'bob', 'member', 0, 0, 0, 0, 0, 0, 0, TRUE, -1, 70),
                (22, 'bob', 'member', 0, 3, 0, 0, 3, 0, 0, FALSE, 3, NULL),
                (23, 'bob', 'member', 0, 3, 0, 0, 3, 0, 0, FALSE, 3, NULL),
                (24, 'bob', 'member', 0, 0, 0, 0, 0, 0, 0, FALSE, -1, 90)",
        ],
    )
    .await;
    let order = ["g:top", "g:put", "g:g", "g:back", "g:new", "u:bob:carol"];
    assert_eq!(names(&listed(&store, Asked::default()).await), order);
    for (archived, expected) in [
        (true, vec!["g:put"]),
        (false, {
            let others = order.into_iter().filter(|name| *name != "g:put");
            others.collect()
        }),
    ] {
        let asked = Asked {
            archived: Some(archived),
            ..Asked::default()
        };
        assert_eq!(names(&listed(&store, asked).await), expected);
    }
    let wanted = ["g:new", "g:gone", "g:none", "g:put"].map(String::from);
    for names_asked in [&[][..], &wanted] {
        let expected: Vec<&str> = order
            .into_iter()
            .filter(|name| names_asked.is_empty() || names_asked.iter().any(|asked| asked == name))
            .collect();
        let mut found = Vec::new();
        let mut asked = Asked {
            names: names_asked,
            limit: 1,
            ..Asked::default()
        };
        loop {
            let page = listed(&store, asked).await;
            assert_eq!(page.total_unread, 6 + 1, "in g:g, and what brought g:back");
            found.extend(names(&page));
            let Some(next) = page.next else {
                break;
            };
            asked.after = Some(next);
        }
        assert_eq!(found, expected);
    }
}

/// Mentions count while they are unread, by whomever and however often they mention the user, but not by the user.
#[tokio::test]
async fn unread_mentions_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    write_group(&store).await;
    run(
        &store,
        &[
            "INSERT INTO mentions (conversation_id, uid, seq) VALUES (7, 'bob', 4), (7, 'bob', 5), (7, '@all', 5),
                (7, '@all', 6), (7, '@all', 7), (7, 'carol', 8), (7, 'bob', 9), (7, 'bob', 10)",
            "UPDATE messages SET sender = 'bob' WHERE seq = 7",
            "UPDATE messages SET state = 1 WHERE seq = 10",
            "INSERT INTO hidden_messages (uid, conversation_id, seq) VALUES ('bob', 7, 9), ('carol', 7, 6)",
        ],
    )
    .await;
    let mentions = async |name: &str| {
        let found = membership(store.reader(), &uid(name), "g:g").await.unwrap();
        found.unwrap().mentions
    };
    assert_eq!(mentions("bob").await, 2, "5 and 6");
    assert_eq!(mentions("alice").await, 1, "7: the others are her own");
    run(&store, &["UPDATE members SET visible_seq = 5"]).await;
    assert_eq!(mentions("bob").await, 1);
}

/// What a user may not see is neither the latest message nor caught up with.
#[tokio::test]
async fn what_is_hidden_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    write_group(&store).await;
    run(
        &store,
        &[
            "UPDATE messages SET hidden_from = 'bob' WHERE seq = 10",
            "UPDATE messages SET hidden_from = 'carol' WHERE seq = 8",
            "INSERT INTO hidden_messages (uid, conversation_id, seq) VALUES ('bob', 7, 9)",
        ],
    )
    .await;
    let newest = async || {
        let found = listed(&store, Asked::default()).await.conversations;
        let of_group = found.iter().find(|found| found.name == "A group");
        let message = of_group.unwrap().last_message.as_ref();
        message.map(|message| message.seq)
    };
    assert_eq!(newest().await, Some(8));
    let ids: Vec<u64> = (104..=111).collect();
    let missed = messages_by_id(store.reader(), &uid("bob"), &ids)
        .await
        .unwrap();
    let mut missed: Vec<u32> = missed.values().map(|message| message.seq).collect();
    missed.sort_unstable();
    assert_eq!(missed, [4, 5, 6, 7, 8]);
    run(&store, &["UPDATE members SET visible_seq = 8"]).await;
    assert_eq!(newest().await, None);
}

/// Pages of changes end between two changes, even where one concerns several messages.
#[tokio::test]
async fn changed_messages_come_in_the_order_of_their_changes() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    write_group(&store).await;
    run(
        &store,
        &[
            "UPDATE conversations SET changes = 9",
            "INSERT INTO changed_messages (conversation_id, msg_id, seq, change_number) VALUES (7, 102, 2, 1),
                (7, 109, 9, 2), (7, 105, 5, 4), (7, 106, 6, 4), (7, 107, 7, 4), (7, 104, 4, 8)",
        ],
    )
    .await;
    let bob = membership(store.reader(), &uid("bob"), "g:g")
        .await
        .unwrap()
        .unwrap();
    for (after, limit, bytes, seqs, changes, more) in [
        (0, 100, 9999, vec![9, 5, 6, 7, 4], 9, false),
        (0, 1, 9999, vec![9], 2, true),
        (0, 2, 9999, vec![9], 2, true),
        (0, 4, 9999, vec![9, 5, 6, 7], 4, true),
        (2, 1, 9999, vec![5, 6, 7], 4, true),
        (2, 100, 0, vec![5, 6, 7], 7, true),
        (4, 1, 9999, vec![4], 9, false),
        (9, 1, 9999, vec![], 9, false),
        (u32::MAX, 1, 9999, vec![], u32::MAX, false),
    ] {
        let page = changed_messages(&store, &uid("bob"), &bob, after, limit, bytes)
            .await
            .unwrap();
        let found: Vec<u32> = page.messages.iter().map(|message| message.seq).collect();
        let page = (found, page.changes, page.more);
        assert_eq!(page, (seqs, changes, more), "{after} {limit} {bytes}");
    }
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
