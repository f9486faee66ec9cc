//! How often a user may send and ask: past it a command is refused with the time to wait, and nothing is done.

use anyhow::{Context, Result, bail, ensure};
use schema::v1::{Error, Reply, reply};
use serde_json::json;
use tidings_tests::server::Folder;
use tidings_tests::{Server, eventually, up};

fn error_of(reply: Reply) -> Result<Error> {
    match reply.result {
        Some(reply::Result::Error(error)) => Ok(error),
        other => bail!("not refused: {other:?}"),
    }
}

/// Messages in all, over every door; each user by himself.
#[tokio::test]
async fn a_flood_is_refused() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__RATES__SENDS_PER_USER", "1")
        .setting("TIDINGS__RATES__SENDS_PER_USER_BURST", "3")
        .setting("TIDINGS__RATES__EXEMPT", "robot, clock");
    let server = Server::start_in(folder, &["alice", "bob", "robot"]).await?;
    let mut alice = server.client("alice").device("a").v5().online().await?;
    let mut json = server.client("alice").device("b").json().online().await?;
    let api = server.login("alice").await?;

    let mut stored = 0;
    let refused = loop {
        let up = up::new(up::text(up::user("bob"), "again"));
        let reply = alice.ask(&up).await?;
        match reply.result {
            Some(reply::Result::Ok(ok)) => stored = ok.seq,
            _ => break reply,
        }
        ensure!(stored < 100, "nothing is refused");
    };
    ensure!(stored >= 3, "{stored} at once");
    let id = refused.client_msg_id.clone();
    let error = error_of(refused)?;
    assert_eq!(error.code, "rate_limited");
    ensure!((1..=1000).contains(&error.retry_after_ms), "{error:?}");

    // A slow machine may have earned a message meanwhile.
    let mut in_vain = 0;
    for _ in 0..20 {
        let up = up::new(up::text(up::user("bob"), "again"));
        match json.ask(&up).await?.result {
            Some(reply::Result::Ok(ok)) => stored = ok.seq,
            _ => in_vain += 1,
        }
    }
    ensure!(in_vain > 0, "the other device has the same limit");
    let body = serde_json::to_value(up::new(up::text(up::user("bob"), "again")))?;
    let mut answer = api.post("/v1/up", &body).await?;
    if answer.status == 200 {
        stored += 1;
        answer = api.post("/v1/up", &body).await?;
    }
    // The same again is no other message, but comes too early all the same.
    assert_eq!(answer.retry_after, Some(1));
    answer.problem(429, "rate_limited")?;
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    assert_eq!(
        history.len(),
        stored as usize,
        "what was refused is nowhere"
    );

    let mut robot = server.client("robot").online().await?;
    for _ in 0..50 {
        robot.say(up::user("bob"), "tick").await?;
    }
    let mut bob = server.client("bob").online().await?;
    bob.say(up::user("alice"), "slowly").await?;
    eventually("the refused one is taken", async || {
        let again = up::with_id(&id, up::text(up::user("bob"), "again"));
        Ok(api.up(&again).await.is_ok())
    })
    .await?;
    let sample = r#"tidings_commands_rate_limited_total{limit="sends_per_user"}"#;
    ensure!(api.metric(sample).await? > 0.0);
    server.finish().await
}

/// Messages to one conversation; another one has its own limit.
#[tokio::test]
async fn a_conversation_is_not_flooded() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__RATES__SENDS_PER_CONVERSATION", "1")
        .setting("TIDINGS__RATES__SENDS_PER_CONVERSATION_BURST", "1");
    let server = Server::start_in(folder, &["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut refused = 0;
    for _ in 0..20 {
        let up = up::new(up::text(up::user("bob"), "you"));
        if error_of(alice.ask(&up).await?).is_ok() {
            refused += 1;
        }
    }
    ensure!(refused > 0);
    alice.say(up::user("carol"), "and you").await?;
    server.finish().await
}

/// What costs much is limited per minute, each kind by itself.
#[tokio::test]
async fn expensive_things_are_limited() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__RATES__EXPENSIVE_PER_MINUTE", "1")
        .setting("TIDINGS__RATES__EXPENSIVE_BURST", "2");
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    let api = server.login("alice").await?;
    let group = json!({ "name": "Neighbours", "members": ["bob"] });
    for _ in 0..2 {
        api.post("/v1/groups", &group).await?.success()?;
    }
    let refused = api.post("/v1/groups", &group).await?;
    let wait = refused.retry_after.context("no Retry-After")?;
    ensure!((1..=60).contains(&wait), "{wait}");
    refused.problem(429, "rate_limited")?;
    assert_eq!(api.conversations().await?.len(), 2);

    for _ in 0..2 {
        api.get("/v1/users/alice/export").await?.expect(200)?;
    }
    let refused = api.get("/v1/users/alice/export").await?;
    refused.problem(429, "rate_limited")?;
    let bob = server.login("bob").await?;
    bob.post("/v1/groups", &group).await?.success()?;
    server.finish().await
}
