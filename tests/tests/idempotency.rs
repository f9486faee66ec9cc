//! The same command again is the same answer again.

use std::collections::BTreeSet;

use anyhow::Result;
use schema::v1::Ok as Answer;
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::{Server, client::error_of, client::ok_of, up};

use crate::support::{ensure_silence, introduce};

/// One `client_msg_id`, sent five times over reconnects, MQTT 3.1.1, MQTT 5 and HTTP, is one message with one answer.
#[tokio::test]
async fn a_repeated_command_is_done_once() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut bob = server.client("bob").online().await?;
    let api = server.login("alice").await?;
    let up = up::with_id("only-once", up::text(up::user("bob"), "hi"));

    let mut answers: Vec<Answer> = Vec::new();
    for version in [V4, V5, V4] {
        let mut alice = server.client("alice").version(version).online().await?;
        answers.push(ok_of(alice.ask(&up).await?)?);
        alice.drop_connection().await;
    }
    answers.push(api.up(&up).await?);
    let mut other_device = server
        .client("alice")
        .device("tablet")
        .json()
        .online()
        .await?;
    answers.push(ok_of(other_device.ask(&up).await?)?);

    assert_eq!(answers, vec![answers[0].clone(); 5]);
    assert_eq!(bob.message().await?.msg_id, answers[0].msg_id);
    ensure_silence(&mut bob, "bob", &mut other_device).await?;
    assert_eq!(
        api.history("u:alice:bob").await?.len(),
        2,
        "and the sentinel"
    );
    server.finish().await
}

/// Copies that are under way at the same time are one message, too.
#[tokio::test]
async fn copies_in_one_window_are_done_once() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let up = up::with_id("only-once", up::text(up::user("bob"), "hi"));

    for _ in 0..20 {
        alice.publish(&up).await?;
    }
    let first = ok_of(alice.reply_to("only-once").await?)?;
    for _ in 1..20 {
        assert_eq!(ok_of(alice.reply_to("only-once").await?)?, first);
    }
    let api = server.login("alice").await?;
    assert_eq!(api.history("u:alice:bob").await?.len(), 1);
    server.finish().await
}

/// The first answer counts, also for one who could not send it again; and an answer to a group command is one to a
/// message with the same id.
#[tokio::test]
async fn a_first_answer_counts_whatever_has_changed_since() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let create = up::with_id("c1", up::group_create("team", &["bob"]));
    let created = ok_of(alice.ask(&create).await?)?;
    let sent = up::with_id("m1", up::text(up::group("team"), "hi"));
    let first = ok_of(bob.ask(&sent).await?)?;
    bob.tell(up::group_leave("team")).await?;

    let other = up::with_id("m2", up::text(up::group("team"), "hi"));
    assert_eq!(error_of(bob.ask(&other).await?)?, "permission_denied");
    assert_eq!(ok_of(bob.ask(&sent).await?)?, first);
    let elsewhere = up::with_id("m1", up::text(up::user("nobody"), "hi"));
    assert_eq!(ok_of(bob.ask(&elsewhere).await?)?, first);
    let as_message = up::with_id("c1", up::text(up::group("team"), "hi"));
    assert_eq!(ok_of(alice.ask(&as_message).await?)?, created);
    // The message, and that bob has left.
    assert_eq!(
        server.login("alice").await?.history("g:team").await?.len(),
        2
    );
    server.finish().await
}

/// A `client_msg_id` belongs to its user: the same one from another user is another message. Without one, every
/// delivery is new.
#[tokio::test]
async fn ids_belong_to_their_user() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut carol = server.client("carol").online().await?;
    let same = up::with_id("m1", up::text(up::user("bob"), "hi"));
    let nameless = up::with_id("", up::text(up::user("bob"), "hi"));

    let of_alice = ok_of(alice.ask(&same).await?)?;
    let of_carol = ok_of(carol.ask(&same).await?)?;
    assert_ne!(of_alice.msg_id, of_carol.msg_id);

    let seqs = [
        ok_of(alice.ask(&nameless).await?)?.seq,
        ok_of(alice.ask(&nameless).await?)?.seq,
    ];
    assert_eq!(seqs, [2, 3]);
    server.finish().await
}

/// Ids are the same byte by byte, or not at all: capitals make another, and spaces at the end.
#[tokio::test]
async fn ids_that_look_alike_are_different() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let text = || up::text(up::user("bob"), "hi");
    let mut answers = BTreeSet::new();
    for id in ["m", "m ", "m  ", "M", "m"] {
        let reply = alice.ask(&up::with_id(id, text())).await?;
        answers.insert(ok_of(reply)?.msg_id);
    }
    assert_eq!(answers.len(), 4, "the last one is the first one again");
    for device in ["phone", "phone ", "Phone", "phone"] {
        introduce(server.client("bob").device(device)).await?;
    }
    let devices = server.login("bob").await?.get("/v1/devices").await?;
    let devices = devices.expect(200)?;
    let known = devices["devices"].as_array().map(Vec::len);
    assert_eq!(known, Some(3), "{devices}");
    server.finish().await
}
