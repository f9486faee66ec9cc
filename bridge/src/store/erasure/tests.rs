use schema::v1;

use super::*;
use crate::content;
use crate::store::Store;

async fn count(store: &Store, from: &str) -> i64 {
    let text = format!("SELECT COUNT(*) AS n FROM {from}");
    let row = sql::query_one(store.reader(), &text, []).await.unwrap();
    row.unwrap().try_get("", "n").unwrap()
}

async fn write(store: &Store, statements: &[&str]) {
    for text in statements {
        sql::execute(store.writer(), text, []).await.unwrap();
    }
}

/// Two conversations with more messages of alice's than a step takes, with and without client's ids, and one of bob's
/// in each; and everything that can belong to a message.
async fn write_messages(store: &Store) {
    let mentions = ["bob".to_owned(), "@all".to_owned()];
    let text = v1::message::Content::Text("hers".to_owned());
    let content = content::encode(&text, 0, &mentions);
    let tx = store.begin().await.unwrap();
    for conversation in 1..=2_i64 {
        for seq in 1..=300_i32 {
            let id = (seq % 2 == 0).then(|| format!("{conversation}-{seq}"));
            let values = [
                (conversation * 1000 + i64::from(seq)).into(),
                conversation.into(),
                seq.into(),
                if seq == 300 { "bob" } else { "alice" }.into(),
                id.into(),
                content.clone().into(),
            ];
            let text = "INSERT INTO messages (msg_id, conversation_id, seq, sender, sender_device, client_msg_id,
                client_seq, kind, content) VALUES (?, ?, ?, ?, 'phone', ?, 0, 'text', ?)";
            sql::execute(&tx, text, values).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
    let both = [
        "INSERT INTO revisions (msg_id, number, content, at) SELECT msg_id, 1, content, 0 FROM messages",
        "INSERT INTO reactions (msg_id, emoji, uid, at) SELECT msg_id, 'x', 'carol', 0 FROM messages",
        "INSERT INTO expiring (msg_id, conversation_id, expires_at) SELECT msg_id, 1, 9 FROM messages",
        "INSERT INTO flags (msg_id, words) SELECT msg_id, 'odd' FROM messages",
        "INSERT INTO attachments (conversation_id, seq, kind) SELECT conversation_id, seq, 'file' FROM messages",
        "INSERT INTO mentions (conversation_id, uid, seq) SELECT conversation_id, 'bob', seq FROM messages",
        "INSERT INTO mentions (conversation_id, uid, seq) SELECT conversation_id, '@all', seq FROM messages",
        "INSERT INTO group_pins (conversation_id, msg_id, at) SELECT conversation_id, msg_id, 0 FROM messages",
        "INSERT INTO conversations (id, name, last_seq, created_at, changes) VALUES (1, 'g:a', 300, 0, 7), (2, 'g:b', 300, 0, 0)",
        "INSERT INTO changed_messages (conversation_id, msg_id, seq, change_number) VALUES (1, 1001, 1, 7)",
    ];
    write(store, &both).await;
}

#[tokio::test]
async fn messages_are_blanked_with_all_that_belongs_to_them() {
    let (store, _folder) = Store::fresh().await;
    write_messages(&store).await;
    let alice: Uid = "alice".parse().unwrap();
    let (mut after, mut steps) = (0, 0);
    while let Some(next) = blank_messages(store.writer(), &alice, after).await.unwrap() {
        after = next;
        steps += 1;
    }
    assert!(steps > 2, "bounded steps");
    for (from, left) in [
        (
            "messages WHERE state = 3 AND content = X'' AND client_msg_id IS NULL",
            598,
        ),
        (
            "messages WHERE state = 0 AND sender = 'bob' AND content <> X''",
            2,
        ),
        ("revisions", 2),
        ("reactions", 2),
        ("expiring", 2),
        ("flags", 2),
        ("attachments", 2),
        ("mentions", 4),
        ("group_pins", 2),
        ("changed_messages WHERE change_number <= 306", 598),
        (
            "(SELECT DISTINCT conversation_id, change_number FROM changed_messages) x",
            598,
        ),
        ("conversations WHERE id = 1 AND changes = 306", 1),
        ("conversations WHERE id = 2 AND changes = 299", 1),
    ] {
        assert_eq!(count(&store, from).await, left, "{from}");
    }
    after = 0;
    while let Some(next) = blank_messages(store.writer(), &alice, after).await.unwrap() {
        after = next;
    }
    let unchanged = count(&store, "conversations WHERE id = 1 AND changes = 306").await;
    assert_eq!(unchanged, 1, "after a crash nothing is done twice");
}

#[tokio::test]
async fn what_was_between_the_user_and_others_ends() {
    let (store, _folder) = Store::fresh().await;
    write(
        &store,
        &[
            "INSERT INTO conversations (id, name, last_seq, created_at) VALUES (1, 'g:a', 1, 0)",
            "INSERT INTO messages (msg_id, conversation_id, seq, sender, sender_device, client_seq, kind, content)
                VALUES (5, 1, 1, 'bob', '', 0, 'text', X'')",
            "INSERT INTO reactions (msg_id, emoji, uid, at) VALUES (5, 'x', 'alice', 0), (5, 'y', 'alice', 0), (5, 'x', 'bob', 0)",
            "INSERT INTO contacts (uid, other, state, remark, labels, text, blocked, changes, version, synced) VALUES
                ('alice', 'bob', 'contact', '', X'', '', 0, 0, 0, -1), ('bob', 'alice', 'contact', 'A.', X'', 'hi', 2, 3, 0, -1),
                ('carol', 'alice', 'none', '', X'', '', 0, 3, 0, -1), ('bob', 'carol', 'contact', '', X'', '', 0, 3, 0, -1)",
            "INSERT INTO devices (uid, device, seen_at) VALUES ('alice', 'a', 0), ('alice', 'b', 0), ('bob', 'a', 0)",
            "INSERT INTO cursors (uid, device, conversation_id, seq) VALUES ('alice', 'a', 1, 1), ('bob', 'a', 1, 1)",
            "INSERT INTO hidden_messages (uid, conversation_id, seq) VALUES ('alice', 1, 1), ('bob', 1, 1)",
            "INSERT INTO answers (id, uid, client_msg_id, reply) VALUES (1, 'alice', 'x', X''), (2, 'bob', 'x', X'')",
            "INSERT INTO scheduled (id, uid, sender_device, client_msg_id, send_at, send) VALUES (1, 'alice', '', 'x', 0, X'')",
            "INSERT INTO user_words (word, uid) VALUES ('alice', 'alice'), ('bob', 'bob')",
        ],
    )
    .await;
    let (db, alice) = (store.writer(), "alice".parse().unwrap());
    while remove_own(db, &alice).await.unwrap() {}
    while remove_reactions(db, &alice).await.unwrap() {}
    while remove_contacts(db, &alice).await.unwrap() {}
    for (from, left) in [
        ("reactions", 1),
        ("changed_messages WHERE msg_id = 5 AND change_number = 1", 1),
        ("contacts", 3),
        (
            "contacts WHERE uid = 'bob' AND other = 'alice' AND state = 'none' AND text = '' AND changes = 4",
            1,
        ),
        ("contacts WHERE changes = 3", 2),
        ("devices", 1),
        ("cursors", 1),
        ("hidden_messages", 1),
        ("answers", 1),
        ("scheduled", 0),
        ("user_words", 1),
    ] {
        assert_eq!(count(&store, from).await, left, "{from}");
    }
}

#[tokio::test]
async fn who_was_there_first_inherits_a_group() {
    let (store, _folder) = Store::fresh().await;
    let db = store.writer();
    write(
        &store,
        &[
            "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
                last_read_seq, sent, sent_read) VALUES
                (1, 'early', 'member', 0, 0, 0, 0, 0, 0, 0), (1, 'new', 'admin', 9, 0, 0, 0, 0, 0, 0),
                (1, 'old', 'admin', 5, 0, 0, 0, 0, 0, 0),
                (2, 'zoe', 'member', 1, 0, 0, 0, 0, 0, 0), (2, 'bob', 'member', 1, 0, 0, 0, 0, 0, 0)",
        ],
    )
    .await;
    for (conversation, heir) in [(1, Some("old")), (2, Some("bob")), (3, None)] {
        let found = pass_ownership_on(db, conversation).await.unwrap();
        assert_eq!(found.as_ref().map(Uid::as_str), heir);
    }
    let owners = "members WHERE role = 'owner' AND uid IN ('old', 'bob')";
    assert_eq!(count(&store, owners).await, 2);
}
