//! The nodes' database goes away, comes back, and moves: acknowledgements wait, nothing that was acknowledged is lost, and
//! all goes on by itself.

use std::io::{Write, stderr};

use anyhow::{Context, Result, ensure};
use tidings_tests::client::ok_of;
use tidings_tests::cluster::Plan;
use tidings_tests::postgres::{self, Postgres};
use tidings_tests::talk::{self, FIRST_USER, Talk};
use tidings_tests::{Cluster, disk, eventually, up};

use crate::support::ensure_complete;

const NODES: usize = 3;
/// Answers that are waited for between two things that go wrong.
const SOME: usize = 60;

/// People who talk while the test does things.
fn people(seed: u64) -> talk::Options {
    talk::Options {
        users: 24,
        rate: 40.0,
        seed,
    }
}

/// Commits that survive the machine, as an operator would have them.
fn durable() -> postgres::Options {
    postgres::Options {
        durable: true,
        ..postgres::Options::default()
    }
}

async fn until_all_are_used(cluster: &Cluster, wanted: bool) -> Result<()> {
    for node in 0..cluster.len() {
        cluster.balancer.until_using(node, wanted).await?;
    }
    Ok(())
}

/// PostgreSQL is restarted, and killed: all nodes say that they are not ready and promise nothing meanwhile; then what
/// waited is stored, answered and delivered.
#[tokio::test]
async fn sends_wait_while_postgresql_restarts() -> Result<()> {
    let plan = Plan::of(NODES).postgres(durable());
    let mut cluster = plan.start(&[FIRST_USER, "alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").v5().online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    let talk = Talk::begin(&cluster, &people(1)).await?;
    let mut waiting = Vec::new();
    for is_killed in [false, true] {
        talk.until_answered(SOME).await?;
        match is_killed {
            true => cluster.postgres.kill().await?,
            false => cluster.postgres.stop().await?,
        }
        until_all_are_used(&cluster, false).await?;
        for _ in 0..5 {
            let up = up::new(up::text(up::user("bob"), "wait"));
            waiting.push((alice.publish(&up).await?, up.client_msg_id));
        }
        let api = cluster.node(0).api();
        assert_eq!(api.get("/healthz").await?.status, 200, "it is alive");
        let here = alice.pubacks_so_far();
        ensure!(here == 0, "{here} PUBACKs without a commit");

        cluster.postgres.restart().await?;
        until_all_are_used(&cluster, true).await?;
        for (ticket, client_msg_id) in waiting.drain(..) {
            assert_eq!(alice.puback(ticket).await?, 0);
            ok_of(alice.reply_to(&client_msg_id).await?)?;
        }
    }
    ensure_complete(&bob.messages(10).await?, 10)?;
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}

/// The primary dies, and its synchronous standby takes over: what was answered is there, and the nodes go on with it as
/// soon as their way leads there.
#[tokio::test]
async fn a_standby_takes_over() -> Result<()> {
    let plan = Plan::of(NODES).postgres(durable());
    let mut cluster = plan.start(&[FIRST_USER]).await?;
    let standby = synchronous_standby(&cluster.postgres).await?;
    let talk = Talk::begin(&cluster, &people(2)).await?;
    talk.until_answered(SOME).await?;

    cluster.postgres.kill().await?;
    standby.promote().await?;
    for node in 0..NODES {
        cluster.to_postgres(node).lead_to(standby.address());
    }
    let _dead = std::mem::replace(&mut cluster.postgres, standby);
    until_all_are_used(&cluster, true).await?;
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}

/// The standby takes over while the old primary still runs, and one node still reaches that: it promises nothing, since the
/// old primary can't commit without its standby, and it is not ready. Once its way leads to the new primary it goes on.
#[tokio::test]
async fn a_node_at_the_old_primary_promises_nothing() -> Result<()> {
    let mut cluster = Plan::of(NODES).start(&[FIRST_USER, "alice", "bob"]).await?;
    let standby = synchronous_standby(&cluster.postgres).await?;
    let mut alice = cluster.node(0).client("alice").v5().online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    alice.say(up::user("bob"), "before").await?;
    bob.message().await?;
    let talk = Talk::begin(&cluster, &people(3)).await?;
    talk.until_answered(SOME).await?;

    standby.promote().await?;
    for node in 1..NODES {
        cluster.to_postgres(node).lead_to(standby.address());
    }
    let old = std::mem::replace(&mut cluster.postgres, standby);
    let lost = up::new(up::text(up::user("bob"), "at the old primary"));
    let ticket = alice.publish(&lost).await?;
    cluster.balancer.until_using(0, false).await?;
    for node in 1..NODES {
        cluster.balancer.until_using(node, true).await?;
    }
    // The others go on, in the same conversation too.
    let other = cluster.node(2).client("alice").device("laptop");
    let mut other = other.online().await?;
    let next = other.say(up::user("bob"), "at the new one").await?;
    assert_eq!(next.seq, 2);
    assert_eq!(bob.message().await?.msg_id, next.msg_id);
    talk.until_answered(SOME).await?;
    ensure!(!alice.is_puback_here(ticket), "promised by the old primary");

    cluster.to_postgres(0).lead_to(cluster.postgres.address());
    cluster.balancer.until_using(0, true).await?;
    assert_eq!(alice.puback(ticket).await?, 0);
    let stored = ok_of(alice.reply_to(&lost.client_msg_id).await?)?;
    assert_eq!(stored.seq, 3);
    assert_eq!(bob.message().await?.msg_id, stored.msg_id);
    drop(old);
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}

/// A standby without which the primary commits nothing from now on.
async fn synchronous_standby(primary: &Postgres) -> Result<Postgres> {
    let standby = primary.standby(durable()).await?;
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "SELECT pg_reload_conf()",
    ] {
        primary.sql("postgres", statement).await?;
    }
    eventually("the standby is synchronous", async || {
        let state = "SELECT sync_state FROM pg_stat_replication";
        Ok(primary.sql("postgres", state).await? == "sync\n")
    })
    .await?;
    Ok(standby)
}

/// PostgreSQL's disk is full: what can't be stored is not acknowledged, no node is ready; it completes when there is room
/// again. PostgreSQL itself may end for want of room for its log; its supervisor starts it again.
#[tokio::test]
async fn sends_wait_for_room_on_postgresqls_disk() -> Result<()> {
    let Some(postgres) = Postgres::on_small_disk(durable()).await? else {
        // Not by println!, which a passing test keeps to itself.
        writeln!(stderr(), "skipped: mounting a tmpfs is not permitted here")?;
        return Ok(());
    };
    let plan = Plan::of(2);
    let mut cluster = plan
        .start_on(postgres, &[FIRST_USER, "alice", "bob"])
        .await?;
    let mut alice = cluster.node(0).client("alice").v5().online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    let talk = Talk::begin(&cluster, &people(4)).await?;
    talk.until_answered(SOME).await?;

    let filler = disk::fill(&cluster.postgres.data_dir())?;
    // Large ones, so that what PostgreSQL has kept for itself is soon used up.
    let text = "x".repeat(60_000);
    let mut sent = Vec::new();
    for _ in 0..400 {
        let up = up::new(up::text(up::user("bob"), &text));
        alice.publish(&up).await?;
        sent.push(up.client_msg_id);
    }
    until_all_are_used(&cluster, false).await?;
    let stored = alice.pubacks_so_far();
    ensure!(stored < sent.len(), "it was not full");

    std::fs::remove_file(filler)?;
    cluster.postgres.ensure_running().await?;
    alice.until_pubacks(sent.len()).await?;
    until_all_are_used(&cluster, true).await?;
    let api = cluster.login("alice").await?;
    ensure_complete(&api.history("u:alice:bob").await?, sent.len() as u32)?;
    let heard = bob.messages(sent.len()).await;
    ensure_complete(
        &heard.context("after the disk was full")?,
        sent.len() as u32,
    )?;
    talk.until_answered(SOME).await?;
    talk.end(&cluster).await?;
    cluster.stop().await
}
