//! How users appear to their contacts: who is online, away, or was seen when; and who may know.

use anyhow::{Context, Result};
use schema::v1::Presence;
use schema::v1::event::Event;
use schema::v1::ok::Answer;
use serde_json::{Value, json};
use tidings_tests::server::Folder;
use tidings_tests::{Api, Client, Server, eventually, up};

fn presence_of(event: &Event) -> Option<Presence> {
    match event {
        Event::Presence(presence) => Some(presence.clone()),
        _ => None,
    }
}

/// A server on which changes are told soon, and somebody who leaves counts as gone soon.
async fn quick(uids: &[&str]) -> Result<Server> {
    let folder = Folder::new()?
        .setting("TIDINGS__PRESENCE__INTERVAL", "50ms")
        .setting("TIDINGS__PRESENCE__GRACE", "100ms");
    Server::start_in(folder, uids).await
}

/// Listens until a user appears like this.
async fn until(client: &mut Client, uid: &str, state: &str) -> Result<Presence> {
    let what = format!("{uid} {state}");
    let is_it =
        |event: &Event| presence_of(event).filter(|found| found.uid == uid && found.state == state);
    client.event(&what, is_it).await
}

/// What asking for users tells: uid and state.
async fn asked(client: &mut Client, uids: &[&str]) -> Result<Vec<(String, String)>> {
    let answer = client.tell(up::get_presence(uids)).await?.answer;
    let Some(Answer::Presences(list)) = answer else {
        anyhow::bail!("no presences: {answer:?}");
    };
    let row = |found: Presence| (found.uid, found.state);
    Ok(list.presences.into_iter().map(row).collect())
}

async fn view(api: &Api, query: &str) -> Result<Vec<Value>> {
    let answer = api
        .get(&format!("/v1/presence{query}"))
        .await?
        .expect(200)?;
    Ok(answer["presences"].as_array().cloned().unwrap_or_default())
}

fn state(uid: &str, state: &str) -> (String, String) {
    (uid.to_owned(), state.to_owned())
}

/// Both of alice's devices hear how bob comes, is away with all devices, says something, and goes.
#[tokio::test]
async fn contacts_see_each_other_come_and_go() -> Result<()> {
    let server = quick(&["alice", "bob"]).await?;
    server.befriend("alice", "bob").await?;
    let mut alice = server.client("alice").online().await?;
    let tablet = server.client("alice").device("tablet").json();
    let mut tablet = tablet.online().await?;
    assert_eq!(asked(&mut alice, &[]).await?, [state("bob", "offline")]);

    let mut phone = server.client("bob").online().await?;
    for device in [&mut alice, &mut tablet] {
        let presence = until(device, "bob", "online").await?;
        assert_eq!(presence.last_seen_at, None);
    }
    let laptop = server.client("bob").device("laptop").json();
    let mut laptop = laptop.online().await?;
    phone.tell(up::appear("away")).await?;
    assert_eq!(
        asked(&mut tablet, &["bob"]).await?,
        [state("bob", "online")]
    );
    laptop.tell(up::appear("away")).await?;
    for device in [&mut alice, &mut tablet] {
        until(device, "bob", "away").await?;
    }
    laptop.tell(up::status_text("in a meeting")).await?;
    let says = |event: &Event| presence_of(event).filter(|found| found.text == "in a meeting");
    alice.event("what bob says", says).await?;
    let api = server.login("bob").await?;
    let own = view(&api, "?uids=bob").await?;
    let device = |name: &str| json!({ "device": name, "state": "away" });
    let devices = json!([device("bob-phone"), device("laptop")]);
    assert_eq!(own[0]["devices"], devices, "{own:?}");

    // A connection that is taken over keeps nothing of what the one before has said.
    let again = server.client("bob").online().await?;
    until(&mut alice, "bob", "online").await?;
    again.disconnect().await?;
    laptop.disconnect().await?;
    for device in [&mut alice, &mut tablet] {
        let presence = until(device, "bob", "offline").await?;
        assert!(presence.last_seen_at.is_some(), "{presence:?}");
        assert_eq!(presence.text, "in a meeting");
    }
    let api = server.login("alice").await?;
    let seen = view(&api, "").await?;
    assert_eq!(
        (&seen[0]["state"], &seen[0]["uid"]),
        (&json!("offline"), &json!("bob"))
    );
    assert!(seen[0]["lastSeenAt"].is_string(), "{seen:?}");
    assert!(seen[0].get("devices").is_none(), "{seen:?}");
    assert_eq!(view(&api, "?uids=bob").await?, seen);
    server.finish().await
}

/// Nobody but a contact in both directions sees anything, and those who may not can't tell why.
#[tokio::test]
async fn others_see_nothing() -> Result<()> {
    let uids = [
        "bob", "friend", "stranger", "admirer", "blocked", "blocking", "shy",
    ];
    let server = quick(&uids).await?;
    for other in ["friend", "blocked", "blocking", "shy"] {
        server.befriend("bob", other).await?;
    }
    for statement in [
        "INSERT INTO contacts VALUES ('admirer', 'bob', 'contact', '', '', '', 0, 0, 0, -1)",
        "UPDATE contacts SET blocked = 2 WHERE uid = 'bob' AND other = 'blocked'",
        "UPDATE contacts SET blocked = 1 WHERE uid = 'blocking'",
        "UPDATE users SET presence = 'nobody' WHERE uid = 'shy'",
    ] {
        server.sql(statement).await?;
    }
    let mut friend = server.client("friend").online().await?;
    let mut others = Vec::new();
    for uid in ["stranger", "admirer", "blocked", "blocking"] {
        others.push(server.client(uid).json().online().await?);
    }
    let mut bob = server.client("bob").online().await?;
    let shy = server.client("shy").online().await?;
    until(&mut friend, "bob", "online").await?;
    bob.tell(up::status_text("hello")).await?;
    assert_eq!(
        asked(&mut friend, &["bob", "nobody"]).await?,
        [state("bob", "online")]
    );
    for other in &mut others {
        assert_eq!(asked(other, &["bob", "nobody"]).await?, [], "{other}");
        assert_eq!(asked(other, &[]).await?, [], "{other}");
    }
    // One who hides sees the others all the same.
    assert_eq!(asked(&mut bob, &["shy"]).await?, []);
    assert_eq!(asked(&mut bob, &[]).await?, [state("friend", "online")]);
    let mut shy_tablet = server.client("shy").device("tablet").online().await?;
    assert_eq!(asked(&mut shy_tablet, &[]).await?, [state("bob", "online")]);

    shy.disconnect().await?;
    bob.disconnect().await?;
    until(&mut friend, "bob", "offline").await?;
    until(&mut shy_tablet, "bob", "offline").await?;
    for other in &mut others {
        let heard = other.events_so_far();
        assert!(
            !heard.iter().any(|event| presence_of(event).is_some()),
            "{other}: {heard:?}"
        );
    }
    server.finish().await
}

/// An invisible device is seen by its user only, and leaves no trace when it goes.
#[tokio::test]
async fn one_can_be_invisible() -> Result<()> {
    let server = quick(&["alice", "bob"]).await?;
    server.befriend("alice", "bob").await?;
    let mut alice = server.client("alice").json().online().await?;
    let mut bob = server.client("bob").online().await?;
    until(&mut alice, "bob", "online").await?;
    bob.tell(up::appear("invisible")).await?;
    let gone = until(&mut alice, "bob", "offline").await?;
    let seen_at = gone.last_seen_at.context("when bob was last seen")?;
    let own = view(&server.login("bob").await?, "?uids=bob").await?;
    assert_eq!(own[0]["state"], "offline");
    assert_eq!(own[0]["devices"][0]["state"], "invisible");

    bob.disconnect().await?;
    let api = server.login("bob").await?;
    eventually("bob's phone is known to have left", async || {
        let own = view(&api, "?uids=bob").await?;
        Ok(own[0]["devices"][0]["state"] == "offline")
    })
    .await?;
    let answer = alice.tell(up::get_presence(&["bob"])).await?.answer;
    let Some(Answer::Presences(list)) = answer else {
        anyhow::bail!("no presences: {answer:?}");
    };
    assert_eq!(list.presences[0].last_seen_at, Some(seen_at));
    server.finish().await
}

/// A phone that reconnects again and again within the grace is no news.
#[tokio::test]
async fn a_flapping_phone_is_no_news() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__PRESENCE__INTERVAL", "50ms")
        .setting("TIDINGS__PRESENCE__GRACE", "1h");
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    server.befriend("alice", "bob").await?;
    let mut alice = server.client("alice").online().await?;
    for number in 0..10 {
        let phone = server.client("bob").online().await?;
        if number == 0 {
            until(&mut alice, "bob", "online").await?;
        }
        assert_eq!(asked(&mut alice, &["bob"]).await?, [state("bob", "online")]);
        phone.drop_connection().await;
    }
    let _phone = server.client("bob").online().await?;
    let api = server.login("bob").await?;
    let says = json!({ "text": "the line is bad" });
    api.put("/v1/presence", &says).await?.expect(204)?;
    let next = alice.event("what bob says", presence_of).await?;
    assert_eq!(next.text, "the line is bad", "nothing came before");
    let away = json!({ "state": "away" });
    let refused = api.put("/v1/presence", &away).await?;
    refused.problem(400, "invalid_argument")?;
    let long = json!({ "text": "x".repeat(129) });
    let refused = api.put("/v1/presence", &long).await?;
    refused.problem(400, "invalid_argument")?;
    server.finish().await
}
