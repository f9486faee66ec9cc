//! What the operator sees of a running server: `$SYS/#` and `/metrics`.

use anyhow::{Result, ensure};
use tidings_tests::Server;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;

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
        let reason = root.publish("$SYS/broker/x", "forged", 1).await?;
        assert_eq!(reason >= 0x80, version == V5);

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

/// What happens is counted.
#[tokio::test]
async fn metrics_count() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let before = numbers(&server).await?;
    let mut alice = server.device("alice").connect().await?;
    alice.subscribe("dev/alice/#", 1).await?;
    for _ in 0..10 {
        alice.publish("dev/alice/x", "x", 1).await?;
    }
    alice.texts(10).await?;
    let after = numbers(&server).await?;
    let grown: Vec<&String> = after
        .iter()
        .filter(|(name, value)| {
            let earlier = before.iter().find(|(other, _)| other == name);
            *value - earlier.map_or(0.0, |(_, value)| *value) >= 10.0
        })
        .map(|(name, _)| name)
        .collect();
    // The names are documented elsewhere; something must have counted ten publishes in, and ten out.
    ensure!(grown.len() >= 2, "only {grown:?} grew by 10");
    server.finish().await
}

/// All samples by name and labels.
async fn numbers(server: &Server) -> Result<Vec<(String, f64)>> {
    let metrics = server.api().get("/metrics").await?.expect(200)?;
    let text = metrics.as_str().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.filter_map(|line| line.rsplit_once(' '));
    Ok(samples
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect())
}
