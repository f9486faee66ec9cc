//! What the operator opens and closes: `[[topics.rules]]` in the settings' file.

use anyhow::{Context, Result};
use tidings_tests::Server;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;

const VERSIONS: [Version; 2] = [V4, V5];

const RULES: &str = r##"
[mqtt]
anonymous = true

[[topics.rules]]
effect = "allow"
action = "subscribe"
who = "users"
topics = ["news/#", "fleet/%u/+", "clients/%c/#"]

[[topics.rules]]
effect = "allow"
action = "publish"
who = "users"
topics = ["fleet/%u/state", "clients/%c/state"]

[[topics.rules]]
effect = "allow"
action = "all"
who = "anonymous"
topics = ["public/#"]

[[topics.rules]]
effect = "allow"
action = "all"
who = "administrators"
topics = ["#"]

[[topics.rules]]
effect = "deny"
action = "all"
who = "everyone"
topics = ["public/secret/#", "dev/%u/locked"]
"##;

/// One thing that one may do, or not.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Reads(&'static str),
    Writes(&'static str),
}
use Deed::{Reads, Writes};

/// Each rule for those it names, and for nobody else; a deny outweighs allows, ownership and grants.
#[tokio::test]
async fn rules_open_and_close() -> Result<()> {
    let folder = Folder::new()?
        .config(RULES)?
        .setting("TIDINGS__TOPICS__SYS_INTERVAL", "0");
    let server = Server::start_in(folder, &["alice"]).await?;
    server.add_admin("root").await?;
    // Between them they would hear all of it, but for what everybody is denied: that can only be counted.
    let mut watchers = [
        server.device("root").id("watcher").connect().await?,
        server.device("alice").id("watcher").connect().await?,
    ];
    for (watcher, filters) in [(0, ["#", "$SYS/#"]), (1, ["im/alice/down", "dev/alice/#"])] {
        for filter in filters {
            assert_eq!(watchers[watcher].subscribe(filter, 1).await?, 1, "{filter}");
        }
    }
    #[rustfmt::skip]
    let cases = [
        ("alice", Reads("news/#"), true),
        ("alice", Reads("news/today"), true),
        ("alice", Reads("+/today"), false),
        ("alice", Writes("news/today"), false),
        ("alice", Reads("fleet/alice/+"), true),
        ("alice", Reads("fleet/alice/state"), true),
        ("alice", Reads("fleet/bob/+"), false),
        ("alice", Reads("fleet/+/+"), false),
        ("alice", Reads("fleet/alice/#"), false),
        ("alice", Writes("fleet/alice/state"), true),
        ("alice", Writes("fleet/bob/state"), false),
        ("alice", Reads("clients/alice-device/#"), true),
        ("alice", Reads("clients/other/#"), false),
        ("alice", Writes("clients/alice-device/state"), true),
        ("alice", Reads("public/x"), false),
        ("alice", Reads("dev/alice/locked"), false),
        ("alice", Writes("dev/alice/locked"), false),
        ("alice", Writes("dev/alice/open"), true),
        // What contains a closed topic is granted; the closed one is not delivered, see below.
        ("alice", Reads("dev/alice/#"), true),
        ("", Reads("public/#"), true),
        ("", Writes("public/x"), true),
        ("", Reads("public/secret/x"), false),
        ("", Writes("public/secret/x"), false),
        ("", Reads("news/#"), false),
        ("", Reads("dev/alice/#"), false),
        ("", Reads("im/alice/down"), false),
        ("", Writes("im/alice/up"), false),
        ("root", Reads("#"), true),
        ("root", Reads("dev/alice/x"), true),
        ("root", Writes("anything/at/all"), true),
        ("root", Writes("public/secret/x"), false),
        // These can't be opened.
        ("root", Reads("im/alice/down"), false),
        ("root", Writes("im/alice/down"), false),
        ("root", Writes("$SYS/x"), false),
    ];
    let mut forged = 0;
    for version in VERSIONS {
        for (who, deed, allowed) in cases {
            let device = match who {
                "" => server.stranger(),
                uid => server.device(uid),
            };
            let mut device = device.version(version).connect().await?;
            let context = || format!("{who:?} {deed:?} in {version:?}");
            match deed {
                Reads(filter) => {
                    let code = device.subscribe(filter, 1).await.with_context(context)?;
                    assert_eq!(code < 0x80, allowed, "{}: {code:#04x}", context());
                }
                Writes(topic) => {
                    let reason = device.publish(topic, "x", 1).await.with_context(context)?;
                    let refused = !allowed && version == V5;
                    assert_eq!(reason >= 0x80, refused, "{}: {reason:#04x}", context());
                    if allowed {
                        let heard = watchers[0].next_on(topic).await;
                        assert_eq!(heard.with_context(context)?, "x");
                    } else {
                        forged += 1;
                    }
                    let heard = watchers[0].hears_only(&mut device, open_to(who)).await;
                    heard.with_context(context)?;
                }
            }
            device.disconnect().await?;
        }
    }
    let api = server.api();
    let counted = api.metric("tidings_publishes_refused_total").await?;
    assert_eq!(counted, f64::from(forged));
    let mut alice = server.device("alice").connect().await?;
    alice.publish("dev/alice/open", "that was all", 1).await?;
    for heard in watchers[1].until("that was all").await? {
        assert_eq!(heard.topic, "dev/alice/open", "{heard:?}");
    }
    server.finish().await
}

/// Where each of them may write, and root reads.
fn open_to(who: &str) -> &'static str {
    match who {
        "" => "public/sentinel",
        "alice" => "clients/alice-device/state",
        _ => "anything/else",
    }
}

/// A wildcard shows neither what a deny closes, nor chat, nor `$SYS`.
#[tokio::test]
async fn wildcards_show_nothing_closed() -> Result<()> {
    let folder = Folder::new()?
        .config(RULES)?
        .setting("TIDINGS__TOPICS__SYS_INTERVAL", "200ms");
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    server.add_admin("root").await?;
    for version in VERSIONS {
        let mut root = server.device("root").version(version).connect().await?;
        assert_eq!(root.subscribe("#", 1).await?, 1);
        let mut alice = server.device("alice").version(version).connect().await?;
        alice.subscribe("imj/alice/down", 1).await?;
        let text = r#"{"send":{"to":{"user":"bob"},"text":"between us"}}"#;
        alice.publish("imj/alice/up", text, 1).await?;
        alice.publish("dev/alice/locked", "x", 1).await?;
        let system = server.device("root").version(version).id("system");
        let mut system = system.connect().await?;
        system.subscribe("$SYS/#", 1).await?;
        system.next().await?;
        root.hears_only(&mut alice, "dev/alice/open").await?;
    }
    server.finish().await
}

/// Without `mqtt.anonymous` nobody comes in without a name.
#[tokio::test]
async fn strangers_are_not_let_in() -> Result<()> {
    let server = Server::with_users(&[]).await?;
    for (version, codes) in [(V4, [4, 5]), (V5, [0x86, 0x87])] {
        let code = server.stranger().version(version).refused().await?;
        assert!(codes.contains(&code), "CONNACK {code:#04x}");
    }
    server.finish().await
}
