//! What users may do per second is counted at all nodes together.

use anyhow::{Result, ensure};
use tidings_tests::cluster::Plan;
use tidings_tests::http::Api;
use tidings_tests::{eventually, up};

const BURST: u32 = 64;

/// Whether one more message is allowed.
async fn says(api: &Api) -> Result<bool> {
    let up = up::new(up::text(up::user("carol"), "again"));
    let answer = api.post("/v1/up", &serde_json::to_value(up)?).await?;
    ensure!([200, 429].contains(&answer.status), "{answer:?}");
    Ok(answer.status == 200)
}

/// How many messages are allowed until the first is not.
async fn allowance(api: &Api) -> Result<u32> {
    let mut said = 0;
    while says(api).await? {
        said += 1;
        ensure!(said < 10 * BURST, "nothing is refused");
    }
    Ok(said)
}

/// Who has used up a limit at one node has nothing left at the other; while Redis is away, each counts by itself.
#[tokio::test]
async fn limits_are_counted_together() -> Result<()> {
    let plan = Plan::of(2)
        .setting("TIDINGS__RATES__SENDS_PER_USER", "1")
        .setting("TIDINGS__RATES__SENDS_PER_USER_BURST", &BURST.to_string());
    let mut cluster = plan.start(&["alice", "bob", "carol"]).await?;
    let alice = cluster.login("alice").await?;
    let (here, there) = (cluster.api_at(0, &alice), cluster.api_at(1, &alice));
    ensure!(allowance(&here).await? >= BURST);
    let mut said = 0;
    eventually("the other node refuses, too", async || {
        let is_said = says(&there).await?;
        said += u32::from(is_said);
        Ok(!is_said)
    })
    .await?;
    ensure!(said < BURST / 2, "{said} more at the other node");

    cluster.redis.stop().await?;
    let bob = cluster.login("bob").await?;
    for node in 0..2 {
        let allowance = allowance(&cluster.api_at(node, &bob)).await?;
        ensure!(allowance >= BURST, "{allowance} at node {node}");
    }
    cluster.redis.restart().await?;
    cluster.stop().await
}
