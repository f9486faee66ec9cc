//! Redis goes away, hangs, crawls, and comes back empty. Nodes tell each other nothing then: they go on with the database
//! alone, more slowly, and lose nothing; when it is back, they use it again by themselves.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidings_tests::cluster::Plan;
use tidings_tests::talk::{self, FIRST_USER, Talk};
use tidings_tests::{Client, Cluster, eventually, up};
use tokio::time::Instant;

const NODES: usize = 3;
/// Answers that are waited for between two things that happen.
const SOME: usize = 60;
/// What a send may be held up by Redis, with what it takes on a busy machine: a node asks with a limit of 100 ms, and after
/// some failures in a row no longer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a message may be on its way to another node while all is well, again on a busy machine: less than it takes
/// to be found in the database.
const LIVE_WITHIN: Duration = Duration::from_millis(700);

#[tokio::test]
async fn redis_killed_and_back_empty() -> Result<()> {
    check(1, Fault::Killed).await
}

#[tokio::test]
async fn redis_hangs() -> Result<()> {
    check(2, Fault::Stalled).await
}

#[tokio::test]
async fn redis_is_slower_than_its_time_limit() -> Result<()> {
    check(3, Fault::Slow).await
}

#[derive(Clone, Copy)]
enum Fault {
    Killed,
    /// Connections stay, and nothing passes.
    Stalled,
    /// Every answer comes after the time limit.
    Slow,
}

impl Fault {
    async fn begin(self, cluster: &mut Cluster) -> Result<()> {
        if let Fault::Killed = self {
            return cluster.redis.kill().await;
        }
        for node in 0..NODES {
            let way = cluster.to_redis(node);
            match self {
                Fault::Slow => way.slow_down(Duration::from_millis(600)),
                _ => way.stall(),
            }
        }
        Ok(())
    }

    async fn end(self, cluster: &mut Cluster) -> Result<()> {
        for node in 0..NODES {
            cluster.to_redis(node).heal();
        }
        match self {
            Fault::Killed => cluster.redis.restart().await,
            Fault::Stalled | Fault::Slow => Ok(()),
        }
    }
}

async fn check(seed: u64, fault: Fault) -> Result<()> {
    let mut cluster = Plan::of(NODES).start(&[FIRST_USER, "alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    let people = talk::Options {
        users: 24,
        rate: 40.0,
        seed,
    };
    let talk = Talk::begin(&cluster, &people).await?;
    talk.until_answered(SOME).await?;
    until_live(&mut alice, &mut bob).await?;

    fault.begin(&mut cluster).await?;
    let begun = Instant::now();
    // It is noticed, shown, and no reason to send anybody elsewhere.
    for node in 0..NODES {
        let api = cluster.node(node).api();
        eventually("the node says that it does without", async || {
            let ready = api.get("/readyz").await?;
            ensure!(ready.status == 200, "{ready:?}");
            Ok(ready.body["degraded"].is_string())
        })
        .await?;
    }
    let said = alice.say(up::user("bob"), "without Redis").await?;
    assert_eq!(bob.message().await?.msg_id, said.msg_id);
    talk.until_answered(SOME).await?;
    let wait = talk.longest_wait_since(begun);
    ensure!(wait < WAIT_MAX, "a send waited {wait:?}");
    for node in 0..NODES {
        ensure!(cluster.balancer.is_using(node), "node {node} is not ready");
    }

    fault.end(&mut cluster).await?;
    for node in 0..NODES {
        let api = cluster.node(node).api();
        eventually("the node uses Redis again", async || {
            Ok(api.get("/readyz").await?.body["degraded"].is_null())
        })
        .await?;
    }
    until_live(&mut alice, &mut bob).await?;
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}

/// Waits until what one says is heard at once by the other, who is connected to another node.
async fn until_live(one: &mut Client, other: &mut Client) -> Result<()> {
    eventually("messages reach the other node at once", async || {
        let begun = Instant::now();
        let said = one.say(up::user("bob"), "are you there?").await?;
        assert_eq!(other.message().await?.msg_id, said.msg_id);
        Ok(begun.elapsed() < LIVE_WITHIN)
    })
    .await
}
