//! A node is killed, hangs, or is cut off from what it shares with the others: they go on without it, it promises nothing
//! that it can't keep, and when it is back everything is delivered.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidings_tests::client::ok_of;
use tidings_tests::cluster::Plan;
use tidings_tests::proxy::Proxy;
use tidings_tests::talk::{self, FIRST_USER, Talk};
use tidings_tests::{Cluster, eventually, up};
use tokio::time::{Instant, sleep};

const NODES: usize = 3;
/// Answers that are waited for between two things that happen.
const SOME: usize = 60;
/// How soon a node that can't store says so.
const UNREADY_WITHIN: Duration = Duration::from_secs(8);
/// Longer than heartbeats, and a lease, may be missed.
const LONG: Duration = Duration::from_secs(12);

async fn cluster() -> Result<Cluster> {
    Plan::of(NODES)
        .start(&[FIRST_USER, "alice", "bob", "carol"])
        .await
}

async fn people(cluster: &Cluster, seed: u64) -> Result<Talk> {
    let options = talk::Options {
        users: 24,
        rate: 40.0,
        seed,
    };
    Talk::begin(cluster, &options).await
}

/// kill -9 of each node in turn: its clients go elsewhere, and nothing that was answered is lost.
#[tokio::test]
async fn killed_nodes_take_nothing_with_them() -> Result<()> {
    let mut cluster = cluster().await?;
    let talk = people(&cluster, 11).await?;
    for node in 0..NODES {
        talk.until_answered(SOME).await?;
        cluster.kill(node).await?;
        cluster.balancer.until_using(node, false).await?;
        talk.until_answered(SOME).await?;
        cluster.restart(node).await?;
    }
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}

/// All nodes but one are killed at the same moment; the last one serves everybody.
#[tokio::test]
async fn one_node_is_enough() -> Result<()> {
    let mut cluster = cluster().await?;
    let talk = people(&cluster, 12).await?;
    talk.until_answered(SOME).await?;
    for node in 1..NODES {
        cluster.kill(node).await?;
    }
    talk.until_answered(SOME).await?;
    for node in 1..NODES {
        cluster.restart(node).await?;
    }
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}

/// A node can't reach PostgreSQL: connections are refused, or nothing comes back.
#[tokio::test]
async fn a_node_cut_off_from_postgresql() -> Result<()> {
    for cut in [Proxy::cut, Proxy::stall] {
        check_without_postgresql(13, |cluster| cut(cluster.to_postgres(0))).await?;
    }
    Ok(())
}

/// A node reaches nothing that it shares with the others.
#[tokio::test]
async fn a_node_cut_off_from_everything() -> Result<()> {
    for cut in [Proxy::cut, Proxy::stall] {
        check_without_postgresql(14, |cluster| {
            cut(cluster.to_postgres(0));
            cut(cluster.to_redis(0));
        })
        .await?;
    }
    Ok(())
}

/// The node is not ready within seconds and promises nothing; its sessions stay, or come back elsewhere; others go on,
/// in the same conversations too; what waited is stored after it, once, and heard by everybody.
async fn check_without_postgresql(seed: u64, cut: impl Fn(&Cluster)) -> Result<()> {
    let cluster = cluster().await?;
    let mut alice = cluster.node(0).client("alice").v5().online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    alice.say(up::user("bob"), "before").await?;
    bob.message().await?;
    let talk = people(&cluster, seed).await?;
    talk.until_answered(SOME).await?;

    cut(&cluster);
    let begun = Instant::now();
    let waiting = up::new(up::text(up::user("bob"), "waiting"));
    let ticket = alice.publish(&waiting).await?;
    cluster.balancer.until_using(0, false).await?;
    let noticed = begun.elapsed();
    ensure!(noticed < UNREADY_WITHIN, "unready after {noticed:?} only");
    let health = cluster.node(0).api().get("/healthz").await?;
    assert_eq!(health.status, 200, "the process is well");
    let other = cluster.node(2).client("alice").device("laptop");
    let mut other = other.online().await?;
    let second = other.say(up::user("bob"), "from elsewhere").await?;
    assert_eq!(second.seq, 2);
    assert_eq!(bob.message().await?.msg_id, second.msg_id);
    ensure!(!alice.is_puback_here(ticket), "promised without a database");
    // Long enough for the others to think that it is gone.
    sleep(LONG).await;
    ensure!(!alice.is_puback_here(ticket), "promised without a database");

    cluster.to_postgres(0).heal();
    cluster.to_redis(0).heal();
    cluster.balancer.until_using(0, true).await?;
    assert_eq!(alice.puback(ticket).await?, 0);
    let third = ok_of(alice.reply_to(&waiting.client_msg_id).await?)?;
    assert_eq!(third.seq, 3);
    assert_eq!(bob.message().await?.msg_id, third.msg_id);
    assert_eq!(alice.message().await?.msg_id, second.msg_id);
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}

/// One node can't reach Redis, and stores on; the others hear nothing from it, and it nothing from them. Messages are found
/// in the database, both ways, in conversations where nothing follows too.
#[tokio::test]
async fn a_node_cut_off_from_redis() -> Result<()> {
    for (seed, cut) in [(15, Proxy::cut as fn(&Proxy)), (16, Proxy::stall)] {
        let cluster = cluster().await?;
        let mut alice = cluster.node(0).client("alice").online().await?;
        let mut bob = cluster.node(1).client("bob").online().await?;
        let talk = people(&cluster, seed).await?;
        talk.until_answered(SOME).await?;

        cut(cluster.to_redis(0));
        for _ in 0..3 {
            let there = alice.say(up::user("bob"), "there").await?;
            assert_eq!(bob.message().await?.msg_id, there.msg_id);
            let back = bob.say(up::user("alice"), "and back").await?;
            assert_eq!(alice.message().await?.msg_id, back.msg_id);
            sleep(LONG / 3).await;
        }
        ensure!(cluster.balancer.is_using(0), "it can store, and says no");

        cluster.to_redis(0).heal();
        let api = cluster.node(0).api();
        eventually("the node uses Redis again", async || {
            Ok(api.get("/readyz").await?.body["degraded"].is_null())
        })
        .await?;
        talk.until_answered(SOME).await?;
        talk.end(&cluster).await?;
        cluster.finish().await?;
    }
    Ok(())
}

/// A node hangs for longer than the others believe in it, and goes on as if nothing had been: it does not decide by what it
/// remembers, and takes no place twice.
#[tokio::test]
async fn a_node_that_hung_goes_on() -> Result<()> {
    let cluster = cluster().await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    let mut carol = cluster.node(0).client("carol").online().await?;
    alice.say(up::group("team"), "before").await?;
    bob.message().await?;
    carol.message().await?;
    let talk = people(&cluster, 17).await?;
    talk.until_answered(SOME).await?;

    cluster.node(0).signal("STOP").await?;
    cluster.balancer.until_using(0, false).await?;
    // Carol is put out of the group, and the node that she is connected to does not hear of it.
    let laptop = cluster.node(1).client("alice").device("laptop");
    let mut laptop = laptop.online().await?;
    laptop.tell(up::group_remove("team", &["carol"])).await?;
    laptop.say(up::group("team"), "without carol").await?;
    sleep(LONG).await;
    cluster.node(0).signal("CONT").await?;
    let refused = carol.tell_in_vain(up::text(up::group("team"), "still here?"));
    assert_eq!(refused.await?, "permission_denied");

    cluster.balancer.until_using(0, true).await?;
    let last = alice.say(up::group("team"), "after").await?;
    while bob.message().await?.msg_id != last.msg_id {}
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}
