//! Several nodes write the same conversations at once: one sequence, each message once, the same on all devices wherever
//! they are connected.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use schema::v1::{Ok as Stored, Up};
use tidings_tests::client::ok_of;
use tidings_tests::talk::{self, FIRST_USER, Talk};
use tidings_tests::{Api, Client, Cluster, eventually, up};

use crate::support::{ensure_complete, msg_ids, spoken, text_of};

const NODES: usize = 3;

/// The devices of a user come to different nodes through the load balancer, and all have the same: what others write, and
/// what the user writes on another device, at whatever node that happens.
#[tokio::test]
async fn devices_on_different_nodes_have_the_same() -> Result<()> {
    const MESSAGES: u32 = 30;
    let cluster = Cluster::with_users(NODES, &["alice", "bob"]).await?;
    let mut alice = Vec::new();
    let mut bob = Vec::new();
    for device in ["phone", "laptop", "tablet"] {
        alice.push(cluster.client("alice").device(device).online().await?);
        bob.push(cluster.client("bob").device(device).v5().online().await?);
    }
    // Round robin: with as many connections as nodes each has some.
    for node in 0..NODES {
        let sessions = cluster.node(node).api();
        let connected = sessions.metric(r#"tidings_connections{listener="mqtt"}"#);
        let connected = connected.await?;
        ensure!(connected >= 1.0, "node {node} has {connected} connections");
    }

    for number in 1..=MESSAGES {
        let place = number as usize % NODES;
        let (from, to) = match number % 2 {
            0 => (&mut alice[place], "bob"),
            _ => (&mut bob[place], "alice"),
        };
        let stored = from.say(up::user(to), &number.to_string()).await?;
        assert_eq!(stored.seq, number);
    }
    let api = cluster.login("alice").await?;
    let history = api.history("u:alice:bob").await?;
    ensure_complete(&history, MESSAGES)?;
    for (place, device) in alice.iter_mut().chain(&mut bob).enumerate() {
        let name = device.to_string();
        let is_own = |number: u32| {
            let is_alice = place < NODES;
            number as usize % NODES == place % NODES && number.is_multiple_of(2) == is_alice
        };
        for number in (1..=MESSAGES).filter(|number| !is_own(*number)) {
            let message = device.message().await?;
            assert_eq!(message, history[number as usize - 1], "{name}");
        }
    }
    cluster.finish().await
}

/// Everybody writes to one group through all nodes at once, over MQTT and HTTP: the places are 1, 2, 3 … without holes, and
/// each sender's messages keep their order.
#[tokio::test]
async fn all_nodes_give_places_in_one_sequence() -> Result<()> {
    const SENDERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];
    const EACH: u32 = 40;
    let cluster = Cluster::with_users(NODES, &SENDERS).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    alice.tell(up::group_create("all", &SENDERS[1..])).await?;
    alice.disconnect().await?;

    let talks = SENDERS.iter().enumerate().map(|(place, uid)| {
        let cluster = &cluster;
        async move {
            let node = cluster.node(place % NODES);
            let login = node.login(uid).await?;
            let mut client = node.client(uid).online().await?;
            let mut said = Vec::new();
            for number in 1..=EACH {
                let command = up::text(up::group("all"), &number.to_string());
                let up = up::with_id(&format!("{uid}-{number}"), command);
                // Half of them say everything over HTTP.
                if place % 2 == 0 {
                    client.publish(&up).await?;
                } else {
                    said.push(login.up(&up).await?);
                }
            }
            if place % 2 == 0 {
                for number in 1..=EACH {
                    let reply = client.reply_to(&format!("{uid}-{number}")).await?;
                    said.push(ok_of(reply)?);
                }
            }
            let seqs: Vec<u32> = said.iter().map(|stored| stored.seq).collect();
            ensure!(seqs.is_sorted(), "{uid}: not in order: {seqs:?}");
            Ok((client, said))
        }
    });
    let talks: Vec<(Client, Vec<Stored>)> = try_join_all(talks).await?;

    let count = SENDERS.len() as u32 * EACH;
    for node in 0..NODES {
        let api = cluster.api_at(node, &cluster.login("alice").await?);
        let history = api.history("g:all").await?;
        ensure_complete(&history, count)?;
        for (_, said) in &talks {
            for stored in said {
                let message = &history[stored.seq as usize - 1];
                assert_eq!(message.msg_id, stored.msg_id);
            }
        }
    }
    // Everybody hears everybody else in that order; what one says over HTTP is heard by oneself, too.
    for (place, (mut client, _)) in talks.into_iter().enumerate() {
        let others = match place % 2 {
            0 => count - EACH,
            _ => count,
        };
        let heard = client.messages(others as usize).await?;
        let ids = msg_ids(&heard);
        ensure!(ids.is_sorted_by(|a, b| a < b), "{client}: {ids:?}");
    }
    cluster.finish().await
}

/// One message is said to all nodes at the same moment, over MQTT and HTTP: it is stored once, and all get the same answer.
#[tokio::test]
async fn a_message_said_to_all_nodes_at_once_is_stored_once() -> Result<()> {
    const MESSAGES: u32 = 25;
    let cluster = Cluster::with_users(NODES, &["alice", "bob"]).await?;
    let mut bob = cluster.client("bob").online().await?;
    let login = cluster.login("alice").await?;
    let mut clients = Vec::new();
    let mut apis = Vec::new();
    for node in 0..NODES {
        let device = format!("device-{node}");
        let client = cluster.node(node).client("alice").device(&device);
        clients.push(client.online().await?);
        apis.push(cluster.api_at(node, &login));
    }
    for number in 1..=MESSAGES {
        let command = up::text(up::user("bob"), &number.to_string());
        let up = up::with_id(&format!("once-{number}"), command);
        let stored = say_everywhere(&mut clients, &apis, &up).await?;
        let places: BTreeSet<(u32, u64)> = stored.iter().map(|ok| (ok.seq, ok.msg_id)).collect();
        assert_eq!(places.len(), 1, "{up:?}: {stored:?}");
        let message = spoken(&mut bob).await?;
        assert_eq!(
            (message.seq, text_of(&message)),
            (number, &*number.to_string())
        );
    }
    ensure_complete(&login.history("u:alice:bob").await?, MESSAGES)?;
    let unread = cluster.login("bob").await?;
    eventually("each is counted once", async || {
        let rows = unread.conversations().await?;
        Ok(rows.iter().all(|row| row["unread"] == MESSAGES))
    })
    .await?;
    cluster.finish().await
}

async fn say_everywhere(clients: &mut [Client], apis: &[Api], up: &Up) -> Result<Vec<Stored>> {
    let by_mqtt = clients.iter_mut().map(|client| async {
        let reply = client.ask(up).await?;
        ok_of(reply)
    });
    let by_http = apis.iter().map(|api| api.up(up));
    let (mut by_mqtt, by_http) = tokio::try_join!(try_join_all(by_mqtt), try_join_all(by_http))?;
    by_mqtt.extend(by_http);
    Ok(by_mqtt)
}

/// People who talk through three nodes for a while, with nothing going wrong: everything is the same everywhere.
#[tokio::test]
async fn people_on_three_nodes_have_the_same() -> Result<()> {
    let cluster = Cluster::with_users(NODES, &[FIRST_USER]).await?;
    let options = talk::Options {
        users: 40,
        rate: 60.0,
        seed: 1,
    };
    let talk = Talk::begin(&cluster, &options).await?;
    talk.until_answered(300).await?;
    talk.end(&cluster).await?;
    cluster.finish().await
}
