//! Which of the caller's devices are connected, how, and why those that are not have left: `GET /v1/devices`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidings_tests::device::End;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::tunnel::Through;
use tidings_tests::{Api, Server, eventually, up};

const VERSIONS: [Version; 2] = [V4, V5];

/// The row of a device; null where there is none.
async fn row_of(api: &Api, device: &str) -> Result<Value> {
    let devices = api.get("/v1/devices").await?.expect(200)?;
    let rows = devices["devices"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["device"] == device);
    Ok(row.unwrap_or(Value::Null))
}

/// The row of a device, once it fits.
async fn until(api: &Api, device: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = eventually("the device is as expected", async || {
        last = row_of(api, device).await?;
        Ok(fits(&last))
    })
    .await;
    waited.with_context(|| format!("the last one was {last}"))?;
    Ok(last)
}

/// A device is online while it is connected, over whichever way in, and then the reason of its end is known.
#[tokio::test]
async fn devices_come_and_go() -> Result<()> {
    let server = Server::start_in(Folder::with_tls()?, &["alice", "bob"]).await?;
    let api = server.login("alice").await?;
    let ways = [
        ("mqtt", None),
        ("mqtts", Some(Through::Tls(None))),
        ("ws", Some(Through::Ws)),
        ("wss", Some(Through::Wss)),
    ];
    for version in VERSIONS {
        for (listener, through) in ways.clone() {
            let tunnel = match through {
                Some(through) => Some(server.tunnel(through).await?),
                None => None,
            };
            let phone = || {
                let phone = server.client("alice").device("phone").version(version);
                match &tunnel {
                    Some(tunnel) => phone.through(tunnel),
                    None => phone,
                }
            };
            let connected = phone().online().await?;
            let row = until(&api, "phone", |row| row["online"] == true).await?;
            assert_eq!(row["listener"], listener);
            assert_eq!(row["address"], "127.0.0.1");
            assert!(row["connectedAt"].is_string(), "{row}");
            connected.disconnect().await?;
            let row = until(&api, "phone", |row| row["online"] == false).await?;
            assert_eq!(row["lastReason"], "by_client");
            assert!(row["lastSeenAt"].is_string(), "{row}");
        }
        let first = server.client("alice").device("phone").version(version);
        let mut first = first.online().await?;
        let before = until(&api, "phone", |row| row["online"] == true).await?;
        let second = server.client("alice").device("phone").version(version);
        let mut second = second.online().await?;
        first.closed().await?;
        let is_second = |row: &Value| row["connectedAt"] != before["connectedAt"];
        let row = until(&api, "phone", is_second).await?;
        // Taken over is not gone, and stays so when the first one's end is known as well: it is older than this answer.
        second.say(up::user("bob"), "still here").await?;
        assert_eq!(row["online"], true);
        let row = row_of(&api, "phone").await?;
        assert_eq!(row["online"], true);
        assert!(is_second(&row), "{row}");
        second.drop_connection().await;
        let row = until(&api, "phone", |row| row["online"] == false).await?;
        assert_ne!(row["lastReason"], "by_client");
    }

    let silent = server.device("alice").id("silent").keep_alive(1);
    let mut silent = silent.connect().await?;
    assert_eq!(silent.subscribe("imj/alice/down", 1).await?, 1);
    silent.closed().await?;
    let row = until(&api, "silent", |row| row["online"] == false).await?;
    assert_eq!(row["lastReason"], "keep_alive_timeout");

    let others = server.login("bob").await?;
    let devices = others.get("/v1/devices").await?.expect(200)?;
    assert!(!devices.to_string().contains("phone"), "{devices}");
    let stranger = server.api().get("/v1/devices").await?;
    stranger.problem(401, "unauthenticated")?;
    server.finish().await
}

/// A device that its user forgets is disconnected, with its session, and known no longer; others are not concerned. It
/// may come back, as a new one.
#[tokio::test]
async fn a_device_can_be_forgotten() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let (alice, bob) = (server.login("alice").await?, server.login("bob").await?);
    for (version, end) in [(V4, End::Closed), (V5, End::Disconnect(0x87))] {
        let device = |uid: &str, id: &str| server.device(uid).version(version).id(id).kept();
        let mut devices = Vec::new();
        let phones = [("alice", "phone"), ("alice", "laptop"), ("bob", "phone")];
        for (uid, id) in phones {
            let mut device = device(uid, id).connect().await?;
            device.subscribe(&format!("imj/{uid}/down"), 1).await?;
            device.subscribe(&format!("dev/{uid}/#"), 1).await?;
            devices.push(device);
        }
        until(&alice, "phone", |row| row["online"] == true).await?;
        alice.delete("/v1/devices/phone").await?.expect(204)?;
        assert_eq!(devices[0].closed().await?, end);
        for other in &mut devices[1..] {
            other.ping().await?;
        }
        until(&alice, "phone", Value::is_null).await?;
        assert_eq!(row_of(&alice, "laptop").await?["online"], true);
        assert_eq!(row_of(&bob, "phone").await?["online"], true);

        let again = device("alice", "phone").connect().await?;
        assert!(!again.connack.session_present);
        // One that is away, too. Where it has only a session, it is not listed.
        for (filter, is_listed) in [("imj/alice/down", true), ("dev/alice/x", false)] {
            let tablet = device("alice", "tablet");
            let mut away = tablet.clone().connect().await?;
            assert!(!away.connack.session_present);
            away.subscribe(filter, 1).await?;
            away.disconnect().await?;
            if is_listed {
                until(&alice, "tablet", |row| row["online"] == false).await?;
            }
            let forgotten = alice.delete("/v1/devices/tablet").await?;
            ensure!(forgotten.status == 204 || !is_listed, "{forgotten:?}");
            let again = tablet.clone().connect().await?;
            assert!(!again.connack.session_present, "{filter}");
            again.disconnect().await?;
            tablet.forget().await?;
        }
        for (uid, id) in phones {
            device(uid, id).forget().await?;
        }
    }
    let unknown = alice.delete("/v1/devices/nothing-like-it").await?;
    unknown.problem(404, "not_found")?;
    let stranger = server.api().delete("/v1/devices/phone").await?;
    stranger.problem(401, "unauthenticated")?;
    server.finish().await
}
