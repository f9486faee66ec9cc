//! The same service over HTTP: accounts, conversations, history, health.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidings_tests::http::number;
use tidings_tests::server::password_of;
use tidings_tests::{Server, up};

use crate::support::{ensure_complete, range, say_many, seqs, text_of};

/// Registering makes an account once, and only under a good name with a good password.
#[tokio::test]
async fn registering() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let api = server.api();
    let good = password_of("x");
    let account = |uid: &str, password: &str| json!({ "uid": uid, "password": password });
    let too_long = "x".repeat(65);

    for (name, account, status, code) in [
        ("taken", account("alice", &good), 409, "already_exists"),
        ("empty uid", account("", &good), 400, "invalid_argument"),
        ("bad uid", account("a/b", &good), 400, "invalid_argument"),
        ("wildcard uid", account("+", &good), 400, "invalid_argument"),
        (
            "long uid",
            account(&too_long, &good),
            400,
            "invalid_argument",
        ),
        (
            "short password",
            account("new", "x"),
            400,
            "invalid_argument",
        ),
        (
            "no password",
            json!({ "uid": "new" }),
            400,
            "invalid_argument",
        ),
        (
            "unknown field",
            json!({ "uid": "new", "password": good, "role": "admin" }),
            400,
            "invalid_argument",
        ),
    ] {
        let answer = api.post("/v1/users", &account).await?;
        answer.problem(status, code).context(name)?;
    }
    let not_json = api.post_text("/v1/users", "{").await?;
    not_json.problem(400, "invalid_argument")?;

    let longest = "x".repeat(64);
    for uid in ["new", "Some.One_else-9", &longest] {
        server.add_user(uid).await?;
        server.login(uid).await?;
    }
    // The one who was there first still has the account.
    server.login("alice").await?;
    server.finish().await
}

/// Logging in needs the right password; what needs a login says so without one.
#[tokio::test]
async fn logging_in() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let api = server.api();
    for (uid, password) in [
        ("alice", "wrong"),
        ("alice", &password_of("bob")),
        ("nobody", "whatever"),
    ] {
        let login = json!({ "uid": uid, "password": password });
        let answer = api.post("/v1/auth/login", &login).await?;
        answer.problem(401, "unauthenticated").context(uid)?;
    }

    let mut forged = server.login("alice").await?;
    if let Some(tokens) = &mut forged.tokens {
        tokens.access.push('x');
    }
    for stranger in [&api, &forged] {
        for path in [
            "/v1/conversations",
            "/v1/conversations/u:alice:bob/messages",
            "/v1/groups/team/members",
        ] {
            let answer = stranger.get(path).await?;
            answer.problem(401, "unauthenticated").context(path)?;
        }
    }
    server.finish().await
}

/// A refresh token works once; using it a second time ends the login that it came from.
#[tokio::test]
async fn refreshing() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let api = server.api();
    let refresh = async |token: &str| {
        let body = json!({ "refreshToken": token });
        api.post("/v1/auth/refresh", &body).await
    };
    let untouched = server.login("alice").await?;
    let first = server.login("alice").await?.tokens()?.refresh.clone();

    let second = refresh(&first).await?.expect(200)?;
    let second = api.with_tokens(&second)?;
    second.conversations().await?;
    let third = refresh(&second.tokens()?.refresh).await?.expect(200)?;
    let third = api.with_tokens(&third)?;

    refresh(&first).await?.problem(401, "unauthenticated")?;
    let newest = &third.tokens()?.refresh;
    refresh(newest)
        .await?
        .problem(401, "unauthenticated")
        .context("a stolen token must not keep the login alive")?;
    refresh("no token at all")
        .await?
        .problem(401, "unauthenticated")?;

    let other_login = &untouched.tokens()?.refresh;
    refresh(other_login).await?.expect(200)?;
    server.finish().await
}

/// After logging out, by the access token or by the refresh token alone, neither works any more; other logins do.
#[tokio::test]
async fn logging_out() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let other = server.login("alice").await?;
    for has_access_token in [true, false] {
        let alice = server.login("alice").await?;
        let refresh = json!({ "refreshToken": alice.tokens()?.refresh });
        let out = if has_access_token {
            alice.post("/v1/auth/logout", &json!({})).await?
        } else {
            server.api().post("/v1/auth/logout", &refresh).await?
        };
        out.success()?;

        let answer = alice.get("/v1/conversations").await?;
        answer.problem(401, "unauthenticated")?;
        let answer = server.api().post("/v1/auth/refresh", &refresh).await?;
        answer.problem(401, "unauthenticated")?;
    }
    other.conversations().await?;
    server.finish().await
}

/// `POST /v1/up` takes commands as MQTT does, and who is on MQTT hears of it.
#[tokio::test]
async fn commands_over_http() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let api = server.login("alice").await?;
    let mut bob = server.client("bob").online().await?;
    let mut alice = server.client("alice").online().await?;

    let ok = api
        .up(&up::new(up::text(up::user("bob"), "by HTTP")))
        .await?;
    assert_eq!((ok.conversation.as_str(), ok.seq), ("u:alice:bob", 1));
    for client in [&mut bob, &mut alice] {
        let heard = client.message().await?;
        assert_eq!(heard.msg_id, ok.msg_id, "{client}");
        assert_eq!(heard.sender_device, "", "HTTP is no device");
    }

    let created = api.up(&up::new(up::group_create("team", &["bob"]))).await?;
    let group = created.group.context("the reply tells the group")?;
    assert_eq!(group.conversation, "g:team");
    let synced = api.up(&up::new(up::sync("u:alice:bob", 0, 10))).await?;
    let batch = synced.batch.context("the reply holds the page")?;
    assert_eq!(text_of(&batch.messages[0]), "by HTTP");
    server.finish().await
}

/// The list of conversations tells the latest message and what is unread; reading on one device counts for all.
#[tokio::test]
async fn conversations_and_unread_counts() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut carol = server.client("carol").online().await?;
    let bob = server.login("bob").await?;
    assert!(bob.conversations().await?.is_empty());

    say_many(&mut alice, &up::user("bob"), 5).await?;
    let last = say_many(&mut carol, &up::user("bob"), 2).await?;
    let rows = bob.conversations().await?;
    assert_eq!(rows.len(), 2, "{rows:?}");
    let row = find(&rows, "u:bob:carol")?;
    assert_eq!(number(row, "lastSeq"), 2, "{row}");
    assert_eq!(number(&row["lastMessage"], "msgId"), last.msg_id, "{row}");
    assert_eq!(row["lastMessage"]["text"], "number 2", "{row}");
    assert_unread(&bob, [("u:alice:bob", 5), ("u:bob:carol", 2)]).await?;

    // Read on the phone; and what bob says himself is not unread.
    let mut phone = server.client("bob").online().await?;
    phone.tell(up::read("u:alice:bob", 3)).await?;
    assert_unread(&bob, [("u:alice:bob", 2), ("u:bob:carol", 2)]).await?;
    phone.say(up::user("carol"), "my own words").await?;
    assert_unread(&bob, [("u:alice:bob", 2), ("u:bob:carol", 2)]).await?;
    phone.tell(up::read("u:bob:carol", 3)).await?;
    phone.tell(up::read("u:alice:bob", 1)).await?;
    assert_unread(&bob, [("u:alice:bob", 2), ("u:bob:carol", 0)]).await?;

    let alice = server.login("alice").await?;
    assert_unread(&alice, [("u:alice:bob", 0)]).await?;
    server.finish().await
}

fn find<'a>(rows: &'a [Value], conversation: &str) -> Result<&'a Value> {
    let mut rows_of_it = rows
        .iter()
        .filter(|row| row["conversation"] == conversation);
    rows_of_it
        .next()
        .with_context(|| format!("no {conversation} in {rows:?}"))
}

async fn assert_unread<const N: usize>(
    api: &tidings_tests::Api,
    expected: [(&str, u64); N],
) -> Result<()> {
    let answer = api.get("/v1/conversations").await?.expect(200)?;
    let rows = answer["conversations"].as_array().context("the rows")?;
    for (conversation, unread) in expected {
        let row = find(rows, conversation)?;
        assert_eq!(number(row, "unread"), unread, "{row}");
    }
    let total: u64 = expected.iter().map(|(_, unread)| unread).sum();
    assert_eq!(number(&answer, "totalUnread"), total, "{answer}");
    Ok(())
}

/// History comes in pages, forwards and backwards, and says whether there is more.
#[tokio::test]
async fn history_pages() -> Result<()> {
    const CONVERSATION: &str = "u:alice:bob";
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_many(&mut alice, &up::user("bob"), 25).await?;
    let bob = server.login("bob").await?;

    for (query, expected, more) in [
        ("", range(1, 25), false),
        ("limit=10", range(16, 25), true),
        ("before_seq=16&limit=10", range(6, 15), true),
        ("before_seq=6&limit=10", range(1, 5), false),
        ("after_seq=0&limit=10", range(1, 10), true),
        ("after_seq=10&limit=10", range(11, 20), true),
        ("after_seq=20&limit=10", range(21, 25), false),
        ("after_seq=25&limit=10", vec![], false),
        ("after_seq=5&before_seq=9", range(6, 8), false),
        ("before_seq=1", vec![], false),
    ] {
        let page = bob.page(CONVERSATION, query).await?;
        assert_eq!(seqs(&page.messages), expected, "{query}");
        assert_eq!((page.more, page.last_seq), (more, 25), "{query}");
    }
    ensure_complete(&bob.history(CONVERSATION).await?, 25)?;

    for query in ["limit=x", "after_seq=-1", "limit=100000"] {
        let path = format!("/v1/conversations/{CONVERSATION}/messages?{query}");
        let answer = bob.get(&path).await?;
        answer.problem(400, "invalid_argument").context(query)?;
    }
    server.finish().await
}

/// Somebody else's conversation or group looks like one that does not exist.
#[tokio::test]
async fn foreign_conversations_do_not_exist() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "mallory"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.say(up::user("bob"), "between us").await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    alice.say(up::group("team"), "among us").await?;

    let mallory = server.login("mallory").await?;
    for path in [
        "/v1/conversations/u:alice:bob/messages",
        "/v1/conversations/g:team/messages",
        "/v1/conversations/g:none/messages",
        "/v1/conversations/u:alice:nobody/messages",
        "/v1/groups/team/members",
        "/v1/groups/none/members",
    ] {
        let answer = mallory.get(path).await?;
        answer.problem(404, "not_found").context(path)?;
    }
    assert!(mallory.conversations().await?.is_empty());
    server.finish().await
}

/// The server says that it lives and is ready, and describes itself.
#[tokio::test]
async fn health_and_description() -> Result<()> {
    let server = Server::with_users(&[]).await?;
    let api = server.api();
    api.until_ready(200).await?;
    assert_eq!(api.get("/healthz").await?.status, 200);

    let description = api.get("/openapi.json").await?.expect(200)?;
    let version = description["openapi"].as_str().unwrap_or_default();
    ensure!(version.starts_with("3."), "openapi {version}");
    for (path, methods) in [
        ("/v1/users", &["get", "post"][..]),
        ("/v1/users/{uid}", &["get"]),
        ("/v1/profile", &["get", "patch"]),
        ("/v1/settings", &["get", "patch"]),
        ("/v1/contacts", &["get", "post"]),
        ("/v1/contacts/{uid}", &["patch", "delete"]),
        ("/v1/contacts/{uid}/accept", &["post"]),
        ("/v1/contacts/{uid}/refuse", &["post"]),
        ("/v1/blocks", &["get"]),
        ("/v1/blocks/{uid}", &["put", "delete"]),
        ("/v1/auth/login", &["post"]),
        ("/v1/auth/refresh", &["post"]),
        ("/v1/auth/logout", &["post"]),
        ("/v1/up", &["post"]),
        ("/v1/groups", &["post"]),
        ("/v1/groups/{gid}/members", &["get", "post"]),
        ("/v1/groups/{gid}/members/{uid}", &["delete"]),
        ("/v1/conversations", &["get"]),
        ("/v1/conversations/{id}/messages", &["get"]),
        ("/healthz", &["get"]),
        ("/readyz", &["get"]),
    ] {
        for method in methods {
            let operation = &description["paths"][path][method];
            ensure!(operation.is_object(), "{method} {path} is not described");
        }
    }

    let nowhere = api.get("/v1/no-such-thing").await?;
    nowhere.problem(404, "not_found")?;
    server.finish().await
}
