//! Which devices the server remembers, and which make room for others.

use anyhow::Result;
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::raw::{self, Connect, DISCONNECT_PACKET, Raw, SUBACK};
use tidings_tests::server::password_of;
use tidings_tests::{Client, Server, eventually, up};

use crate::support::{ensure_silence, introduce};

/// More than the server remembers of a user.
const MANY: usize = 40;

/// Bob's laptop acknowledges two messages, so that a forgotten phone would begin after them.
async fn laptop_acknowledges_two(server: &Server, alice: &mut Client) -> Result<[u64; 2]> {
    let mut laptop = server.client("bob").device("laptop").online().await?;
    let first = alice.say(up::user("bob"), "m1").await?;
    let second = alice.say(up::user("bob"), "m2").await?;
    laptop.messages(2).await?;
    eventually("the laptop's PUBACKs have arrived", async || {
        Ok(laptop.position("u:alice:bob").await? == second.seq)
    })
    .await?;
    laptop.disconnect().await?;
    Ok([first.msg_id, second.msg_id])
}

async fn ensure_hears_again(phone: &mut Client, waiting: [u64; 2]) -> Result<()> {
    for msg_id in waiting {
        assert_eq!(phone.message().await?.msg_id, msg_id);
    }
    Ok(())
}

/// A device is known from its first SUBACK on, even if it leaves at the same moment.
#[tokio::test]
async fn a_suback_makes_a_device_known() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let password = password_of("bob");
    let connect = Connect {
        version: V4,
        client_id: "phone",
        uid: "bob",
        password: &password,
        clean: true,
        keep_alive_secs: 60,
        will: None,
    };
    let mut raw = Raw::connect(server.mqtt(), &connect).await?;
    let subscribe = raw::subscribe(V4, "im/bob/down", 1);
    raw.send(&[&subscribe, DISCONNECT_PACKET].concat()).await?;
    assert_eq!(raw.expect(SUBACK).await?, [0, 1, 1]);
    raw.closed().await?;
    let waiting = laptop_acknowledges_two(&server, &mut alice).await?;

    let mut phone = server.client("bob").device("phone").online().await?;
    // So that a phone that was forgotten hears something, too.
    alice.say(up::user("bob"), "m3").await?;
    ensure_hears_again(&mut phone, waiting).await?;
    server.finish().await
}

/// Who connects without a client id will not come again: however many they are, no known device makes room for them.
#[tokio::test]
async fn nameless_clients_are_no_devices() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let phone = || server.client("bob").device("phone");
    introduce(phone()).await?;
    let waiting = laptop_acknowledges_two(&server, &mut alice).await?;

    let token = server.login("bob").await?.tokens()?.access.clone();
    for _ in 0..MANY / 2 {
        for version in [V4, V5] {
            let nameless = server.client("bob").device("").version(version);
            let mut nameless = nameless.password(&token).online().await?;
            // It is served like any other.
            nameless.say(up::user("alice"), "who am I?").await?;
            nameless.disconnect().await?;
        }
    }

    let mut phone = phone().online().await?;
    ensure_hears_again(&mut phone, waiting).await?;
    server.finish().await
}

/// A nameless client is caught up from where its user stands, and then gets live messages.
#[tokio::test]
async fn a_nameless_client_hears_everything() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for version in [V4, V5] {
        let waiting = alice.say(up::user("bob"), "waiting").await?;
        let nameless = server.client("bob").device("").version(version);
        let mut nameless = nameless.online().await?;
        assert_eq!(nameless.message().await?.msg_id, waiting.msg_id);
        let live = alice.say(up::user("bob"), "live").await?;
        assert_eq!(nameless.message().await?.msg_id, live.msg_id);

        let bob = server.login("bob").await?;
        eventually("bob has acknowledged it", async || {
            Ok(nameless.position("u:alice:bob").await? == live.seq)
        })
        .await?;
        assert_eq!(bob.history("u:alice:bob").await?.len(), live.seq as usize);
        nameless.disconnect().await?;
    }
    server.finish().await
}

/// The device that was not seen for the longest time makes room; one that is connected is seen all the time.
#[tokio::test]
async fn a_connected_device_is_not_forgotten() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let phone = || server.client("bob").device("phone");
    let mut connected = phone().manual_acks().online().await?;
    let waiting = laptop_acknowledges_two(&server, &mut alice).await?;
    ensure_hears_again(&mut connected, waiting).await?;

    let token = server.login("bob").await?.tokens()?.access.clone();
    for number in 0..MANY {
        let device = format!("device-{number}");
        let other = server.client("bob").device(&device).password(&token);
        let mut other = other.online().await?;
        // Answered after the subscription is known; it acknowledges nothing new.
        other.position("u:alice:bob").await?;
        other.disconnect().await?;
    }
    connected.drop_connection().await;
    let newest = alice.say(up::user("bob"), "m3").await?;

    let mut phone = phone().online().await?;
    ensure_hears_again(&mut phone, waiting).await?;
    assert_eq!(phone.message().await?.msg_id, newest.msg_id);
    ensure_silence(&mut phone, "bob", &mut alice).await?;
    server.finish().await
}
