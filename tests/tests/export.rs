//! A user takes everything along: what is stored about the user, and what the user may read; nothing of others.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidings_tests::{Api, Server, up};

use crate::support::say_many;

/// More than a page of messages.
const MESSAGES: u32 = 1200;

/// The lines of an export, without the last one, which says that it is complete.
async fn export(api: &Api, path: &str) -> Result<Vec<Value>> {
    let answer = api.get(path).await?;
    assert_eq!(answer.content_type, "application/x-ndjson");
    let text = answer.expect(200)?;
    let lines = text.as_str().context("lines of JSON are no JSON")?.lines();
    let mut lines: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let end = lines.pop().context("it is empty")?;
    assert_eq!(end["type"], "end");
    Ok(lines)
}

fn of<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["type"] == kind)
}

#[tokio::test]
async fn an_export_holds_what_the_user_may_see() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").device("phone").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    bob.say(up::user("carol"), "not for alice").await?;
    bob.tell(up::group_create("team", &["carol"])).await?;
    bob.say(up::group("team"), "before alice").await?;
    bob.tell(up::group_add("team", &["alice"])).await?;
    bob.say(up::group("team"), "with alice").await?;
    say_many(&mut alice, &up::user("bob"), MESSAGES).await?;
    alice.tell(up::grant("bob", "lamp", true, false)).await?;

    let api = server.login("alice").await?;
    let lines = export(&api, "/v1/users/alice/export").await?;
    assert_eq!(lines[0]["type"], "account");
    assert_eq!(lines[0]["profile"]["user"]["uid"], "alice");
    let devices: Vec<&Value> = of(&lines, "device").map(|line| &line["device"]).collect();
    assert_eq!(devices, ["phone"]);
    assert_eq!(of(&lines, "grant").count(), 1);
    let names = of(&lines, "conversation").map(|line| &line["state"]["conversation"]);
    let mut names: Vec<&str> = names.filter_map(Value::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["g:team", "u:alice:bob"]);
    let group = of(&lines, "conversation").find(|line| line["group"]["gid"] == "team");
    let members = &group.context("the group is there")?["group"]["members"];
    assert_eq!(members.as_array().map(Vec::len), Some(1), "{members}");

    let messages: Vec<&Value> = of(&lines, "message").map(|line| &line["message"]).collect();
    // With the message that alice has come.
    assert_eq!(messages.len(), MESSAGES as usize + 2);
    let texts: Vec<&str> = messages
        .iter()
        .filter_map(|message| message["text"].as_str())
        .collect();
    ensure!(texts.contains(&"with alice") && texts.contains(&"number 1200"));
    ensure!(!texts.contains(&"not for alice") && !texts.contains(&"before alice"));
    let all = serde_json::to_string(&lines)?;
    ensure!(!all.contains("argon2") && !all.contains("$operator"));
    server.finish().await
}

#[tokio::test]
async fn an_export_is_ones_own() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    server.add_admin("root").await?;
    let alice = server.login("alice").await?;
    for uid in ["bob", "nobody"] {
        let path = format!("/v1/users/{uid}/export");
        alice.get(&path).await?.problem(403, "permission_denied")?;
        server
            .api()
            .get(&path)
            .await?
            .problem(401, "unauthenticated")?;
    }
    let root = server.login("root").await?;
    let lines = export(&root, "/v1/users/alice/export").await?;
    assert_eq!(lines[0]["profile"]["user"]["uid"], "alice");
    let missing = root.get("/v1/users/nobody/export").await?;
    missing.problem(404, "not_found")?;
    server.finish().await
}
