//! Plain topics on several nodes: publishes, retained messages and shared subscriptions.

use anyhow::{Result, ensure};
use tidings_tests::cluster::Cluster;
use tidings_tests::wire::Publish;
use tidings_tests::{Api, Device, eventually};

/// A shared subscription.
const GROUP: &str = "$share/g/dev/alice/jobs";
/// Messages that are published for it at a time.
const JOBS: usize = 30;

/// One of alice's devices at a node.
async fn device(cluster: &Cluster, node: usize, id: &str) -> Result<Device> {
    let device = cluster.node(node).device("alice").id(id);
    device.v5().connect().await
}

/// What a node retains for a topic of alice's.
async fn retained(cluster: &Cluster, node: usize, topic: &str) -> Result<Option<String>> {
    let mut viewer = device(cluster, node, &format!("viewer-{node}")).await?;
    viewer.subscribe("dev/alice/end", 1).await?;
    viewer.subscribe(topic, 1).await?;
    viewer.publish("dev/alice/end", "end", 1).await?;
    let found = viewer.until("end").await?;
    viewer.disconnect().await?;
    ensure!(found.iter().all(|publish| publish.retain), "{found:?}");
    Ok(found.first().map(Publish::text))
}

async fn retain(lamp: &mut Device, topic: &str, text: &str) -> Result<()> {
    let reason = lamp.put(Publish::new(topic, text, 1).retained()).await?;
    ensure!(reason < 0x80, "{reason:#04x}");
    Ok(())
}

/// Waits until a node hears what it says itself, or does no longer.
async fn until_heard(cluster: &Cluster, node: usize, is_heard: bool) -> Result<()> {
    let api = Api::anonymous(cluster.node(node).http());
    let what = format!("node {node} hears others: {is_heard}");
    eventually(&what, async || {
        Ok((api.metric("tidings_bus_up").await? == 1.0) == is_heard)
    })
    .await
}

/// A publish reaches all who subscribe, at each node once and in order; those at QoS 0, too.
#[tokio::test]
async fn a_publish_reaches_all_nodes() -> Result<()> {
    const COUNT: usize = 60;
    let cluster = Cluster::with_users(3, &["alice"]).await?;
    let mut lamp = device(&cluster, 0, "lamp").await?;
    let mut viewers = Vec::new();
    for (node, qos) in [(0, 2), (1, 0), (1, 1), (2, 2)] {
        let mut viewer = device(&cluster, node, &format!("viewer-{node}-{qos}")).await?;
        // Two subscriptions of one session are one delivery.
        viewer.subscribe("dev/alice/#", qos).await?;
        viewer.subscribe("dev/+/lamp", qos).await?;
        viewers.push(viewer);
    }
    let texts: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    for (number, text) in texts.iter().enumerate() {
        lamp.publish("dev/alice/lamp", text, (number % 3) as u8)
            .await?;
    }
    lamp.publish("dev/alice/end", "end", 1).await?;
    for viewer in &mut viewers {
        let found = viewer.until("end").await?;
        let found: Vec<String> = found.iter().map(Publish::text).collect();
        assert_eq!(found, texts);
    }
    // The same from another node; and nothing has come twice.
    let mut lamp = device(&cluster, 2, "other lamp").await?;
    lamp.publish("dev/alice/end", "end", 1).await?;
    for viewer in &mut viewers {
        assert!(viewer.until("end").await?.is_empty());
    }
    cluster.finish().await
}

/// What is retained at one node is there for who subscribes at another; cleared likewise; and after Redis was away.
#[tokio::test]
async fn retained_messages_are_the_same_at_all_nodes() -> Result<()> {
    const TOPIC: &str = "dev/alice/state";
    let cluster = Cluster::with_users(2, &["alice"]).await?;
    let mut lamp = device(&cluster, 0, "lamp").await?;
    for is_cut in [false, true] {
        for text in ["on", "dim", ""] {
            if is_cut {
                cluster.to_redis(0).cut();
                until_heard(&cluster, 0, false).await?;
            }
            retain(&mut lamp, TOPIC, text).await?;
            let expected = (!text.is_empty()).then(|| text.to_owned());
            assert_eq!(retained(&cluster, 0, TOPIC).await?, expected);
            if is_cut {
                cluster.to_redis(0).heal();
            }
            eventually("the other node has it, too", async || {
                Ok(retained(&cluster, 1, TOPIC).await? == expected)
            })
            .await?;
        }
    }
    cluster.stop().await
}

/// Of what is retained at two nodes at once, both have the same in the end, and the database, too.
#[tokio::test]
async fn nodes_agree_on_what_is_retained() -> Result<()> {
    const TOPIC: &str = "dev/alice/state";
    let mut cluster = Cluster::with_users(2, &["alice"]).await?;
    let mut lamps = Vec::new();
    for node in [0, 1] {
        lamps.push(device(&cluster, node, &format!("lamp-{node}")).await?);
    }
    let [one, other] = &mut lamps[..] else {
        unreachable!("there are two")
    };
    for round in 0..20 {
        let (first, second) = (format!("one {round}"), format!("other {round}"));
        tokio::try_join!(retain(one, TOPIC, &first), retain(other, TOPIC, &second))?;
    }
    let mut found = None;
    eventually("both nodes have the same", async || {
        found = retained(&cluster, 0, TOPIC).await?;
        Ok(found == retained(&cluster, 1, TOPIC).await?)
    })
    .await?;
    // A moment after the last change each has read it again; then it does not change any more.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    found = retained(&cluster, 0, TOPIC).await?;
    assert_eq!(retained(&cluster, 1, TOPIC).await?, found);
    cluster.kill(1).await?;
    cluster.restart(1).await?;
    assert_eq!(retained(&cluster, 1, TOPIC).await?, found);
    cluster.stop().await
}

/// Publishes some messages for a group that has a member at each node; tells who has got which.
async fn share(
    lamp: &mut Device,
    members: &mut [Device; 2],
    round: usize,
) -> Result<[Vec<String>; 2]> {
    let text = |number: usize| format!("{round}/{number:02}");
    for number in 0..JOBS {
        lamp.publish("dev/alice/jobs", &text(number), 1).await?;
    }
    let end = format!("end {round}");
    lamp.publish("dev/alice/end", &end, 1).await?;
    let mut shares = [Vec::new(), Vec::new()];
    for (member, share) in members.iter_mut().zip(&mut shares) {
        let found = member.until(&end).await?;
        share.extend(found.iter().map(Publish::text));
    }
    Ok(shares)
}

/// Each message of a shared subscription goes to one of its members, wherever they are.
#[tokio::test]
async fn shared_subscriptions_span_nodes() -> Result<()> {
    let cluster = Cluster::with_users(2, &["alice"]).await?;
    let mut lamp = device(&cluster, 0, "lamp").await?;
    let mut members = [
        device(&cluster, 0, "here").await?,
        device(&cluster, 1, "there").await?,
    ];
    for member in &mut members {
        assert_eq!(member.subscribe(GROUP, 1).await?, 1);
        member.subscribe("dev/alice/end", 1).await?;
    }
    let mut round = 0;
    for wanted in [[true, true], [false, true], [true, true]] {
        match wanted[0] {
            // The last one here leaves: all of it goes there.
            false => members[0].unsubscribe(GROUP).await?,
            true => members[0].subscribe(GROUP, 1).await?,
        };
        eventually("the group shares", async || {
            round += 1;
            let shares = share(&mut lamp, &mut members, round).await?;
            let mut all: Vec<&String> = shares.iter().flatten().collect();
            all.sort();
            all.dedup();
            let count: usize = shares.iter().map(Vec::len).sum();
            ensure!(
                (all.len(), count) == (JOBS, JOBS),
                "not each once: {shares:?}"
            );
            Ok([0, 1].map(|member: usize| !shares[member].is_empty()) == wanted)
        })
        .await?;
    }
    cluster.finish().await
}

/// While the publisher's node is cut off from the others, its own members have everything; afterwards all share again.
#[tokio::test]
async fn a_node_that_is_cut_off_shares_with_its_own() -> Result<()> {
    let cluster = Cluster::with_users(2, &["alice"]).await?;
    let mut lamp = device(&cluster, 0, "lamp").await?;
    let mut here = device(&cluster, 0, "here").await?;
    let mut there = device(&cluster, 1, "there").await?;
    for member in [&mut here, &mut there] {
        member.subscribe(GROUP, 1).await?;
        member.subscribe("dev/alice/end", 1).await?;
    }
    let mut number = 0;
    for is_cut in [false, true, false] {
        if is_cut {
            cluster.to_redis(0).cut();
        } else {
            cluster.to_redis(0).heal();
        }
        until_heard(&cluster, 0, !is_cut).await?;
        eventually("the right ones share", async || {
            number += 1;
            let texts: Vec<String> = (0..20).map(|job| format!("{number}/{job:02}")).collect();
            for text in &texts {
                lamp.publish("dev/alice/jobs", text, 1).await?;
            }
            let end = format!("end {number}");
            lamp.publish("dev/alice/end", &end, 1).await?;
            let found = here.until(&end).await?;
            let has_all = found.len() == texts.len();
            if !is_cut {
                there.until(&end).await?;
            }
            Ok(has_all == is_cut)
        })
        .await?;
    }
    cluster.stop().await
}
