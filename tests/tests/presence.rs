//! Which of the caller's devices are connected, how, and why those that are not have left: `GET /v1/devices`.

use anyhow::{Context, Result};
use serde_json::Value;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::tunnel::Through;
use tidings_tests::{Api, Server, eventually};

const VERSIONS: [Version; 2] = [V4, V5];

/// The row of a device, once it fits.
async fn until(api: &Api, device: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = eventually("the device is as expected", async || {
        let devices = api.get("/v1/devices").await?.expect(200)?;
        let rows = devices["devices"].as_array().cloned().unwrap_or_default();
        let row = rows.into_iter().find(|row| row["device"] == device);
        last = row.unwrap_or(Value::Null);
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
        let second = server.client("alice").device("phone").version(version);
        let second = second.online().await?;
        first.closed().await?;
        // Taken over is not gone.
        until(&api, "phone", |row| row["online"] == true).await?;
        second.drop_connection().await;
        let row = until(&api, "phone", |row| row["online"] == false).await?;
        assert_ne!(row["lastReason"], "by_client");
    }

    let silent = server.device("alice").id("silent").keep_alive(1);
    let mut silent = silent.connect().await?;
    silent.closed().await?;
    let lost = |row: &Value| row.is_null() || row["online"] == false;
    until(&api, "silent", lost).await?;

    let others = server.login("bob").await?;
    let devices = others.get("/v1/devices").await?.expect(200)?;
    assert!(!devices.to_string().contains("phone"), "{devices}");
    let stranger = server.api().get("/v1/devices").await?;
    stranger.problem(401, "unauthenticated")?;
    server.finish().await
}
