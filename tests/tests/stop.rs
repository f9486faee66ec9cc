//! SIGTERM: clients are told, what was acknowledged is kept, and the end comes in time.

use std::time::{Duration, Instant};

use anyhow::Result;
use tidings_tests::device::End;
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::raw::{CONNACK, Raw};
use tidings_tests::server::Folder;
use tidings_tests::tunnel::Through;
use tidings_tests::wire::Publish;
use tidings_tests::{Server, up};

use crate::support::{connect_packet, text_of};

/// Far below `shutdown.timeout`: nobody here is slow.
const SOON: Duration = Duration::from_secs(8);

/// In MQTT 5 a client is told why, whatever way it came in; in 3.1.1 it is closed. It can come back at once.
#[tokio::test]
async fn clients_are_told() -> Result<()> {
    let mut server = Server::start_in(Folder::with_tls()?, &["alice"]).await?;
    let tunnels = [
        server.tunnel(Through::Tls(None)).await?,
        server.tunnel(Through::Ws).await?,
        server.tunnel(Through::Wss).await?,
    ];
    let mut devices = Vec::new();
    for (version, end) in [(V4, End::Closed), (V5, End::Disconnect(0x8B))] {
        let device = |id: String| server.device("alice").version(version).id(&id);
        let plain = device(format!("{version:?}")).connect().await?;
        devices.push((plain, end));
        for (number, tunnel) in tunnels.iter().enumerate() {
            let device = device(format!("{version:?}-{number}")).through(tunnel);
            devices.push((device.connect().await?, end));
        }
    }
    let took = server.shut_down().await?;
    assert!(took < SOON, "{took:?}");
    for (mut device, end) in devices {
        assert_eq!(device.closed().await?, end);
    }
    server.restart().await?;
    server.device("alice").connect().await?.disconnect().await?;
    server.finish().await
}

/// SIGTERM in the middle of publishing: each chat message and each retained one that was acknowledged is there
/// afterwards.
#[tokio::test]
async fn what_was_acknowledged_is_stored() -> Result<()> {
    const ENOUGH: usize = 100;
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let mut chat = server.device("alice").id("chat").connect().await?;
    let mut lamp = server.device("alice").id("lamp").connect().await?;
    let mut kept = Vec::new();
    let mut said = Vec::new();
    for number in 0..10 * ENOUGH {
        let text = format!("m{number}");
        let up = format!(r#"{{"send":{{"to":{{"user":"bob"}},"text":"{text}"}}}}"#);
        let up = Publish::new("imj/alice/up", up, 1);
        let state = Publish::new(&format!("dev/alice/{number}"), &text, 1).retained();
        if number == ENOUGH {
            server.signal("TERM").await?;
        }
        // From here on either may fail: then it was not acknowledged.
        if chat.put(up).await.is_ok() {
            said.push(text.clone());
        }
        match lamp.put(state).await {
            Ok(0) => kept.push(text),
            _ => break,
        }
    }
    assert!(said.len() >= ENOUGH, "{} were acknowledged", said.len());
    server.wait().await?;
    server.restart().await?;

    let history = server.login("bob").await?.history("u:alice:bob").await?;
    for text in &said {
        assert!(
            history.iter().any(|message| text_of(message) == text),
            "{text}"
        );
    }
    let mut viewer = server.device("alice").id("viewer").connect().await?;
    viewer.subscribe("dev/alice/+", 1).await?;
    let mut lamp = server.device("alice").id("lamp").connect().await?;
    lamp.publish("dev/alice/end", "that was all", 1).await?;
    // Some may be stored and not acknowledged.
    let found = viewer.until("that was all").await?;
    let mut found: Vec<String> = found.iter().map(Publish::text).collect();
    found.sort();
    for text in &kept {
        assert!(found.binary_search(text).is_ok(), "{text} is not retained");
    }
    let mut bob = server.client("bob").online().await?;
    bob.say(up::user("alice"), "hello again").await?;
    server.finish().await
}

/// A client that is connected until the server's end has a will like any other: what that retains is there afterwards,
/// instead of what the client had retained itself.
#[tokio::test]
async fn a_retained_will_survives() -> Result<()> {
    const LAMPS: usize = 5;
    let mut server = Server::with_users(&["alice"]).await?;
    // How the end goes is a matter of luck.
    for (round, version) in [V4, V5, V4, V5, V4, V5].into_iter().enumerate() {
        let mut lamps = Vec::new();
        for number in 0..LAMPS {
            let topic = format!("dev/alice/{round}/{number}");
            let state = |text: &str| Publish::new(&topic, text, 1).retained();
            let lamp = server.device("alice").version(version);
            let lamp = lamp.id(&format!("lamp-{number}")).will(state("offline"));
            let mut lamp = lamp.connect().await?;
            assert_eq!(lamp.put(state("online")).await?, 0);
            lamps.push(lamp);
        }
        server.shut_down().await?;
        server.restart().await?;
        let mut viewer = server.device("alice").id("viewer").connect().await?;
        let filter = format!("dev/alice/{round}/+");
        viewer.subscribe(&filter, 1).await?;
        assert_eq!(
            viewer.texts(LAMPS).await?,
            ["offline"; LAMPS],
            "{version:?}"
        );
    }
    server.finish().await
}

/// A client that does not read delays the end only as long as `shutdown.timeout` says.
#[tokio::test]
async fn who_does_not_read_is_not_waited_for() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__SHUTDOWN__TIMEOUT", "2s");
    let mut server = Server::start_in(folder, &["alice"]).await?;
    let deaf = server.device("alice").v5().id("deaf").manual_acks();
    let mut deaf = deaf.connect().await?;
    deaf.subscribe("dev/alice/#", 0).await?;
    let mut lamp = server.device("alice").v5().connect().await?;
    // More than the sockets on the way can hold.
    let text = "x".repeat(100_000);
    for _ in 0..100 {
        lamp.publish("dev/alice/x", &text, 1).await?;
    }
    let took = server.shut_down().await?;
    assert!(took < SOON, "{took:?}");
    assert_eq!(lamp.closed().await?, End::Disconnect(0x8B));
    server.restart().await?;
    server.finish().await
}

/// Before the end, sessions are asked to go elsewhere a few at a time, and nobody new is let in; what goes on meanwhile is
/// answered as always.
#[tokio::test]
async fn sessions_are_moved_off() -> Result<()> {
    const DEVICES: usize = 20;
    const DISCONNECT: u8 = 0xE0;
    const PLACE: &[u8] = b"elsewhere:1883";
    for (moved, reason) in [("false", 0x9C), ("true", 0x9D)] {
        let folder = Folder::new()?
            .setting("TIDINGS__SHUTDOWN__DRAIN", "3s")
            .setting("TIDINGS__SHUTDOWN__SERVER_REFERENCE", "elsewhere:1883")
            .setting("TIDINGS__SHUTDOWN__MOVED", moved);
        let mut server = Server::start_in(folder, &["alice"]).await?;
        let mut old = server.device("alice").id("old").connect().await?;
        let mut raw = Raw::open(server.mqtt()).await?;
        raw.send(&connect_packet(V5, "raw")).await?;
        raw.expect(CONNACK).await?;
        let mut devices = Vec::new();
        for number in 0..DEVICES {
            let device = server.device("alice").v5().id(&number.to_string());
            devices.push(device.connect().await?);
        }
        let api = server.login("alice").await?;
        server.signal("TERM").await?;
        api.until_ready(503).await?;
        let mut late = Raw::open(server.mqtt()).await?;
        late.send(&connect_packet(V5, "late")).await?;
        let refused = late.expect(CONNACK).await?;
        assert_eq!(refused[1], reason);
        assert!(refused.ends_with(PLACE), "{refused:02x?}");

        let mut leaving = tokio::task::JoinSet::new();
        for mut device in devices {
            leaving.spawn(async move {
                // Until it is asked to go, the session works.
                while device.publish("dev/alice/x", "still here", 1).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                (device.closed().await, Instant::now())
            });
        }
        let mut left_at = Vec::new();
        while let Some(left) = leaving.join_next().await {
            let (end, at) = left?;
            assert_eq!(end?, End::Disconnect(reason));
            left_at.push(at);
        }
        let spread = left_at[DEVICES - 1] - left_at[0];
        assert!(spread > Duration::from_secs(1), "{spread:?}");
        let told = raw.expect(DISCONNECT).await?;
        assert_eq!(told[0], reason);
        assert!(told.ends_with(PLACE), "{told:02x?}");
        assert_eq!(old.closed().await?, End::Closed);
        server.wait().await?;
        server.restart().await?;
        server.finish().await?;
    }
    Ok(())
}
