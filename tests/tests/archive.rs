//! Cold messages move to files, and are read, changed and deleted there.
//!
//! Nobody waits for weeks: tests set the clock of what was written back, in the database.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost::Message as _;
use schema::archive;
use schema::v1::{self, Message, up::Command};
use serde_json::json;
use tidings_tests::http::number;
use tidings_tests::s3::{self, Mood, S3};
use tidings_tests::server::{Folder, password_of};
use tidings_tests::{Api, Client, Server, ask, eventually, up};

use crate::support::{introduce, range, say_many, seqs, text_of};

/// Newest messages of a conversation that stay in the database.
const KEPT: usize = 50;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Where ids have their time.
const TIME_SHIFT: u32 = 22;

fn folder() -> Result<Folder> {
    let folder = Folder::new()?
        .setting("TIDINGS__ARCHIVE__AFTER", "7d")
        .setting("TIDINGS__ARCHIVE__INTERVAL", "200ms");
    Ok(folder)
}

fn with_settings(mut folder: Folder, settings: Vec<(&'static str, String)>) -> Folder {
    for (name, value) in settings {
        folder = folder.setting(name, &value);
    }
    folder
}

/// Lets all that was written be so many days older.
async fn age(server: &Server, days: u64) -> Result<()> {
    let by = (days * DAY_MS) << TIME_SHIFT;
    for table in [
        "reactions",
        "revisions",
        "changed_messages",
        "group_pins",
        "messages",
    ] {
        server
            .sql(&format!("UPDATE {table} SET msg_id = msg_id - {by}"))
            .await?;
    }
    Ok(())
}

async fn count(server: &Server, table: &str) -> Result<usize> {
    let rows = server.sql(&format!("SELECT COUNT(*) FROM {table}")).await?;
    Ok(rows.trim().parse()?)
}

async fn until_rows(server: &Server, table: &str, rows: usize) -> Result<()> {
    let what = format!("{table} has {rows} rows");
    eventually(&what, async || Ok(count(server, table).await? == rows)).await
}

/// What does not depend on when it was written.
fn timeless(messages: Vec<Message>) -> Vec<Message> {
    let timeless = messages.into_iter().map(|message| Message {
        msg_id: 0,
        sent_at: None,
        ..message
    });
    timeless.collect()
}

async fn page(client: &mut Client, command: Command) -> Result<v1::Batch> {
    let batch = client.tell(command).await?.batch;
    Ok(*batch.context("the answer has a page")?)
}

async fn unread(api: &Api, conversation: &str) -> Result<u64> {
    let conversations = api.conversations().await?;
    let mut found = conversations.iter();
    let found = found.find(|row| row["conversation"] == conversation);
    Ok(number(found.context("it is listed")?, "unread"))
}

fn forward(to: v1::To, msg_ids: &[u64]) -> Command {
    let content = v1::send::Content::Forward(v1::Forward {
        msg_ids: msg_ids.to_vec(),
        ..Default::default()
    });
    Command::Send(up::send(to, content))
}

/// The objects of a folder: path and what is in it.
fn objects(folder: &Path) -> Result<Vec<(String, archive::Run)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(objects(&path)?);
        } else {
            found.push((path.display().to_string(), run(&std::fs::read(&path)?)?));
        }
    }
    Ok(found)
}

/// What is in an object: 4 + 1 + 32 bytes of header, and zstd.
fn run(object: &[u8]) -> Result<archive::Run> {
    ensure!(object.starts_with(b"TDAR\x01"), "an object of ours");
    let plain = zstd::bulk::decompress(&object[37..], 1 << 26)?;
    Ok(archive::Run::decode(plain.as_slice())?)
}

/// Pages in both directions and formats, from a date on, media, revisions, reactions, what has changed, and an export say the
/// same before and after.
#[tokio::test]
async fn what_is_archived_is_read_as_before() -> Result<()> {
    let server = Server::start_in(folder()?, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let api = server.login("bob").await?;
    let with = "u:alice:bob";

    say_many(&mut alice, &up::user("bob"), 100).await?;
    let picture = v1::send::Content::Media(v1::Media {
        url: "https://example.org/a.jpg".into(),
        mime: "image/jpeg".into(),
        ..Default::default()
    });
    let mut picture = up::send(up::user("bob"), picture);
    picture.kind = "image".into();
    alice.tell(Command::Send(picture)).await?;
    let edited = alice.say(up::user("bob"), "before").await?;
    alice.tell(up::edit(edited.msg_id, "after")).await?;
    let reacted = bob.say(up::user("alice"), "what do you think?").await?;
    alice.tell(ask::react(reacted.msg_id, "👍")).await?;
    bob.tell(ask::react(reacted.msg_id, "🎉")).await?;
    let recalled = alice.say(up::user("bob"), "never mind").await?;
    alice.tell(ask::recall(recalled.msg_id)).await?;
    let deleted = alice.say(up::user("bob"), "not for bob's eyes").await?;
    bob.tell(ask::delete_messages(&[deleted.msg_id])).await?;
    say_many(&mut bob, &up::user("alice"), 95).await?;
    let before = timeless(api.history(with).await?);
    assert_eq!(before.len(), 199, "all but the one that bob has deleted");
    let unread_before = unread(&api, with).await?;
    let changed = v1::Sync {
        conversation: with.into(),
        changed_after: Some(0),
        ..Default::default()
    };
    let changed = Command::Sync(changed);
    let changes_before = page(&mut bob, changed.clone()).await?;
    assert_eq!(changes_before.messages.len(), 3);

    age(&server, 10).await?;
    until_rows(&server, "messages", KEPT).await?;
    let objects = objects(&server.data_dir().join("archive"))?;
    ensure!(objects.len() == 1);
    let size = std::fs::metadata(&objects[0].0)?.len();
    for (sample, expected) in [
        (r#"messages_total{what="moved"}"#, 150.0),
        (r#"files_total{what="written"}"#, 1.0),
        ("written_bytes_total", size as f64),
        ("failures_total", 0.0),
    ] {
        let sample = format!("tidings_archive_{sample}");
        // It is counted after the commit.
        eventually(&sample, async || {
            Ok(server.api().metric(&sample).await? == expected)
        })
        .await?;
    }
    let last_run = "tidings_archive_last_run_timestamp_seconds";
    eventually("a run has ended", async || {
        Ok(server.api().metric(last_run).await? > 0.0)
    })
    .await?;

    let after = api.history(with).await?;
    assert_eq!(timeless(after.clone()), before);
    assert_eq!(unread(&api, with).await?, unread_before);
    for limit in [1, 60] {
        let mut backward = Vec::new();
        let mut before_seq = 201;
        loop {
            let page = page(&mut bob, ask::page_before(with, before_seq, limit)).await?;
            before_seq = page.messages.first().context("a page has messages")?.seq;
            backward.splice(0..0, page.messages);
            if !page.more {
                break;
            }
        }
        assert_eq!(timeless(backward), before, "backward by {limit}");
    }
    let middle = after[120].sent_at.context("it tells when")?;
    let from = v1::Sync {
        conversation: with.into(),
        from_time: Some(middle),
        limit: 3,
        ..Default::default()
    };
    let from_middle = page(&mut bob, Command::Sync(from)).await?;
    let first = from_middle.messages.first().context("there is a page")?;
    // Several messages may have been sent at that time.
    let at_that_time = after.iter().find(|message| message.sent_at == Some(middle));
    assert_eq!(Some(first.seq), at_that_time.map(|message| message.seq));
    let media = page(&mut alice, ask::media(with, &[])).await?;
    assert_eq!(seqs(&media.messages), [101]);
    assert_eq!(media.messages[0].kind, "image");
    let changes = page(&mut bob, changed).await?;
    assert_eq!(
        timeless(changes.messages),
        timeless(changes_before.messages)
    );
    assert_eq!(changes.changes, changes_before.changes);
    let path = format!("/v1/messages/{}/revisions", after[101].msg_id);
    let revisions = api.get(&path).await?.expect(200)?;
    assert_eq!(revisions["revisions"][0]["text"], "before");
    assert_eq!(revisions["revisions"][1]["text"], "after");
    let export = api.get("/v1/users/bob/export").await?;
    let export = export.expect(200)?;
    let lines = export
        .as_str()
        .context("lines of JSON are no JSON")?
        .lines();
    let messages = lines.filter(|line| line.contains(r#""type":"message""#));
    assert_eq!(messages.count(), 199);
    server.finish().await
}

/// Reading, receipts, replies, pins, forwarding, recalls and deleting for oneself reach archived messages; editing and
/// reacting don't.
#[tokio::test]
async fn what_can_be_done_to_archived_messages() -> Result<()> {
    let folder = folder()?.setting("TIDINGS__MESSAGES__EDIT_WITHIN", "365d");
    let server = Server::start_in(folder, &["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    say_many(&mut bob, &up::group("team"), 150).await?;
    say_many(&mut alice, &up::group("team"), 10).await?;
    let carol = server.login("carol").await?;
    let last_seq = u32::try_from(unread(&carol, "g:team").await?)?;
    age(&server, 8).await?;
    until_rows(&server, "messages", KEPT).await?;
    let history = carol.history("g:team").await?;
    let id = |seq: u32| history[seq as usize - 1].msg_id;
    assert_eq!(history.len(), last_seq as usize);

    // Positions are exact, whatever they pass.
    for seq in [5, 100, 130] {
        carol.up(&up::new(up::read("g:team", seq))).await?;
        assert_eq!(unread(&carol, "g:team").await?, u64::from(last_seq - seq));
    }
    bob.tell(up::read("g:team", last_seq)).await?;
    assert_eq!(unread(&server.login("bob").await?, "g:team").await?, 0);
    let receipts = bob.tell(up::get_receipts(id(20))).await?;
    assert_eq!(receipts.seq, 20);
    assert_eq!(
        alice.tell_in_vain(up::get_receipts(id(20))).await?,
        "not_found"
    );
    alice.tell(up::ack("g:team", 30)).await?;

    // Refused, with a reason that is no lie.
    for command in [up::edit(id(20), "other"), ask::react(id(20), "👍")] {
        assert_eq!(bob.tell_in_vain(command).await?, "conflict");
    }
    assert_eq!(
        bob.tell_in_vain(ask::recall(id(20))).await?,
        "permission_denied"
    );

    // A reply has to be in the same conversation.
    let mut reply = up::send(
        up::group("team"),
        v1::send::Content::Text("about that".into()),
    );
    reply.reply_to = id(21);
    assert!(bob.tell(Command::Send(reply.clone())).await?.seq > last_seq);
    reply.to = Some(up::user("alice"));
    assert_eq!(
        bob.tell_in_vain(Command::Send(reply)).await?,
        "invalid_argument"
    );

    // The pipeline does not wait for files: MQTT clients may have to come again.
    let copy = up::new(forward(up::user("carol"), &[id(22), id(23)]));
    eventually("the messages are forwarded", async || {
        Ok(bob
            .ask(&copy)
            .await?
            .result
            .is_some_and(|result| matches!(result, v1::reply::Result::Ok(_))))
    })
    .await?;
    let api = server.login("alice").await?;
    api.up(&up::new(forward(up::user("carol"), &[id(24)])))
        .await?;
    let copies = carol.history("u:alice:carol").await?;
    assert_eq!(text_of(&copies[0]), text_of(&history[23]));

    // Pinned for everybody, and gone with the message.
    alice.tell(up::group_pin("team", id(25), false)).await?;
    let group = api.get("/v1/groups/team").await?.expect(200)?;
    assert_eq!(group["pinned"], json!([id(25).to_string()]));
    bob.tell(ask::delete_messages(&[id(26), id(27)])).await?;
    let recalled = alice.tell(ask::recall(id(25))).await?;
    assert_eq!(recalled.seq, 25);
    alice.tell(ask::recall(id(25))).await?;
    let group = api.get("/v1/groups/team").await?.expect(200)?;
    ensure!(
        group
            .get("pinned")
            .is_none_or(|pinned| *pinned == json!([])),
        "{group}"
    );
    let event = bob.event("the recall", |event| match event {
        v1::event::Event::Changed(message) if message.seq == 25 => Some(message.gone.clone()),
        _ => None,
    });
    assert_eq!(event.await?, "recalled");
    for (who, seq, gone) in [
        ("carol", 25, "recalled"),
        ("bob", 26, ""),
        ("carol", 26, ""),
    ] {
        let seen = server.login(who).await?.history("g:team").await?;
        let found = seen.iter().find(|message| message.seq == seq);
        assert_eq!(found.is_some(), who == "carol", "{who} {seq}");
        ensure!(found.is_none_or(|message| message.gone == gone));
    }
    // Who was away asks what has changed.
    let changed = v1::Sync {
        conversation: "g:team".into(),
        changed_after: Some(0),
        ..Default::default()
    };
    let changed = page(&mut alice, Command::Sync(changed)).await?;
    assert_eq!(seqs(&changed.messages), [25]);
    // The object is written anew without it.
    let archive = server.data_dir().join("archive");
    eventually("the file is free of it", async || {
        let found = objects(&archive)?;
        let all = found.iter().flat_map(|(_, run)| &run.messages);
        let gone = all.filter(|stored| stored.content.is_empty());
        let seqs: Vec<u32> = gone.map(|stored| stored.seq).collect();
        Ok(found.len() == 1 && seqs == [25])
    })
    .await?;
    server.finish().await
}

/// A device that was away for long gets what it missed, from wherever it is; while the files can't be read, what is newer,
/// and the note that there is more.
#[tokio::test]
async fn devices_catch_up_from_files() -> Result<()> {
    let server = Server::start_in(folder()?, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    introduce(server.client("bob").device("phone")).await?;
    introduce(server.client("bob").device("tablet")).await?;
    say_many(&mut alice, &up::user("bob"), 300).await?;
    age(&server, 8).await?;
    until_rows(&server, "messages", KEPT).await?;

    let mut phone = server.client("bob").device("phone").online().await?;
    let missed = phone.messages(300).await?;
    assert_eq!(seqs(&missed), range(1, 300));
    assert_eq!(text_of(&missed[0]), "number 1");
    let live = alice.say(up::user("bob"), "and now").await?;
    assert_eq!(phone.message().await?.seq, live.seq);

    let archive = server.data_dir().join("archive");
    let away = server.data_dir().join("away");
    std::fs::rename(&archive, &away)?;
    // What the phone has read is in memory, and would be found there.
    let mut server = server;
    server.shut_down().await?;
    server.restart().await?;
    let _ = std::fs::remove_dir(&archive);
    let mut tablet = server.client("bob").device("tablet").online().await?;
    let first = tablet
        .event("what is left out", |event| match event {
            v1::event::Event::Conversation(state) if state.first_pushed_seq > 0 => {
                Some(state.first_pushed_seq)
            }
            _ => None,
        })
        .await?;
    let newest = tablet.messages(51).await?;
    assert_eq!((first, seqs(&newest)), (251, range(251, 301)));
    let api = server.login("bob").await?;
    let page = "/v1/conversations/u:alice:bob/messages";
    api.get(&format!("{page}?after_seq=0"))
        .await?
        .problem(503, "unavailable")?;
    api.get(&format!("{page}?limit=40")).await?.expect(200)?;

    let _ = std::fs::remove_dir_all(&archive);
    std::fs::rename(&away, &archive)?;
    eventually("history is there again", async || {
        Ok(api
            .history("u:alice:bob")
            .await
            .is_ok_and(|all| all.len() == 301))
    })
    .await?;
    server.finish().await
}

/// Killed again and again while messages move: each is somewhere, once, and nothing is left lying about.
#[tokio::test]
async fn a_crash_loses_nothing() -> Result<()> {
    const MESSAGES: u32 = 2300;
    let mut server = Server::start_in(folder()?, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for _ in 0..MESSAGES / 100 {
        say_many(&mut alice, &up::user("bob"), 100).await?;
    }
    drop(alice);
    age(&server, 8).await?;
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(20 + 40 * round)).await;
        server.kill().await?;
        server.restart().await?;
    }
    until_rows(&server, "messages", KEPT).await?;
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    assert_eq!(seqs(&history), range(1, MESSAGES));
    // Objects that a crash has left over are deleted when nobody can name them any more.
    server.sql("UPDATE archive_strays SET due_at = 0").await?;
    until_rows(&server, "archive_strays", 0).await?;
    let archived = objects(&server.data_dir().join("archive"))?;
    assert_eq!(archived.len(), count(&server, "archives").await?);
    let all: usize = archived.iter().map(|(_, run)| run.messages.len()).sum();
    assert_eq!(all, MESSAGES as usize - KEPT);
    server.finish().await
}

/// What is older than the operator wants to keep is gone everywhere, and nobody has it unread.
#[tokio::test]
async fn what_is_too_old_is_deleted_for_good() -> Result<()> {
    let folder = folder()?;
    let mut server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    introduce(server.client("bob").device("phone")).await?;
    say_many(&mut alice, &up::user("bob"), 200).await?;
    age(&server, 10).await?;
    until_rows(&server, "messages", KEPT).await?;
    say_many(&mut alice, &up::user("bob"), 3).await?;
    drop(alice);
    assert_eq!(
        unread(&server.login("bob").await?, "u:alice:bob").await?,
        203
    );
    server.shut_down().await?;
    server.folder().write_config("messages.keep = '8d'")?;
    server.restart().await?;
    until_rows(&server, "messages", 3).await?;
    until_rows(&server, "archive_strays", 0).await?;
    assert_eq!(count(&server, "archives").await?, 0);
    assert!(objects(&server.data_dir().join("archive"))?.is_empty());
    let api = server.login("bob").await?;
    assert_eq!(unread(&api, "u:alice:bob").await?, 3);
    assert_eq!(seqs(&api.history("u:alice:bob").await?), range(201, 203));
    let deleted = r#"tidings_archive_messages_total{what="deleted"}"#;
    assert_eq!(api.metric(deleted).await?, 200.0);
    let mut phone = server.client("bob").device("phone").online().await?;
    assert_eq!(seqs(&phone.messages(3).await?), range(201, 203));
    phone.tell(up::read("u:alice:bob", 203)).await?;
    assert_eq!(unread(&api, "u:alice:bob").await?, 0);
    assert_eq!(
        unread(&server.login("alice").await?, "u:alice:bob").await?,
        0
    );
    server.finish().await
}

/// A deleted account leaves nothing of what it has written, in files neither.
#[tokio::test]
async fn erasing_an_account_reaches_files() -> Result<()> {
    let server = Server::start_in(folder()?, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    say_many(&mut alice, &up::user("bob"), 100).await?;
    let hers = bob.say(up::user("alice"), "do you like it?").await?;
    alice.tell(ask::react(hers.msg_id, "👍")).await?;
    say_many(&mut bob, &up::user("alice"), 60).await?;
    age(&server, 8).await?;
    until_rows(&server, "messages", KEPT).await?;
    let (api, watcher) = (server.login("alice").await?, server.login("bob").await?);
    let before = watcher.history("u:alice:bob").await?;
    assert_eq!(before[100].reactions[0].uids, ["alice"]);

    let account = json!({ "password": password_of("alice") });
    api.delete_with("/v1/users/alice", &account)
        .await?
        .expect(204)?;
    eventually("bob sees nothing of hers", async || {
        let history = watcher.history("u:alice:bob").await?;
        let mut hers = history.iter().filter(|message| message.sender == "alice");
        Ok(hers.all(|message| message.content.is_none()) && history[100].reactions.is_empty())
    })
    .await?;
    let archive = server.data_dir().join("archive");
    eventually("nothing of hers is in files", async || {
        let found = objects(&archive)?;
        let mut all = found.iter().flat_map(|(_, run)| &run.messages);
        Ok(found.len() == 1
            && all.all(|stored| {
                let is_blank = stored.content.is_empty() && stored.client_msg_id.is_empty();
                (is_blank || stored.sender != "alice") && stored.reactions.is_empty()
            }))
    })
    .await?;
    let after = watcher.history("u:alice:bob").await?;
    assert_eq!(after.len(), before.len());
    assert_eq!(text_of(&after[100]), "do you like it?");
    // The account's erasure is not done before that.
    server.sql("UPDATE erasures SET at = at - 60000").await?;
    until_rows(&server, "erasures", 0).await?;
    until_rows(&server, "archive_people", 1).await?;
    server.finish().await
}

/// The same in an S3-compatible store: signed, below its prefix; while it is away, only what is in it is unavailable, and
/// that is said soon.
#[tokio::test]
async fn objects_live_in_s3() -> Result<()> {
    let store = S3::start().await?;
    let folder = with_settings(folder()?, store.settings(s3::SECRET))
        .setting("TIDINGS__ARCHIVE__TIMEOUT", "1s")
        .setting("TIDINGS__ARCHIVE__CACHE", "0");
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_many(&mut alice, &up::user("bob"), 200).await?;
    age(&server, 8).await?;
    until_rows(&server, "messages", KEPT).await?;
    let stored = store.objects();
    assert_eq!((stored.len(), store.refused()), (1, 0));
    let (name, bytes) = stored.first_key_value().context("there is one")?;
    ensure!(name.starts_with("chat/cold/"), "{name}");
    assert_eq!(run(bytes)?.messages.len(), 150);
    let api = server.login("bob").await?;
    let history = api.history("u:alice:bob").await?;
    assert_eq!(seqs(&history), range(1, 200));

    let page = "/v1/conversations/u:alice:bob/messages";
    for mood in [Mood::Overloaded, Mood::Silent] {
        store.be(mood);
        for _ in 0..3 {
            api.get(&format!("{page}?after_seq=0"))
                .await?
                .problem(503, "unavailable")?;
        }
        // Neither what is new nor what is recent waits for it.
        api.get(&format!("{page}?limit=40")).await?.expect(200)?;
        alice.say(up::user("bob"), "do you hear me?").await?;
        store.be(Mood::Well);
        eventually("history is there again", async || {
            Ok(api.history("u:alice:bob").await.is_ok())
        })
        .await?;
    }
    // What has to go is deleted there, too.
    let account = json!({ "password": password_of("alice") });
    let hers = server.login("alice").await?;
    hers.delete_with("/v1/users/alice", &account)
        .await?
        .expect(204)?;
    eventually("nothing of hers is in the store", async || {
        let objects = store.objects();
        let mut runs = objects.values().map(|bytes| run(bytes));
        let is_blank = runs.all(|run| {
            run.is_ok_and(|run| run.messages.iter().all(|stored| stored.content.is_empty()))
        });
        Ok(objects.len() == 1 && is_blank)
    })
    .await?;
    ensure!(store.requests("DELETE") > 0 && store.refused() == 0);
    server.stop().await
}

/// With the wrong key nothing moves, nothing is lost, and the log says why.
#[tokio::test]
async fn a_store_that_refuses_takes_nothing() -> Result<()> {
    let store = S3::start().await?;
    let folder = with_settings(folder()?, store.settings("another secret"));
    let server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_many(&mut alice, &up::user("bob"), 200).await?;
    age(&server, 8).await?;
    eventually("the store has refused", async || Ok(store.refused() > 0)).await?;
    eventually("the log tells of it", async || {
        Ok(server
            .log()
            .contains("old messages can't be moved or deleted now"))
    })
    .await?;
    assert!(
        server
            .api()
            .metric("tidings_archive_failures_total")
            .await?
            > 0.0
    );
    assert_eq!(count(&server, "messages").await?, 200);
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    assert_eq!(history.len(), 200);
    server.finish().await
}
