//! Coming into a group without being added: by its link, its name, or by asking.

use anyhow::{Context, Result};
use schema::v1::ok::Answer;
use schema::v1::{GetGroupRequests, GroupRequest, GroupSet, Ok, event, up::Command};
use serde_json::json;
use tidings_tests::server::Folder;
use tidings_tests::{Client, Server, up};

use crate::support::{ensure_silence, introduce, seqs, spoken, text_of};

/// Alice's group with bob in it; carol and dave are strangers to it.
async fn server_with_team(join: &str) -> Result<(Server, Client)> {
    let server = Server::with_users(&["alice", "bob", "carol", "dave"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    alice.tell(up::group_join_by("team", join)).await?;
    Ok((server, alice))
}

async fn new_link(client: &mut Client, valid_secs: u32) -> Result<String> {
    let ok = client.tell(up::group_link("team", valid_secs)).await?;
    match ok.answer {
        Some(Answer::Link(link)) => Ok(link.token),
        other => anyhow::bail!("no link: {other:?}"),
    }
}

fn requests(ok: Ok) -> Vec<GroupRequest> {
    match ok.answer {
        Some(Answer::GroupRequests(list)) => list.requests,
        _ => Vec::new(),
    }
}

fn get_requests() -> Command {
    Command::GetGroupRequests(GetGroupRequests { gid: "team".into() })
}

/// What opens a group, and that everything else looks as if there were none.
#[tokio::test]
async fn a_group_is_as_open_as_it_says() -> Result<()> {
    let (server, mut alice) = server_with_team("closed").await?;
    let mut carol = server.client("carol").json().online().await?;
    let mut dave = server.client("dave").online().await?;
    let link = new_link(&mut alice, 0).await?;
    let (by_gid, by_link) = (
        || up::group_join("team", "hi"),
        || up::group_join_by_link(&link),
    );
    for (join, gid_opens, link_opens) in [
        ("closed", None, None),
        ("link", None, Some(true)),
        ("request", Some(false), Some(false)),
        ("open", Some(true), Some(true)),
    ] {
        alice.tell(up::group_join_by("team", join)).await?;
        for (client, uid, command, opens) in [
            (&mut carol, "carol", by_gid(), gid_opens),
            (&mut dave, "dave", by_link(), link_opens),
        ] {
            let what = format!("{join}: {uid}");
            match opens {
                None => assert_eq!(client.tell_in_vain(command).await?, "not_found", "{what}"),
                Some(is_in) => {
                    let ok = client
                        .tell(command.clone())
                        .await
                        .with_context(|| what.clone())?;
                    assert_eq!(ok.group.is_some(), is_in, "{what}");
                    if is_in {
                        // Once more changes nothing.
                        client.tell(command).await?.group.context("the group")?;
                        client.tell(up::group_leave("team")).await?;
                    } else {
                        alice.tell(up::group_answer("team", uid, false)).await?;
                    }
                }
            }
        }
    }
    for command in [
        up::group_join("none", ""),
        up::group_join_by_link("none"),
        up::group_join_by_link(&"f".repeat(64)),
    ] {
        assert_eq!(carol.tell_in_vain(command).await?, "not_found");
    }
    server.finish().await
}

/// A link works until it runs out, is taken back, or there is another; what the database has of it opens nothing.
#[tokio::test]
async fn links_end() -> Result<()> {
    let (server, mut alice) = server_with_team("link").await?;
    let mut carol = server.client("carol").online().await?;
    let join = |link: &str| up::group_join_by_link(link);

    let first = new_link(&mut alice, 0).await?;
    assert!(
        first.len() >= 32 && first.bytes().all(|b| b.is_ascii_alphanumeric()),
        "{first}"
    );
    let second = new_link(&mut alice, 3600).await?;
    assert_ne!(first, second);
    assert_eq!(carol.tell_in_vain(join(&first)).await?, "not_found");
    carol.tell(join(&second)).await?;
    carol.tell(up::group_leave("team")).await?;
    alice.tell(up::group_unlink("team")).await?;
    assert_eq!(carol.tell_in_vain(join(&second)).await?, "not_found");

    // A repeated command makes another link, since nobody keeps the first.
    let asked = up::with_id("link-1", up::group_link("team", 0));
    let mut links = Vec::new();
    for _ in 1..=2 {
        let ok = tidings_tests::client::ok_of(alice.ask(&asked).await?)?;
        match ok.answer {
            Some(Answer::Link(link)) => links.push(link.token),
            other => anyhow::bail!("no link: {other:?}"),
        }
    }
    assert_eq!(carol.tell_in_vain(join(&links[0])).await?, "not_found");
    carol.tell(join(&links[1])).await?;
    let database = server.dump().await?;
    let mut windows = database.windows(64);
    let is_there = windows.any(|window| window == links[1].as_bytes());
    assert!(!is_there, "the token is in the database");

    let short = new_link(&mut alice, 1).await?;
    let mut dave = server.client("dave").online().await?;
    tidings_tests::eventually("the link has run out", async || {
        let reply = dave.ask(&up::new(join(&short))).await?;
        dave.ask(&up::new(up::group_leave("team"))).await?;
        Result::Ok(tidings_tests::client::error_of(reply).is_ok())
    })
    .await?;
    server.finish().await
}

/// Who asks is let in or not by those who may; each of them hears of it once.
#[tokio::test]
async fn requests_are_answered() -> Result<()> {
    let (server, mut alice) = server_with_team("request").await?;
    let mut bob = server.client("bob").online().await?;
    let mut carol = server.client("carol").online().await?;
    let mut dave = server.client("dave").json().online().await?;
    let waiting = requests(carol.tell(up::group_join("team", "it's me")).await?);
    assert_eq!(waiting.len(), 1);
    // What is said later replaces it.
    carol.tell(up::group_join("team", "it's carol")).await?;
    dave.tell(up::group_join("team", "")).await?;
    for uid in ["carol", "dave"] {
        let take = |event: &event::Event| match event {
            event::Event::GroupRequest(request) => Some(request.clone()),
            _ => None,
        };
        assert_eq!(alice.event("a request", take).await?.uid, uid);
    }
    assert_eq!(bob.tell_in_vain(get_requests()).await?, "permission_denied");
    assert_eq!(carol.tell_in_vain(get_requests()).await?, "not_found");
    let denied = bob
        .tell_in_vain(up::group_answer("team", "carol", true))
        .await?;
    assert_eq!(denied, "permission_denied");
    let own = carol
        .tell_in_vain(up::group_answer("team", "carol", true))
        .await?;
    assert_eq!(own, "not_found");

    let found = requests(alice.tell(get_requests()).await?);
    let said: Vec<_> = found
        .iter()
        .map(|request| (&*request.uid, &*request.text))
        .collect();
    assert_eq!(said, [("carol", "it's carol"), ("dave", "")]);
    let accepted = alice.tell(up::group_answer("team", "carol", true)).await?;
    assert_eq!(accepted.group.context("the group")?.member_count, 3);
    alice.tell(up::group_answer("team", "dave", false)).await?;
    assert!(requests(alice.tell(get_requests()).await?).is_empty());
    for (uid, accept) in [("carol", true), ("dave", true), ("nobody", false)] {
        let gone = alice
            .tell_in_vain(up::group_answer("team", uid, accept))
            .await?;
        assert_eq!(gone, "not_found", "{uid}");
    }
    assert_eq!(dave.tell_in_vain(get_requests()).await?, "not_found");

    // Where members invite, they also let in.
    let invite = GroupSet {
        invite: Some("member".into()),
        ..Default::default()
    };
    alice.tell(up::group_set("team", invite)).await?;
    dave.tell(up::group_join("team", "again")).await?;
    bob.tell(up::group_answer("team", "dave", true)).await?;
    // Who is added needs no answer any more.
    bob.tell(up::group_remove("team", &["dave"]))
        .await
        .expect_err("a member removes nobody");
    alice.tell(up::group_remove("team", &["dave"])).await?;
    dave.tell(up::group_join("team", "and again")).await?;
    bob.tell(up::group_add("team", &["dave"])).await?;
    assert!(requests(alice.tell(get_requests()).await?).is_empty());
    server.finish().await
}

/// Newcomers see what was before them only where the group says so, and it is not unread for them.
#[tokio::test]
async fn history_is_visible_where_the_group_says_so() -> Result<()> {
    let (server, mut alice) = server_with_team("open").await?;
    introduce(server.client("carol")).await?;
    alice.say(up::group("team"), "number 1").await?;
    let mut dave = server.client("dave").online().await?;
    dave.tell(up::group_join("team", "")).await?;
    let visible = GroupSet {
        history_visible: Some(true),
        ..Default::default()
    };
    alice.tell(up::group_set("team", visible)).await?;
    let mut carol = server.client("carol").online().await?;
    carol.tell(up::group_join("team", "")).await?;
    alice.say(up::group("team"), "number 4").await?;

    for (uid, expected, unread) in [("dave", 2..=4, 2), ("carol", 1..=4, 1)] {
        let api = server.login(uid).await?;
        let history = api.history("g:team").await?;
        assert_eq!(seqs(&history), expected.collect::<Vec<_>>(), "{uid}");
        let rows = api.conversations().await?;
        assert_eq!(
            tidings_tests::http::number(&rows[0], "unread"),
            unread,
            "{uid}: {rows:?}"
        );
    }
    // Nothing of before comes by itself.
    assert_eq!(carol.message().await?.seq, 3);
    assert_eq!(text_of(&spoken(&mut carol).await?), "number 4");
    ensure_silence(&mut carol, "carol", &mut alice).await?;
    server.finish().await
}

/// Who comes back starts anew, after leaving and after being removed.
#[tokio::test]
async fn who_comes_back_starts_anew() -> Result<()> {
    let (server, mut alice) = server_with_team("open").await?;
    let mut carol = server.client("carol").online().await?;
    carol.tell(up::group_join("team", "")).await?;
    carol.tell(up::group_nickname("team", "", "C")).await?;
    alice.tell(up::group_mute("team", "carol", 600)).await?;
    alice.tell(up::group_role("team", "carol", "admin")).await?;
    alice.tell(up::group_remove("team", &["carol"])).await?;
    alice.say(up::group("team"), "while she is out").await?;
    carol.tell(up::group_join("team", "")).await?;

    let api = server.login("carol").await?;
    let row = api.member("team", "carol").await?;
    assert_eq!(
        (&row["role"], &row["nickname"]),
        (&json!("member"), &json!(""))
    );
    assert!(row["mutedUntil"].is_null(), "{row}");
    let said = carol.say(up::group("team"), "back").await?;
    let history = seqs(&api.history("g:team").await?);
    assert_eq!(
        history,
        [said.seq - 1, said.seq],
        "that she joined, and her word"
    );
    server.finish().await
}

/// A full group lets nobody in, and the request stays.
#[tokio::test]
async fn a_full_group_lets_nobody_in() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__GROUPS__MEMBERS_MAX", "2");
    let server = Server::start_in(folder, &["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut carol = server.client("carol").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    alice.tell(up::group_join_by("team", "open")).await?;
    assert_eq!(
        carol.tell_in_vain(up::group_join("team", "")).await?,
        "too_large"
    );
    alice.tell(up::group_join_by("team", "request")).await?;
    carol.tell(up::group_join("team", "")).await?;
    let accept = || up::group_answer("team", "carol", true);
    assert_eq!(alice.tell_in_vain(accept()).await?, "too_large");
    alice.tell(up::group_remove("team", &["bob"])).await?;
    alice.tell(accept()).await?;
    server.finish().await
}

/// The same over HTTP.
#[tokio::test]
async fn joining_over_http() -> Result<()> {
    let (server, _) = server_with_team("link").await?;
    let (alice, carol, dave) = (
        server.login("alice").await?,
        server.login("carol").await?,
        server.login("dave").await?,
    );
    let nothing = json!({});
    let made = alice
        .post("/v1/groups/team/link", &json!({ "validSecs": 60 }))
        .await?
        .expect(201)?;
    assert!(made["expiresAt"].is_string(), "{made}");
    let link = json!({ "link": made["token"] });
    carol
        .post("/v1/groups/team/join", &nothing)
        .await?
        .problem(404, "not_found")?;
    carol
        .post("/v1/groups/team/link", &nothing)
        .await?
        .problem(404, "not_found")?;
    let joined = carol.post("/v1/join", &link).await?.expect(200)?;
    assert_eq!(
        (&joined["joined"], &joined["group"]["memberCount"]),
        (&json!(true), &json!(3))
    );
    carol
        .post("/v1/groups/team/link", &nothing)
        .await?
        .problem(403, "permission_denied")?;
    alice.delete("/v1/groups/team/link").await?.expect(204)?;
    dave.post("/v1/join", &link)
        .await?
        .problem(404, "not_found")?;

    alice
        .patch("/v1/groups/team", &json!({ "join": "request" }))
        .await?
        .expect(200)?;
    let asked = json!({ "text": "please" });
    let waits = dave
        .post("/v1/groups/team/join", &asked)
        .await?
        .expect(200)?;
    assert_eq!(waits, json!({ "joined": false }));
    let path = "/v1/groups/team/requests";
    carol.get(path).await?.problem(403, "permission_denied")?;
    let waiting = alice.get(path).await?.expect(200)?;
    assert_eq!(waiting["requests"][0]["uid"], "dave", "{waiting}");
    assert_eq!(waiting["requests"][0]["text"], "please", "{waiting}");
    let verdict = json!({ "accept": true });
    alice
        .post(&format!("{path}/dave"), &verdict)
        .await?
        .expect(204)?;
    alice
        .post(&format!("{path}/dave"), &verdict)
        .await?
        .problem(404, "not_found")?;
    assert_eq!(dave.members("team").await?.len(), 4);
    server.finish().await
}
