//! Who may do what: nobody reaches another's topics, session or account.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidings_tests::client::Builder;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::password_of;
use tidings_tests::{Server, up};

const VERSIONS: [Version; 2] = [V4, V5];
const NOT_AUTHORIZED: u8 = 0x87;

/// Nobody publishes as somebody else, or what only the server publishes: PUBACK 0x87 in MQTT 5; in 3.1.1
/// acknowledged and dropped.
#[tokio::test]
async fn foreign_topics_take_no_publish() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let forged = r#"{"send":{"to":{"user":"carol"},"text":"I am bob"}}"#;
    let topics = [
        "im/bob/up",
        "imj/bob/up",
        "im/bob/down",
        "imj/bob/down",
        "im/alice/down",
        "imj/alice/down",
        "anything",
        "$SYS/broker/version",
    ];
    for version in VERSIONS {
        let mut alice = server.client("alice").version(version).online().await?;
        for topic in topics {
            let ticket = alice.publish_to(topic, forged.into()).await?;
            let code = alice.puback(ticket).await.context(topic)?;
            let expected = match version {
                V4 => 0,
                V5 => NOT_AUTHORIZED,
            };
            assert_eq!(code, expected, "{topic} in {version:?}");
        }
        alice.say(up::user("alice"), "still connected").await?;
        alice.disconnect().await?;
    }
    for uid in ["bob", "carol"] {
        let conversations = server.login(uid).await?.conversations().await?;
        assert!(conversations.is_empty(), "{uid}: {conversations:?}");
    }
    server.finish().await
}

/// Nobody listens to anything but the user's own down topics: SUBACK 0x80 in 3.1.1, 0x87 in MQTT 5.
#[tokio::test]
async fn foreign_topics_take_no_subscriber() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let filters = [
        "im/bob/down",
        "imj/bob/down",
        "im/+/down",
        "+/+/down",
        "+/bob/down",
        "im/#",
        "#",
        "+/#",
        "$share/x/im/bob/down",
        "$share/x/#",
        "im/alice/up",
        "im/bob/up",
        "$SYS/#",
    ];
    for version in VERSIONS {
        let mut alice = server.client("alice").version(version).connect().await?;
        for filter in filters {
            let codes = alice.subscribe(filter).await.context(filter)?;
            let expected = match version {
                V4 => 0x80,
                V5 => NOT_AUTHORIZED,
            };
            assert_eq!(codes, [expected], "{filter} in {version:?}");
        }
        // None of them has opened a back door: alice hears nothing of what bob is told.
        alice.subscribe_down().await?;
        let mut bob = server.client("bob").online().await?;
        bob.say(up::user("bob"), "a secret").await?;
        crate::support::ensure_silence(&mut alice, "alice", &mut bob).await?;
        alice.disconnect().await?;
    }
    server.finish().await
}

/// A client id is private to its user: two users with the same one live side by side.
#[tokio::test]
async fn client_ids_belong_to_their_user() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    for version in VERSIONS {
        let device = |uid: &str| server.client(uid).version(version).device("phone");
        let mut bob = device("bob").online().await?;
        let mut alice = device("alice").online().await?;

        let sent = alice.say(up::user("bob"), "same id, two devices").await?;
        assert_eq!(bob.message().await?.msg_id, sent.msg_id);
        let sent = bob.say(up::user("alice"), "indeed").await?;
        assert_eq!(alice.message().await?.msg_id, sent.msg_id);
        bob.disconnect().await?;
        alice.disconnect().await?;
    }
    server.finish().await
}

/// The same user with the same client id takes the first connection over; MQTT 5 is told why.
#[tokio::test]
async fn a_second_connection_takes_over() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    for (first, second) in [(V4, V4), (V4, V5), (V5, V4), (V5, V5)] {
        let mut old = server.client("alice").version(first).online().await?;
        let mut new = server.client("alice").version(second).online().await?;

        let closed = old.closed().await?;
        if first == V5 {
            assert_eq!(closed.reason, Some(0x8E), "{closed:?}");
        }
        new.say(up::user("alice"), "the new one works").await?;
        new.disconnect().await?;
    }
    server.finish().await
}

/// Bad credentials get a CONNACK that says so, never a silent close.
#[tokio::test]
async fn bad_credentials_are_refused_by_connack() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let bobs_token = server.login("bob").await?.tokens()?.access.clone();
    let almost = format!("{bobs_token}x");
    let cases: [(&str, Builder); 7] = [
        ("wrong", server.client("alice").password("wrong")),
        ("empty", server.client("alice").password("")),
        (
            "bob's",
            server.client("alice").password(&password_of("bob")),
        ),
        ("bob's token", server.client("alice").password(&bobs_token)),
        ("a bad token", server.client("bob").password(&almost)),
        ("an unknown user", server.client("mallory")),
        ("anonymous", server.client("alice").anonymous()),
    ];
    for (what, client) in cases {
        for version in VERSIONS {
            let code = client.clone().version(version).refused();
            let code = code.await.context(what)?;
            let expected: &[u8] = match version {
                V4 => &[4, 5],
                V5 => &[0x86, 0x87],
            };
            assert!(expected.contains(&code), "{what}: {code:#04x}");
        }
    }
    server.client("alice").connect().await?.disconnect().await?;
    server.finish().await
}

/// An access token is a password until its login is logged out; then it is refused, and the sessions that it opened end.
#[tokio::test]
async fn logging_out_ends_the_tokens_sessions() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    for version in VERSIONS {
        let api = server.login("alice").await?;
        let tokens = api.tokens()?.clone();
        let with_token = || {
            let alice = server.client("alice").version(version);
            alice.device("with-token").password(&tokens.access)
        };
        let mut by_token = with_token().online().await?;
        let mut by_password = server.client("alice").version(version).online().await?;
        by_token.say(up::user("alice"), "a token will do").await?;

        let logout = json!({ "refreshToken": tokens.refresh });
        api.post("/v1/auth/logout", &logout).await?.success()?;

        by_token.closed().await?;
        let code = with_token().refused().await?;
        ensure!([4, 5, 0x86, 0x87].contains(&code), "{code:#04x}");
        by_password.say(up::user("alice"), "not concerned").await?;
        by_password.disconnect().await?;
    }
    server.finish().await
}

/// A last will is a publish: on a topic that its client may not publish to, it is refused with the CONNECT.
#[tokio::test]
async fn a_will_on_a_foreign_topic_is_refused() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    for topic in ["im/bob/up", "imj/bob/up", "im/bob/down", "$SYS/x"] {
        for version in VERSIONS {
            let client = server.client("alice").version(version).will(topic, "gone");
            let code = client.refused().await.context(topic)?;
            let expected = match version {
                V4 => 5,
                V5 => NOT_AUTHORIZED,
            };
            assert_eq!(code, expected, "{topic} in {version:?}");
        }
    }
    let conversations = server.login("bob").await?.conversations().await?;
    assert!(conversations.is_empty(), "{conversations:?}");
    server.finish().await
}
