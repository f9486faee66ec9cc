use super::*;
use crate::code::Code;
use crate::service::search::tests::Fixture;

fn asked(kinds: &[&str]) -> v1::GetMedia {
    v1::GetMedia {
        conversation: "g:g".to_owned(),
        kinds: kinds.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

async fn batch(fixture: &Fixture, uid: &str, asked: v1::GetMedia) -> v1::Batch {
    let asked = check(asked).unwrap();
    let ok = page(&fixture.store, &uid.parse().unwrap(), &asked).await;
    *ok.unwrap().unwrap().batch.unwrap()
}

async fn seqs(fixture: &Fixture, uid: &str, asked: v1::GetMedia) -> Vec<u32> {
    let batch = batch(fixture, uid, asked).await;
    assert!(!batch.more);
    batch.messages.iter().map(|message| message.seq).collect()
}

/// A group of alice and bob, which bob sees from seq 4 on, with media of all kinds.
async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.say(3, "alice", 1, &["a caption"; 9]).await;
    let attachments = "INSERT INTO attachments (conversation_id, seq, kind)
        VALUES (3, 2, 'image'), (3, 4, 'video'), (3, 5, 'image'), (3, 6, 'file'), (3, 8, 'audio'), (3, 9, 'image')";
    fixture.execute(attachments).await;
    fixture
}

#[tokio::test]
async fn a_page_is_what_was_asked_for() {
    let fixture = fixture().await;
    let all = seqs(&fixture, "alice", asked(&[])).await;
    assert_eq!(all, [9, 8, 6, 5, 4, 2]);
    let images = asked(&["image", "image"]);
    assert_eq!(seqs(&fixture, "alice", images).await, [9, 5, 2]);
    let older = v1::GetMedia {
        before_seq: 6,
        ..asked(&["image", "file"])
    };
    assert_eq!(seqs(&fixture, "alice", older).await, [5, 2]);
    let newest = v1::GetMedia {
        limit: 2,
        ..asked(&[])
    };
    let newest = batch(&fixture, "alice", newest).await;
    assert!(newest.more);
    assert_eq!((newest.messages.len(), newest.last_seq), (2, 9));
    assert_eq!(newest.messages[1].conversation, "g:g");
}

#[tokio::test]
async fn what_a_user_may_not_see_is_left_out() {
    let fixture = fixture().await;
    for text in [
        "UPDATE messages SET state = 2 WHERE seq = 5",
        "UPDATE messages SET hidden_from = 'bob' WHERE seq = 6",
        "INSERT INTO hidden_messages (uid, conversation_id, seq) VALUES ('bob', 3, 8)",
    ] {
        fixture.execute(text).await;
    }
    assert_eq!(seqs(&fixture, "bob", asked(&[])).await, [9, 4]);
    assert_eq!(seqs(&fixture, "alice", asked(&[])).await, [9, 8, 6, 4, 2]);
    let stranger = check(asked(&[])).unwrap();
    let refused = page(&fixture.store, &"carol".parse().unwrap(), &stranger).await;
    assert_eq!(refused.unwrap().unwrap_err().code, Code::NotFound);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for bad in [
        asked(&["text"]),
        v1::GetMedia {
            limit: 501,
            ..asked(&[])
        },
        v1::GetMedia {
            conversation: "g".to_owned(),
            ..asked(&[])
        },
    ] {
        assert!(check(bad.clone()).is_err(), "{bad:?}");
    }
}
