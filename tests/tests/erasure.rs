//! An account is deleted: at once for its user, and what it leaves within seconds, also through kill -9.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidings_tests::http::number;
use tidings_tests::link::Version::{V4, V5};
use tidings_tests::server::password_of;
use tidings_tests::wire::Publish;
use tidings_tests::{Api, Server, eventually, up};

use crate::support::{range, say_many, seqs};

/// Several steps' worth.
const MESSAGES: u32 = 700;

async fn delete(api: &Api, uid: &str) -> Result<()> {
    let account = json!({ "password": password_of(uid) });
    let path = format!("/v1/users/{uid}");
    let answer = api.delete_with(&path, &account).await?;
    answer.expect(204).map(drop)
}

/// Waits until bob sees no content of alice's any more.
async fn until_blank(bob: &Api, conversation: &str) -> Result<()> {
    eventually("the messages are blank", async || {
        let history = bob.history(conversation).await?;
        let mut hers = history.iter().filter(|message| message.sender == "alice");
        Ok(hers.all(|message| message.content.is_none()))
    })
    .await
}

/// The deleted user is out at once: sessions, tokens, password; and the name is never given again.
#[tokio::test]
async fn a_deleted_account_is_closed() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut phone = server.client("alice").device("phone").online().await?;
    let mut laptop = server
        .client("alice")
        .device("laptop")
        .json()
        .online()
        .await?;
    let (alice, bob) = (server.login("alice").await?, server.login("bob").await?);

    for (who, path, body, status, code) in [
        (
            &alice,
            "/v1/users/alice",
            json!({ "password": "wrong" }),
            403,
            "permission_denied",
        ),
        (
            &bob,
            "/v1/users/alice",
            json!({ "password": password_of("alice") }),
            403,
            "permission_denied",
        ),
        (
            &alice,
            "/v1/users/alice",
            json!({}),
            400,
            "invalid_argument",
        ),
        (
            &server.api(),
            "/v1/users/alice",
            json!({ "password": password_of("alice") }),
            401,
            "unauthenticated",
        ),
    ] {
        let answer = who.delete_with(path, &body).await?;
        answer.problem(status, code)?;
    }
    phone.say(up::user("bob"), "still here").await?;

    delete(&alice, "alice").await?;
    phone.closed().await?;
    laptop.closed().await?;
    alice
        .get("/v1/conversations")
        .await?
        .problem(401, "unauthenticated")?;
    let refresh = json!({ "refreshToken": alice.tokens()?.refresh });
    let answer = server.api().post("/v1/auth/refresh", &refresh).await?;
    answer.problem(401, "unauthenticated")?;
    let login = json!({ "uid": "alice", "password": password_of("alice") });
    let right = server.api().post("/v1/auth/login", &login).await?;
    let login = json!({ "uid": "nobody", "password": "wrong" });
    let wrong = server.api().post("/v1/auth/login", &login).await?;
    assert_eq!(right.body, wrong.body, "a deleted user looks like none");
    right.problem(401, "unauthenticated")?;
    for (version, codes) in [(V4, [4, 5]), (V5, [0x86, 0x87])] {
        let code = server.device("alice").version(version).refused().await?;
        ensure!(codes.contains(&code), "CONNACK {code:#04x}");
    }
    let again = json!({ "uid": "alice", "password": password_of("alice") });
    let again = server.api().post("/v1/users", &again).await?;
    again.problem(409, "already_exists")?;
    server.finish().await
}

/// What others keep: the places of the messages, their unread counts, their groups with an owner.
#[tokio::test]
async fn others_keep_what_is_theirs() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol", "dave"]).await?;
    let mut phone = server.client("bob").device("phone").online().await?;
    let mut laptop = server
        .client("carol")
        .device("laptop")
        .json()
        .online()
        .await?;
    let mut alice = server.client("alice").online().await?;
    let (api, bob) = (server.login("alice").await?, server.login("bob").await?);
    alice
        .tell(up::group_create("team", &["carol", "bob"]))
        .await?;
    alice.tell(up::group_create("own", &[])).await?;
    alice.say(up::group("own"), "to myself").await?;
    for number in 0..3 {
        alice.say(up::group("team"), "hers").await?;
        let id = up::with_id("", up::text(up::group("team"), &number.to_string()));
        api.up(&id).await?;
        phone.say(up::group("team"), "his").await?;
        alice.say(up::user("bob"), "hers").await?;
    }
    laptop.tell(up::read("g:team", 4)).await?;
    api.up(&up::new(up::grant("bob", "#", true, true))).await?;
    let mut device = server.device("alice").connect().await?;
    let on = Publish::new("dev/alice/lamp", "on", 1).retained();
    device.put(on).await?;
    let unread = async |uid: &str| {
        let rows = server.login(uid).await?.conversations().await?;
        let counts = rows.iter().map(|row| {
            let name = row["conversation"].as_str().unwrap_or("?").to_owned();
            (name, number(row, "unread"), number(row, "lastSeq"))
        });
        let mut counts: Vec<_> = counts.collect();
        counts.sort();
        anyhow::Ok(counts)
    };
    let before = (unread("bob").await?, unread("carol").await?);

    delete(&api, "alice").await?;
    until_blank(&bob, "g:team").await?;
    until_blank(&bob, "u:alice:bob").await?;
    assert_eq!((unread("bob").await?, unread("carol").await?), before);
    let history = bob.history("g:team").await?;
    assert_eq!(seqs(&history), range(1, 9));
    let his = history.iter().filter(|message| message.content.is_some());
    assert_eq!(his.count(), 3);

    eventually("the group has another owner", async || {
        let members = bob.members("team").await?;
        let roles = members
            .iter()
            .map(|member| format!("{}:{}", member["uid"], member["role"]));
        let roles: Vec<String> = roles.collect();
        Ok(roles == [r#""bob":"owner""#, r#""carol":"member""#])
    })
    .await?;
    // The new owner's rights are real, and nobody writes to who is gone.
    phone.tell(up::group_add("team", &["dave"])).await?;
    for command in [
        up::text(up::user("alice"), "anybody?"),
        up::group_add("team", &["alice"]),
        up::grant("alice", "#", true, false),
    ] {
        assert_eq!(phone.tell_in_vain(command).await?, "not_found");
    }
    laptop.say(up::group("team"), "we go on").await?;
    eventually("what was granted is over", async || {
        let mut probe = server.device("bob").id("probe").connect().await?;
        Ok(probe.subscribe("dev/alice/#", 1).await? >= 0x80)
    })
    .await?;
    eventually("nothing is retained", async || {
        let retained = bob.metric("tidings_retained_messages").await?;
        Ok(retained == 0.0)
    })
    .await?;
    server.finish().await
}

/// Erasing goes on where a killed server has left it, and is done once.
#[tokio::test]
async fn erasing_survives_kill_9() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_many(&mut alice, &up::user("bob"), MESSAGES).await?;
    let api = server.login("alice").await?;
    for number in 0..20 {
        let text = up::text(up::user("bob"), &format!("without id {number}"));
        api.up(&up::with_id("", text)).await?;
    }
    alice.tell(up::group_create("team", &["bob"])).await?;
    alice.say(up::group("team"), "hello").await?;
    delete(&api, "alice").await?;
    server.kill().await?;
    server.restart().await?;
    let bob = server.login("bob").await?;
    until_blank(&bob, "u:alice:bob").await?;
    until_blank(&bob, "g:team").await?;
    let history = bob.history("u:alice:bob").await?;
    assert_eq!(seqs(&history), range(1, MESSAGES + 20));
    ensure!(
        history
            .iter()
            .all(|message| message.sender_device.is_empty())
    );
    let rows = bob.conversations().await?;
    let row = rows.iter().find(|row| row["conversation"] == "u:alice:bob");
    assert_eq!(
        number(row.context("it is listed")?, "unread"),
        u64::from(MESSAGES) + 20
    );
    assert_eq!(bob.member("team", "bob").await?["role"], "owner");
    ensure!(server.login("alice").await.is_err());
    server.finish().await
}
