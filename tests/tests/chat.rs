//! Two people talk: with the simplest clients, in both formats, over both versions of MQTT.

use anyhow::{Context, Result, ensure};
use schema::Format::{self, Json, Protobuf};
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::{Server, mosquitto, up};

use crate::support::text_of;

const HI: &str = r#"{"clientMsgId":"m1","send":{"to":{"user":"bob"},"text":"hi"}}"#;

/// `mosquitto_pub` and `mosquitto_sub` are complete chat clients.
#[tokio::test]
async fn mosquitto_clients_can_chat() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut bob = mosquitto::Subscriber::start(&server, "bob", "sub1", "imj/bob/down").await?;

    mosquitto::publish(&server, "alice", "pub1", "imj/alice/up", HI).await?;

    let down = bob.json().await?;
    let message = &down["message"];
    for (field, value) in [
        ("text", "hi"),
        ("kind", "text"),
        ("sender", "alice"),
        ("senderDevice", "pub1"),
        ("clientMsgId", "m1"),
        ("conversation", "u:alice:bob"),
    ] {
        assert_eq!(message[field], value, "{field} in {down}");
    }
    assert_eq!(message["seq"], 1, "{down}");
    assert!(message["msgId"].is_string(), "64 bits are text: {down}");
    assert!(message["sentAt"].is_string(), "times are text: {down}");
    server.finish().await
}

/// What is said in one format and over one version of MQTT is heard in every other.
#[tokio::test]
async fn every_pair_of_clients_understands_each_other() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let kinds = [(V4, Protobuf), (V4, Json), (V5, Protobuf), (V5, Json)];
    for from in kinds {
        for to in kinds {
            check_hears(&server, from, to)
                .await
                .with_context(|| format!("from {from:?} to {to:?}"))?;
        }
    }
    server.finish().await
}

async fn check_hears(
    server: &Server,
    from: (Version, Format),
    to: (Version, Format),
) -> Result<()> {
    let mut alice = server.client("alice").version(from.0).format(from.1);
    alice = alice.device("alice-laptop");
    let mut alice = alice.online().await?;
    let mut bob = server
        .client("bob")
        .version(to.0)
        .format(to.1)
        .online()
        .await?;

    let ok = alice.say(up::user("bob"), "hello, wörld ✉").await?;
    let heard = bob.message().await?;

    assert_eq!(text_of(&heard), "hello, wörld ✉");
    assert_eq!((heard.msg_id, heard.seq), (ok.msg_id, ok.seq));
    assert_eq!(heard.sender_device, "alice-laptop");
    // The next pair uses the same device of bob's, which must not get this message again.
    server_knows(&mut bob, &heard.conversation, heard.seq).await?;
    bob.disconnect().await?;
    alice.disconnect().await
}

async fn server_knows(bob: &mut tidings_tests::Client, conversation: &str, seq: u32) -> Result<()> {
    tidings_tests::eventually("bob's PUBACK has moved his cursor", async || {
        Ok(bob.position(conversation).await? >= seq)
    })
    .await
}

/// The sender is told where the message stands, by a reply on its own down topic.
#[tokio::test]
async fn the_sender_gets_a_reply() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").json().online().await?;
    let mut bob = server.client("bob").online().await?;

    for seq in 1..=3 {
        let ok = alice.say(up::user("bob"), "hi").await?;
        let heard = bob.message().await?;

        assert_eq!(ok.conversation, "u:alice:bob");
        assert_eq!(ok.seq, seq);
        assert!(ok.msg_id > 0);
        assert!(ok.sent_at.is_some());
        assert_eq!(
            (heard.msg_id, heard.seq, heard.sent_at),
            (ok.msg_id, ok.seq, ok.sent_at)
        );
    }
    // Both directions are one conversation.
    let ok = bob.say(up::user("alice"), "hi yourself").await?;
    assert_eq!((ok.conversation.as_str(), ok.seq), ("u:alice:bob", 4));
    server.finish().await
}

/// MQTT 5 request/response: the reply comes on the Response Topic with the Correlation Data.
#[tokio::test]
async fn a_request_gets_its_response() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").v5().online().await?;
    let down = alice.down_topic();

    for correlation in [b"first".as_slice(), b"\x00\xff\x01"] {
        let up = up::new(up::text(up::user("bob"), "hi"));
        let ticket = alice.request(&up, &down, correlation).await?;
        assert_eq!(alice.puback(ticket).await?, 0);
        let answer = alice.answer().await?;

        assert_eq!(answer.reply.client_msg_id, up.client_msg_id);
        assert_eq!(answer.correlation.as_deref(), Some(correlation));
    }
    server.finish().await
}

/// A body of bytes, a kind, mentions, and the sender's own counter are handed on unchanged.
#[tokio::test]
async fn everything_in_a_message_is_handed_on() -> Result<()> {
    use schema::v1::{Send, message, send, up::Command};

    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").v5().online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let first = alice.say(up::user("bob"), "look at this").await?;

    let bytes: Vec<u8> = (0..=255).collect();
    alice
        .tell(Command::Send(Send {
            to: Some(up::user("bob")),
            kind: "x.picture".into(),
            content: Some(send::Content::Body(bytes.clone().into())),
            reply_to: first.msg_id,
            mentions: vec!["bob".into()],
            client_seq: u64::MAX,
            ..Default::default()
        }))
        .await?;
    let heard = bob.messages(2).await?.remove(1);

    assert_eq!(heard.kind, "x.picture");
    assert_eq!(heard.content, Some(message::Content::Body(bytes.into())));
    assert_eq!(heard.reply_to, first.msg_id);
    assert_eq!(heard.mentions, ["bob"]);
    assert_eq!(heard.client_seq, u64::MAX);
    server.finish().await
}

/// A note to oneself is a conversation with one member, and reaches the other devices.
#[tokio::test]
async fn notes_to_oneself_reach_the_other_devices() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut phone = server.client("alice").online().await?;
    let mut tablet = server.client("alice").device("tablet").online().await?;

    let ok = phone.say(up::user("alice"), "buy milk").await?;
    let heard = tablet.message().await?;

    ensure!(ok.conversation == "u:alice:alice", "{ok:?}");
    assert_eq!(heard.msg_id, ok.msg_id);
    server.finish().await
}
