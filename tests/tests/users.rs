//! Users: their profile and settings, on all devices, and how others find them.

use anyhow::{Context, Result};
use schema::v1::event::Event;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::v1::{GetProfile, GetUsers, Profile, ProfileSet, SettingsSet, User};
use serde_json::json;
use tidings_tests::{Client, Server, ask};

fn name(name: &str) -> Command {
    Command::ProfileSet(ProfileSet {
        name: Some(name.into()),
        ..Default::default()
    })
}

async fn profile(client: &mut Client, command: Command) -> Result<Profile> {
    match client.tell(command).await?.answer {
        Some(Answer::Profile(profile)) => Ok(*profile),
        other => anyhow::bail!("no profile: {other:?}"),
    }
}

async fn users(client: &mut Client, asked: GetUsers) -> Result<Vec<User>> {
    match client.tell(Command::GetUsers(asked)).await?.answer {
        Some(Answer::Users(list)) => Ok(list.users),
        other => anyhow::bail!("no users: {other:?}"),
    }
}

async fn found(client: &mut Client, query: &str) -> Result<Vec<String>> {
    let asked = GetUsers {
        query: query.into(),
        ..Default::default()
    };
    let users = users(client, asked).await?;
    Ok(users.into_iter().map(|user| user.uid).collect())
}

async fn hears_of_profile(client: &mut Client) -> Result<Profile> {
    let own = |event: &Event| match event {
        Event::Profile(profile) => Some(profile.clone()),
        _ => None,
    };
    client.event("the own profile", own).await
}

/// What is set is told to the own other devices and seen by others; what is left out stays.
#[tokio::test]
async fn profile_and_settings() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let tablet = server.client("alice").device("tablet").json();
    let mut tablet = tablet.online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let before = profile(&mut alice, Command::GetProfile(GetProfile {})).await?;
    assert!(before.read_receipts && before.strangers);
    assert_eq!(before.presence, "contacts");

    let set = Command::ProfileSet(ProfileSet {
        name: Some("  Alice Liddell ".into()),
        avatar: Some("https://example.org/a.png".into()),
        about: Some("curiouser".into()),
    });
    let after = profile(&mut alice, set).await?;
    assert_eq!(hears_of_profile(&mut tablet).await?, after);
    let renamed = profile(&mut tablet, name("Alice")).await?;
    let seen = renamed.user.context("the profile")?;
    assert_eq!(
        (seen.name.as_str(), seen.about.as_str()),
        ("Alice", "curiouser")
    );
    let named = GetUsers {
        uids: vec!["alice".into(), "nobody".into(), "bob".into()],
        ..Default::default()
    };
    let others = users(&mut bob, named).await?;
    assert_eq!(others.len(), 2);
    assert_eq!(others[0], seen);
    hears_of_profile(&mut alice).await?;

    let set = Command::SettingsSet(SettingsSet {
        read_receipts: Some(false),
        presence: Some("nobody".into()),
        ..Default::default()
    });
    let after = profile(&mut alice, set).await?;
    assert!(!after.read_receipts && after.strangers);
    assert_eq!(hears_of_profile(&mut tablet).await?, after);
    // What changes nothing is told to nobody.
    profile(&mut alice, name("Alice")).await?;
    profile(&mut alice, Command::SettingsSet(SettingsSet::default())).await?;
    assert_eq!(
        profile(&mut tablet, Command::GetProfile(GetProfile {})).await?,
        after
    );
    assert_eq!(tablet.events_so_far(), []);
    server.finish().await
}

/// Users are found by the beginnings of uid and names, whatever their case, width and script, and by nothing else.
#[tokio::test]
async fn users_are_found() -> Result<()> {
    let server = Server::with_users(&["alice", "Al.7_x", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut other = server.client("Al.7_x").json().online().await?;
    let mut bob = server.client("bob").online().await?;
    alice.tell(name("Ada Lovelace")).await?;
    other.tell(name("王小明")).await?;
    bob.tell(name("ＢＯＢ O'Neil 50%")).await?;
    for (query, uids) in [
        ("al", &["Al.7_x", "alice"][..]),
        ("AL.7", &["Al.7_x"]),
        ("alice", &["alice"]),
        ("ada love", &["alice"]),
        ("LOVE", &["alice"]),
        ("ovelace", &[]),
        ("王", &["Al.7_x"]),
        ("小明", &["Al.7_x"]),
        ("bob o", &["bob"]),
        ("neil", &["bob"]),
        ("50%", &["bob"]),
        ("%", &[]),
        ("_", &[]),
        ("a_", &[]),
        ("zzz", &[]),
    ] {
        let found = found(&mut bob, query).await?;
        assert_eq!(found, uids, "{query}");
    }
    // A name that is no longer one finds nobody.
    alice.tell(name("Grace")).await?;
    assert_eq!(found(&mut bob, "love").await?, [""; 0]);
    assert_eq!(found(&mut bob, "gra").await?, ["alice"]);
    server.finish().await
}

/// What can't be is refused, and changes nothing.
#[tokio::test]
async fn bad_commands_are_refused() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut alice = server.client("alice").json().online().await?;
    let set = |change: fn(&mut ProfileSet, String), text: &str| {
        let mut set = ProfileSet {
            name: Some("New".into()),
            ..Default::default()
        };
        change(&mut set, text.into());
        Command::ProfileSet(set)
    };
    let ask = |query: &str, limit| {
        Command::GetUsers(GetUsers {
            query: query.into(),
            limit,
            ..Default::default()
        })
    };
    for (command, code) in [
        (name(&"x".repeat(129)), "invalid_argument"),
        (name("a\0b"), "invalid_argument"),
        (
            set(|set, text| set.avatar = Some(text), &"x".repeat(2049)),
            "invalid_argument",
        ),
        (
            set(|set, text| set.about = Some(text), &"x".repeat(513)),
            "invalid_argument",
        ),
        (
            Command::SettingsSet(SettingsSet {
                strangers: Some(false),
                presence: Some("everybody".into()),
                ..Default::default()
            }),
            "invalid_argument",
        ),
        (ask("", 0), "invalid_argument"),
        (ask("  ", 0), "invalid_argument"),
        (ask(&"x".repeat(65), 0), "invalid_argument"),
        (ask("x", 101), "invalid_argument"),
        (
            Command::GetUsers(GetUsers {
                uids: vec!["a".into(); 501],
                ..Default::default()
            }),
            "too_large",
        ),
        (ask::contact_request("alice"), "invalid_argument"),
    ] {
        let what = format!("{command:?}");
        assert_eq!(alice.tell_in_vain(command).await.context(what)?, code);
    }
    let after = profile(&mut alice, Command::GetProfile(GetProfile {})).await?;
    assert_eq!(after.user.context("the profile")?.name, "");
    assert!(after.strangers);
    server.finish().await
}

/// The same over HTTP.
#[tokio::test]
async fn users_over_http() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "me"]).await?;
    let api = server.login("alice").await?;
    let mut tablet = server.client("alice").json().online().await?;
    let change = json!({ "name": "Alice", "about": "curiouser" });
    let set = api.patch("/v1/profile", &change).await?.expect(200)?;
    assert_eq!(set["user"]["name"], "Alice");
    assert_eq!(
        hears_of_profile(&mut tablet)
            .await?
            .user
            .context("the profile")?
            .name,
        "Alice"
    );
    assert_eq!(api.get("/v1/profile").await?.expect(200)?, set);
    let settings = api.get("/v1/settings").await?.expect(200)?;
    let expected = json!({ "readReceipts": true, "strangers": true, "presence": "contacts" });
    assert_eq!(settings, expected);
    let change = json!({ "readReceipts": false });
    let settings = api.patch("/v1/settings", &change).await?.expect(200)?;
    assert_eq!(settings["readReceipts"], false);
    let unknown = json!({ "nickname": "x" });
    api.patch("/v1/profile", &unknown)
        .await?
        .problem(400, "invalid_argument")?;

    let bob = server.login("bob").await?;
    let found = bob.get("/v1/users?q=ALI&limit=5").await?.expect(200)?;
    assert_eq!(found["users"][0]["about"], "curiouser");
    assert_eq!(
        bob.get("/v1/users/alice").await?.expect(200)?["name"],
        "Alice"
    );
    assert_eq!(bob.get("/v1/users/me").await?.expect(200)?["uid"], "me");
    bob.get("/v1/users/nobody")
        .await?
        .problem(404, "not_found")?;
    bob.get("/v1/users/a%20b")
        .await?
        .problem(404, "not_found")?;
    bob.get("/v1/users?q=")
        .await?
        .problem(400, "invalid_argument")?;
    server
        .api()
        .get("/v1/users?q=a")
        .await?
        .problem(401, "unauthenticated")?;
    server.finish().await
}
