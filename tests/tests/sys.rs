//! What the operator sees of a running server: `$SYS/#` and `/metrics`.

use anyhow::{Result, ensure};
use tidings_tests::Server;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::tunnel::Through;

const VERSIONS: [Version; 2] = [V4, V5];

/// Administrators see `$SYS/#`, again and again; nobody else does, and nobody publishes there.
#[tokio::test]
async fn statistics_are_for_administrators() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__TOPICS__SYS_INTERVAL", "200ms");
    let server = Server::start_in(folder, &["alice"]).await?;
    server.add_admin("root").await?;
    for version in VERSIONS {
        let mut root = server.device("root").version(version).connect().await?;
        assert_eq!(root.subscribe("$SYS/#", 0).await?, 0);
        let first = root.next().await?;
        ensure!(first.topic.starts_with("$SYS/"), "{first:?}");
        loop {
            // It comes again, and not as retained.
            let publish = root.next().await?;
            ensure!(publish.topic.starts_with("$SYS/"), "{publish:?}");
            if publish.topic == first.topic && !publish.retain {
                break;
            }
        }
        let watcher = server.device("root").version(version).id("watcher");
        let mut watcher = watcher.connect().await?;
        for filter in ["$SYS/broker/x", "dev/root/now"] {
            assert_eq!(watcher.subscribe(filter, 1).await?, 1);
        }
        let reason = root.publish("$SYS/broker/x", "forged", 1).await?;
        assert_eq!(reason >= 0x80, version == V5);
        watcher.hears_only(&mut root, "dev/root/now").await?;

        let mut alice = server.device("alice").version(version).connect().await?;
        for filter in ["$SYS/#", "$SYS/+/+", "$share/g/$SYS/#"] {
            let code = alice.subscribe(filter, 0).await?;
            assert!(code >= 0x80, "{filter}: SUBACK {code:#04x}");
        }
    }
    server.finish().await
}

/// `/metrics` is open to whom the settings name, and to administrators from anywhere.
#[tokio::test]
async fn metrics() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let open = server.api().get("/metrics").await?;
    assert!(
        open.content_type.starts_with("text/plain") || open.content_type.contains("openmetrics")
    );
    let text = open.expect(200)?.as_str().unwrap_or_default().to_owned();
    ensure!(text.contains("# TYPE tidings_"), "{text}");
    ensure!(
        !text.contains("alice"),
        "metrics tell nothing of single users"
    );
    server.finish().await?;

    let folder = Folder::new()?.setting("TIDINGS__HTTP__METRICS_FROM", "10.0.0.0/8");
    let server = Server::start_in(folder, &["alice"]).await?;
    server.add_admin("root").await?;
    let alice = server.login("alice").await?;
    let root = server.login("root").await?;
    let stranger = server.api().get("/metrics").await?;
    ensure!([401, 403].contains(&stranger.status), "{stranger:?}");
    let user = alice.get("/metrics").await?;
    user.problem(403, "permission_denied")?;
    root.get("/metrics").await?.expect(200)?;
    server.finish().await
}

/// What happens is counted, by name.
#[tokio::test]
async fn metrics_count() -> Result<()> {
    const COUNT: usize = 10;
    let server = Server::start_in(Folder::with_tls()?, &["alice"]).await?;
    let api = server.api();
    let tunnel = server.tunnel(Through::Wss).await?;
    for version in VERSIONS {
        let samples = [
            (r#"tidings_connections{listener="mqtt"}"#, 2),
            (r#"tidings_connections{listener="wss"}"#, 1),
            (r#"tidings_connections_opened_total{listener="mqtt"}"#, 2),
            (r#"tidings_connections_opened_total{listener="wss"}"#, 1),
            (r#"tidings_received_packets_total{type="subscribe"}"#, 1),
            (
                r#"tidings_received_packets_total{type="publish"}"#,
                COUNT + 1,
            ),
            (r#"tidings_sent_packets_total{type="puback"}"#, COUNT + 1),
            (r#"tidings_sent_packets_total{type="publish"}"#, COUNT),
            ("tidings_publishes_refused_total", 1),
            ("tidings_subscriptions", 1),
            (r#"tidings_sessions{state="connected"}"#, 3),
        ];
        let mut before = Vec::new();
        for (sample, _) in samples {
            before.push(api.metric(sample).await?);
        }
        let device = |id: &str| server.device("alice").version(version).id(id);
        let mut lamp = device("lamp").connect().await?;
        let mut viewer = device("viewer").connect().await?;
        let browser = device("browser").through(&tunnel).connect().await?;
        device("guest").password("wrong").refused().await?;
        viewer.subscribe("dev/alice/#", 1).await?;
        for _ in 0..COUNT {
            lamp.publish("dev/alice/x", "x", 1).await?;
        }
        lamp.publish("dev/bob/x", "forged", 1).await?;
        viewer.texts(COUNT).await?;
        for ((sample, expected), before) in samples.into_iter().zip(before) {
            let grown = api.metric(sample).await? - before;
            assert_eq!(grown, expected as f64, "{sample} in {version:?}");
        }
        for device in [lamp, viewer, browser] {
            device.disconnect().await?;
        }
    }
    let versions = VERSIONS.len() as f64;
    for (sample, expected) in [
        (r#"tidings_connections{listener="mqtt"}"#, 0.0),
        (r#"tidings_connections{listener="wss"}"#, 0.0),
        (
            r#"tidings_connections_closed_total{reason="by_client"}"#,
            3.0 * versions,
        ),
        (
            r#"tidings_connections_refused_total{reason="bad_user_name_or_password"}"#,
            versions,
        ),
        (r#"tidings_messages_dropped_total{kind="plain"}"#, 0.0),
        (r#"tidings_subscriptions"#, 0.0),
    ] {
        assert_eq!(api.metric(sample).await?, expected, "{sample}");
    }
    server.finish().await
}

/// The packets that begin and end a connection count like all others.
#[tokio::test]
async fn metrics_count_the_first_packet_and_the_last() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let api = server.api();
    for version in VERSIONS {
        let first = server.device("alice").version(version);
        let mut first = first.connect().await?;
        let second = server.device("alice").version(version);
        let second = second.connect().await?;
        first.closed().await?;
        server
            .device("alice")
            .version(version)
            .password("wrong")
            .refused()
            .await?;
        second.disconnect().await?;
    }
    for (sample, expected) in [
        (r#"tidings_received_packets_total{type="connect"}"#, 6.0),
        (r#"tidings_sent_packets_total{type="connack"}"#, 6.0),
        (r#"tidings_received_packets_total{type="disconnect"}"#, 2.0),
        // Of the server's, only MQTT 5 knows one.
        (r#"tidings_sent_packets_total{type="disconnect"}"#, 1.0),
    ] {
        assert_eq!(api.metric(sample).await?, expected, "{sample}");
    }
    server.finish().await
}
