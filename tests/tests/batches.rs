//! Catch-up in batches: few publishes for much that was missed, each acknowledged as a whole.

use anyhow::{Context, Result, ensure};
use prost::Message as _;
use schema::v1::{Down, down};
use tidings_tests::client::{Arrival, Builder};
use tidings_tests::{Client, Server, ask, eventually, up};

use crate::support::{ensure_complete, ensure_silence, introduce, say_many, seqs};

const DIRECT: &str = "u:alice:bob";

/// Alice online, and bob's device known but away, while alice sends him `count` messages.
async fn missed(device: impl Fn(&Server) -> Builder, count: u32) -> Result<(Server, Client)> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    introduce(device(&server)).await?;
    say_many(&mut alice, &up::user("bob"), count).await?;
    Ok((server, alice))
}

async fn arrivals(bob: &mut Client, count: usize) -> Result<Vec<Arrival>> {
    let mut arrivals: Vec<Arrival> = Vec::new();
    let mut messages = 0;
    while messages < count {
        let arrival = bob.arrival().await?;
        messages += arrival.messages.len();
        arrivals.push(arrival);
    }
    Ok(arrivals)
}

/// In either format and version, a long absence takes few publishes, none of them larger than common libraries take;
/// the PUBACKs stand for all messages in them.
#[tokio::test]
async fn much_comes_in_few_publishes() -> Result<()> {
    type Kind = fn(Builder) -> Builder;
    const COUNT: u32 = 150;
    let kinds: [Kind; 4] = [
        |device| device,
        Builder::json,
        Builder::v5,
        |device| device.v5().json(),
    ];
    for kind in kinds {
        let device = |server: &Server| kind(server.client("bob"));
        let (server, mut alice) = missed(device, COUNT).await?;
        let mut bob = device(&server).online().await?;
        let arrivals = arrivals(&mut bob, COUNT as usize).await?;
        ensure!(arrivals.len() <= 10, "{} publishes", arrivals.len());
        for arrival in &arrivals {
            let bytes = arrival.publish.payload.len();
            ensure!(bytes <= 48 * 1024, "{bytes}");
            ensure!(arrival.publish.qos == 1, "{arrival:?}");
        }
        let messages: Vec<_> = arrivals.into_iter().flat_map(|a| a.messages).collect();
        ensure_complete(&messages, COUNT)?;
        eventually("the PUBACKs have moved the cursor", async || {
            Ok(bob.position(DIRECT).await? == COUNT)
        })
        .await?;
        bob.disconnect().await?;
        let mut bob = device(&server).online().await?;
        ensure_silence(&mut bob, "bob", &mut alice).await?;
        server.finish().await?;
    }
    Ok(())
}

/// A client of MQTT 3.1.1 can't say what is too large for it, so that batches stay below what libraries take.
#[tokio::test]
async fn batches_are_small_where_the_client_cannot_say() -> Result<()> {
    let device = |server: &Server| server.client("bob").json();
    let (server, _alice) = missed(device, 100).await?;
    let mut bob = device(&server).online().await?;
    let arrivals = arrivals(&mut bob, 100).await?;
    ensure!(arrivals.len() > 1, "100 messages of 200 bytes each");
    for arrival in &arrivals {
        let bytes = arrival.publish.payload.len();
        ensure!(bytes < 10 * 1024, "{bytes}");
    }
    server.finish().await
}

/// What is short comes as it would have come live.
#[tokio::test]
async fn a_few_come_as_plain_messages() -> Result<()> {
    let device = |server: &Server| server.client("bob");
    let (server, _alice) = missed(device, 8).await?;
    let mut bob = device(&server).online().await?;
    for arrival in arrivals(&mut bob, 8).await? {
        let down = Down::decode(arrival.publish.payload)?;
        let is_message = matches!(down.content, Some(down::Content::Message(_)));
        ensure!(is_message, "{down:?}");
    }
    server.finish().await
}

/// A batch that is not acknowledged comes again as a whole.
#[tokio::test]
async fn an_unacknowledged_batch_comes_again() -> Result<()> {
    let device = |server: &Server| server.client("bob").v5();
    let (server, _alice) = missed(device, 120).await?;
    let mut bob = device(&server).manual_acks().online().await?;
    let first = bob.arrival().await?;
    let second = bob.arrival().await?;
    assert_eq!((first.messages.len(), second.messages.len()), (100, 20));
    bob.acknowledge(&first).await?;
    eventually("the PUBACK has moved the cursor", async || {
        Ok(bob.position(DIRECT).await? == 100)
    })
    .await?;
    bob.drop_connection().await;

    let mut bob = device(&server).online().await?;
    assert_eq!(bob.arrival().await?.messages, second.messages);
    server.finish().await
}

/// A device that asks for it gets its batches as zstd, from the next subscription on; others don't.
#[tokio::test]
async fn a_device_may_ask_for_zstd() -> Result<()> {
    const COUNT: u32 = 60;
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let kinds = || {
        let device = |name: &str| server.client("bob").device(name).v5();
        [
            (device("packed"), true),
            (device("packed-json").json(), true),
            (device("plain"), false),
        ]
    };
    for (device, wants) in kinds() {
        let mut bob = device.online().await?;
        bob.tell(ask::zstd(true)).await?;
        bob.tell(ask::zstd(wants)).await?;
        bob.disconnect().await?;
    }
    say_many(&mut alice, &up::user("bob"), COUNT).await?;
    for (device, wants) in kinds() {
        let mut bob = device.online().await?;
        let arrival = bob.arrival().await?;
        let payload = arrival.publish.payload.clone();
        let down = match arrival.publish.topic.starts_with("imj/") {
            true => serde_json::from_slice(&payload)?,
            false => Down::decode(payload)?,
        };
        let Some(down::Content::Batch(batch)) = down.content else {
            anyhow::bail!("no batch: {down:?}");
        };
        assert_eq!(batch.zstd.is_empty(), !wants);
        assert_eq!(batch.conversation, DIRECT);
        ensure_complete(&arrival.messages, COUNT)?;
    }
    // What comes by HTTP is no device that comes back.
    let api = server.login("bob").await?;
    let set = serde_json::json!({ "deviceSet": { "zstd": true } });
    let answer = api.post("/v1/up", &set).await?;
    answer.problem(409, "conflict")?;
    server.finish().await
}

/// Pages that are asked for come as zstd, too.
#[tokio::test]
async fn a_page_may_be_packed() -> Result<()> {
    let device = |server: &Server| server.client("bob");
    let (server, mut alice) = missed(device, 50).await?;
    let asked = up::sync(DIRECT, 10, 30);
    let plain = alice.tell(asked.clone()).await?.batch.context("a page")?;
    let schema::v1::up::Command::Sync(mut sync) = asked else {
        unreachable!("it is a sync");
    };
    sync.zstd = true;
    let packed = alice.tell(schema::v1::up::Command::Sync(sync)).await?;
    let packed = packed.batch.context("a page")?;
    ensure!(packed.encoded_len() < plain.encoded_len());
    assert_eq!((packed.last_seq, packed.more), (50, true));
    let unpacked = tidings_tests::client::unpacked(*packed)?;
    assert_eq!(seqs(&unpacked.messages), seqs(&plain.messages));
    assert_eq!(unpacked, *plain);
    server.finish().await
}
