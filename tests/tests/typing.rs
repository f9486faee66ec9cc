//! "I am writing": heard by the others who are there, now and then, and stored nowhere.

use anyhow::Result;
use schema::v1::TypingNotice;
use schema::v1::event::Event;
use tidings_tests::{Client, Server, up};

fn typing_of(event: &Event) -> Option<TypingNotice> {
    match event {
        Event::Typing(notice) => Some(notice.clone()),
        _ => None,
    }
}

fn notice(conversation: &str, stopped: bool) -> TypingNotice {
    TypingNotice {
        conversation: conversation.into(),
        uid: "alice".into(),
        kind: String::new(),
        stopped,
    }
}

/// Alice says something after which `listener` must have heard everything before it; returns what it heard of typing.
async fn heard(alice: &mut Client, to: schema::v1::To, listener: &mut Client) -> Result<usize> {
    alice.say(to, "done").await?;
    listener.message().await?;
    let events = listener.events_so_far();
    Ok(events.iter().filter_map(typing_of).count())
}

/// All devices of the other one hear it, none of one's own; too many notices are dropped, and the end of it is heard.
#[tokio::test]
async fn the_other_one_hears_of_it() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").json().online().await?;
    let mut tablet = server.client("alice").device("tablet").online().await?;
    let mut bob = server.client("bob").online().await?;
    let laptop = server.client("bob").device("laptop").json();
    let mut laptop = laptop.online().await?;
    // Nobody has written yet, and there may be nobody: the answer is the same.
    for uid in ["bob", "nobody"] {
        let ok = alice.tell(up::typing(up::user(uid), false)).await?;
        assert!(ok.conversation.contains(uid));
    }
    assert_eq!(heard(&mut alice, up::user("bob"), &mut bob).await?, 0);

    let mut carol = server.client("carol").online().await?;
    carol.say(up::user("alice"), "hi").await?;
    for _ in 0..5 {
        alice.tell(up::typing(up::user("carol"), false)).await?;
    }
    for _ in 0..2 {
        alice.tell(up::typing(up::user("carol"), true)).await?;
    }
    let (conversation, told) = ("u:alice:carol", [false, true]);
    for stopped in told {
        let next = carol.event("a notice", typing_of).await?;
        assert_eq!(next, notice(conversation, stopped));
    }
    assert_eq!(heard(&mut alice, up::user("carol"), &mut carol).await?, 0);
    for other in [&mut alice, &mut tablet, &mut bob, &mut laptop] {
        assert!(
            !other
                .events_so_far()
                .iter()
                .any(|event| typing_of(event).is_some())
        );
    }
    server.finish().await
}

/// In a group the other members hear it; who is not in it learns nothing of the group.
#[tokio::test]
async fn a_group_hears_of_it() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol", "dave"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").online().await?;
    let mut dave = server.client("dave").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    alice.tell(up::typing(up::group("team"), false)).await?;
    for other in [&mut bob, &mut carol] {
        let next = other.event("a notice", typing_of).await?;
        assert_eq!(next, notice("g:team", false));
    }
    let forbidden = up::with_id("x", up::typing(up::group("team"), false));
    let unknown = up::with_id("x", up::typing(up::group("no-such"), false));
    assert_eq!(dave.ask(&forbidden).await?, dave.ask(&unknown).await?);
    assert_eq!(
        bob.tell_in_vain(up::typing(up::group("no"), true)).await?,
        "not_found"
    );

    // Whichever of the two has blocked the other, it is answered as always.
    for (number, other) in (0..).zip(["bob", "carol"]) {
        let (uid, of) = [("alice", other), (other, "alice")][number];
        alice.say(up::user(other), "hi").await?;
        let block = format!("('{uid}', '{of}', 'none', '', '', '', 1, 0, 0, -1)");
        server
            .sql(&format!("INSERT INTO contacts VALUES {block}"))
            .await?;
        alice.tell(up::typing(up::user(other), false)).await?;
    }
    for other in [&mut bob, &mut carol] {
        other.message().await?;
        assert_eq!(heard(&mut alice, up::group("team"), other).await?, 0);
    }
    server.finish().await
}
