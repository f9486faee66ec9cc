//! Who has received and read a message: told to its sender, and answered when asked.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use schema::v1::event::Event;
use schema::v1::ok::Answer;
use schema::v1::{self, Receipts};
use serde_json::{Value, json};
use tidings_tests::{Api, Client, Server, eventually, up};
use tokio::time::Instant;

use crate::support::say_many;

/// How far a user is: delivered, and read.
type Position = (u32, u32);

/// Listens until every one of these users is told to be there.
async fn until_told(client: &mut Client, expected: &[(&str, Position)]) -> Result<usize> {
    let mut told: BTreeMap<String, Position> = BTreeMap::new();
    let mut events = 0;
    let is_there = |told: &BTreeMap<String, Position>| {
        let mut expected = expected.iter();
        expected.all(|(uid, position)| told.get(*uid) == Some(position))
    };
    while !is_there(&told) {
        let waiting = client.event("a receipt", receipts_of).await;
        let receipts = waiting.with_context(|| format!("so far {told:?}"))?;
        events += 1;
        for member in receipts.members {
            let position = (member.delivered_seq, member.read_seq);
            let before = told.insert(member.uid, position).unwrap_or_default();
            ensure!(
                before.0 <= position.0 && before.1 <= position.1,
                "a step back"
            );
        }
    }
    Ok(events)
}

fn receipts_of(event: &Event) -> Option<Receipts> {
    match event {
        Event::Receipts(receipts) => Some(receipts.clone()),
        _ => None,
    }
}

/// What asking tells: each member with where it is.
async fn asked(client: &mut Client, msg_id: u64) -> Result<Vec<(String, u32, u32)>> {
    let answer = client.tell(up::get_receipts(msg_id)).await?.answer;
    let Some(Answer::Receipts(receipts)) = answer else {
        anyhow::bail!("no receipts: {answer:?}");
    };
    assert_eq!(receipts.msg_id, msg_id);
    let row = |member: &v1::Receipt| {
        let uid = member.uid.clone();
        (uid, member.delivered_seq, member.read_seq)
    };
    Ok(receipts.members.iter().map(row).collect())
}

async fn view(api: &Api, msg_id: u64) -> Result<Value> {
    let path = format!("/v1/messages/{msg_id}/receipts");
    api.get(&path).await?.expect(200)
}

/// Both of the sender's devices hear that the message has come and is read, whichever device does it; and only the
/// sender may ask.
#[tokio::test]
async fn a_sender_learns_how_far_a_message_is() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let tablet = server.client("alice").device("tablet").json();
    let mut tablet = tablet.online().await?;
    let sent = alice.say(up::user("bob"), "hi").await?;
    assert_eq!(
        asked(&mut alice, sent.msg_id).await?,
        [("bob".into(), 0, 0)]
    );

    let mut phone = server.client("bob").json().online().await?;
    let mut laptop = server.client("bob").device("laptop").online().await?;
    for device in [&mut alice, &mut tablet] {
        until_told(device, &[("bob", (1, 0))]).await?;
    }
    assert_eq!(
        asked(&mut tablet, sent.msg_id).await?,
        [("bob".into(), 1, 0)]
    );
    laptop.tell(up::read("u:alice:bob", 1)).await?;
    for device in [&mut alice, &mut tablet] {
        until_told(device, &[("bob", (1, 1))]).await?;
    }
    let api = server.login("alice").await?;
    let expected = json!({
        "msgId": sent.msg_id.to_string(), "conversation": "u:alice:bob", "seq": 1,
        "read": ["bob"], "unread": [], "delivered": ["bob"],
        "readCount": 1, "unreadCount": 0, "deliveredCount": 1,
    });
    assert_eq!(view(&api, sent.msg_id).await?, expected);

    // Somebody else's message looks like none.
    let nothing = phone.ask(&up::with_id("x", up::get_receipts(1))).await?;
    let others = phone
        .ask(&up::with_id("x", up::get_receipts(sent.msg_id)))
        .await?;
    assert_eq!(others, nothing);
    for uid in ["bob", "carol"] {
        let api = server.login(uid).await?;
        for id in [sent.msg_id.to_string(), "1".into(), "nonsense".into()] {
            let answer = api.get(&format!("/v1/messages/{id}/receipts")).await?;
            answer.problem(404, "not_found")?;
        }
    }
    server.finish().await
}

/// A message is for those who were members when it was sent: who comes later does not count. One event holds several
/// members, and goes to those who have written.
#[tokio::test]
async fn a_group_tells_who_has_read() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol", "dave"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    let first = alice.say(up::group("team"), "first").await?;
    alice.tell(up::group_add("team", &["dave"])).await?;
    let mut dave = server.client("dave").online().await?;
    let second = alice.say(up::group("team"), "second").await?;
    // The message between them tells that dave has come.
    dave.messages(2).await?;
    bob.messages(3).await?;
    bob.tell(up::read("g:team", 1)).await?;
    let expected = [("bob", (3, 1)), ("carol", (3, 0)), ("dave", (3, 1))];
    until_told(&mut alice, &expected).await?;

    let row = |uid: &str, read: u32| (uid.to_owned(), 3, read);
    let of_first = asked(&mut alice, first.msg_id).await?;
    assert_eq!(of_first, [row("bob", 1), row("carol", 0)]);
    let of_second = asked(&mut alice, second.msg_id).await?;
    assert_eq!(of_second, [row("bob", 1), row("carol", 0), row("dave", 1)]);
    let api = server.login("alice").await?;
    let of_first = view(&api, first.msg_id).await?;
    assert_eq!(
        (&of_first["read"], &of_first["unread"]),
        (&json!(["bob"]), &json!(["carol"]))
    );
    assert_eq!(of_first["deliveredCount"], 2);

    // Only who has written what was reached hears of it.
    let third = bob.say(up::group("team"), "third").await?;
    carol.messages(4).await?;
    carol.tell(up::read("g:team", third.seq)).await?;
    until_told(&mut bob, &[("carol", (4, 4))]).await?;
    until_told(&mut alice, &[("carol", (4, 4))]).await?;
    let heard = dave.events_so_far();
    assert!(
        !heard.iter().any(|event| receipts_of(event).is_some()),
        "{heard:?}"
    );
    // Out of the group, one's own messages are nobody's any more.
    bob.tell(up::group_leave("team")).await?;
    let code = bob.tell_in_vain(up::get_receipts(third.msg_id)).await?;
    assert_eq!(code, "not_found");
    server.finish().await
}

/// Who does not tell how far he has read tells it nobody: not live, not when asked, and not in the list of members.
#[tokio::test]
async fn reading_can_be_kept_to_oneself() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    server
        .sql("UPDATE users SET read_receipts = FALSE WHERE uid = 'bob'")
        .await?;
    let mut alice = server.client("alice").json().online().await?;
    let mut bob = server.client("bob").online().await?;
    let mut carol = server.client("carol").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    let sent = alice.say(up::group("team"), "hi").await?;
    bob.message().await?;
    carol.message().await?;
    bob.tell(up::read("g:team", 1)).await?;
    carol.tell(up::read("g:team", 1)).await?;
    until_told(&mut alice, &[("bob", (1, 0)), ("carol", (1, 1))]).await?;
    let rows = asked(&mut alice, sent.msg_id).await?;
    assert_eq!(rows, [("bob".into(), 1, 0), ("carol".into(), 1, 1)]);

    let last_read = async |uid: &str| -> Result<Value> {
        let member = server.login(uid).await?.member("team", "bob").await?;
        Ok(member["lastReadSeq"].clone())
    };
    assert_eq!(
        (last_read("alice").await?, last_read("bob").await?),
        (json!(0), json!(1))
    );
    // He sees the others' all the same.
    let own = bob.say(up::group("team"), "hello").await?;
    carol.message().await?;
    carol.tell(up::read("g:team", own.seq)).await?;
    until_told(&mut bob, &[("carol", (2, 2))]).await?;
    server.finish().await
}

/// Many members who read many messages one by one are few events: as many as half seconds have passed.
#[tokio::test]
async fn many_readings_are_few_events() -> Result<()> {
    const MESSAGES: u32 = 20;
    let readers: Vec<String> = (1..=12).map(|number| format!("reader-{number}")).collect();
    let readers: Vec<&str> = readers.iter().map(String::as_str).collect();
    let server = Server::with_users(&[&["alice"][..], &readers].concat()).await?;
    let mut alice = server.client("alice").online().await?;
    alice.tell(up::group_create("team", &readers)).await?;
    let last = say_many(&mut alice, &up::group("team"), MESSAGES).await?;

    let started = Instant::now();
    let mut reading = tokio::task::JoinSet::new();
    for uid in &readers {
        let device = server.client(uid);
        reading.spawn(async move {
            let mut device = device.online().await?;
            device.messages(MESSAGES as usize).await?;
            for seq in 1..=MESSAGES {
                device.tell(up::read("g:team", seq)).await?;
            }
            device.disconnect().await
        });
    }
    while let Some(read) = reading.join_next().await {
        read??;
    }
    let expected = readers.iter().map(|uid| (*uid, (MESSAGES, MESSAGES)));
    let events = until_told(&mut alice, &expected.collect::<Vec<_>>()).await?;
    let halves = started.elapsed().as_millis() / Duration::from_millis(500).as_millis();
    ensure!(
        events as u128 <= halves + 2,
        "{events} events in {halves} half seconds"
    );

    let api = server.login("alice").await?;
    eventually("all have read the last one", async || {
        Ok(view(&api, last.msg_id).await?["readCount"] == readers.len())
    })
    .await?;
    server.finish().await
}
