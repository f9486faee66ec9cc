//! Messages reach users wherever they are connected, in order, whatever goes wrong between the nodes.

use anyhow::{Result, ensure};
use schema::v1::{Message, event};
use tidings_tests::cluster::{Cluster, Plan};
use tidings_tests::{Client, up};

use crate::support::{ensure_complete, say_many, seqs};

async fn messages(client: &mut Client, count: usize) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    while messages.len() < count {
        messages.push(client.message().await?);
    }
    Ok(messages)
}

/// Two who write to each other, and their other devices, are at different nodes.
#[tokio::test]
async fn they_come_live_at_other_nodes() -> Result<()> {
    let cluster = Cluster::with_users(2, &["alice", "bob"]).await?;
    let mut alice = cluster
        .node(0)
        .client("alice")
        .device("phone")
        .online()
        .await?;
    let mut laptop = cluster
        .node(1)
        .client("alice")
        .device("laptop")
        .online()
        .await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    say_many(&mut alice, &up::user("bob"), 20).await?;
    ensure_complete(&messages(&mut bob, 20).await?, 20)?;
    ensure_complete(&messages(&mut laptop, 20).await?, 20)?;
    say_many(&mut bob, &up::user("alice"), 20).await?;
    let expected: Vec<u32> = (21..=40).collect();
    assert_eq!(seqs(&messages(&mut alice, 20).await?), expected);
    assert_eq!(seqs(&messages(&mut laptop, 20).await?), expected);
    cluster.finish().await
}

/// Members of a group at three nodes write at the same time: everybody gets everything in one order.
#[tokio::test]
async fn all_nodes_agree_on_the_order() -> Result<()> {
    const EACH: u32 = 40;
    let uids = ["alice", "bob", "carol"];
    let cluster = Cluster::with_users(3, &uids).await?;
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for (node, uid) in uids.iter().enumerate() {
        let server = cluster.node(node);
        writers.push(server.client(uid).device("writer").online().await?);
        readers.push(server.client(uid).device("reader").online().await?);
    }
    writers[0]
        .tell(up::group_create("team", &uids[1..]))
        .await?;
    let group = up::group("team");
    let mut writing = Vec::new();
    for mut writer in writers {
        let group = group.clone();
        writing.push(tokio::spawn(async move {
            say_many(&mut writer, &group, EACH).await.map(|_| writer)
        }));
    }
    for writing in writing {
        writing.await??;
    }
    for mut reader in readers {
        let all = messages(&mut reader, 3 * EACH as usize).await?;
        ensure_complete(&all, 3 * EACH)?;
    }
    cluster.finish().await
}

/// While Redis is away, messages come by catch-up within seconds, and live again when it is back, empty.
#[tokio::test]
async fn they_come_without_redis() -> Result<()> {
    let plan = Plan::of(2);
    let mut cluster = plan.start(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let mut bob = cluster.node(1).client("bob").online().await?;
    say_many(&mut alice, &up::user("bob"), 5).await?;
    ensure_complete(&messages(&mut bob, 5).await?, 5)?;
    cluster.redis.kill().await?;
    say_many(&mut alice, &up::user("bob"), 5).await?;
    let mut found = messages(&mut bob, 5).await?;
    ensure!(seqs(&found) == [6, 7, 8, 9, 10], "{:?}", seqs(&found));
    cluster.redis.restart().await?;
    say_many(&mut alice, &up::user("bob"), 5).await?;
    found = messages(&mut bob, 5).await?;
    ensure!(seqs(&found) == [11, 12, 13, 14, 15], "{:?}", seqs(&found));
    // Events may have been lost meanwhile.
    bob.event("that it may be out of date", |event| {
        matches!(event, event::Event::Outdated(_)).then_some(())
    })
    .await?;
    cluster.stop().await
}
