//! What waits for a device that is away, and how it comes when the device is back.

use anyhow::{Context, Result, ensure};
use schema::v1::Message;
use tidings_tests::http::number;
use tidings_tests::{Client, Server, eventually, up};

use crate::support::{
    by_conversation, ensure_complete, ensure_silence, introduce, msg_ids, say_many, seqs,
};

const DIRECT: &str = "u:alice:bob";
const GROUP: &str = "g:team";
/// Messages that wait in each of the two conversations.
const WAITING: u32 = 150;

/// Alice and bob with a group of the two of them and carol.
async fn alice_with_bobs_group() -> Result<(Server, Client)> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    Ok((server, alice))
}

/// Alternates between the two conversations, so that they are mixed in time.
async fn alice_says_what_waits(alice: &mut Client) -> Result<()> {
    const ROUND: u32 = 50;
    for _ in 0..WAITING / ROUND {
        say_many(alice, &up::user("bob"), ROUND).await?;
        say_many(alice, &up::group("team"), ROUND).await?;
    }
    Ok(())
}

async fn ensure_gets_what_waited(bob: &mut Client) -> Result<()> {
    let heard = by_conversation(bob.messages(2 * WAITING as usize).await?);
    for conversation in [DIRECT, GROUP] {
        let messages = heard.get(conversation).context(conversation)?;
        ensure_complete(messages, WAITING).context(conversation)?;
    }
    Ok(())
}

/// Waits until the server has taken the PUBACKs of everything up to `seq` in both conversations.
async fn until_acknowledged(bob: &mut Client, seq: u32) -> Result<()> {
    for conversation in [DIRECT, GROUP] {
        eventually("bob's PUBACKs have moved his cursors", async || {
            Ok(bob.position(conversation).await? == seq)
        })
        .await
        .context(conversation)?;
    }
    Ok(())
}

/// A device that has been here before gets what waited: all of it, once, in order.
#[tokio::test]
async fn a_known_device_gets_what_waited() -> Result<()> {
    let (server, mut alice) = alice_with_bobs_group().await?;
    server.client("bob").online().await?.disconnect().await?;

    alice_says_what_waits(&mut alice).await?;
    check_gets_it_once(server, alice).await
}

/// So does a device that has never been here, of a user who has not acknowledged anything.
#[tokio::test]
async fn a_new_device_gets_what_waited() -> Result<()> {
    let (server, mut alice) = alice_with_bobs_group().await?;

    alice_says_what_waits(&mut alice).await?;
    check_gets_it_once(server, alice).await
}

async fn check_gets_it_once(server: Server, mut alice: Client) -> Result<()> {
    let mut bob = server.client("bob").online().await?;
    ensure_gets_what_waited(&mut bob).await?;

    let api = server.login("alice").await?;
    let newest = api.page(GROUP, "limit=1").await?.messages;
    let newest = newest.last().context("the group's newest message")?.msg_id;
    eventually("the member list shows what bob has", async || {
        let bob = api.member("team", "bob").await?;
        let seq_is_there = number(&bob, "lastAckSeq") == u64::from(WAITING);
        Ok(seq_is_there && number(&bob, "lastAckMsgid") == newest)
    })
    .await?;

    // Back again, the device gets what is new, and nothing of what it has acknowledged.
    until_acknowledged(&mut bob, WAITING).await?;
    bob.disconnect().await?;
    let direct = alice.say(up::user("bob"), "new").await?;
    let group = alice.say(up::group("team"), "new").await?;
    let mut bob = server.client("bob").online().await?;
    let mut heard = bob.messages(2).await?;
    heard.sort_by_key(|message| message.msg_id);
    assert_eq!(
        [heard[0].msg_id, heard[1].msg_id],
        [direct.msg_id, group.msg_id]
    );
    ensure_silence(&mut bob, "bob", &mut alice).await?;
    server.finish().await
}

/// Each known device of a user has its own place: what one has acknowledged, the other still gets.
#[tokio::test]
async fn a_second_device_still_gets_them_all() -> Result<()> {
    let (server, mut alice) = alice_with_bobs_group().await?;
    for device in ["phone", "tablet"] {
        let bob = server.client("bob").device(device).online().await?;
        bob.disconnect().await?;
    }
    alice_says_what_waits(&mut alice).await?;

    let mut phone = server.client("bob").device("phone").online().await?;
    ensure_gets_what_waited(&mut phone).await?;
    until_acknowledged(&mut phone, WAITING).await?;
    let mut tablet = server
        .client("bob")
        .device("tablet")
        .json()
        .online()
        .await?;
    ensure_gets_what_waited(&mut tablet).await?;
    server.finish().await
}

/// While a device catches up, two others keep talking: nothing is lost, doubled, or out of order in a conversation.
#[tokio::test]
async fn catching_up_and_live_messages_do_not_mix() -> Result<()> {
    const LIVE: u32 = 100;
    let (server, mut alice) = alice_with_bobs_group().await?;
    let mut carol = server.client("carol").v5().online().await?;
    alice_says_what_waits(&mut alice).await?;
    say_many(&mut carol, &up::user("bob"), LIVE).await?;

    let talking_alice = async {
        for _ in 0..LIVE / 10 {
            say_many(&mut alice, &up::user("bob"), 10).await?;
            say_many(&mut alice, &up::group("team"), 10).await?;
        }
        anyhow::Ok(())
    };
    let talking_carol = async {
        for _ in 0..LIVE / 10 {
            say_many(&mut carol, &up::group("team"), 10).await?;
            say_many(&mut carol, &up::user("bob"), 10).await?;
        }
        anyhow::Ok(())
    };
    let expected = [
        (DIRECT, WAITING + LIVE),
        (GROUP, WAITING + 2 * LIVE),
        ("u:bob:carol", 2 * LIVE),
    ];
    let total: u32 = expected.iter().map(|(_, count)| count).sum();
    let listening_bob = async {
        let mut bob = server.client("bob").online().await?;
        bob.messages(total as usize).await
    };
    let (_, _, heard) = tokio::try_join!(talking_alice, talking_carol, listening_bob)?;

    let heard = by_conversation(heard);
    for (conversation, count) in expected {
        let messages = heard.get(conversation).context(conversation)?;
        ensure_complete(messages, count).context(conversation)?;
    }
    server.finish().await
}

/// What was not acknowledged when the connection broke comes again, under the same msg_id and seq.
#[tokio::test]
async fn unacknowledged_messages_come_again() -> Result<()> {
    // So few come singly, though bob may still be catching up when they are sent.
    const ALL: usize = 8;
    const ACKNOWLEDGED: usize = 4;
    let (server, mut alice) = alice_with_bobs_group().await?;
    let mut bob = server.client("bob").manual_acks().online().await?;
    say_many(&mut alice, &up::group("team"), ALL as u32).await?;

    let mut first_time = Vec::new();
    while first_time.len() < ALL {
        let arrival = bob.arrival().await?;
        if first_time.len() < ACKNOWLEDGED {
            ensure!(arrival.messages.len() == 1, "they come singly");
            bob.acknowledge(&arrival).await?;
        }
        first_time.extend(arrival.messages);
    }
    let api = server.login("alice").await?;
    eventually("the first PUBACKs have arrived", async || {
        let bob = api.member("team", "bob").await?;
        Ok(number(&bob, "lastAckSeq") == ACKNOWLEDGED as u64)
    })
    .await?;
    bob.drop_connection().await;

    let mut bob = server.client("bob").online().await?;
    let again = bob.messages(ALL - ACKNOWLEDGED).await?;
    assert_eq!(again, first_time[ACKNOWLEDGED..]);
    ensure_silence(&mut bob, "bob", &mut alice).await?;
    server.finish().await
}

/// A PUBACK of a later message does not stand for an earlier one: what is missing in between comes again.
#[tokio::test]
async fn a_gap_in_the_pubacks_is_not_skipped() -> Result<()> {
    let (server, mut alice) = alice_with_bobs_group().await?;
    let mut bob = server.client("bob").manual_acks().online().await?;
    say_many(&mut alice, &up::group("team"), 5).await?;

    let missed = bob.message().await?;
    for _ in 2..=5 {
        let arrival = bob.arrival().await?;
        bob.acknowledge(&arrival).await?;
    }
    bob.say(up::user("alice"), "I have all but the first")
        .await?;
    bob.disconnect().await?;

    let mut bob = server.client("bob").online().await?;
    assert_eq!(bob.message().await?, missed);
    server.finish().await
}

/// A device at QoS 1 that acknowledges by command has the same cursor, and cursors only go forward.
#[tokio::test]
async fn cursors_only_go_forward() -> Result<()> {
    let (server, mut alice) = alice_with_bobs_group().await?;
    let mut bob = server.client("bob").manual_acks().online().await?;
    say_many(&mut alice, &up::group("team"), 5).await?;
    assert_eq!(seqs(&bob.messages(5).await?), [1, 2, 3, 4, 5]);

    for (acknowledged, position) in [(3, 3), (2, 3), (5, 5), (1, 5)] {
        let ok = bob.tell(up::ack(GROUP, acknowledged)).await?;
        assert_eq!(ok.seq, position, "after ack {acknowledged}");
    }
    server.finish().await
}

/// A kept session needs no second SUBSCRIBE when the CONNACK says that it is present.
#[tokio::test]
async fn a_kept_session_is_what_its_connack_says() -> Result<()> {
    use tidings_tests::link::Version::{V4, V5};

    let (server, mut alice) = alice_with_bobs_group().await?;
    for version in [V4, V5] {
        let device = format!("{version:?}");
        let bob = || {
            let bob = server.client("bob").device(&device);
            bob.version(version).kept_session()
        };
        let first = bob().online().await?;
        assert!(!first.accepted.session_present, "{version:?}: a new device");
        first.disconnect().await?;

        let sent = alice.say(up::user("bob"), "are you there?").await?;
        let mut back = bob().connect().await?;
        if !back.accepted.session_present {
            back.subscribe_down().await?;
        }
        assert_eq!(back.message().await?.msg_id, sent.msg_id, "{version:?}");
        eventually("the PUBACK has arrived", async || {
            Ok(back.position(DIRECT).await? == sent.seq)
        })
        .await?;
        back.disconnect().await?;
    }
    server.finish().await
}

/// A subscription that is raised from QoS 0 to QoS 1 loses nothing around the change: from then on everything that is
/// not acknowledged comes at QoS 1, as often as it may have come before.
#[tokio::test]
async fn a_raised_qos_loses_nothing() -> Result<()> {
    const ROUNDS: u32 = 20;
    const ROUND: u32 = 10;
    const ALL: u32 = ROUNDS * ROUND;
    let (server, mut alice) = alice_with_bobs_group().await?;
    let mut bob = server.client("bob").connect().await?;
    let topic = bob.down_topic();
    assert_eq!(bob.subscribe_at(&topic, 0).await?, [0]);

    let talking_alice = async {
        for _ in 0..ROUNDS {
            say_many(&mut alice, &up::group("team"), ROUND).await?;
        }
        anyhow::Ok(())
    };
    let listening_bob = async {
        let first = bob.arrival().await?;
        ensure!(first.publish.qos == 0, "{first:?}");
        ensure!(bob.subscribe_at(&topic, 1).await? == [1]);
        let mut heard: Vec<Message> = Vec::new();
        while heard.last().is_none_or(|newest| newest.seq < ALL) {
            let arrival = bob.arrival().await?;
            let raised = !heard.is_empty();
            ensure!(!raised || arrival.publish.qos == 1, "{arrival:?}");
            if arrival.publish.qos == 1 {
                heard.extend(arrival.messages);
            }
        }
        Ok(heard)
    };
    let ((), heard) = tokio::try_join!(talking_alice, listening_bob)?;
    ensure_complete(&heard, ALL)?;
    eventually("the PUBACKs have moved the cursor", async || {
        Ok(bob.position(GROUP).await? == ALL)
    })
    .await?;
    server.finish().await
}

/// What waits in many conversations comes oldest first over all of them, to each of two devices that come at once.
#[tokio::test]
async fn many_conversations_come_in_the_order_of_time() -> Result<()> {
    const GROUPS: u32 = 60;
    const EACH: u32 = 3;
    const TEXT_BYTES: usize = 60_000;
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for device in ["phone", "tablet"] {
        introduce(server.client("bob").device(device)).await?;
    }
    for number in 1..=GROUPS {
        let gid = format!("team-{number}");
        alice.tell(up::group_create(&gid, &["bob"])).await?;
    }
    let text = "x".repeat(TEXT_BYTES);
    for _ in 1..=EACH {
        for number in 1..=GROUPS {
            let group = up::group(&format!("team-{number}"));
            alice.say(group, &text).await?;
        }
    }

    let catch_up = async |device| {
        let mut bob = server.client("bob").device(device).online().await?;
        let heard = bob.messages((GROUPS * EACH) as usize).await?;
        let ids = msg_ids(&heard);
        ensure!(ids.is_sorted(), "{device}: not oldest first: {ids:?}");
        let heard = by_conversation(heard);
        ensure!(heard.len() == GROUPS as usize, "{device}: {}", heard.len());
        for (conversation, messages) in heard {
            ensure_complete(&messages, EACH).context(conversation)?;
        }
        bob.disconnect().await
    };
    tokio::try_join!(catch_up("phone"), catch_up("tablet"))?;
    server.finish().await
}
