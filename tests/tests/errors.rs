//! What is refused is refused with a reason, and harms nobody: not even the connection that it came on.

use anyhow::{Context, Result};
use schema::Format;
use schema::v1::reply;
use serde_json::json;
use tidings_tests::link::Version::{self, V4, V5};
use tidings_tests::{Client, Server, up};

/// A payload that is no good command of alice's: name, payload, and the codes of which one will do.
type Case = (&'static str, String, &'static [&'static str]);

const INVALID: &[&str] = &["invalid_argument"];
const NOT_FOUND: &[&str] = &["not_found"];
const NOT_A_MEMBER: &[&str] = &["not_found", "permission_denied"];
const EXISTS: &[&str] = &["already_exists"];
const TOO_LARGE: &[&str] = &["too_large"];
const DENIED: &[&str] = &["permission_denied"];
const NOT_THE_OWNER: &[&str] = &["permission_denied", "conflict"];

/// One case per line. There is a group `closed` without alice, and a group `hers`.
#[rustfmt::skip]
const CASES: &[(&str, &str, &[&str])] = &[
    ("nothing at all", "", INVALID),
    ("not JSON", "{", INVALID),
    ("not an object", "[1]", INVALID),
    ("no command", r#"{"clientMsgId":"a"}"#, INVALID),
    ("an unknown field", r#"{"shout":{}}"#, INVALID),
    ("an unknown field within", r#"{"send":{"to":{"user":"bob"},"text":"hi","colour":1}}"#, INVALID),
    ("two commands", r#"{"ack":{"conversation":"g:hers","seq":1},"read":{"conversation":"g:hers","seq":1}}"#, INVALID),
    ("a number for a text", r#"{"send":{"to":{"user":"bob"},"text":1}}"#, INVALID),
    ("text and body", r#"{"send":{"to":{"user":"bob"},"text":"a","body":"YQ=="}}"#, INVALID),
    ("two addressees", r#"{"send":{"to":{"user":"bob","group":"hers"},"text":"hi"}}"#, INVALID),
    ("no addressee", r#"{"send":{"text":"hi"}}"#, INVALID),
    ("an empty addressee", r#"{"send":{"to":{},"text":"hi"}}"#, INVALID),
    ("no content", r#"{"send":{"to":{"user":"bob"}}}"#, INVALID),
    ("an empty text", r#"{"send":{"to":{"user":"bob"},"text":""}}"#, INVALID),
    ("an empty body", r#"{"send":{"to":{"user":"bob"},"body":""}}"#, INVALID),
    ("a bad kind", r#"{"send":{"to":{"user":"bob"},"text":"hi","kind":"No Such!"}}"#, INVALID),
    ("a bad uid", r#"{"send":{"to":{"user":"a/b"},"text":"hi"}}"#, INVALID),
    ("a bad conversation", r#"{"send":{"to":{"conversation":"u:bob:alice"},"text":"hi"}}"#, INVALID),
    ("a nameless group", r#"{"groupCreate":{"members":["bob"]}}"#, INVALID),
    ("an unknown user", r#"{"send":{"to":{"user":"nobody"},"text":"hi"}}"#, NOT_FOUND),
    ("an unknown group", r#"{"send":{"to":{"group":"none"},"text":"hi"}}"#, NOT_FOUND),
    ("an unknown member", r#"{"groupCreate":{"name":"x","members":["nobody"]}}"#, NOT_FOUND),
    ("a foreign group", r#"{"send":{"to":{"group":"closed"},"text":"hi"}}"#, NOT_A_MEMBER),
    ("a foreign conversation", r#"{"send":{"to":{"conversation":"u:bob:carol"},"text":"hi"}}"#, NOT_A_MEMBER),
    ("a foreign history", r#"{"sync":{"conversation":"u:bob:carol"}}"#, NOT_A_MEMBER),
    ("a foreign place", r#"{"read":{"conversation":"g:closed","seq":9}}"#, NOT_A_MEMBER),
    ("a foreign membership", r#"{"groupAdd":{"gid":"closed","members":["alice"]}}"#, NOT_A_MEMBER),
    ("a group that exists", r#"{"groupCreate":{"name":"x","gid":"closed"}}"#, EXISTS),
    ("the owner removed", r#"{"groupRemove":{"gid":"hers","members":["alice"]}}"#, DENIED),
    ("the owner leaving", r#"{"groupLeave":{"gid":"hers"}}"#, NOT_THE_OWNER),
];

/// [`CASES`], and those that are too long to be written down.
fn cases() -> Vec<Case> {
    let to_bob = |field: &str, length: usize| {
        let mut send = json!({ "to": { "user": "bob" }, "text": "hi" });
        send[field] = "x".repeat(length).into();
        json!({ "send": send })
    };
    let mut long_id = to_bob("text", 1);
    long_id["clientMsgId"] = "x".repeat(65).into();
    let long = [
        ("a long id", long_id.to_string(), INVALID),
        ("a long kind", to_bob("kind", 33).to_string(), INVALID),
        (
            "a long text",
            to_bob("text", 64 * 1024 + 1).to_string(),
            TOO_LARGE,
        ),
    ];
    let short = CASES.iter();
    let short = short.map(|(name, payload, codes)| (*name, payload.to_string(), *codes));
    short.chain(long).collect()
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
        for (name, payload, codes) in cases() {
            check_error(&mut alice, version, payload.into(), codes)
                .await
                .with_context(|| format!("{name} in {version:?}"))?;
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
    for (name, payload, codes) in cases() {
        let answer = alice.post_text("/v1/up", &payload).await?;
        let code = answer.body["code"].as_str().unwrap_or_default().to_owned();
        assert!(codes.contains(&code.as_str()), "{name}: {answer:?}");
        answer.problem(status_of(&code), &code).context(name)?;
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
