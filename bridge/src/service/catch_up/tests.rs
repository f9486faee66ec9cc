use schema::MsgId;

use super::*;
use crate::content;
use crate::store::sql;

async fn send(store: &Store, conversation_id: i64, seq: u32, msg_id: u64) {
    let text = v1::message::Content::Text("x".repeat(1000));
    let message = messages::New {
        msg_id: MsgId(msg_id),
        conversation_id,
        seq,
        sender: &"alice".parse().unwrap(),
        sender_device: "",
        client_msg_id: "",
        client_seq: 0,
        kind: "text",
        content: &content::encode(&text, 0, &[]),
        expires_at: None,
        hidden_from: None,
    };
    messages::add(store.writer(), [message]).await.unwrap();
}

/// Lets bob into a conversation.
async fn join(store: &Store, conversation_id: i64) {
    let bob = "bob".parse().unwrap();
    let member = [(&bob, members::Role::Member)];
    let joined = members::add(store.writer(), conversation_id, 0, 0, member).await;
    joined.unwrap();
}

/// All messages of conversations with `last` of them each.
fn backlog_of_bob(conversations: i64, last: u32) -> Backlog {
    let behind = |conversation_id: i64| Behind {
        uid: "bob".into(),
        device: "phone".into(),
        conversation_id,
        name: format!("g:{conversation_id}"),
        after_seq: 0,
        last_seq: last,
        archived_seq: 0,
    };
    let target = Target {
        session: 1,
        epoch: 1,
        uid: "bob".parse().unwrap(),
        device: "phone".into(),
        is_nameless: false,
        is_resumed: false,
        packing: Packing::default(),
    };
    Backlog::new(&target, (1..=conversations).map(behind).collect(), 1000)
}

/// The ids of all messages in a publish.
fn msg_ids(missed: &Missed) -> Vec<u64> {
    let down = v1::Down::decode(missed.payload.clone()).unwrap();
    let messages = match down.content {
        Some(v1::down::Content::Message(message)) => vec![message],
        Some(v1::down::Content::Batch(batch)) => batch.messages,
        other => panic!("{other:?}"),
    };
    messages.iter().map(|message| message.msg_id).collect()
}

/// Three conversations whose messages alternate, read while the database fails now and then: everything comes,
/// once, in the order of time.
#[tokio::test]
async fn a_failed_read_loses_nothing() {
    const CONVERSATIONS: i64 = 3;
    const EACH: u32 = 150;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::connect(&Store::sqlite_url(folder.path()))
        .await
        .unwrap();
    store.migrate().await.unwrap();
    let mut msg_id = 0;
    for conversation in 1..=CONVERSATIONS {
        join(&store, conversation).await;
    }
    for seq in 1..=EACH {
        for conversation in 1..=CONVERSATIONS {
            msg_id += 1;
            send(&store, conversation, seq, msg_id).await;
        }
    }
    let mut backlog = backlog_of_bob(CONVERSATIONS, EACH);
    let rename = async |from: &str, to: &str| {
        let text = format!("ALTER TABLE {from} RENAME TO {to}");
        sql::execute(store.writer(), &text, []).await.unwrap();
    };
    let mut ids = Vec::new();
    let mut round = 0;
    loop {
        round += 1;
        if round % 2 == 0 && !backlog.is_empty() {
            rename("messages", "hidden").await;
            backlog.next_page(&store).await.unwrap_err();
            rename("hidden", "messages").await;
        }
        let page = backlog.next_page(&store).await.unwrap();
        if page.is_empty() {
            break;
        }
        ids.extend(page.iter().flat_map(msg_ids));
    }
    assert!(ids == (1..=msg_id).collect::<Vec<_>>(), "{ids:?}");
    assert!(round > 4, "several pages, or nothing was shown");
    let everything = |id: i64| Progress {
        seq: EACH,
        is_sent: true,
        newest_id: msg_id - (CONVERSATIONS - id).cast_unsigned(),
    };
    let expected = (1..=CONVERSATIONS).map(|id| (id, everything(id))).collect();
    assert_eq!(backlog.reached().positions, expected);
}

/// What its user may no longer see is not sent, though the catch-up has begun.
#[tokio::test]
async fn who_leaves_meanwhile_gets_no_more() {
    const EACH: u32 = 200;
    let (store, _folder) = Store::fresh().await;
    let (left, cleared) = (1, 2);
    for conversation in [left, cleared] {
        join(&store, conversation).await;
        for seq in 1..=EACH {
            let msg_id = u64::from(seq) * 2 + u64::from(conversation == cleared);
            send(&store, conversation, seq, msg_id).await;
        }
    }
    let mut backlog = backlog_of_bob(2, EACH);
    let first = backlog.next_page(&store).await.unwrap();
    assert!((1..150).contains(&first.iter().flat_map(msg_ids).count()));
    let bob = "bob".parse().unwrap();
    let db = store.writer();
    members::remove(db, left, &bob).await.unwrap();
    members::hide_history(db, cleared, &bob, 190).await.unwrap();
    let mut rest = Vec::new();
    loop {
        let page = backlog.next_page(&store).await.unwrap();
        if page.is_empty() {
            break;
        }
        rest.extend(page.iter().flat_map(msg_ids));
    }
    let expected: Vec<u64> = (191..=EACH).map(|seq| u64::from(seq) * 2 + 1).collect();
    assert_eq!(rest, expected);
}

/// A second round remembers what the first has sent: it is neither sent again, nor taken for acknowledged because
/// only the device's own messages follow.
#[tokio::test]
async fn rounds_remember_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::connect(&Store::sqlite_url(folder.path()))
        .await
        .unwrap();
    store.migrate().await.unwrap();
    for seq in 1..=3 {
        send(&store, 1, seq, seq.into()).await;
    }
    let target = Target {
        session: 1,
        epoch: 2,
        uid: "alice".parse().unwrap(),
        // What `send` stores comes from this device.
        device: String::new(),
        is_nameless: false,
        is_resumed: false,
        packing: Packing::default(),
    };
    let behind = Behind {
        uid: "alice".into(),
        device: String::new(),
        conversation_id: 1,
        name: "g:1".into(),
        after_seq: 0,
        last_seq: 3,
        archived_seq: 0,
    };
    let sent = Progress {
        seq: 9,
        is_sent: true,
        newest_id: 9,
    };
    for (earlier, cursors) in [
        (HashMap::new(), 1),
        (HashMap::from([(1, sent), (2, sent)]), 0),
    ] {
        let mut backlog = Backlog::new(&target, vec![behind.clone()], 1000);
        backlog.earlier = earlier.clone();
        assert!(backlog.next_page(&store).await.unwrap().is_empty());
        let reached = backlog.reached();
        assert_eq!(reached.cursors.len(), cursors);
        for (conversation, progress) in earlier {
            assert_eq!(reached.positions[&conversation], progress);
        }
    }
}
