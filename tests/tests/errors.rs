//! What is refused is refused with a reason, and harms nobody: not even the connection that it came on.

use anyhow::{Context, Result};
use schema::Format;
use schema::v1::reply;
use serde_json::{Value, json};
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::{Client, Server, up};

/// A payload that is no good command of alice's.
struct Case {
    name: &'static str,
    payload: String,
    /// Any of these codes will do.
    codes: &'static [&'static str],
}

/// What alice, who is in no group, may not say. There is a group `closed` without her.
fn cases() -> Vec<Case> {
    const INVALID: &[&str] = &["invalid_argument"];
    const NOT_FOUND: &[&str] = &["not_found"];
    const NOT_A_MEMBER: &[&str] = &["not_found", "permission_denied"];
    const TOO_LARGE: &[&str] = &["too_large"];
    const DENIED: &[&str] = &["permission_denied"];

    let text = |name, payload: &str, codes| Case {
        name,
        payload: payload.into(),
        codes,
    };
    let send = |name, send: Value, codes| Case {
        name,
        payload: json!({ "clientMsgId": name, "send": send }).to_string(),
        codes,
    };
    let command = |name, command: Value, codes| Case {
        name,
        payload: command.to_string(),
        codes,
    };
    let bob = || json!({ "user": "bob" });
    vec![
        text("empty", "", INVALID),
        text("not JSON", "{", INVALID),
        text("not an object", "[1]", INVALID),
        text("not UTF-8, nearly", "{\"send\":\"\u{fffd}\"}", INVALID),
        command("no command", json!({ "clientMsgId": "a" }), INVALID),
        command("unknown field", json!({ "shout": {} }), INVALID),
        send(
            "unknown field within",
            json!({ "to": bob(), "text": "hi", "colour": 1 }),
            INVALID,
        ),
        send(
            "a number for a text",
            json!({ "to": bob(), "text": 1 }),
            INVALID,
        ),
        send(
            "text and body",
            json!({ "to": bob(), "text": "a", "body": "YQ==" }),
            INVALID,
        ),
        send(
            "two addressees",
            json!({ "to": { "user": "bob", "group": "g" }, "text": "hi" }),
            INVALID,
        ),
        send("no addressee", json!({ "text": "hi" }), INVALID),
        send(
            "an empty addressee",
            json!({ "to": {}, "text": "hi" }),
            INVALID,
        ),
        send("no content", json!({ "to": bob() }), INVALID),
        send("empty text", json!({ "to": bob(), "text": "" }), INVALID),
        send("empty body", json!({ "to": bob(), "body": "" }), INVALID),
        send(
            "bad kind",
            json!({ "to": bob(), "text": "hi", "kind": "No Such!" }),
            INVALID,
        ),
        send(
            "long kind",
            json!({ "to": bob(), "text": "hi", "kind": "k".repeat(33) }),
            INVALID,
        ),
        send(
            "bad uid",
            json!({ "to": { "user": "a/b" }, "text": "hi" }),
            INVALID,
        ),
        send(
            "bad conversation",
            json!({ "to": { "conversation": "u:bob:alice" }, "text": "hi" }),
            INVALID,
        ),
        send(
            "unknown user",
            json!({ "to": { "user": "nobody" }, "text": "hi" }),
            NOT_FOUND,
        ),
        send(
            "unknown group",
            json!({ "to": { "group": "none" }, "text": "hi" }),
            NOT_FOUND,
        ),
        send(
            "not a member",
            json!({ "to": { "group": "closed" }, "text": "hi" }),
            NOT_A_MEMBER,
        ),
        send(
            "not her conversation",
            json!({ "to": { "conversation": "u:bob:carol" }, "text": "hi" }),
            NOT_A_MEMBER,
        ),
        send(
            "64 KiB and one",
            json!({ "to": bob(), "text": "x".repeat(64 * 1024 + 1) }),
            TOO_LARGE,
        ),
        command(
            "long id",
            json!({ "clientMsgId": "x".repeat(65), "send": { "to": bob(), "text": "hi" } }),
            INVALID,
        ),
        command(
            "foreign history",
            json!({ "sync": { "conversation": "u:bob:carol" } }),
            NOT_A_MEMBER,
        ),
        command(
            "foreign group's",
            json!({ "groupAdd": { "gid": "closed", "members": ["alice"] } }),
            NOT_A_MEMBER,
        ),
        command(
            "nameless group",
            json!({ "groupCreate": { "members": ["bob"] } }),
            INVALID,
        ),
        command(
            "group of nobody",
            json!({ "groupCreate": { "name": "x", "members": ["nobody"] } }),
            NOT_FOUND,
        ),
        command(
            "group that exists",
            json!({ "groupCreate": { "name": "x", "gid": "closed" } }),
            &["already_exists"],
        ),
        command(
            "read too far",
            json!({ "read": { "conversation": "g:closed", "seq": 9 } }),
            NOT_A_MEMBER,
        ),
        command(
            "owner leaves",
            json!({ "groupLeave": { "gid": "hers" } }),
            &["permission_denied", "conflict"],
        ),
        command(
            "owner removed",
            json!({ "groupRemove": { "gid": "hers", "members": ["alice"] } }),
            DENIED,
        ),
    ]
}

/// Alice with a group of hers, and one of bob and carol.
async fn server_with_groups() -> Result<Server> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    for (owner, gid, other) in [("bob", "closed", "carol"), ("alice", "hers", "bob")] {
        let create = up::new(up::group_create(gid, &[other]));
        server.login(owner).await?.up(&create).await?;
    }
    Ok(server)
}

/// Over MQTT, each bad command gets its error, and the connection works on.
#[tokio::test]
async fn bad_commands_get_an_error_over_mqtt() -> Result<()> {
    let server = server_with_groups().await?;
    for version in [V4, V5] {
        let mut alice = server
            .client("alice")
            .version(version)
            .json()
            .online()
            .await?;
        for case in cases() {
            let payload = case.payload.clone().into_bytes();
            check_error(&mut alice, version, payload, case.codes)
                .await
                .with_context(|| format!("{} in {version:?}", case.name))?;
        }
    }
    let conversations = server.login("carol").await?.conversations().await?;
    assert!(
        conversations.len() <= 1,
        "only the group: {conversations:?}"
    );
    server.finish().await
}

/// Bytes that are no protobuf get an error, too.
#[tokio::test]
async fn bad_protobuf_gets_an_error() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let payloads: [&[u8]; 5] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0a\x7fshorter than it says",
        b"\x0a\x02\xff\xfe",
        b"\x12\x05\x0a\x03\x0a\x01",
        b"{\"send\":{}}",
    ];
    for version in [V4, V5] {
        let client = server.client("alice").version(version);
        let mut alice = client.format(Format::Protobuf).online().await?;
        for payload in payloads {
            check_error(&mut alice, version, payload.into(), &["invalid_argument"])
                .await
                .with_context(|| format!("{payload:02x?} in {version:?}"))?;
        }
    }
    server.finish().await
}

async fn check_error(
    alice: &mut Client,
    version: Version,
    payload: Vec<u8>,
    codes: &[&str],
) -> Result<()> {
    let ticket = alice.publish_to(&alice.up_topic(), payload).await?;
    let puback = alice.puback(ticket).await?;
    if version == V4 {
        assert_eq!(puback, 0);
    }
    let reply = alice.answer().await?.reply;
    let Some(reply::Result::Error(error)) = &reply.result else {
        anyhow::bail!("not refused: {reply:?}");
    };
    assert!(codes.contains(&error.code.as_str()), "{reply:?}");
    assert!(!error.reason.is_empty(), "no reason: {reply:?}");

    alice.say(up::user("alice"), "still here").await?;
    Ok(())
}

/// Over HTTP the same commands get problem details with the status that belongs to the code.
#[tokio::test]
async fn bad_commands_get_problem_details_over_http() -> Result<()> {
    let server = server_with_groups().await?;
    let alice = server.login("alice").await?;
    for case in cases() {
        let answer = alice.post_text("/v1/up", &case.payload).await?;
        let code = answer.body["code"].as_str().unwrap_or_default().to_owned();
        assert!(
            case.codes.contains(&code.as_str()),
            "{}: {answer:?}",
            case.name
        );
        let status = status_of(&code);
        answer.problem(status, &code).context(case.name)?;
    }
    let good = up::new(up::text(up::user("bob"), "hi"));
    assert_eq!(alice.up(&good).await?.seq, 1);

    let stranger = server.api().post_text("/v1/up", "{}").await?;
    stranger.problem(401, "unauthenticated")?;
    server.finish().await
}

fn status_of(code: &str) -> u16 {
    match code {
        "invalid_argument" => 400,
        "unauthenticated" => 401,
        "permission_denied" => 403,
        "not_found" => 404,
        "already_exists" | "conflict" => 409,
        "too_large" => 413,
        "rate_limited" => 429,
        "unavailable" => 503,
        _ => 500,
    }
}

/// A text of exactly 64 KiB is not too large, and a `client_msg_id` of 64 characters is not too long.
#[tokio::test]
async fn the_limits_themselves_are_allowed() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;

    let text = "x".repeat(64 * 1024);
    let up = up::with_id(&"i".repeat(64), up::text(up::user("bob"), &text));
    let ok = tidings_tests::client::ok_of(alice.ask(&up).await?)?;
    let heard = bob.message().await?;

    assert_eq!(heard.msg_id, ok.msg_id);
    assert_eq!(crate::support::text_of(&heard).len(), text.len());
    server.finish().await
}
