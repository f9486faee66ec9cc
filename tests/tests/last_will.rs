//! Last wills: published for who is lost, not for who has left or was sent away.

use anyhow::Result;
use serde_json::json;
use tidings_tests::Server;
use tidings_tests::client::Builder;
use tidings_tests::link::Version::{self, V4, V5};

use crate::support::{ensure_silence, text_of};

const VERSIONS: [Version; 2] = [V4, V5];
const WILL: &str = r#"{"send":{"to":{"user":"bob"},"text":"alice is lost"}}"#;

/// Alice's device, which leaves word for bob.
fn alice_with_will(server: &Server, version: Version) -> Builder {
    let alice = server.client("alice").version(version);
    alice.will("imj/alice/up", WILL)
}

/// A connection that breaks without a word has its will published. [MQTT-3.1.2-8]
#[tokio::test]
async fn a_lost_connection_leaves_its_will() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut bob = server.client("bob").online().await?;
    for version in VERSIONS {
        let alice = alice_with_will(&server, version).online().await?;
        alice.drop_connection().await;

        let heard = bob.message().await?;
        assert_eq!(text_of(&heard), "alice is lost", "{version:?}");
    }
    server.finish().await
}

/// DISCONNECT takes the will back. [MQTT-3.14.4-3]
#[tokio::test]
async fn a_disconnect_takes_the_will_back() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut bob = server.client("bob").online().await?;
    let mut carol = server.client("carol").online().await?;
    for version in VERSIONS {
        let alice = alice_with_will(&server, version).online().await?;
        alice.disconnect().await?;
        ensure_silence(&mut bob, "bob", &mut carol).await?;
    }
    server.finish().await
}

/// Who is logged out has no more say: the will of a session that the token opened is not published.
#[tokio::test]
async fn a_logout_leaves_no_will() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut bob = server.client("bob").online().await?;
    let mut carol = server.client("carol").online().await?;
    for version in VERSIONS {
        let api = server.login("alice").await?;
        let tokens = api.tokens()?.clone();
        let alice = alice_with_will(&server, version).password(&tokens.access);
        let mut alice = alice.online().await?;

        let logout = json!({ "refreshToken": tokens.refresh });
        api.post("/v1/auth/logout", &logout).await?.success()?;
        alice.closed().await?;
        ensure_silence(&mut bob, "bob", &mut carol).await?;
    }
    server.finish().await
}
