//! Groups that many change at once.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use schema::v1::{Group, event};
use tidings_tests::client::{error_of, ok_of};
use tidings_tests::server::Folder;
use tidings_tests::{Client, Server, up};
use tokio::task::JoinSet;

use crate::support::{ensure_complete, ensure_silence};

const MEMBERS_MAX: usize = 8;
const STRANGERS: usize = 16;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("user{number}")).collect()
}

async fn clients(server: &Server, uids: &[String]) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for uid in uids {
        clients.push(server.client(uid).online().await?);
    }
    Ok(clients)
}

async fn member_count(server: &Server) -> Result<usize> {
    Ok(server.login("alice").await?.members("team").await?.len())
}

/// However many want to come in at once, the group never grows beyond its limit, and each who is told so is in it.
#[tokio::test]
async fn many_join_at_the_limit() -> Result<()> {
    let max = MEMBERS_MAX.to_string();
    let folder = Folder::new()?.setting("TIDINGS__GROUPS__MEMBERS_MAX", &max);
    let strangers = names(STRANGERS);
    let uids: Vec<&str> = strangers.iter().map(String::as_str).collect();
    let server = Server::start_in(folder, &[&["alice"], uids.as_slice()].concat()).await?;
    let mut alice = server.client("alice").online().await?;
    alice.tell(up::group_create("team", &[])).await?;
    alice.tell(up::group_join_by("team", "open")).await?;

    let mut joins = JoinSet::new();
    for mut client in clients(&server, &strangers).await? {
        joins.spawn(async move { client.ask(&up::new(up::group_join("team", ""))).await });
    }
    let mut joined = 0;
    while let Some(reply) = joins.join_next().await {
        let reply = reply??;
        match ok_of(reply.clone()) {
            Ok(_) => joined += 1,
            Err(_) => assert_eq!(error_of(reply)?, "too_large"),
        }
    }
    assert_eq!(joined, MEMBERS_MAX - 1);
    assert_eq!(member_count(&server).await?, MEMBERS_MAX);
    let history = server.login("alice").await?.history("g:team").await?;
    ensure_complete(&history, joined as u32)?;
    server.finish().await
}

/// Each message of one who is removed again and again is either before a removal or refused; nobody who is out gets
/// anything, and the history shows who was in it when.
#[tokio::test]
async fn who_is_removed_while_sending() -> Result<()> {
    const ROUNDS: usize = 10;
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut talker = server.client("bob").device("phone").online().await?;
    let mut listener = server
        .client("bob")
        .device("tablet")
        .json()
        .online()
        .await?;
    alice.tell(up::group_create("team", &["carol"])).await?;
    alice.tell(up::group_join_by("team", "link")).await?;
    let ok = alice.tell(up::group_link("team", 0)).await?;
    let Some(schema::v1::ok::Answer::Link(link)) = ok.answer else {
        anyhow::bail!("no link");
    };
    let mut sent = BTreeSet::new();
    for _ in 0..ROUNDS {
        talker.tell(up::group_join_by_link(&link.token)).await?;
        let kick = up::new(up::group_remove("team", &["bob"]));
        let mut tickets = Vec::new();
        for number in 0..20 {
            let said = up::new(up::text(up::group("team"), "quick"));
            talker.publish(&said).await?;
            tickets.push(said.client_msg_id);
            if number == 5 {
                alice.publish(&kick).await?;
            }
        }
        ok_of(alice.reply_to(&kick.client_msg_id).await?)?;
        for id in tickets {
            let reply = talker.reply_to(&id).await?;
            match ok_of(reply.clone()) {
                Ok(ok) => assert!(sent.insert(ok.seq)),
                Err(_) => assert_eq!(error_of(reply)?, "permission_denied"),
            }
        }
    }
    // What he did not send himself, he got only while he was in.
    alice.say(up::group("team"), "without bob").await?;
    let history = server.login("alice").await?.history("g:team").await?;
    ensure_complete(&history, history.len() as u32)?;
    let mut is_in = false;
    let mut his = BTreeSet::new();
    for message in &history {
        let what = match &message.content {
            Some(schema::v1::message::Content::System(system)) => system.r#type.as_str(),
            _ => "",
        };
        match what {
            "member_joined" => is_in = true,
            "members_removed" => is_in = false,
            _ => {}
        }
        ensure!(
            is_in || message.sender != "bob",
            "out, and sent {message:?}"
        );
        if is_in {
            his.insert(message.seq);
        }
        assert_eq!(
            sent.contains(&message.seq),
            message.sender == "bob" && what.is_empty()
        );
    }
    let heard = listener.messages(his.len()).await?;
    let heard: BTreeSet<u32> = heard.iter().map(|message| message.seq).collect();
    assert_eq!(heard, his);
    ensure_silence(&mut listener, "bob", &mut alice).await?;
    server.finish().await
}

/// Somebody who comes in by a link while being removed is in the group or not, the same for all who look.
#[tokio::test]
async fn joining_and_being_removed_at_once() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    alice.tell(up::group_create("team", &[])).await?;
    alice.tell(up::group_join_by("team", "open")).await?;
    for _ in 0..20 {
        let join = up::new(up::group_join("team", ""));
        let kick = up::new(up::group_remove("team", &["bob"]));
        bob.publish(&join).await?;
        alice.publish(&kick).await?;
        ok_of(bob.reply_to(&join.client_msg_id).await?)?;
        let kicked = alice.reply_to(&kick.client_msg_id).await?;
        let is_out = ok_of(kicked.clone()).is_ok();
        if !is_out {
            assert_eq!(error_of(kicked)?, "not_found");
        }
        assert_eq!(member_count(&server).await?, if is_out { 1 } else { 2 });
        let sent = bob
            .ask(&up::new(up::text(up::group("team"), "in?")))
            .await?;
        assert_eq!(ok_of(sent).is_err(), is_out);
        alice
            .ask(&up::new(up::group_remove("team", &["bob"])))
            .await?;
    }
    server.finish().await
}

/// Of two admins neither removes the other, of two owners there is never more than one, and who gives the group away
/// and leaves is out only when somebody else owns it.
#[tokio::test]
async fn owners_and_admins_at_once() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let mut carol = server.client("carol").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    for uid in ["bob", "carol"] {
        alice.tell(up::group_role("team", uid, "admin")).await?;
    }
    let (of_bob, of_carol) = tokio::join!(
        bob.tell_in_vain(up::group_remove("team", &["carol"])),
        carol.tell_in_vain(up::group_remove("team", &["bob"])),
    );
    assert_eq!(
        (of_bob?.as_str(), of_carol?.as_str()),
        ("permission_denied", "permission_denied")
    );

    for _ in 0..10 {
        let to_bob = up::new(up::group_transfer("team", "bob"));
        let to_carol = up::new(up::group_transfer("team", "carol"));
        let leave = up::new(up::group_leave("team"));
        let mut tablet = server.client("alice").device("tablet").online().await?;
        for up in [&to_bob, &leave] {
            alice.publish(up).await?;
        }
        tablet.publish(&to_carol).await?;
        let transfers = [
            alice.reply_to(&to_bob.client_msg_id).await?,
            tablet.reply_to(&to_carol.client_msg_id).await?,
        ];
        let done = transfers.map(|reply| ok_of(reply).is_ok());
        assert!(done[0] != done[1], "one of them: {done:?}");
        // She is an admin by now, however it came.
        ok_of(alice.reply_to(&leave.client_msg_id).await?)?;
        let owner = if done[0] { &mut bob } else { &mut carol };
        owner.tell(up::group_add("team", &["alice"])).await?;
        owner.tell(up::group_transfer("team", "alice")).await?;
        let members = server.login("alice").await?.members("team").await?;
        let owners = members.iter().filter(|member| member["role"] == "owner");
        assert_eq!((members.len(), owners.count()), (3, 1));
    }
    server.finish().await
}

/// A large group is told of a change without all of its members, and a small one with them.
#[tokio::test]
async fn large_groups_are_told_little() -> Result<()> {
    let others = names(101);
    let uids: Vec<&str> = others.iter().map(String::as_str).collect();
    let server = Server::with_users(&[&["alice", "bob"], uids.as_slice()].concat()).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let created = alice.tell(up::group_create("team", &uids)).await?;
    let created = created.group.context("the group")?;
    assert_eq!(
        (created.member_count, created.partial, created.members.len()),
        (102, true, 100)
    );

    alice.tell(up::group_add("team", &["bob"])).await?;
    let told = next_group(&mut bob).await?;
    let uids_of = |group: &Group| -> Vec<(String, String)> {
        let members = group.members.iter();
        members
            .map(|member| (member.uid.clone(), member.role.clone()))
            .collect()
    };
    assert_eq!(uids_of(&told), [("bob".to_owned(), "member".to_owned())]);
    assert_eq!((told.member_count, told.partial), (103, true));
    let all = schema::v1::up::Command::GetGroup(schema::v1::GetGroup { gid: "team".into() });
    let all = bob.tell(all).await?.group.context("the group")?;
    assert_eq!((all.members.len(), all.partial), (103, false));

    alice.tell(up::group_remove("team", &["bob"])).await?;
    let told = next_group(&mut bob).await?;
    assert_eq!(uids_of(&told), [("bob".to_owned(), String::new())]);

    // HTTP keeps its shape.
    let api = server.login("alice").await?;
    let bob_too = serde_json::json!({ "members": ["bob"] });
    let shown = api
        .post("/v1/groups/team/members", &bob_too)
        .await?
        .success()?;
    assert_eq!(shown["members"].as_array().map(Vec::len), Some(103));

    alice.tell(up::group_remove("team", &uids)).await?;
    let told = next_group(&mut bob).await?;
    assert_eq!(told.member_count, 103, "that he was added again");
    let told = next_group(&mut bob).await?;
    assert_eq!((told.members.len(), told.partial), (2, false));
    server.finish().await
}

async fn next_group(client: &mut Client) -> Result<Group> {
    let take = |event: &event::Event| match event {
        event::Event::Group(group) => Some(group.clone()),
        _ => None,
    };
    client.event("a group", take).await
}
