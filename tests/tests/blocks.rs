//! Blocks and strangers: who may write to whom, and what the one who may not learns of it.

use anyhow::{Result, ensure};
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::v1::{GetContacts, SettingsSet, event::Event};
use serde_json::{Value, json};
use tidings_tests::{Client, Server, ask, up};

use crate::support::{ensure_silence, text_of};

const DENIED: &str = "permission_denied";

/// How the user has blocked the one contact.
async fn blocked(client: &mut Client, uid: &str) -> Result<Option<String>> {
    let command = Command::GetContacts(GetContacts {
        blocked: true,
        ..Default::default()
    });
    let Some(Answer::Contacts(list)) = client.tell(command).await?.answer else {
        anyhow::bail!("no list of contacts");
    };
    let mut contacts = list.contacts.into_iter();
    Ok(contacts
        .find(|contact| contact.uid == uid)
        .map(|contact| contact.blocked))
}

fn strangers(allowed: bool) -> Command {
    ask::settings(SettingsSet {
        strangers: Some(allowed),
        ..Default::default()
    })
}

fn hi(uid: &str) -> Command {
    up::text(up::user(uid), "hi")
}

/// A blocked user is refused, the one who blocks has to unblock first, and then everything is as before.
#[tokio::test]
async fn a_blocked_user_is_refused() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut tablet = server
        .client("alice")
        .device("tablet")
        .json()
        .online()
        .await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").online().await?;
    // The conversation is known and in use, and one is not there yet.
    bob.say(up::user("alice"), "before").await?;
    alice.message().await?;
    for uid in ["bob", "carol"] {
        alice.tell(ask::block(uid, false)).await?;
        let is_it = |event: &Event| match event {
            Event::Contact(contact) if contact.uid == uid => Some(contact.blocked.clone()),
            _ => None,
        };
        assert_eq!(tablet.event("the block", is_it).await?, "refuse");
    }
    assert_eq!(blocked(&mut alice, "bob").await?.as_deref(), Some("refuse"));
    for client in [&mut bob, &mut carol] {
        assert_eq!(client.tell_in_vain(hi("alice")).await?, DENIED);
    }
    assert_eq!(alice.tell_in_vain(hi("bob")).await?, "conflict");
    let heard = bob.events_so_far();
    ensure!(heard.is_empty(), "bob learns of the block: {heard:?}");
    // Notes to oneself, and others, are no concern of it.
    alice.say(up::user("alice"), "a note").await?;
    bob.say(up::user("carol"), "hi").await?;
    tablet.message().await?;

    alice.tell(ask::unblock("bob")).await?;
    assert_eq!(blocked(&mut alice, "bob").await?, None);
    let said = bob.say(up::user("alice"), "after").await?;
    assert_eq!(said.seq, 2);
    assert_eq!(text_of(&alice.message().await?), "after");
    alice.say(up::user("bob"), "hi").await?;
    server.finish().await
}

/// What is said to somebody who has blocked silently seems to be sent, reaches nobody, and is never unread.
#[tokio::test]
async fn a_silenced_user_notices_nothing() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").json().online().await?;
    let mut bob = server.client("bob").online().await?;
    let mut laptop = server
        .client("bob")
        .device("laptop")
        .json()
        .online()
        .await?;
    bob.say(up::user("alice"), "heard").await?;
    assert_eq!(text_of(&alice.message().await?), "heard");
    laptop.message().await?;

    alice.tell(ask::block("bob", true)).await?;
    for (number, seq) in [(1, 2), (2, 3)] {
        let said = bob
            .say(up::user("alice"), &format!("unheard {number}"))
            .await?;
        assert_eq!(said.seq, seq);
        assert_eq!(laptop.message().await?.seq, seq);
    }
    ensure_silence(
        &mut alice,
        "alice",
        &mut server.client("alice").device("other").online().await?,
    )
    .await?;
    let api = server.login("alice").await?;
    let unread = async || -> Result<Value> {
        let conversations = api.conversations().await?;
        let found = conversations
            .into_iter()
            .find(|conversation| conversation["conversation"] == "u:alice:bob");
        Ok(found.unwrap_or_default()["unread"].clone())
    };
    assert_eq!(unread().await?, 1);
    let read = alice.tell(up::read("u:alice:bob", 1)).await?;
    assert_eq!((read.seq, unread().await?), (1, json!(0)));

    alice.tell(ask::unblock("bob")).await?;
    bob.say(up::user("alice"), "heard again").await?;
    let heard = alice.message().await?;
    assert_eq!((heard.seq, text_of(&heard)), (4, "heard again"));
    assert_eq!(unread().await?, 1);
    alice.tell(up::read("u:alice:bob", 4)).await?;
    assert_eq!(unread().await?, 0);
    server.finish().await
}

/// Neither history nor catch-up shows what was said in silence to the one who did not want to hear it; to its sender
/// they do.
#[tokio::test]
async fn silence_holds_for_history() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let (alice, bob) = (server.login("alice").await?, server.login("bob").await?);
    let mut phone = server.client("bob").online().await?;
    phone.say(up::user("alice"), "heard").await?;
    alice
        .put("/v1/blocks/bob", &json!({ "silent": true }))
        .await?
        .expect(204)?;
    phone.say(up::user("alice"), "unheard").await?;
    alice.delete("/v1/blocks/bob").await?.expect(204)?;
    phone.say(up::user("alice"), "heard again").await?;
    let texts = async |api: &tidings_tests::Api| -> Result<Vec<String>> {
        let history = api.history("u:alice:bob").await?;
        Ok(history
            .iter()
            .map(|message| text_of(message).to_owned())
            .collect())
    };
    assert_eq!(texts(&alice).await?, ["heard", "heard again"]);
    assert_eq!(texts(&bob).await?.len(), 3);
    let mut back = server.client("alice").online().await?;
    let caught_up = back.messages(2).await?;
    assert_eq!(text_of(&caught_up[1]), "heard again");
    server.finish().await
}

/// Who takes nothing from strangers is reached by contacts alone, and a stranger can't tell it from a block.
#[tokio::test]
async fn strangers_are_kept_out() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol", "dave"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").online().await?;
    for client in [&mut bob, &mut carol] {
        client.say(up::user("alice"), "hi").await?;
        alice.message().await?;
    }
    alice.tell(strangers(false)).await?;
    let strange = carol.ask(&up::new(hi("alice"))).await?;
    alice.tell(ask::block("bob", false)).await?;
    let blocked = bob.ask(&up::new(hi("alice"))).await?;
    assert_eq!(strange.result, blocked.result);
    assert_eq!(tidings_tests::client::error_of(strange)?, DENIED);
    // Silence makes a stranger no welcome guest.
    alice.tell(ask::block("bob", true)).await?;
    assert_eq!(bob.tell_in_vain(hi("alice")).await?, DENIED);
    // What is refused leaves nothing behind.
    let mut dave = server.client("dave").online().await?;
    assert_eq!(dave.tell_in_vain(hi("alice")).await?, DENIED);
    let known = async |uid: &str| -> Result<usize> {
        let conversations = server.login(uid).await?.conversations().await?;
        Ok(conversations.len())
    };
    assert_eq!((known("dave").await?, known("alice").await?), (0, 2));
    // The other direction is alice's own choice.
    alice.say(up::user("carol"), "it's me").await?;
    carol.message().await?;

    carol.tell(ask::contact_request("alice")).await?;
    assert_eq!(carol.tell_in_vain(hi("alice")).await?, DENIED);
    alice.tell(ask::contact_accept("carol")).await?;
    carol.say(up::user("alice"), "thanks").await?;
    assert_eq!(text_of(&alice.message().await?), "thanks");
    alice.tell(ask::contact_remove("carol")).await?;
    assert_eq!(carol.tell_in_vain(hi("alice")).await?, DENIED);
    alice.tell(strangers(true)).await?;
    carol.say(up::user("alice"), "hi").await?;
    server.finish().await
}

/// A blocked user's request seems to be sent, and is not; a block ends one that waits; contacts stay contacts.
#[tokio::test]
async fn blocks_and_requests() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").online().await?;
    let state = |ok: schema::v1::Ok| match ok.answer {
        Some(Answer::Contact(contact)) => contact.state,
        _ => "no contact".to_owned(),
    };
    alice.tell(ask::block("bob", false)).await?;
    let asked = bob.tell(ask::contact_request("alice")).await?;
    assert_eq!(state(asked), "requested");
    assert_eq!(
        alice.tell_in_vain(ask::contact_accept("bob")).await?,
        "not_found"
    );
    assert_eq!(
        alice.tell_in_vain(ask::contact_request("bob")).await?,
        "conflict"
    );
    let heard = alice.events_so_far();
    ensure!(heard.is_empty(), "alice hears of the request: {heard:?}");

    carol.tell(ask::contact_request("alice")).await?;
    let ended = alice.tell(ask::block("carol", false)).await?;
    assert_eq!(state(ended), "none");
    assert_eq!(
        alice.tell_in_vain(ask::contact_accept("carol")).await?,
        "not_found"
    );
    alice.tell(ask::unblock("carol")).await?;
    let both = alice.tell(ask::contact_request("carol")).await?;
    assert_eq!(state(both), "contact");
    let still = alice.tell(ask::block("carol", true)).await?;
    assert_eq!(state(still), "contact");
    server.finish().await
}

/// Blocks over HTTP, and what a message under an earlier id is answered.
#[tokio::test]
async fn blocks_over_http() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let (alice, bob) = (server.login("alice").await?, server.login("bob").await?);
    let first = up::new(hi("alice"));
    let sent = bob.up(&first).await?;
    alice.put("/v1/blocks/bob", &json!({})).await?.expect(204)?;
    let list = alice.get("/v1/blocks").await?.expect(200)?;
    assert_eq!(list["contacts"][0]["blocked"], "refuse");
    assert_eq!(list["contacts"][0]["uid"], "bob");
    // The first answer counts, also for what would no longer be allowed.
    assert_eq!(bob.up(&first).await?, sent);
    let refused = serde_json::to_value(up::new(hi("alice")))?;
    bob.post("/v1/up", &refused).await?.problem(403, DENIED)?;
    alice
        .put("/v1/blocks/bob", &json!({ "silent": true }))
        .await?
        .expect(204)?;
    assert_eq!(bob.up(&up::new(hi("alice"))).await?.seq, 2);
    alice.delete("/v1/blocks/bob").await?.expect(204)?;
    let list = alice.get("/v1/blocks").await?.expect(200)?;
    assert!(list.get("contacts").is_none(), "{list}");
    alice
        .put("/v1/blocks/nobody", &json!({}))
        .await?
        .problem(404, "not_found")?;
    server.finish().await
}

/// Blocks hold after a restart.
#[tokio::test]
async fn blocks_survive_a_restart() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.tell(ask::block("bob", false)).await?;
    server.kill().await?;
    server.restart().await?;
    let mut bob = server.client("bob").online().await?;
    assert_eq!(bob.tell_in_vain(hi("alice")).await?, DENIED);
    server.finish().await
}
