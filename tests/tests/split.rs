//! A broker and its bridge in processes of their own: to clients they are one server, whichever of the two is away for a while.

use std::time::Duration;

use anyhow::{Result, ensure};
use schema::v1::event::Event;
use serde_json::json;
use tidings_tests::link::Version;
use tidings_tests::server::{Folder, password_of};
use tidings_tests::split::{SECRET, Split, bridge_folder, broker_folder, ready};
use tidings_tests::tls::Authority;
use tidings_tests::wire::Publish;
use tidings_tests::{Client, Server, eventually, up};
use tokio::time::{Instant, sleep};

use crate::support::{ensure_complete, range, say_many, seqs, text_of};

/// As ARCHITECTURE has it: how long somebody who connects waits for a bridge.
const ABSENCE_MAX: Duration = Duration::from_secs(4);

async fn online(split: &Split, uid: &str) -> Result<Client> {
    split.client(uid).v5().online().await
}

/// Sends texts without waiting for anything.
async fn send(client: &mut Client, to: &str, ids: std::ops::RangeInclusive<u32>) -> Result<()> {
    for id in ids {
        let text = up::text(up::user(to), &id.to_string());
        client
            .publish(&up::with_id(&format!("m{id}"), text))
            .await?;
    }
    Ok(())
}

/// What the two have said to each other is complete, and each said once.
async fn check_history(split: &Split, count: u32) -> Result<()> {
    let alice = split.login("alice").await?;
    let history = alice.history("u:alice:bob").await?;
    ensure_complete(&history, count)
}

#[tokio::test]
async fn people_chat_as_on_one_server() -> Result<()> {
    let split = Split::with_users(&["alice", "bob"]).await?;
    ensure!(ready(&split.broker.api()).await? == 200);
    let mut alice = split.client("alice").json().online().await?;
    let mut bob = online(&split, "bob").await?;
    let ok = alice.say(up::user("bob"), "hello").await?;
    let heard = bob.message().await?;
    assert_eq!((text_of(&heard), heard.seq), ("hello", ok.seq));
    bob.position("u:alice:bob").await?;

    // Who was away gets it later.
    bob.disconnect().await?;
    say_many(&mut alice, &up::user("bob"), 50).await?;
    let mut bob = split.client("bob").online().await?;
    assert_eq!(seqs(&bob.messages(50).await?), range(2, 51));

    // HTTP is the bridge's, and what is said there is heard by the broker's clients.
    let api = split.login("alice").await?;
    api.up(&up::new(up::text(up::user("bob"), "by HTTP")))
        .await?;
    assert_eq!(text_of(&bob.message().await?), "by HTTP");
    let devices = api.get("/v1/devices").await?.expect(200)?;
    assert_eq!(devices["devices"][0]["online"], true, "{devices}");
    check_history(&split, 52).await?;
    split.finish().await
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_stored() -> Result<()> {
    let split = Split::with_users(&["alice", "bob"]).await?;
    let mut alice = online(&split, "alice").await?;
    let lock = split.bridges[0].lock_database().await?;
    send(&mut alice, "bob", 1..=10).await?;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(alice.pubacks_so_far(), 0);
    lock.release().await?;
    alice.until_pubacks(10).await?;

    // The bridge stands still, for longer than the broker waits for it.
    split.bridges[0].signal("STOP").await?;
    send(&mut alice, "bob", 11..=30).await?;
    eventually("the broker takes the bridge for lost", async || {
        Ok(ready(&split.broker.api()).await? == 503)
    })
    .await?;
    assert_eq!(alice.pubacks_so_far(), 10);
    split.bridges[0].signal("CONT").await?;
    alice.until_pubacks(30).await?;
    check_history(&split, 30).await?;
    split.stop().await
}

#[tokio::test]
async fn sessions_outlive_their_bridge() -> Result<()> {
    let mut split = Split::with_users(&["alice", "bob"]).await?;
    let mut alice = online(&split, "alice").await?;
    let mut bob = online(&split, "bob").await?;
    send(&mut alice, "bob", 1..=200).await?;
    split.bridges[0].kill().await?;
    split.until_bridges(0).await?;
    let answered = alice.pubacks_so_far();
    send(&mut alice, "bob", 201..=230).await?;
    // Who is there stays there.
    sleep(Duration::from_millis(500)).await;
    assert_eq!(alice.pubacks_so_far(), answered);
    ensure!(ready(&split.broker.api()).await? == 503);

    split.bridges[0].restart().await?;
    split.until_bridges(1).await?;
    alice.until_pubacks(230).await?;
    // What the two know may be out of date: an event may have been lost with the bridge.
    for client in [&mut alice, &mut bob] {
        let is_outdated = |event: &Event| matches!(event, Event::Outdated(_)).then_some(());
        client
            .event("that it may be out of date", is_outdated)
            .await?;
    }
    // Each one at least once, and again only what was said anew by the server.
    let mut heard: Vec<u32> = Vec::new();
    while heard
        .iter()
        .collect::<std::collections::BTreeSet<_>>()
        .len()
        < 230
    {
        heard.push(bob.message().await?.seq);
    }
    alice.say(up::user("bob"), "all is well").await?;
    check_history(&split, 231).await?;

    // One that ends in good order takes nothing along, either.
    split.bridges[0].shut_down().await?;
    split.until_bridges(0).await?;
    send(&mut alice, "bob", 231..=240).await?;
    split.bridges[0].restart().await?;
    alice.until_pubacks(240).await?;
    check_history(&split, 241).await?;
    split.finish().await
}

#[tokio::test]
async fn a_bridge_comes_back_to_its_broker() -> Result<()> {
    let mut split = Split::with_users(&["alice", "bob"]).await?;
    let mut alice = online(&split, "alice").await?;
    send(&mut alice, "bob", 1..=100).await?;
    split.broker.kill().await?;
    split.until_joined(0, false).await?;
    split.broker.restart().await?;
    split.until_joined(0, true).await?;
    let mut alice = online(&split, "alice").await?;
    // Said again, as by a client that has no answer.
    send(&mut alice, "bob", 1..=100).await?;
    alice.until_pubacks(100).await?;
    let mut bob = online(&split, "bob").await?;
    ensure_complete(&bob.messages(100).await?, 100)?;
    check_history(&split, 100).await?;
    split.stop().await
}

#[tokio::test]
async fn a_broken_wire_is_mended() -> Result<()> {
    let (split, proxy) = Split::with_proxy(&["alice", "bob"]).await?;
    let mut alice = online(&split, "alice").await?;
    let mut bob = online(&split, "bob").await?;
    let mut said = 0;
    for harm in [0, 1, 2] {
        send(&mut alice, "bob", said + 1..=said + 50).await?;
        match harm {
            0 => proxy.reset(),
            // Longer than a link waits for its next connection.
            1 => {
                proxy.cut();
                split.until_bridges(0).await?;
                proxy.heal();
            }
            _ => {
                proxy.stall();
                split.until_bridges(0).await?;
                proxy.heal();
            }
        }
        send(&mut alice, "bob", said + 51..=said + 100).await?;
        said += 100;
        alice.until_pubacks(said as usize).await?;
        let last = alice.say(up::user("bob"), "done").await?.seq;
        while bob.message().await?.seq < last {}
        said += 1;
        // It has a PUBACK of its own, which was waited for.
        said -= 1;
        check_history(&split, last).await?;
        ensure!(last == said + harm + 1, "{last} messages after {said}");
    }
    split.stop().await
}

#[tokio::test]
async fn without_a_bridge_nobody_comes_in() -> Result<()> {
    let mut split = Split::without_bridges().await?;
    ensure!(ready(&split.broker.api()).await? == 503);
    let alive = split.broker.api().get("/healthz").await?;
    assert_eq!(alive.status, 200);
    for (version, code) in [(Version::V4, 3), (Version::V5, 0x88)] {
        let begun = Instant::now();
        let refused = split.client("alice").version(version).refused().await?;
        assert_eq!(refused, code, "{version:?}");
        let waited = begun.elapsed();
        ensure!(
            waited > ABSENCE_MAX / 2 && waited < ABSENCE_MAX * 2,
            "refused after {waited:?}"
        );
    }
    // Who waits is let in by the first one.
    let waiting = tokio::spawn(split.client("alice").v5().online());
    let lonely = bridge_folder("mqtt://127.0.0.1:1")?;
    let lonely = Server::start_in(lonely, &[]).await?;
    assert_eq!(ready(&lonely.api()).await?, 503);
    lonely.stop().await?;
    split
        .add(bridge_folder(&split.address())?, &["alice"])
        .await?;
    let came_in = waiting.await?;
    // The account was made a moment after the bridge had joined.
    if let Err(error) = came_in {
        ensure!(format!("{error:#}").contains("0x86"), "{error:#}");
    }
    split.finish().await
}

#[tokio::test]
async fn who_loses_his_rights_leaves_the_broker() -> Result<()> {
    let split = Split::with_users(&["alice", "bob"]).await?;
    let api = split.login("alice").await?;
    let by_token = split.client("alice").v5().device("by-token");
    let mut by_token = by_token.password(&api.tokens()?.access).connect().await?;
    let mut by_password = split.client("alice").v5().online().await?;
    let logout = json!({ "refreshToken": api.tokens()?.refresh });
    api.post("/v1/auth/logout", &logout).await?.expect(204)?;
    by_token.closed().await?;
    // The other one has no part in that login.
    by_password.say(up::user("bob"), "still here").await?;
    let again = split.client("alice").v5().password(&api.tokens()?.access);
    assert_eq!(again.refused().await?, 0x86);

    let api = split.login("alice").await?;
    let change = json!({ "oldPassword": password_of("alice"), "newPassword": "another password" });
    api.post("/v1/auth/password", &change).await?.expect(204)?;
    by_password.closed().await?;
    assert_eq!(split.client("alice").v5().refused().await?, 0x86);
    let alice = split.client("alice").v5().password("another password");
    alice.connect().await?.disconnect().await?;
    split.finish().await
}

#[tokio::test]
async fn who_is_kicked_while_the_wire_is_cut_leaves_later() -> Result<()> {
    let (split, proxy) = Split::with_proxy(&["alice", "bob"]).await?;
    let mut alice = online(&split, "alice").await?;
    let mut bob = online(&split, "bob").await?;
    split.bridges[0].add_admin("root").await?;
    let root = split.login("root").await?;
    proxy.cut();
    split.until_bridges(0).await?;
    let kick = root.post("/v1/admin/users/alice/kick", &json!({})).await?;
    kick.expect(204)?;
    proxy.heal();
    split.until_bridges(1).await?;
    alice.closed().await?;
    bob.say(up::user("alice"), "are you there?").await?;
    split.stop().await
}

#[tokio::test]
async fn what_is_retained_and_granted_outlives_the_broker() -> Result<()> {
    let mut split = Split::with_users(&["alice", "bob"]).await?;
    let mut alice = online(&split, "alice").await?;
    alice.tell(up::grant("bob", "lamp/#", true, false)).await?;
    let mut lamp = split.device("alice").id("lamp").connect().await?;
    let state = "dev/alice/lamp/state";
    lamp.put(Publish::new(state, "on", 1).retained()).await?;
    let mut bob = split.device("bob").id("tv").connect().await?;
    bob.subscribe("dev/alice/lamp/#", 1).await?;
    assert_eq!(bob.next_on(state).await?, "on");

    split.broker.kill().await?;
    split.broker.restart().await?;
    split.until_bridges(1).await?;
    let mut bob = split.device("bob").id("tv").connect().await?;
    bob.subscribe("dev/alice/lamp/#", 1).await?;
    assert_eq!(bob.next_on(state).await?, "on");
    split.stop().await
}

#[tokio::test]
async fn only_bridges_use_the_link() -> Result<()> {
    let split = Split::with_users(&["alice"]).await?;
    // Its credential is none of a user's, and a user's is none of its.
    let bridge = split.client("bridge").v5().password(SECRET);
    assert_eq!(bridge.refused().await?, 0x86);

    let mut alice = split.client("alice").v5().online().await?;
    assert_eq!(alice.subscribe("tidings/link/up").await?, [0x87]);
    assert_eq!(alice.subscribe("tidings/#").await?, [0x87]);
    let ticket = alice.publish_to("tidings/link/down", b"x".to_vec()).await?;
    assert_eq!(alice.puback(ticket).await?, 0x87);

    let wrong = Folder::setting(
        bridge_folder(&split.address())?,
        "TIDINGS__LINK__SECRET",
        "what nobody has ever told anybody",
    );
    let mut wrong = Server::start_in(wrong, &[]).await?;
    let left = wrong.wait().await;
    ensure!(left.is_err(), "a bridge with a wrong secret goes on");
    ensure!(split.broker.log().contains("without knowing link.secret"));

    // A second one that has a database of its own has no place beside the first.
    let second = Server::start_in(bridge_folder(&split.address())?, &[]).await?;
    eventually("it is told why", async || {
        Ok(second.log().contains("another bridge is joined"))
    })
    .await?;
    assert_eq!(ready(&second.api()).await?, 503);
    second.stop().await?;
    alice.say(up::user("alice"), "all the same").await?;
    split.stop().await
}

#[tokio::test]
async fn the_two_speak_over_tls() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let server = authority.server()?;
    let put = |name: &str, pem: String| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, pem)?;
        Ok(path.display().to_string())
    };
    let broker = broker_folder()?
        .setting("TIDINGS__LINK__CERT", &put("cert", server.cert_pem())?)
        .setting("TIDINGS__LINK__KEY", &put("key", server.key_pem())?);
    let mut split = Split {
        broker: Server::start_in(broker, &[]).await?,
        bridges: Vec::new(),
    };
    let address = format!("mqtts://localhost:{}", split.broker.link().port());
    // One that trusts somebody else, and one that speaks no TLS, don't join.
    let deceived = bridge_folder(&address)?;
    let ca = put("stranger", stranger.cert_pem())?;
    let deceived = Server::start_in(deceived.setting("TIDINGS__LINK__CA", &ca), &[]).await?;
    let plain = Server::start_in(bridge_folder(&split.address())?, &[]).await?;
    eventually("both have tried", async || {
        let is_refused = |bridge: &Server| bridge.log().contains("the broker");
        Ok(is_refused(&deceived) && is_refused(&plain))
    })
    .await?;
    assert_eq!(ready(&deceived.api()).await?, 503);
    assert_eq!(ready(&plain.api()).await?, 503);
    deceived.stop().await?;
    plain.stop().await?;

    let ca = put("ca", authority.cert_pem())?;
    let trusting = bridge_folder(&address)?.setting("TIDINGS__LINK__CA", &ca);
    split.add(trusting, &["alice"]).await?;
    let mut alice = online(&split, "alice").await?;
    alice.say(up::user("alice"), "for nobody else").await?;
    split.stop().await
}
