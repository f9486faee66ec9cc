//! Rights on another's devices: given and taken back by their owner, over HTTP and over MQTT.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::server::Folder;
use tidings_tests::wire::Publish;
use tidings_tests::{Api, Server, eventually, up};

const VERSIONS: [Version; 2] = [V4, V5];
const NOT_AUTHORIZED: u8 = 0x87;

/// Gives rights over HTTP, or takes them back with neither.
async fn grant(owner: &Api, user: &str, filter: &str, read: bool, write: bool) -> Result<()> {
    let grant = json!({ "user": user, "filter": filter, "read": read, "write": write });
    let answer = owner.put("/v1/grants", &grant).await?;
    answer.success().map(drop)
}

/// Waits until bob may, or may not, subscribe.
async fn until_readable(server: &Server, filter: &str, readable: bool) -> Result<()> {
    eventually("the grant is known at the edge", async || {
        let mut probe = server.device("bob").id("probe").connect().await?;
        let code = probe.subscribe(filter, 1).await?;
        Ok((code < 0x80) == readable)
    })
    .await
}

/// What is granted may be done, and no more: reading is not writing, and the filter is the limit.
#[tokio::test]
async fn grants_open_what_they_name() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let api = server.login("alice").await?;
    grant(&api, "bob", "kitchen/#", true, false).await?;
    grant(&api, "bob", "door/+/set", false, true).await?;
    until_readable(&server, "dev/alice/kitchen/#", true).await?;
    let mut alice = server.device("alice").connect().await?;
    alice.subscribe("dev/alice/door/#", 1).await?;
    for version in VERSIONS {
        let refused = match version {
            V4 => 0x80,
            V5 => NOT_AUTHORIZED,
        };
        let mut bob = server.device("bob").version(version).connect().await?;
        for (filter, code) in [
            ("dev/alice/kitchen/#", 1),
            ("dev/alice/kitchen/+/state", 1),
            ("dev/alice/kitchen", 1),
            ("$share/g/dev/alice/kitchen/lamp", 1),
            ("dev/alice/#", refused),
            ("dev/alice/+", refused),
            ("dev/alice/bedroom", refused),
            ("dev/+/kitchen/#", refused),
            ("dev/alice/door/1/set", refused),
        ] {
            let got = bob.subscribe(filter, 1).await.context(filter)?;
            assert_eq!(got, code, "{filter} in {version:?}");
        }
        for (topic, allowed) in [
            ("dev/alice/kitchen/lamp", false),
            ("dev/alice/door/1/state", false),
            ("dev/alice/door/1/set", true),
        ] {
            let reason = bob.publish(topic, "by bob", 1).await?;
            let is_refused = reason == NOT_AUTHORIZED;
            assert_eq!(
                is_refused,
                !allowed && version == V5,
                "{topic}: {reason:#04x}"
            );
        }
        assert_eq!(alice.next_on("dev/alice/door/1/set").await?, "by bob");
        bob.disconnect().await?;

        let mut carol = server.device("carol").version(version).connect().await?;
        let code = carol.subscribe("dev/alice/kitchen/#", 1).await?;
        assert_eq!(code, refused);
    }
    server.finish().await
}

/// The same by a command, over MQTT and over HTTP; what can't be granted is refused.
#[tokio::test]
async fn grants_by_command() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.tell(up::grant("bob", "kitchen", true, false)).await?;
    until_readable(&server, "dev/alice/kitchen", true).await?;
    alice
        .tell(up::grant("bob", "kitchen", false, false))
        .await?;
    until_readable(&server, "dev/alice/kitchen", false).await?;

    let mut json = server.device("alice").connect().await?;
    let command = r#"{"grant":{"user":"bob","filter":"hall","read":true}}"#;
    assert_eq!(json.publish("imj/alice/up", command, 1).await?, 0);
    until_readable(&server, "dev/alice/hall", true).await?;
    // An empty filter is all.
    let api = server.login("alice").await?;
    api.up(&up::new(up::grant("bob", "", true, true))).await?;
    until_readable(&server, "dev/alice/#", true).await?;

    for (user, filter, code) in [
        ("nobody", "x", "not_found"),
        ("bob", "a/#/b", "invalid_argument"),
        ("bob", "a+", "invalid_argument"),
        ("bob", &"x/".repeat(600), "too_large"),
        ("a/b", "x", "invalid_argument"),
    ] {
        let refused = alice.tell_in_vain(up::grant(user, filter, true, false));
        let refused = refused.await?;
        assert_eq!(refused, code, "{user} {filter}");
    }
    server.finish().await
}

/// What is taken back ends at once: live delivery to a subscription that is there, retained messages for a new one, and
/// what waits for a session that is away.
#[tokio::test]
async fn what_is_taken_back_ends() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let api = server.login("alice").await?;
    for version in VERSIONS {
        grant(&api, "bob", "secret/#", true, true).await?;
        grant(&api, "bob", "open", true, false).await?;
        for filter in ["dev/alice/secret/#", "dev/alice/open"] {
            until_readable(&server, filter, true).await?;
        }
        let keeper = || server.device("bob").version(version).id("keeper").kept();
        let mut away = keeper().connect().await?;
        let live = server.device("bob").version(version).id("live");
        let mut live = live.connect().await?;
        for device in [&mut away, &mut live] {
            for filter in ["dev/alice/secret/#", "dev/alice/open"] {
                assert_eq!(device.subscribe(filter, 1).await?, 1);
            }
        }
        away.disconnect().await?;
        let mut alice = server.device("alice").connect().await?;
        let kept = Publish::new("dev/alice/secret/state", "before", 1).retained();
        alice.put(kept).await?;
        assert_eq!(live.next_on("dev/alice/secret/state").await?, "before");

        grant(&api, "bob", "secret/#", false, false).await?;
        until_readable(&server, "dev/alice/secret/#", false).await?;
        alice.publish("dev/alice/secret/x", "after", 1).await?;
        live.hears_only(&mut alice, "dev/alice/open").await?;
        let reason = live.publish("dev/alice/secret/x", "by bob", 1).await?;
        assert_eq!(reason == NOT_AUTHORIZED, version == V5, "{reason:#04x}");

        let mut back = keeper().connect().await?;
        assert!(back.connack.session_present);
        assert_eq!(back.next().await?.text(), "is anything before me?");
        back.hears_only(&mut alice, "dev/alice/open").await?;
        let code = back.subscribe("dev/alice/secret/state", 1).await?;
        assert!(code >= 0x80, "SUBACK {code:#04x}");
        back.hears_only(&mut alice, "dev/alice/open").await?;
        back.disconnect().await?;
        live.disconnect().await?;
        // The next version begins anew.
        let forgotten = Publish::new("dev/alice/secret/state", "", 1).retained();
        alice.put(forgotten).await?;
        keeper().forget().await?;
    }
    server.finish().await
}

/// Grants are kept across restarts, also those that were taken back.
#[tokio::test]
async fn grants_survive_a_restart() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let api = server.login("alice").await?;
    grant(&api, "bob", "kept", true, false).await?;
    grant(&api, "bob", "taken", true, false).await?;
    grant(&api, "bob", "taken", false, false).await?;
    server.kill().await?;
    server.restart().await?;
    // As soon as it is ready: without waiting for anything.
    let mut bob = server.device("bob").connect().await?;
    assert_eq!(bob.subscribe("dev/alice/kept", 1).await?, 1);
    assert_eq!(bob.subscribe("dev/alice/taken", 1).await?, 0x80);
    server.finish().await
}

/// Only the owner's own topics can be granted, and both sides see what is.
#[tokio::test]
async fn grants_can_be_listed() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let (alice, bob) = (server.login("alice").await?, server.login("bob").await?);
    grant(&alice, "bob", "kitchen/#", true, false).await?;
    let given = alice.get("/v1/grants").await?.expect(200)?;
    let received = bob.get("/v1/grants").await?.expect(200)?;
    ensure!(
        given["given"][0]["user"] == "bob" && given["given"][0]["filter"] == "kitchen/#",
        "{given}"
    );
    ensure!(received["received"][0]["owner"] == "alice", "{received}");
    let stranger = server.api().get("/v1/grants").await?;
    stranger.problem(401, "unauthenticated")?;
    server.finish().await
}

/// A user gives so many grants; one that is changed takes no room, and one that is taken back makes some.
#[tokio::test]
async fn grants_are_bounded() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__TOPICS__GRANTS_PER_USER_MAX", "2");
    let server = Server::start_in(folder, &["alice", "bob", "carol"]).await?;
    let (api, others) = (server.login("alice").await?, server.login("carol").await?);
    let mut alice = server.client("alice").online().await?;
    grant(&api, "bob", "one", true, false).await?;
    grant(&api, "carol", "one", true, false).await?;
    for (user, filter) in [("bob", "two"), ("carol", "two")] {
        let body = json!({ "user": user, "filter": filter, "read": true });
        let refused = api.put("/v1/grants", &body).await?;
        refused.problem(413, "too_large")?;
        let refused = alice.tell_in_vain(up::grant(user, filter, true, false));
        assert_eq!(refused.await?, "too_large");
    }
    grant(&api, "bob", "one", true, true).await?;
    grant(&others, "bob", "two", true, false).await?;
    grant(&api, "carol", "one", false, false).await?;
    grant(&api, "bob", "two", true, false).await?;
    for filter in ["dev/alice/one", "dev/alice/two", "dev/carol/two"] {
        until_readable(&server, filter, true).await?;
    }
    server.finish().await
}
