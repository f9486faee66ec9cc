//! Groups: everybody gets everything once and in one order, and only while a member.

use anyhow::{Context, Result};
use serde_json::json;
use tidings_tests::http::number;
use tidings_tests::{Api, Client, Server, eventually, up};

use crate::support::{ensure_complete, ensure_silence, msg_ids, say_many, spoken, text_of};

const EVERYBODY: [&str; 5] = ["alice", "bob", "carol", "dave", "erin"];
const OTHERS: &[&str] = &["bob", "carol", "dave", "erin"];

/// Each member gets each of 50 messages once, and all in the same order, in a group made over MQTT.
#[tokio::test]
async fn a_group_made_over_mqtt_works() -> Result<()> {
    let server = Server::with_users(&EVERYBODY).await?;
    let mut alice = server.client("alice").online().await?;
    let created = alice.tell(up::group_create("friends", OTHERS)).await?;
    let group = created.group.context("the reply tells the group")?;
    assert_eq!(group.gid, "friends");
    assert_eq!(group.members.len(), EVERYBODY.len());

    check_everybody_gets_everything(&server, alice, "friends").await?;
    server.finish().await
}

/// The same in a group made over HTTP.
#[tokio::test]
async fn a_group_made_over_http_works() -> Result<()> {
    let server = Server::with_users(&EVERYBODY).await?;
    let gid = server.login("alice").await?.create_group(OTHERS).await?;
    let alice = server.client("alice").online().await?;

    check_everybody_gets_everything(&server, alice, &gid).await?;
    server.finish().await
}

async fn check_everybody_gets_everything(
    server: &Server,
    mut alice: Client,
    gid: &str,
) -> Result<()> {
    const COUNT: u32 = 50;
    let mut listeners = vec![server.client("alice").device("tablet").online().await?];
    for uid in OTHERS {
        listeners.push(server.client(uid).online().await?);
    }

    let last = say_many(&mut alice, &up::group(gid), COUNT).await?;
    assert_eq!(last.conversation, format!("g:{gid}"));
    assert_eq!(last.seq, COUNT);

    let mut ids = Vec::new();
    for listener in &mut listeners {
        let heard = listener.messages(COUNT as usize).await?;
        ensure_complete(&heard, COUNT).with_context(|| listener.to_string())?;
        ids.push(msg_ids(&heard));
    }
    assert!(
        ids.iter().all(|heard| *heard == ids[0]),
        "all hear the same"
    );

    // The sending device heard nothing of its own: the next message it gets is bob's answer, and so it is for all.
    let mut bob = listeners.remove(1);
    let answer = bob.say(up::group(gid), "got them all").await?;
    for listener in [&mut alice].into_iter().chain(&mut listeners) {
        let next = listener.message().await?;
        assert_eq!(next.msg_id, answer.msg_id, "{listener} got {next:?}");
        assert_eq!(next.seq, COUNT + 1);
    }
    Ok(())
}

/// Members come and go over MQTT; who is out gets nothing more, and may not send.
#[tokio::test]
async fn membership_changes_over_mqtt() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "frank"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut frank = server.client("frank").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;

    let with_frank = alice.tell(up::group_add("team", &["frank"])).await?;
    assert_eq!(with_frank.group.context("the group")?.members.len(), 3);
    check_hears_the_group(&mut alice, &mut frank, "team").await?;

    let without = alice.tell(up::group_remove("team", &["frank"])).await?;
    assert_eq!(without.group.context("the group")?.members.len(), 2);
    check_is_out(&mut alice, &mut frank, "team").await?;
    server.finish().await
}

/// The same over HTTP.
#[tokio::test]
async fn membership_changes_over_http() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "frank"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut frank = server.client("frank").online().await?;
    let api = server.login("alice").await?;
    let gid = api.create_group(&["bob"]).await?;
    let members = format!("/v1/groups/{gid}/members");

    let frank_too = json!({ "members": ["frank"] });
    api.post(&members, &frank_too).await?.success()?;
    assert_eq!(uids(&api, &gid).await?, ["alice", "bob", "frank"]);
    check_hears_the_group(&mut alice, &mut frank, &gid).await?;

    api.delete(&format!("{members}/frank")).await?.success()?;
    assert_eq!(uids(&api, &gid).await?, ["alice", "bob"]);
    check_is_out(&mut alice, &mut frank, &gid).await?;
    server.finish().await
}

async fn uids(api: &Api, gid: &str) -> Result<Vec<String>> {
    let members = api.members(gid).await?;
    let uids = members.iter().map(|row| row["uid"].as_str());
    let mut uids: Vec<String> = uids.flatten().map(str::to_owned).collect();
    uids.sort();
    Ok(uids)
}

async fn check_hears_the_group(alice: &mut Client, frank: &mut Client, gid: &str) -> Result<()> {
    alice.say(up::group(gid), "welcome, frank").await?;
    assert_eq!(text_of(&spoken(frank).await?), "welcome, frank");
    frank.say(up::group(gid), "thanks").await?;
    assert_eq!(text_of(&spoken(alice).await?), "thanks");
    Ok(())
}

async fn check_is_out(alice: &mut Client, frank: &mut Client, gid: &str) -> Result<()> {
    alice.say(up::group(gid), "frank is gone").await?;
    ensure_silence(frank, "frank", alice).await?;
    let code = frank.tell_in_vain(up::text(up::group(gid), "hello?"));
    assert_eq!(code.await?, "permission_denied");
    Ok(())
}

/// A member can leave, by MQTT and by HTTP, and is out then.
#[tokio::test]
async fn members_can_leave() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "frank"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut frank = server.client("frank").online().await?;
    let api = server.login("alice").await?;
    alice
        .tell(up::group_create("team", &["bob", "frank"]))
        .await?;
    check_hears_the_group(&mut alice, &mut frank, "team").await?;

    frank.tell(up::group_leave("team")).await?;
    assert_eq!(uids(&api, "team").await?, ["alice", "bob"]);
    check_is_out(&mut alice, &mut frank, "team").await?;

    let bob = server.login("bob").await?;
    bob.delete("/v1/groups/team/members/bob").await?.success()?;
    assert_eq!(uids(&api, "team").await?, ["alice"]);
    server.finish().await
}

/// A member who does not manage the group changes nothing in it.
#[tokio::test]
async fn members_do_not_manage_the_group() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "frank"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;

    for command in [
        up::group_add("team", &["frank"]),
        up::group_remove("team", &["alice"]),
    ] {
        assert_eq!(bob.tell_in_vain(command).await?, "permission_denied");
    }
    server.finish().await
}

/// The member list tells how far each member is: what was delivered, and what was read.
#[tokio::test]
async fn members_show_how_far_they_are() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    let last = say_many(&mut alice, &up::group("team"), 5).await?;
    bob.messages(5).await?;
    bob.tell(up::read("g:team", 3)).await?;

    let api = server.login("alice").await?;
    eventually("bob has acknowledged 5 and read 3", async || {
        let bob = api.member("team", "bob").await?;
        Ok(number(&bob, "lastAckSeq") == 5
            && number(&bob, "lastAckMsgid") == last.msg_id
            && number(&bob, "lastReadSeq") == 3)
    })
    .await?;
    let carol = api.member("team", "carol").await?;
    assert_eq!(number(&carol, "lastAckSeq"), 0, "{carol}");
    for (uid, role) in [("alice", "owner"), ("bob", "member"), ("carol", "member")] {
        assert_eq!(api.member("team", uid).await?["role"], role, "{uid}");
    }
    server.finish().await
}
