//! Who comes into a group late, or again, gets what is said from then on, whatever the device acknowledges.

use anyhow::Result;
use tidings_tests::{Client, Server, eventually, up};

use crate::support::{ensure_silence, introduce, say_many, seqs};

const GROUP: &str = "g:team";
const DIRECT: &str = "u:alice:eve";

/// Alice, who has a group with bob, and eve, whose device the server knows.
async fn alice_with_a_group() -> Result<(Server, Client)> {
    let server = Server::with_users(&["alice", "bob", "eve"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    introduce(server.client("eve")).await?;
    Ok((server, alice))
}

/// An `ack` of a message from before she came in does not open the door to what lies between.
#[tokio::test]
async fn an_ack_does_not_reach_back_before_the_join() -> Result<()> {
    let (server, mut alice) = alice_with_a_group().await?;
    let mut eve = server.client("eve").online().await?;
    say_many(&mut alice, &up::group("team"), 5).await?;
    alice.tell(up::group_add("team", &["eve"])).await?;
    assert_eq!(eve.message().await?.seq, 6, "that she was added");

    // Whether it is refused or changes nothing does not matter here.
    eve.ask(&up::new(up::ack(GROUP, 1))).await?;
    eve.disconnect().await?;
    say_many(&mut alice, &up::group("team"), 2).await?;

    let mut eve = server.client("eve").online().await?;
    assert_eq!(seqs(&eve.messages(2).await?), [7, 8]);
    ensure_silence(&mut eve, "eve", &mut alice).await?;
    server.finish().await
}

/// A PUBACK that comes after she was removed does not stand for her when she is added again.
#[tokio::test]
async fn a_late_puback_does_not_reach_back_before_the_return() -> Result<()> {
    let (server, mut alice) = alice_with_a_group().await?;
    let mut eve = server.client("eve").manual_acks().online().await?;
    alice.tell(up::group_add("team", &["eve"])).await?;
    let added = eve.arrival().await?;
    eve.acknowledge(&added).await?;
    alice.say(up::group("team"), "while she is in").await?;
    let in_hand = eve.arrival().await?;

    alice.tell(up::group_remove("team", &["eve"])).await?;
    eve.acknowledge(&in_hand).await?;
    until_taken_down(&mut alice, &mut eve).await?;
    say_many(&mut alice, &up::group("team"), 5).await?;
    alice.tell(up::group_add("team", &["eve"])).await?;
    eve.disconnect().await?;

    let back = alice.say(up::group("team"), "welcome back").await?;
    let mut eve = server.client("eve").online().await?;
    // That she was added again, and what was said since.
    let missed = eve.messages(2).await?;
    assert_eq!(seqs(&missed), [back.seq - 1, back.seq]);
    ensure_silence(&mut eve, "eve", &mut alice).await?;
    server.finish().await
}

/// Waits until the server has written down the PUBACKs that eve has sent: later ones, which show, come after them.
async fn until_taken_down(alice: &mut Client, eve: &mut Client) -> Result<()> {
    for _ in 1..=2 {
        alice.say(up::user("eve"), "between us").await?;
        let arrival = eve.arrival().await?;
        eve.acknowledge(&arrival).await?;
    }
    eventually("eve's PUBACKs have moved her cursor", async || {
        Ok(eve.position(DIRECT).await? == 2)
    })
    .await
}
