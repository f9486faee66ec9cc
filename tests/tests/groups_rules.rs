//! What members may do in a group, and what they hear of what others did.

use anyhow::{Context, Result};
use schema::v1::message::Content;
use schema::v1::{Group, GroupMember, GroupSet, Message, System, event};
use serde_json::json;
use tidings_tests::http::number;
use tidings_tests::{Client, Server, up};

use crate::support::{ensure_silence, seqs, text_of};

/// What happened, for a message that says so.
fn happened(message: &Message) -> Option<&System> {
    match &message.content {
        Some(Content::System(system)) if message.kind == "system" => Some(system),
        _ => None,
    }
}

/// Checks that the next message says that `sender` has done this to those.
async fn expect_happened(
    client: &mut Client,
    sender: &str,
    what: &str,
    users: &[&str],
) -> Result<Message> {
    let message = client.message().await?;
    let system = happened(&message).with_context(|| format!("{message:?} says nothing"))?;
    assert_eq!(
        (message.sender.as_str(), system.r#type.as_str()),
        (sender, what)
    );
    assert_eq!(system.users, users, "{what}");
    Ok(message)
}

/// The next event about a group that `is_it`.
async fn group_event(
    client: &mut Client,
    what: &str,
    is_it: impl Fn(&Group) -> bool,
) -> Result<Group> {
    let take = |event: &event::Event| match event {
        event::Event::Group(group) if is_it(group) => Some(group.clone()),
        _ => None,
    };
    client.event(what, take).await
}

fn member<'a>(group: &'a Group, uid: &str) -> Result<&'a GroupMember> {
    let mut found = group.members.iter().filter(|member| member.uid == uid);
    found
        .next()
        .with_context(|| format!("no {uid} in {group:?}"))
}

fn set() -> GroupSet {
    GroupSet::default()
}

/// Alice owns it, bob is an admin, carol and dave are ordinary members; erin is not in it.
async fn server_with_team() -> Result<(Server, Client, Client, Client)> {
    let server = Server::with_users(&["alice", "bob", "carol", "dave", "erin"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol", "dave"]))
        .await?;
    alice.tell(up::group_role("team", "bob", "admin")).await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").online().await?;
    for client in [&mut alice, &mut bob, &mut carol] {
        expect_happened(client, "alice", "admins_changed", &["bob"]).await?;
    }
    Ok((server, alice, bob, carol))
}

/// Each command, by each role, is carried out or refused as the contract has it; strangers learn nothing.
#[tokio::test]
async fn rights_follow_from_roles() -> Result<()> {
    let (server, mut alice, mut bob, mut carol) = server_with_team().await?;
    let mut erin = server.client("erin").online().await?;
    let last = alice.say(up::group("team"), "to be pinned").await?;
    let name = Some("The team".to_owned());
    let open = Some("open".to_owned());
    let policy = Some("member".to_owned());
    let (for_admins, for_owner) = (
        ["permission_denied", "", ""],
        ["permission_denied", "permission_denied", ""],
    );
    for (command, [member, admin, owner]) in [
        (up::group_add("team", &["dave"]), for_admins),
        (
            up::group_set("team", GroupSet { name, ..set() }),
            for_admins,
        ),
        (
            up::group_set(
                "team",
                GroupSet {
                    muted: Some(false),
                    ..set()
                },
            ),
            for_admins,
        ),
        (up::group_mute("team", "dave", 0), for_admins),
        (up::group_nickname("team", "dave", "D"), for_admins),
        (up::group_link("team", 0), for_admins),
        (up::group_pin("team", last.msg_id, false), for_admins),
        (
            up::group_set(
                "team",
                GroupSet {
                    join: open,
                    ..set()
                },
            ),
            for_owner,
        ),
        (
            up::group_set(
                "team",
                GroupSet {
                    invite: policy,
                    ..set()
                },
            ),
            for_owner,
        ),
        (
            up::group_set(
                "team",
                GroupSet {
                    history_visible: Some(false),
                    ..set()
                },
            ),
            for_owner,
        ),
        (up::group_role("team", "dave", "member"), for_owner),
        (up::group_transfer("team", "alice"), for_owner),
        (
            up::group_remove("team", &["alice"]),
            ["permission_denied"; 3],
        ),
        (
            up::group_remove("team", &["bob"]),
            ["permission_denied", "permission_denied", "unasked"],
        ),
        (
            up::group_mute("team", "alice", 60),
            ["permission_denied"; 3],
        ),
        (
            up::group_mute("team", "bob", 60),
            ["permission_denied", "permission_denied", ""],
        ),
        (
            up::group_role("team", "alice", "member"),
            ["permission_denied", "permission_denied", "conflict"],
        ),
        (
            up::group_transfer("team", "erin"),
            ["permission_denied", "permission_denied", "not_found"],
        ),
        (
            up::group_remove("team", &["erin"]),
            ["permission_denied", "not_found", "not_found"],
        ),
        (
            up::group_dissolve("team"),
            ["permission_denied", "permission_denied", "unasked"],
        ),
    ] {
        let stranger = erin.tell_in_vain(command.clone()).await?;
        assert_eq!(stranger, "not_found", "{command:?}");
        for (client, code) in [(&mut carol, member), (&mut bob, admin), (&mut alice, owner)] {
            match code {
                "unasked" => {}
                "" => {
                    let done = client.tell(command.clone()).await;
                    done.with_context(|| format!("{client}: {command:?}"))?;
                }
                code => {
                    let refused = client.tell_in_vain(command.clone()).await?;
                    assert_eq!(refused, code, "{client}: {command:?}");
                }
            }
        }
    }
    server.finish().await
}

/// Bad values are refused whoever sends them.
#[tokio::test]
async fn bad_values_are_refused() -> Result<()> {
    let (server, mut alice, ..) = server_with_team().await?;
    let text = |length: usize| Some("x".repeat(length));
    let word = |word: &str| Some(word.to_owned());
    for command in [
        up::group_set(
            "team",
            GroupSet {
                name: text(129),
                ..set()
            },
        ),
        up::group_set(
            "team",
            GroupSet {
                name: word("  "),
                ..set()
            },
        ),
        up::group_set(
            "team",
            GroupSet {
                avatar: text(2049),
                ..set()
            },
        ),
        up::group_set(
            "team",
            GroupSet {
                announcement: text(4097),
                ..set()
            },
        ),
        up::group_set(
            "team",
            GroupSet {
                join: word("everybody"),
                ..set()
            },
        ),
        up::group_set(
            "team",
            GroupSet {
                invite: word("nobody"),
                ..set()
            },
        ),
        up::group_set("no team", set()),
        up::group_role("team", "bob", "owner"),
        up::group_role("team", "b b", "admin"),
        up::group_nickname("team", "", &"x".repeat(65)),
        up::group_join("", ""),
        up::group_join("team", &"x".repeat(257)),
    ] {
        let code = alice.tell_in_vain(command.clone()).await?;
        assert_eq!(code, "invalid_argument", "{command:?}");
    }
    server.finish().await
}

/// What happens in a group has its place between the messages, for all the same; newcomers get it first of all.
#[tokio::test]
async fn changes_stand_between_the_messages() -> Result<()> {
    let (server, mut alice, mut bob, mut carol) = server_with_team().await?;
    let mut tablet = server
        .client("alice")
        .device("tablet")
        .json()
        .online()
        .await?;
    let mut erin = server.client("erin").online().await?;

    bob.tell(up::group_add("team", &["erin"])).await?;
    let mut everybody = [&mut alice, &mut tablet, &mut bob, &mut carol];
    for client in &mut everybody {
        let added = expect_happened(client, "bob", "members_added", &["erin"]).await?;
        assert_eq!(added.seq, 2);
    }
    let added = expect_happened(&mut erin, "bob", "members_added", &["erin"]).await?;
    assert_eq!(added.seq, 2);
    let group = group_event(&mut erin, "the group", |group| group.gid == "team").await?;
    assert_eq!((group.member_count, group.partial), (5, false));

    let said = erin.say(up::group("team"), "hello").await?;
    assert_eq!(said.seq, 3);
    let changes = GroupSet {
        name: Some("Team".into()),
        announcement: Some("Lunch at noon".into()),
        muted: Some(true),
        ..set()
    };
    alice.tell(up::group_set("team", changes)).await?;
    alice
        .tell(up::group_pin("team", said.msg_id, false))
        .await?;
    alice.tell(up::group_transfer("team", "carol")).await?;
    erin.tell(up::group_leave("team")).await?;

    assert_eq!(text_of(&bob.message().await?), "hello");
    let name = expect_happened(&mut bob, "alice", "name_changed", &[]).await?;
    assert_eq!(happened(&name).context("it says so")?.text, "Team");
    let announcement = expect_happened(&mut bob, "alice", "announcement_changed", &[]).await?;
    assert_eq!(
        happened(&announcement).context("it says so")?.text,
        "Lunch at noon"
    );
    expect_happened(&mut bob, "alice", "muted", &[]).await?;
    let pinned = expect_happened(&mut bob, "alice", "message_pinned", &[]).await?;
    assert_eq!(happened(&pinned).context("it says so")?.msg_id, said.msg_id);
    expect_happened(&mut bob, "alice", "owner_changed", &["carol"]).await?;
    let left = expect_happened(&mut bob, "erin", "member_left", &["erin"]).await?;
    assert_eq!(left.seq, 9);

    // It is stored, and who did it has not left it unread.
    let history = server.login("bob").await?.history("g:team").await?;
    assert_eq!(seqs(&history), (1..=9).collect::<Vec<_>>());
    assert!(history.contains(&left), "{history:?}");
    for (uid, unread) in [("alice", 2 + 1), ("bob", 9 - 1)] {
        let rows = server.login(uid).await?.conversations().await?;
        assert_eq!(number(&rows[0], "unread"), unread, "{uid}: {rows:?}");
    }
    server.finish().await
}

/// Who is muted is refused until it ends; a muted group hears owner and admins only, and so does one where only they
/// post.
#[tokio::test]
async fn who_may_not_send_is_refused() -> Result<()> {
    let (server, mut alice, mut bob, mut carol) = server_with_team().await?;
    let hello = || up::text(up::group("team"), "hello");

    bob.tell(up::group_mute("team", "carol", 600)).await?;
    assert_eq!(carol.tell_in_vain(hello()).await?, "permission_denied");
    let told = group_event(&mut carol, "who is muted", |group| {
        member(group, "carol").is_ok_and(|carol| carol.muted_until.is_some())
    });
    told.await?;
    bob.tell(up::group_mute("team", "carol", 0)).await?;
    carol.tell(hello()).await?;

    let quiet = |muted| {
        up::group_set(
            "team",
            GroupSet {
                muted: Some(muted),
                ..set()
            },
        )
    };
    bob.tell(quiet(true)).await?;
    assert_eq!(carol.tell_in_vain(hello()).await?, "permission_denied");
    bob.tell(hello()).await?;
    bob.tell(quiet(false)).await?;
    carol.tell(hello()).await?;

    for (post, may) in [
        ("admin", [false, true, true]),
        ("owner", [false, false, true]),
        ("member", [true; 3]),
    ] {
        let post = Some(post.to_owned());
        alice
            .tell(up::group_set("team", GroupSet { post, ..set() }))
            .await?;
        for (client, may) in [&mut carol, &mut bob, &mut alice].into_iter().zip(may) {
            let reply = client.ask(&up::new(hello())).await?;
            let ok = tidings_tests::client::ok_of(reply);
            assert_eq!(ok.is_ok(), may, "{client}: {ok:?}");
        }
    }
    // A muted member who becomes the owner is not muted.
    alice.tell(up::group_mute("team", "carol", 600)).await?;
    alice.tell(up::group_transfer("team", "carol")).await?;
    carol.tell(hello()).await?;
    server.finish().await
}

/// Nicknames, roles and settings are in the group as everybody in it sees it, over MQTT and HTTP.
#[tokio::test]
async fn a_group_shows_what_was_set() -> Result<()> {
    let (server, mut alice, mut bob, mut carol) = server_with_team().await?;
    carol.tell(up::group_nickname("team", "", "Caro")).await?;
    let event = group_event(&mut bob, "the nickname", |group| {
        member(group, "carol").is_ok_and(|carol| carol.nickname == "Caro")
    });
    event.await?;
    let changes = GroupSet {
        avatar: Some("https://example.com/a.png".into()),
        announcement: Some("welcome".into()),
        invite: Some("member".into()),
        history_visible: Some(true),
        ..set()
    };
    alice.tell(up::group_set("team", changes)).await?;
    let said = alice.say(up::group("team"), "look").await?;
    alice
        .tell(up::group_pin("team", said.msg_id, false))
        .await?;

    let get = schema::v1::up::Command::GetGroup(schema::v1::GetGroup { gid: "team".into() });
    let group = bob.tell(get).await?.group.context("the group")?;
    assert_eq!(group.avatar, "https://example.com/a.png");
    assert_eq!(group.announcement, "welcome");
    let policies = [&group.join, &group.invite, &group.post, &group.pin];
    assert_eq!(policies, ["closed", "member", "member", "admin"]);
    assert!(group.history_visible && !group.muted && !group.partial);
    assert_eq!(
        (group.member_count, group.pinned.as_slice()),
        (4, [said.msg_id].as_slice())
    );
    assert_eq!(member(&group, "bob")?.role, "admin");

    let api = server.login("carol").await?;
    let shown = api.get("/v1/groups/team").await?.expect(200)?;
    assert_eq!(shown["announcement"], "welcome", "{shown}");
    assert_eq!(shown["pinned"], json!([said.msg_id.to_string()]), "{shown}");
    assert_eq!(api.member("team", "carol").await?["nickname"], "Caro");

    bob.tell(up::group_pin("team", said.msg_id, true)).await?;
    let shown = api.get("/v1/groups/team").await?.expect(200)?;
    assert_eq!(shown["pinned"], json!([]), "{shown}");
    server.finish().await
}

/// Only messages of the group that the caller can see are pinned, and not more than 50.
#[tokio::test]
async fn pins_are_of_the_group_and_few() -> Result<()> {
    let (server, mut alice, mut bob, _) = server_with_team().await?;
    let elsewhere = alice.say(up::user("erin"), "between us").await?;
    let early = alice.say(up::group("team"), "before erin").await?;
    alice.tell(up::group_add("team", &["erin"])).await?;
    alice.tell(up::group_role("team", "erin", "admin")).await?;
    let mut erin = server.client("erin").online().await?;
    for msg_id in [elsewhere.msg_id, 7] {
        let code = bob
            .tell_in_vain(up::group_pin("team", msg_id, false))
            .await?;
        assert_eq!(code, "not_found", "{msg_id}");
    }
    let code = erin
        .tell_in_vain(up::group_pin("team", early.msg_id, false))
        .await?;
    assert_eq!(code, "not_found", "she can't see it");
    for number in 0..50 {
        let said = alice
            .say(up::group("team"), &format!("number {number}"))
            .await?;
        alice
            .tell(up::group_pin("team", said.msg_id, false))
            .await?;
        // Once more changes nothing.
        let again = bob.tell(up::group_pin("team", said.msg_id, false)).await?;
        assert_eq!(again.group.context("the group")?.pinned.len(), number + 1);
    }
    let code = bob
        .tell_in_vain(up::group_pin("team", early.msg_id, false))
        .await?;
    assert_eq!(code, "too_large");
    server.finish().await
}

/// An owner leaves last, and that is the end; a gid is never given twice.
#[tokio::test]
async fn an_owner_leaves_last() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    assert_eq!(
        alice.tell_in_vain(up::group_leave("team")).await?,
        "conflict"
    );
    alice.tell(up::group_transfer("team", "bob")).await?;
    alice.tell(up::group_leave("team")).await?;
    let ended = bob.tell(up::group_leave("team")).await?.group;
    assert!(ended.context("the group")?.dissolved);
    for client in [&mut alice, &mut bob] {
        for command in [
            up::text(up::group("team"), "anybody?"),
            up::group_leave("team"),
            up::group_join("team", ""),
        ] {
            assert_eq!(client.tell_in_vain(command).await?, "not_found", "{client}");
        }
        let create = up::group_create("team", &[]);
        assert_eq!(client.tell_in_vain(create).await?, "already_exists");
    }
    server.finish().await
}

/// A dissolved group is nobody's: not in lists, not in history, and its members are told.
#[tokio::test]
async fn a_dissolved_group_is_gone() -> Result<()> {
    let (server, mut alice, mut bob, mut carol) = server_with_team().await?;
    alice.say(up::group("team"), "bye").await?;
    carol.message().await?;
    let api = server.login("alice").await?;
    api.delete("/v1/groups/team").await?.expect(204)?;
    for client in [&mut alice, &mut bob, &mut carol] {
        let told = group_event(client, "the end", |group| group.dissolved).await?;
        assert_eq!((told.gid.as_str(), told.members.len()), ("team", 0));
        let code = client
            .tell_in_vain(up::text(up::group("team"), "still here?"))
            .await?;
        assert_eq!(code, "not_found", "{client}");
        let code = client.tell_in_vain(up::sync("g:team", 0, 10)).await?;
        assert_eq!(code, "not_found", "{client}");
    }
    ensure_silence(&mut carol, "carol", &mut alice).await?;
    let carol = server.login("carol").await?;
    let rows = carol.conversations().await?;
    assert!(
        rows.iter().all(|row| row["conversation"] != "g:team"),
        "{rows:?}"
    );
    for path in [
        "/v1/groups/team",
        "/v1/groups/team/members",
        "/v1/conversations/g:team/messages",
    ] {
        carol.get(path).await?.problem(404, "not_found")?;
    }
    server.finish().await
}

/// All of it over HTTP.
#[tokio::test]
async fn groups_are_ruled_over_http() -> Result<()> {
    let (server, _, mut bob, _) = server_with_team().await?;
    let (alice, dave) = (server.login("alice").await?, server.login("dave").await?);
    let settings = json!({ "name": "New", "post": "admin", "historyVisible": true });
    let shown = alice
        .patch("/v1/groups/team", &settings)
        .await?
        .expect(200)?;
    assert_eq!(
        (&shown["name"], &shown["post"]),
        (&json!("New"), &json!("admin"))
    );
    let dave_path = "/v1/groups/team/members/dave";
    alice
        .patch(dave_path, &json!({ "role": "admin" }))
        .await?
        .expect(200)?;
    dave.patch(dave_path, &json!({ "nickname": "Dee" }))
        .await?
        .expect(200)?;
    alice
        .patch(dave_path, &json!({ "muteSecs": 60 }))
        .await?
        .expect(200)?;
    let row = alice.member("team", "dave").await?;
    assert_eq!(
        (&row["role"], &row["nickname"]),
        (&json!("admin"), &json!("Dee"))
    );
    assert!(row["mutedUntil"].is_string(), "{row}");
    for (path, body) in [
        (dave_path, json!({})),
        (dave_path, json!({ "role": "admin", "nickname": "x" })),
        (dave_path, json!({ "role": "king" })),
        ("/v1/groups/team", json!({ "join": "sometimes" })),
    ] {
        let answer = alice.patch(path, &body).await?;
        answer.problem(400, "invalid_argument").context(body)?;
    }
    let said = bob.say(up::group("team"), "pin me").await?;
    let pin = format!("/v1/groups/team/pins/{}", said.msg_id);
    alice.put(&pin, &json!({})).await?.expect(204)?;
    alice.delete(&pin).await?.expect(204)?;
    alice
        .put("/v1/groups/team/pins/x", &json!({}))
        .await?
        .problem(404, "not_found")?;

    alice
        .post("/v1/groups/team/owner", &json!({ "user": "dave" }))
        .await?
        .expect(200)?;
    alice
        .delete("/v1/groups/team")
        .await?
        .problem(403, "permission_denied")?;
    dave.delete("/v1/groups/team").await?.expect(204)?;
    server.finish().await
}
