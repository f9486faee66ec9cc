//! Messages that disappear: for everybody, at their time, whether the server was running then or not.

use anyhow::{Result, ensure};
use schema::v1::up::Command;
use schema::v1::{Message, Send, send};
use tidings_tests::{Server, eventually, up};

use crate::operations::changed;
use crate::support::text_of;

fn expiring(secs: u32, text: &str) -> Command {
    Command::Send(Send {
        expires_in_secs: secs,
        mentions: vec!["bob".into()],
        ..up::send(up::user("bob"), send::Content::Text(text.into()))
    })
}

fn ensure_expired(message: &Message) -> Result<()> {
    let is_blank = message.content.is_none() && message.mentions.is_empty();
    ensure!(message.gone == "expired" && is_blank, "{message:?}");
    Ok(())
}

#[tokio::test]
async fn a_message_disappears_at_its_time() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    // What comes later must not keep the task from what is earlier.
    alice.tell(expiring(3600, "stays for long")).await?;
    let sent = alice.tell(expiring(1, "soon gone")).await?;
    alice.say(up::user("bob"), "stays").await?;
    let heard = bob.messages(3).await?;
    assert_eq!(text_of(&heard[1]), "soon gone");
    ensure!(heard[1].expires_at.is_some(), "{:?}", heard[1]);

    for device in [&mut alice, &mut bob] {
        let left = changed(device).await?;
        assert_eq!((left.msg_id, left.seq), (sent.msg_id, 2));
        ensure_expired(&left)?;
    }
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    assert_eq!(text_of(&history[0]), "stays for long");
    ensure_expired(&history[1])?;
    assert_eq!(text_of(&history[2]), "stays");
    for command in [
        up::edit(sent.msg_id, "again"),
        up::react(sent.msg_id, "👍", false),
        up::recall(sent.msg_id),
    ] {
        assert_eq!(alice.tell_in_vain(command).await?, "conflict");
    }
    server.finish().await
}

/// What runs out while the server is down is gone when it is back, and its devices hear of it when they catch up.
#[tokio::test]
async fn what_ran_out_meanwhile_is_gone() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    server.client("bob").online().await?.disconnect().await?;
    let mut alice = server.client("alice").online().await?;
    for number in 1..=3 {
        alice.tell(expiring(1, &format!("number {number}"))).await?;
    }
    server.kill().await?;
    server.restart().await?;
    let api = server.login("alice").await?;
    eventually("all have disappeared", async || {
        let history = api.history("u:alice:bob").await?;
        Ok(history.iter().all(|message| message.gone == "expired"))
    })
    .await?;
    let mut bob = server.client("bob").online().await?;
    for message in bob.messages(3).await? {
        ensure_expired(&message)?;
    }
    server.finish().await
}
