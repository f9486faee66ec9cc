//! Forwarding: one message keeps its author, several become one, and nobody forwards what he can't see.

use anyhow::{Context, Result};
use schema::v1::message::Content;
use schema::v1::up::Command;
use schema::v1::{Forward, Media, To, send};
use tidings_tests::{Server, up};

use crate::support::text_of;

fn forward(to: To, msg_ids: &[u64]) -> Command {
    let forward = Forward {
        msg_ids: msg_ids.to_vec(),
        title: "What they said".into(),
    };
    Command::Send(up::send(to, send::Content::Forward(forward)))
}

#[tokio::test]
async fn one_message_keeps_its_author() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").online().await?;
    let media = send::Content::Media(Media {
        url: "https://example.org/1".into(),
        mime: "audio/ogg".into(),
        ..Default::default()
    });
    let original = alice
        .tell(Command::Send(up::send(up::user("bob"), media)))
        .await?;
    bob.message().await?;

    let copy = bob
        .tell(forward(up::user("carol"), &[original.msg_id]))
        .await?;
    let heard = carol.message().await?;
    assert_eq!((heard.msg_id, heard.sender.as_str()), (copy.msg_id, "bob"));
    assert_eq!(heard.kind, "audio");
    let forwarded = heard.forwarded.as_ref().context("where it comes from")?;
    assert_eq!(forwarded.sender, "alice");
    assert_eq!(forwarded.sent_at, original.sent_at);
    let history = server.login("bob").await?.history("u:bob:carol").await?;
    assert_eq!(history, std::slice::from_ref(&heard));

    // Handed on once more it is still alice's; and it is nobody else's to edit.
    carol
        .tell(forward(up::user("alice"), &[copy.msg_id]))
        .await?;
    let back = alice.message().await?;
    assert_eq!(back.forwarded, heard.forwarded);
    assert_eq!(back.content, heard.content);
    let code = bob.tell_in_vain(up::edit(copy.msg_id, "mine")).await?;
    assert_eq!(code, "permission_denied");
    server.finish().await
}

#[tokio::test]
async fn several_messages_become_one() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").json().online().await?;
    let mut ids = Vec::new();
    for number in 1..=3 {
        let said = alice.say(up::user("bob"), &format!("a{number}")).await?;
        ids.push(said.msg_id);
        ids.push(
            bob.say(up::user("alice"), &format!("b{number}"))
                .await?
                .msg_id,
        );
    }
    bob.tell(forward(up::user("carol"), &ids)).await?;
    let heard = carol.message().await?;
    assert_eq!(heard.kind, "merged");
    let Some(Content::Merged(merged)) = &heard.content else {
        anyhow::bail!("not merged: {heard:?}");
    };
    assert_eq!(merged.title, "What they said");
    let said: Vec<(&str, &str)> = merged
        .messages
        .iter()
        .map(|copy| (copy.sender.as_str(), text_of(copy)))
        .collect();
    let expected = [
        ("alice", "a1"),
        ("bob", "b1"),
        ("alice", "a2"),
        ("bob", "b2"),
        ("alice", "a3"),
        ("bob", "b3"),
    ];
    assert_eq!(said, expected);
    let history = server.login("carol").await?.history("u:bob:carol").await?;
    assert_eq!(history, [heard]);
    // The copy stays when an original goes.
    alice.tell(up::recall(ids[0])).await?;
    let again = server.login("carol").await?.history("u:bob:carol").await?;
    assert_eq!(again, history);
    server.finish().await
}

/// What the caller can't see is not told apart from what does not exist; what is gone can't be copied.
#[tokio::test]
async fn only_what_one_sees_is_forwarded() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let mut carol = server.client("carol").online().await?;
    let secret = alice.say(up::user("bob"), "secret").await?.msg_id;
    let large = "x".repeat(60 * 1024);
    let mut many = Vec::new();
    for _ in 0..5 {
        many.push(alice.say(up::user("bob"), &large).await?.msg_id);
    }
    let gone = alice.say(up::user("bob"), "gone").await?.msg_id;
    alice.tell(up::recall(gone)).await?;

    for (who, ids, code) in [
        ("carol", vec![secret], "not_found"),
        ("carol", vec![4711], "not_found"),
        ("bob", vec![secret, 4711], "not_found"),
        ("bob", vec![gone], "conflict"),
        ("bob", vec![secret, gone], "conflict"),
        ("bob", vec![], "invalid_argument"),
        ("bob", vec![secret, secret], "invalid_argument"),
        ("bob", (1..=101).collect(), "too_large"),
        ("bob", many, "too_large"),
    ] {
        let client = if who == "bob" { &mut bob } else { &mut carol };
        let command = forward(up::user("alice"), &ids);
        let found = client.tell_in_vain(command).await?;
        assert_eq!(found, code, "{who} {ids:?}");
    }
    let history = server.login("alice").await?.conversations().await?;
    assert_eq!(history.len(), 1, "nothing came of them: {history:?}");
    server.finish().await
}
