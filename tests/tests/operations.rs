//! What happens to messages after they were sent: recall, edit, reactions, deleting for oneself. Each device hears of it
//! once, and history says the same to those who were away.

use anyhow::{Context, Result, ensure};
use schema::v1::event::Event;
use schema::v1::message::Content;
use schema::v1::ok::Answer;
use schema::v1::up::Command;
use schema::v1::{GetRevisions, Media, Message, ReactionChange, Send, send};
use serde_json::json;
use tidings_tests::client::ok_of;
use tidings_tests::server::Folder;
use tidings_tests::{Api, Client, Server, up};

use crate::support::{ensure_silence, seqs, spoken, text_of};

/// The message in an event that says how it is now.
pub async fn changed(client: &mut Client) -> Result<Message> {
    let take = |event: &Event| match event {
        Event::Changed(message) => Some((**message).clone()),
        _ => None,
    };
    client.event("a changed message", take).await
}

async fn reacted(client: &mut Client) -> Result<ReactionChange> {
    let take = |event: &Event| match event {
        Event::Reaction(change) => Some(change.clone()),
        _ => None,
    };
    client.event("a reaction", take).await
}

/// The message in an answer.
fn answered(ok: schema::v1::Ok) -> Result<Message> {
    match ok.answer {
        Some(Answer::Message(message)) => Ok(*message),
        other => anyhow::bail!("no message: {other:?}"),
    }
}

async fn revisions(client: &mut Client, msg_id: u64) -> Result<Vec<String>> {
    let asked = Command::GetRevisions(GetRevisions { msg_id });
    match client.tell(asked).await?.answer {
        Some(Answer::Revisions(list)) => Ok(list.revisions.into_iter().map(|it| it.text).collect()),
        other => anyhow::bail!("no revisions: {other:?}"),
    }
}

fn ensure_blank(message: &Message) -> Result<()> {
    ensure!(message.gone == "recalled", "{message:?}");
    let is_blank = message.content.is_none()
        && message.reply_to == 0
        && message.mentions.is_empty()
        && message.reactions.is_empty();
    ensure!(is_blank, "something is left: {message:?}");
    Ok(())
}

/// A recalled message is gone for everybody, live, in history, and in the database; its place stays.
#[tokio::test]
async fn a_recalled_message_leaves_its_place_alone() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut tablet = server
        .client("alice")
        .device("tablet")
        .json()
        .online()
        .await?;
    let mut bob = server.client("bob").json().online().await?;
    let first = alice.say(up::user("bob"), "to be forgotten").await?;
    alice.say(up::user("bob"), "stays").await?;
    bob.messages(2).await?;
    bob.tell(up::react(first.msg_id, "👍", false)).await?;
    alice
        .tell(up::edit(first.msg_id, "to be forgotten as well"))
        .await?;

    let recall = up::with_id("r1", up::recall(first.msg_id));
    let left = answered(ok_of(alice.ask(&recall).await?)?)?;
    ensure_blank(&left)?;
    assert_eq!((left.msg_id, left.seq), (first.msg_id, 1));
    for device in [&mut bob, &mut tablet] {
        while changed(device).await? != left {}
    }
    // Asked again it is the same answer, and nobody hears of it again.
    assert_eq!(answered(ok_of(alice.ask(&recall).await?)?)?, left);
    assert_eq!(answered(alice.tell(up::recall(first.msg_id)).await?)?, left);
    ensure_silence(&mut bob, "bob", &mut alice).await?;
    let heard = bob.events_so_far();
    let is_changed = |event: &Event| matches!(event, Event::Changed(_));
    ensure!(!heard.iter().any(is_changed), "{heard:?}");

    let history = server.login("bob").await?.history("u:alice:bob").await?;
    assert_eq!(history[0], left);
    assert_eq!(text_of(&history[1]), "stays");
    assert_eq!(revisions(&mut bob, first.msg_id).await?, [""; 0]);
    for command in [
        up::edit(first.msg_id, "again"),
        up::react(first.msg_id, "👍", false),
    ] {
        assert_eq!(alice.tell_in_vain(command).await?, "conflict");
    }
    // A device that was never here learns of the place, and of nothing else.
    let mut late = server.client("bob").device("late").online().await?;
    let sync = late.tell(up::sync("u:alice:bob", 0, 10)).await?;
    let batch = sync.batch.context("a page")?;
    assert_eq!(batch.messages[0], left);
    server.finish().await
}

/// A device that was away is sent the recalled message as it is now, so that it sees no hole.
#[tokio::test]
async fn who_was_away_gets_no_recalled_content() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    server.client("bob").online().await?.disconnect().await?;
    let mut sent = Vec::new();
    for text in ["one", "two", "three"] {
        sent.push(alice.say(up::user("bob"), text).await?);
    }
    alice.tell(up::recall(sent[1].msg_id)).await?;
    alice.tell(up::edit(sent[2].msg_id, "four")).await?;
    alice.tell(up::react(sent[0].msg_id, "👍", false)).await?;

    let mut bob = server.client("bob").online().await?;
    let missed = bob.messages(3).await?;
    assert_eq!(seqs(&missed), [1, 2, 3]);
    ensure_blank(&missed[1])?;
    assert_eq!(text_of(&missed[2]), "four");
    ensure!(missed[2].edited_at.is_some(), "{:?}", missed[2]);
    assert_eq!(missed[0].reactions[0].uids, ["alice"]);
    server.finish().await
}

/// Who may recall: the sender for some time; in a group, owner and admins at any time what ranks below them. Who can't
/// see a message is told that there is none.
#[tokio::test]
async fn recalling_is_a_matter_of_time_and_rank() -> Result<()> {
    let folder = Folder::new()?
        .setting("TIDINGS__MESSAGES__RECALL_WITHIN", "0")
        .setting("TIDINGS__MESSAGES__EDIT_WITHIN", "0");
    let server = Server::start_in(folder, &["alice", "bob", "carol", "dave"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let mut dave = server.client("dave").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    let of_alice = alice.say(up::group("team"), "alice's").await?.msg_id;
    let of_bob = bob.say(up::group("team"), "bob's").await?.msg_id;
    let to_bob = alice.say(up::user("bob"), "hi").await?.msg_id;

    for (who, msg_id, code) in [
        ("bob", of_bob, "permission_denied"),
        ("bob", of_alice, "permission_denied"),
        ("alice", to_bob, "permission_denied"),
        ("bob", to_bob, "permission_denied"),
        ("dave", of_bob, "not_found"),
        ("dave", to_bob, "not_found"),
        ("alice", 4711, "not_found"),
    ] {
        let client = match who {
            "alice" => &mut alice,
            "bob" => &mut bob,
            _ => &mut dave,
        };
        let found = client.tell_in_vain(up::recall(msg_id)).await?;
        assert_eq!(found, code, "{who} {msg_id}");
    }
    let edit = up::edit(of_bob, "other");
    assert_eq!(bob.tell_in_vain(edit).await?, "permission_denied");
    for (command, code) in [
        (up::edit(of_bob, "other"), "not_found"),
        (up::react(of_bob, "x", false), "not_found"),
        (up::delete(&[of_bob]), "not_found"),
        (
            Command::GetRevisions(GetRevisions { msg_id: of_bob }),
            "not_found",
        ),
    ] {
        assert_eq!(
            dave.tell_in_vain(command.clone()).await?,
            code,
            "{command:?}"
        );
    }
    // Who has come later does not see what was before.
    alice.tell(up::group_add("team", &["carol"])).await?;
    let mut carol = server.client("carol").online().await?;
    assert_eq!(
        carol.tell_in_vain(up::react(of_bob, "x", false)).await?,
        "not_found"
    );
    ensure_blank(&answered(alice.tell(up::recall(of_bob)).await?)?)?;
    ensure_blank(&answered(alice.tell(up::recall(of_alice)).await?)?)?;
    ensure_blank(&changed(&mut bob).await?)?;
    // Nor does she hear of it.
    alice.say(up::group("team"), "sentinel").await?;
    assert_eq!(text_of(&spoken(&mut carol).await?), "sentinel");
    let heard = carol.events_so_far();
    let is_changed = |event: &Event| matches!(event, Event::Changed(_));
    ensure!(!heard.iter().any(is_changed), "{heard:?}");
    server.finish().await
}

/// Everybody who sees the message gets the new text, and can read the old ones.
#[tokio::test]
async fn an_edited_message_keeps_what_it_said() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").json().online().await?;
    let mut bob = server.client("bob").online().await?;
    let msg_id = alice.say(up::user("bob"), "frist").await?.msg_id;
    bob.message().await?;
    assert_eq!(revisions(&mut bob, msg_id).await?, ["frist"]);

    let edited = answered(alice.tell(up::edit(msg_id, "first")).await?)?;
    assert_eq!(text_of(&edited), "first");
    ensure!(edited.edited_at.is_some(), "{edited:?}");
    assert_eq!(changed(&mut bob).await?, edited);
    // The same text is no change.
    assert_eq!(
        answered(alice.tell(up::edit(msg_id, "first")).await?)?,
        edited
    );
    alice.tell(up::edit(msg_id, "First")).await?;
    assert_eq!(text_of(&changed(&mut bob).await?), "First");
    assert_eq!(
        revisions(&mut bob, msg_id).await?,
        ["frist", "first", "First"]
    );

    let too_long = "x".repeat(64 * 1024 + 1);
    for (text, code) in [("", "invalid_argument"), (&too_long, "too_large")] {
        assert_eq!(alice.tell_in_vain(up::edit(msg_id, text)).await?, code);
    }
    let code = bob.tell_in_vain(up::edit(msg_id, "no")).await?;
    assert_eq!(code, "permission_denied");
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    assert_eq!(text_of(&history[0]), "First");

    let media = send::Content::Media(Media {
        url: "https://example.org/1".into(),
        caption: "a cat".into(),
        ..Default::default()
    });
    let picture = Command::Send(up::send(up::user("bob"), media));
    let picture = alice.tell(picture).await?.msg_id;
    let edited = answered(alice.tell(up::edit(picture, "a dog")).await?)?;
    let Some(Content::Media(media)) = edited.content else {
        anyhow::bail!("not a picture any more");
    };
    assert_eq!(media.caption, "a dog");
    assert_eq!(media.url, "https://example.org/1");
    assert_eq!(revisions(&mut bob, picture).await?, ["a cat", "a dog"]);
    server.finish().await
}

/// Reactions are counted per emoji, with names; adding twice and taking back what is not there change nothing.
#[tokio::test]
async fn reactions_are_counted_once() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let mut carol = server.client("carol").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    let msg_id = alice.say(up::group("team"), "good news").await?.msg_id;

    bob.tell(up::react(msg_id, "👍", false)).await?;
    let change = reacted(&mut alice).await?;
    assert_eq!((change.uid.as_str(), change.seq), ("bob", 1));
    bob.tell(up::react(msg_id, "👍", false)).await?;
    let seen = answered(carol.tell(up::react(msg_id, "👍", false)).await?)?;
    assert_eq!(seen.reactions.len(), 1);
    assert_eq!(seen.reactions[0].count, 2);
    assert_eq!(seen.reactions[0].uids, ["bob", "carol"]);
    let change = reacted(&mut alice).await?;
    assert_eq!(
        (change.uid.as_str(), &change.reactions),
        ("carol", &seen.reactions)
    );

    carol.tell(up::react(msg_id, "🎉", true)).await?;
    carol.tell(up::react(msg_id, "👍", true)).await?;
    let change = reacted(&mut alice).await?;
    ensure!(change.removed && change.emoji == "👍", "{change:?}");
    assert_eq!(change.reactions[0].uids, ["bob"]);
    let history = server.login("alice").await?.history("g:team").await?;
    assert_eq!(history[0].reactions, change.reactions);

    for number in 1..=5 {
        carol
            .tell(up::react(msg_id, &format!("c{number}"), false))
            .await?;
    }
    let sixth = carol.tell_in_vain(up::react(msg_id, "c6", false)).await?;
    assert_eq!(sixth, "too_large");
    server.finish().await
}

/// What one deletes for oneself is gone on all of one's devices and nobody else's, and is not unread any more.
#[tokio::test]
async fn deleting_for_oneself_concerns_nobody_else() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let mut tablet = server
        .client("bob")
        .device("tablet")
        .json()
        .online()
        .await?;
    let mut sent = Vec::new();
    for text in ["one", "two", "three", "four"] {
        sent.push(alice.say(up::user("bob"), text).await?.msg_id);
    }
    let own = bob.say(up::user("alice"), "five").await?.msg_id;
    let elsewhere = bob.say(up::user("bob"), "note").await?.msg_id;

    for (ids, code) in [
        (vec![sent[0], 4711], "not_found"),
        (vec![sent[0], elsewhere], "invalid_argument"),
    ] {
        assert_eq!(bob.tell_in_vain(up::delete(&ids)).await?, code);
    }
    bob.tell(up::delete(&[sent[1], sent[2], own])).await?;
    let take = |event: &Event| match event {
        Event::Deleted(deleted) => Some(deleted.clone()),
        _ => None,
    };
    let deleted = tablet.event("deleted messages", take).await?;
    assert_eq!(deleted.msg_ids, [sent[1], sent[2], own]);
    assert_eq!(bob.tell_in_vain(up::delete(&[sent[1]])).await?, "not_found");

    let api = server.login("bob").await?;
    assert_eq!(seqs(&api.history("u:alice:bob").await?), [1, 4]);
    let history = server.login("alice").await?.history("u:alice:bob").await?;
    assert_eq!(seqs(&history), [1, 2, 3, 4, 5]);
    assert_eq!(unread(&api).await?, 2);
    bob.tell(up::read("u:alice:bob", 3)).await?;
    assert_eq!(unread(&api).await?, 1);
    bob.tell(up::read("u:alice:bob", 5)).await?;
    assert_eq!(unread(&api).await?, 0);
    alice.say(up::user("bob"), "six").await?;
    assert_eq!(unread(&api).await?, 1);
    let page = api.page("u:alice:bob", "before_seq=6&limit=2").await?;
    assert_eq!((seqs(&page.messages), page.more), (vec![1, 4], false));

    // A new device of bob's does not get them either.
    let mut late = server.client("bob").device("late").online().await?;
    let batch = late.tell(up::sync("u:alice:bob", 0, 10)).await?.batch;
    assert_eq!(seqs(&batch.context("a page")?.messages), [1, 4, 6]);
    server.finish().await
}

async fn unread(api: &Api) -> Result<u64> {
    let rows = api.conversations().await?;
    let row = rows.iter().find(|row| row["conversation"] == "u:alice:bob");
    Ok(row.context("the conversation")?["unread"]
        .as_u64()
        .unwrap_or(0))
}

/// A device that was away when its user deleted a message elsewhere is not sent it.
#[tokio::test]
async fn what_was_deleted_is_not_caught_up() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let tablet = server.client("bob").device("tablet");
    tablet.online().await?.disconnect().await?;
    let mut sent = Vec::new();
    for text in ["one", "two", "three"] {
        sent.push(alice.say(up::user("bob"), text).await?.msg_id);
    }
    bob.tell(up::delete(&[sent[1]])).await?;
    let mut tablet = server.client("bob").device("tablet").online().await?;
    assert_eq!(seqs(&tablet.messages(2).await?), [1, 3]);
    server.finish().await
}

/// An answer names a message of the same conversation that the sender can see.
#[tokio::test]
async fn a_reply_is_to_something_there() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let here = bob.say(up::user("alice"), "here").await?.msg_id;
    let elsewhere = bob.say(up::user("carol"), "elsewhere").await?.msg_id;
    let mine_elsewhere = alice.say(up::user("carol"), "mine").await?.msg_id;
    let reply = |reply_to: u64| {
        Command::Send(Send {
            reply_to,
            ..up::send(up::user("bob"), send::Content::Text("re".into()))
        })
    };
    for reply_to in [4711, elsewhere, mine_elsewhere] {
        let code = alice.tell_in_vain(reply(reply_to)).await?;
        assert_eq!(code, "invalid_argument");
    }
    alice.tell(reply(here)).await?;
    alice.message().await?;
    assert_eq!(bob.message().await?.reply_to, here);
    alice.tell(up::delete(&[here])).await?;
    let code = alice.tell_in_vain(reply(here)).await?;
    assert_eq!(code, "invalid_argument");
    server.finish().await
}

/// The same by HTTP.
#[tokio::test]
async fn operations_have_routes() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let alice = server.login("alice").await?;
    let bob = server.login("bob").await?;
    let send = up::new(up::text(up::user("bob"), "hi"));
    let msg_id = alice.up(&send).await?.msg_id;
    let path = format!("/v1/messages/{msg_id}");

    let emoji = format!("{path}/reactions/%F0%9F%91%8D");
    let reacted = bob.put(&emoji, &json!({})).await?.expect(200)?;
    assert_eq!(reacted["reactions"][0]["emoji"], "👍");
    let reacted = bob.delete(&emoji).await?.expect(200)?;
    assert!(reacted.get("reactions").is_none(), "{reacted}");
    let edited = alice.patch(&path, &json!({ "text": "hello" })).await?;
    assert_eq!(edited.expect(200)?["text"], "hello");
    let revisions = bob.get(&format!("{path}/revisions")).await?.expect(200)?;
    assert_eq!(revisions["revisions"][0]["text"], "hi");
    assert_eq!(revisions["revisions"][1]["text"], "hello");
    let denied = bob.patch(&path, &json!({ "text": "no" })).await?;
    denied.problem(403, "permission_denied")?;

    let delete = json!({ "msgIds": [msg_id.to_string()] });
    let deleted = bob.post("/v1/messages/delete", &delete).await?;
    assert_eq!(deleted.status, 204);
    bob.get(&format!("{path}/revisions"))
        .await?
        .problem(404, "not_found")?;
    bob.delete(&path).await?.problem(404, "not_found")?;
    let left = alice.delete(&path).await?.expect(200)?;
    assert_eq!(left["gone"], "recalled");
    alice
        .delete("/v1/messages/nonsense")
        .await?
        .problem(404, "not_found")?;
    server.finish().await
}
