//! What administrators do, and what the audit log tells of it.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidings_tests::server::{Folder, password_of};
use tidings_tests::{Api, Server, eventually, up};

/// Action, target and who it was, latest first.
async fn audit(admin: &Api, query: &str) -> Result<Vec<(String, String, String)>> {
    let log = admin.get(&format!("/v1/admin/audit?{query}")).await?;
    let log = log.expect(200)?;
    let entries = log["entries"].as_array().context("no entries")?;
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("?").to_owned();
    let entry = |entry: &Value| {
        let field = |name| text(entry, name);
        (field("action"), field("target"), field("uid"))
    };
    Ok(entries.iter().map(entry).collect())
}

/// Nobody else comes in, not even to learn whether a user exists.
#[tokio::test]
async fn it_is_for_administrators() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    server.add_admin("root").await?;
    let (alice, root) = (server.login("alice").await?, server.login("root").await?);
    for path in [
        "users",
        "users/bob",
        "users/nobody",
        "users/bob/export",
        "flags",
        "audit",
        "nodes",
    ] {
        let path = format!("/v1/admin/{path}");
        (alice.get(&path).await?.problem(403, "permission_denied")).context(path.clone())?;
        (server
            .api()
            .get(&path)
            .await?
            .problem(401, "unauthenticated"))
        .context(path)?;
    }
    for path in [
        "users/bob/kick",
        "users/nobody/kick",
        "flags/1/done",
        "words/reload",
    ] {
        let path = format!("/v1/admin/{path}");
        let answer = alice.post(&path, &json!({})).await?;
        answer.problem(403, "permission_denied").context(path)?;
    }
    let answer = alice.delete("/v1/admin/users/bob").await?;
    answer.problem(403, "permission_denied")?;
    let nodes = root.get("/v1/admin/nodes").await?.expect(200)?;
    assert_eq!(nodes["nodes"][0]["number"], 0);
    assert_eq!(nodes["nodes"][0]["alive"], true);
    // Only what the operator did.
    let log = audit(&root, "").await?;
    assert_eq!(
        log,
        [("user.add".into(), "root".into(), "$operator".into())]
    );
    server.finish().await
}

/// Users are listed in pages, kicked, given passwords, deleted; all of it is written down.
#[tokio::test]
async fn administrators_manage_users() -> Result<()> {
    let server = Server::with_users(&["alice", "alan", "bob"]).await?;
    server.add_admin("root").await?;
    let root = server.login("root").await?;
    let list = async |query: &str| {
        let found = root.get(&format!("/v1/admin/users?{query}")).await?;
        let found = found.expect(200)?;
        let users = found["users"].as_array().context("no users")?;
        let uids = users.iter().map(|user| user["uid"].as_str().unwrap_or("?"));
        anyhow::Ok(uids.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(list("").await?, "alan alice bob root");
    assert_eq!(list("q=al").await?, "alan alice");
    assert_eq!(list("limit=2&after=alan").await?, "alice bob");

    let mut client = server.client("alice").online().await?;
    let alice = server.login("alice").await?;
    let kick = root.post("/v1/admin/users/alice/kick", &json!({})).await?;
    kick.expect(204)?;
    client.closed().await?;
    alice
        .get("/v1/conversations")
        .await?
        .problem(401, "unauthenticated")?;
    server.login("alice").await?;

    let password = json!({ "password": "something else" });
    let set = root
        .post("/v1/admin/users/alice/password", &password)
        .await?;
    set.expect(204)?;
    ensure!(server.login("alice").await.is_err());
    server.api().login("alice", "something else").await?;

    for missing in ["/v1/admin/users/nobody", "/v1/admin/users/a%2Fb"] {
        root.get(missing).await?.problem(404, "not_found")?;
        root.delete(missing).await?.problem(404, "not_found")?;
    }
    root.delete("/v1/admin/users/bob").await?.expect(204)?;
    root.delete("/v1/admin/users/bob")
        .await?
        .problem(404, "not_found")?;
    let bob = root.get("/v1/admin/users/bob").await?.expect(200)?;
    ensure!(bob["deletedAt"].is_string(), "{bob}");
    ensure!(server.login("bob").await.is_err());

    let export = root.get("/v1/admin/users/alice/export").await?;
    export.expect(200)?;
    let log = audit(&root, "uid=root").await?;
    let actions = log
        .iter()
        .map(|(action, target, _)| format!("{action} {target}"));
    let actions: Vec<String> = actions.collect();
    let expected = [
        "user.export alice",
        "user.delete bob",
        "user.password alice",
        "user.kick alice",
    ];
    assert_eq!(actions, expected);
    assert_eq!(audit(&root, "uid=root&limit=1").await?.len(), 1);
    server.finish().await
}

/// A user who is deleted on the command line is out of a running server within seconds.
#[tokio::test]
async fn the_command_line_deletes_too() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    server.add_admin("root").await?;
    let mut alice = server.client("alice").online().await?;
    alice.say(up::user("bob"), "hello").await?;
    server.delete_user_by_program("alice").await?;
    alice.closed().await?;
    ensure!(server.login("alice").await.is_err());
    let bob = server.login("bob").await?;
    eventually("the message is blank", async || {
        let history = bob.history("u:alice:bob").await?;
        Ok(history.iter().all(|message| message.content.is_none()))
    })
    .await?;
    let log = audit(&server.login("root").await?, "uid=$operator&limit=1").await?;
    assert_eq!(log[0].0, "user.delete");
    server.finish().await
}

/// Marked messages are delivered as they are, and shown to administrators until one has dealt with them.
#[tokio::test]
async fn marked_messages_are_shown() -> Result<()> {
    let folder = Folder::new()?;
    let file = folder.data_dir().join("words.txt");
    fs::write(&file, "odd\tflag\nstrange\tflag\n")?;
    let folder = folder.setting("TIDINGS__WORDS__FILE", &file.display().to_string());
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    server.add_admin("root").await?;
    let root = server.login("root").await?;
    let mut alice = server.client("alice").online().await?;
    alice.say(up::user("bob"), "nothing to see").await?;
    let first = alice.say(up::user("bob"), "odd and Strange").await?;
    let second = alice.say(up::user("bob"), "odd again").await?;

    let flags = async |query: &str| {
        let found = root.get(&format!("/v1/admin/flags?{query}")).await?;
        let found = found.expect(200)?;
        let flags = found["flags"].as_array().context("no flags")?;
        anyhow::Ok(flags.clone())
    };
    let found = flags("done=false").await?;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["message"]["msgId"], second.msg_id.to_string());
    assert_eq!(found[1]["message"]["text"], "odd and Strange");
    assert_eq!(found[1]["message"]["conversation"], "u:alice:bob");
    assert_eq!(found[1]["words"], "odd, strange");

    let done = format!("/v1/admin/flags/{}/done", first.msg_id);
    root.post(&done, &json!({})).await?.expect(204)?;
    assert_eq!(flags("done=false").await?.len(), 1);
    assert_eq!(flags("done=true").await?.len(), 1);
    assert_eq!(flags(&format!("before={}", second.msg_id)).await?.len(), 1);
    let none = root.post("/v1/admin/flags/1/done", &json!({})).await?;
    none.problem(404, "not_found")?;

    fs::write(&file, "odd\n")?;
    let reloaded = root.post("/v1/admin/words/reload", &json!({})).await?;
    assert_eq!(reloaded.expect(200)?["entries"], 1);
    let said = up::text(up::user("bob"), "odd");
    assert_eq!(alice.tell_in_vain(said).await?, "invalid_argument");
    fs::write(&file, "odd\tso\n")?;
    let broken = root.post("/v1/admin/words/reload", &json!({})).await?;
    broken.problem(409, "conflict")?;

    let log = audit(&root, "uid=root").await?;
    let read = log.iter().filter(|(action, ..)| action == "flags.read");
    assert_eq!(read.count(), 4);
    let done = ("flags.done".into(), first.msg_id.to_string(), "root".into());
    ensure!(log.contains(&done), "{log:?}");

    // With the account its marked messages are gone.
    let account = json!({ "password": password_of("alice") });
    let api = server.login("alice").await?;
    let deleted = api.delete_with("/v1/users/alice", &account).await?;
    deleted.expect(204)?;
    eventually("no message is marked", async || {
        Ok(flags("").await?.is_empty())
    })
    .await?;
    // It was told that the last list can't be used.
    server.stop().await
}
