//! The harness for clusters does what its tests rely on.

use anyhow::Result;
use tidings_tests::cluster::Plan;
use tidings_tests::{eventually, up};

use crate::support::ensure_complete;

/// A node on a PostgreSQL of its own, behind the balancer; while its way to the database is cut, nobody is sent to it.
#[tokio::test]
async fn the_balancer_believes_what_a_node_says() -> Result<()> {
    let cluster = Plan::alone().start(&["alice", "bob"]).await?;
    let mut alice = cluster.client("alice").online().await?;
    let mut bob = cluster.client("bob").online().await?;
    alice.say(up::user("bob"), "hi").await?;

    cluster.to_postgres(0).cut();
    cluster.balancer.until_using(0, false).await?;
    cluster.client("bob").connect().await.map(drop).unwrap_err();
    let waiting = up::new(up::text(up::user("bob"), "wait"));
    alice.publish(&waiting).await?;

    cluster.to_postgres(0).heal();
    cluster.balancer.until_using(0, true).await?;
    alice.reply_to(&waiting.client_msg_id).await?;
    ensure_complete(&bob.messages(2).await?, 2)?;
    let api = cluster.login("alice").await?;
    eventually("history is there", async || {
        Ok(api.history("u:alice:bob").await?.len() == 2)
    })
    .await?;
    cluster.stop().await
}
