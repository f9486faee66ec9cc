//! Lists of conversations that are kept in Redis: what changes is shown at every node at once, as the database has it.

use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use schema::v1::{ConversationSet, GroupSet, Send, send, up::Command};
use serde_json::Value;
use tidings_tests::cluster::Plan;
use tidings_tests::http::{Api, number};
use tidings_tests::{Cluster, ask, eventually, up};

use crate::support::{
    KeptInRedis, ensure_nothing_old_is_shown, ensure_redis_is_not_believed, outcomes, say_many,
};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const GROUPS: [&str; 4] = ["one", "two", "three", "four"];
/// Keeps nothing in Redis, and so tells what the database has.
const TRUTH: usize = 2;
const ALL: &str = "/v1/conversations";
const METRIC: &str = "tidings_recent_lists_total";

/// Two nodes that keep lists, and one that does not.
async fn three_nodes() -> Result<Cluster> {
    let plan = Plan::of(3).setting_at(TRUTH, "TIDINGS__REDIS__RECENT_TTL", "0");
    plan.start(&USERS).await
}

/// A user's access to each node.
async fn everywhere(cluster: &Cluster, uid: &str) -> Result<[Api; 3]> {
    let user = cluster.login(uid).await?;
    Ok([0, 1, TRUTH].map(|node| cluster.api_at(node, &user)))
}

/// The list, which has to be the same everywhere.
async fn same(nodes: &[Api; 3], path: &str) -> Result<Value> {
    let truth = nodes[TRUTH].get(path).await?.expect(200)?;
    for (node, api) in nodes[..TRUTH].iter().enumerate() {
        let list = api.get(path).await?.expect(200)?;
        ensure!(
            list == truth,
            "{path} differs at node {node}:\n{list:#}\n{truth:#}"
        );
    }
    Ok(truth)
}

/// Asks until the whole list comes from Redis at both nodes that keep it.
async fn warm(nodes: &[Api; 3]) -> Result<()> {
    for api in &nodes[..TRUTH] {
        let hits = async || outcomes(slice::from_ref(api), METRIC, "hit").await;
        eventually("a list comes from Redis", async || {
            let before = hits().await?;
            api.get(ALL).await?.expect(200)?;
            Ok(hits().await? > before)
        })
        .await?;
    }
    Ok(())
}

fn changes_of(list: &Value, conversation: &str) -> u64 {
    let rows = list["conversations"].as_array().into_iter().flatten();
    let mut rows = rows.filter(|row| row["conversation"] == conversation);
    rows.next().map_or(0, |row| number(row, "changes"))
}

async fn tell(api: &Api, command: Command) -> Result<schema::v1::Ok> {
    api.up(&up::new(command)).await
}

/// Says something to a group; returns the message's id.
async fn say(api: &Api, gid: &str, text: &str) -> Result<u64> {
    Ok(tell(api, up::text(up::group(gid), text)).await?.msg_id)
}

fn message_to(gid: &str, text: &str) -> Send {
    up::send(up::group(gid), send::Content::Text(text.into()))
}

/// Whatever is done at one node, the others list at once, though they have just listed from Redis.
#[tokio::test]
async fn what_has_changed_is_listed_everywhere_at_once() -> Result<()> {
    let cluster = three_nodes().await?;
    let [alice, ..] = everywhere(&cluster, "alice").await?;
    let bobs = everywhere(&cluster, "bob").await?;
    let bob = &bobs[1];
    for gid in GROUPS {
        tell(&alice, up::group_create(gid, &["bob", "carol"])).await?;
    }
    tell(&alice, up::text(up::user("bob"), "to bob alone")).await?;
    let own = say(&alice, "two", "hello").await?;

    let team = "g:two";
    let mention = Send {
        mentions: vec!["bob".into()],
        ..message_to("two", "you there")
    };
    let brief = Send {
        expires_in_secs: 5,
        ..message_to("two", "soon gone")
    };
    let named = GroupSet {
        name: Some("Second".into()),
        ..Default::default()
    };
    let drawn = GroupSet {
        avatar: Some("media/x".into()),
        ..Default::default()
    };
    let of_alice = [
        up::edit(own, "hello again"),
        up::recall(own),
        up::text(up::group("one"), "newer"),
        Command::Send(mention),
        up::group_set("two", named),
        up::group_set("two", drawn),
        up::group_remove("three", &["bob"]),
        up::group_add("three", &["bob"]),
        up::group_role("three", "bob", "admin"),
        up::group_dissolve("four"),
        up::text(up::user("bob"), "more"),
        Command::Send(brief),
    ];
    for command in of_alice {
        let what = format!("{command:?}");
        warm(&bobs).await?;
        tell(&alice, command).await?;
        same(&bobs, ALL).await.context(what)?;
    }
    let changes = changes_of(&same(&bobs, ALL).await?, team);
    warm(&bobs).await?;
    eventually("the message has run out, and is taken away", async || {
        let list = bobs[TRUTH].get(ALL).await?.expect(200)?;
        Ok(changes_of(&list, team) > changes)
    })
    .await?;
    ensure!(!same(&bobs, ALL).await?.to_string().contains("soon gone"));

    let last = say(&alice, "one", "to react to").await?;
    let of_bob = [
        up::react(last, "👍", false),
        up::react(last, "👍", true),
        up::read("g:one", 1),
        up::read(team, 2),
        Command::ConversationSet(ConversationSet {
            pinned: Some(true),
            ..ask::view(team)
        }),
        Command::ConversationSet(ConversationSet {
            mute_secs: Some(600),
            ..ask::view("g:one")
        }),
        Command::ConversationSet(ConversationSet {
            draft: Some("I was about to".into()),
            ..ask::view("g:one")
        }),
        Command::ConversationSet(ConversationSet {
            archived: Some(true),
            ..ask::view("u:alice:bob")
        }),
        Command::ConversationSet(ConversationSet {
            marked_unread: Some(true),
            ..ask::view(team)
        }),
        up::text(up::group("three"), "mine"),
        ask::conversation_clear("g:one"),
        ask::conversation_delete("g:two"),
        ask::conversation_delete("u:alice:bob"),
        up::group_leave("three"),
        ask::block("alice", true),
    ];
    for command in of_bob {
        let what = format!("{command:?}");
        warm(&bobs).await?;
        tell(bob, command).await?;
        for path in [ALL, "/v1/conversations?archived=false"] {
            same(&bobs, path).await.with_context(|| what.clone())?;
        }
    }
    // What he does not get does not bring back what he has deleted.
    warm(&bobs).await?;
    tell(&alice, up::text(up::user("bob"), "unheard")).await?;
    ensure!(!same(&bobs, ALL).await?.to_string().contains("u:alice:bob"));
    // What he has deleted for himself is not the latest for him.
    let last = say(&alice, "one", "to be deleted").await?;
    ensure!(
        same(&bobs, ALL)
            .await?
            .to_string()
            .contains("to be deleted")
    );
    tell(bob, up::delete(&[last])).await?;
    ensure!(
        !same(&bobs, ALL)
            .await?
            .to_string()
            .contains("to be deleted")
    );
    warm(&bobs).await?;
    same(&bobs, ALL).await?;
    cluster.finish().await
}

/// Three people do random things at random nodes; all their pages are as the database has them.
#[tokio::test]
async fn lists_from_redis_are_those_of_the_database() -> Result<()> {
    const STEPS: usize = 150;
    let cluster = three_nodes().await?;
    let mut people = Vec::new();
    for uid in USERS {
        people.push(everywhere(&cluster, uid).await?);
    }
    for gid in GROUPS {
        let group = up::group_create(gid, &["bob", "carol"]);
        tell(&people[0][0], group).await?;
    }
    let mut rng = fastrand::Rng::with_seed(7);
    let mut ids = vec![say(&people[0][0], "one", "first").await?];
    let mut done = 0;
    for step in 0..STEPS {
        let person = rng.usize(..USERS.len());
        let node = rng.usize(..=TRUTH);
        let command = any_command(&mut rng, &ids, step);
        let what = format!("{step}: {} at node {node}: {command:?}", USERS[person]);
        let answer = people[person][node].ask(&up::new(command)).await?;
        if let Ok(ok) = answer {
            done += 1;
            ids.extend(Some(ok.msg_id).filter(|id| *id > 0));
        }
        // Mostly one of them, so that it does not take minutes.
        let asking = match step % 10 {
            0 => &people[..],
            _ => slice::from_ref(&people[rng.usize(..USERS.len())]),
        };
        for nodes in asking {
            let all = same(nodes, ALL).await.with_context(|| what.clone())?;
            let first = same(nodes, "/v1/conversations?limit=2").await?;
            let Some(next) = first["next"].as_str() else {
                continue;
            };
            let rest = same(nodes, &format!("{ALL}?page={next}")).await?;
            let rows = |list: &Value| {
                list["conversations"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default()
            };
            ensure!(
                rows(&all) == [rows(&first), rows(&rest)].concat(),
                "{what}: pages are not the list:\n{all:#}\n{first:#}\n{rest:#}"
            );
        }
    }
    ensure!(done > STEPS / 2, "only {done} commands were executed");
    let hits = outcomes(&people[0][..TRUTH], METRIC, "hit").await?;
    ensure!(hits > 0.0, "nothing came from Redis");
    cluster.finish().await
}

/// Something that may or may not be allowed.
fn any_command(rng: &mut fastrand::Rng, ids: &[u64], step: usize) -> Command {
    let gid = GROUPS[rng.usize(..GROUPS.len())];
    let uid = USERS[rng.usize(..USERS.len())];
    let conversation = match rng.u8(..3) {
        0 => format!("u:alice:{}", USERS[rng.usize(1..USERS.len())]),
        _ => format!("g:{gid}"),
    };
    let id = ids[rng.usize(ids.len().saturating_sub(6)..ids.len())];
    match rng.u8(..18) {
        0..=3 => up::text(up::group(gid), &format!("text {step}")),
        4 | 5 => up::text(up::user(uid), &format!("text {step}")),
        6 => Command::Send(Send {
            mentions: vec!["bob".into(), "alice".into()],
            ..message_to(gid, "you")
        }),
        7 => up::edit(id, &format!("edit {step}")),
        8 => up::recall(id),
        9 => up::react(id, "👍", rng.bool()),
        10 => up::delete(&[id]),
        11 => up::read(&conversation, rng.u32(1..20)),
        12 => Command::ConversationSet(ConversationSet {
            pinned: Some(rng.bool()),
            ..ask::view(&conversation)
        }),
        13 => Command::ConversationSet(ConversationSet {
            draft: Some(format!("draft {step}")),
            archived: Some(rng.bool()),
            ..ask::view(&conversation)
        }),
        14 => ask::conversation_clear(&conversation),
        15 => ask::conversation_delete(&conversation),
        16 => up::group_remove(gid, &[uid]),
        _ => up::group_add(gid, &[uid]),
    }
}

/// Messages that go to files say nothing of it to those who have them in a list.
#[tokio::test]
async fn what_goes_to_a_file_is_listed_as_the_database_has_it() -> Result<()> {
    let files = tempfile::tempdir()?;
    let cluster = Plan::of(3)
        .setting("TIDINGS__ARCHIVE__AFTER", "7d")
        .setting("TIDINGS__ARCHIVE__INTERVAL", "200ms")
        .setting("TIDINGS__ARCHIVE__URL", &files.path().display().to_string())
        .setting_at(TRUTH, "TIDINGS__REDIS__RECENT_TTL", "0")
        .start(&USERS)
        .await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    alice
        .tell(up::group_create("one", &["bob", "carol"]))
        .await?;
    let mention = Send {
        mentions: vec!["carol".into()],
        ..message_to("one", "you there")
    };
    alice.tell(Command::Send(mention)).await?;
    say_many(&mut alice, &up::group("one"), 199).await?;
    let bobs = everywhere(&cluster, "bob").await?;
    let carols = everywhere(&cluster, "carol").await?;
    // So bob's latest message is one that does not stay in the database.
    let newest = bobs[0].page("g:one", "limit=100").await?.messages;
    let newest: Vec<u64> = newest.iter().map(|message| message.msg_id).collect();
    tell(&bobs[0], up::delete(&newest)).await?;
    for _ in 0..5 {
        same(&bobs, ALL).await?;
        same(&carols, ALL).await?;
    }
    let before = same(&carols, ALL).await?;
    ensure!(number(&before["conversations"][0], "mentions") == 1);

    let week = (8 * 24 * 3600 * 1000_u64) << 22;
    cluster
        .sql(&format!(
            "UPDATE messages SET msg_id = msg_id - {week} WHERE seq <= 150"
        ))
        .await?;
    eventually("older messages are in a file", async || {
        let rows = cluster.sql("SELECT COUNT(*) FROM messages").await?;
        Ok(rows.trim() == "50")
    })
    .await?;
    let after = same(&carols, ALL).await?;
    ensure!(number(&after["conversations"][0], "mentions") == 0);
    same(&bobs, ALL).await?;
    cluster.finish().await
}

/// Whoever lists at any node while messages are sent never sees less than what was answered before he asked.
#[tokio::test]
async fn no_list_is_older_than_an_answer() -> Result<()> {
    const MESSAGES: u32 = 60;
    let cluster = Cluster::with_users(2, &USERS).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    alice.tell(up::group_create("one", &["bob"])).await?;
    let user = cluster.login("bob").await?;
    let bobs = [0, 1].map(|node| cluster.api_at(node, &user));
    let write = async |answered: &AtomicU32| {
        for number in 0..MESSAGES {
            let sent = alice.say(up::group("one"), &number.to_string()).await?;
            answered.store(sent.seq, Ordering::SeqCst);
        }
        Ok(())
    };
    let newest = async |api: &Api| {
        let list = api.get(ALL).await?.expect(200)?;
        let row = &list["conversations"][0];
        let (last, shown) = (number(row, "lastSeq"), number(&row["lastMessage"], "seq"));
        Ok(u32::try_from(last.min(shown))?)
    };
    ensure_nothing_old_is_shown(&bobs, METRIC, write, newest).await?;
    cluster.finish().await
}

/// Bob's list, in which a message of alice's is changed.
struct BobsList {
    alice: Api,
    bobs: [Api; 3],
    own: u64,
}

impl KeptInRedis for BobsList {
    const KEY: &str = "tidings:list";
    const METRIC: &str = METRIC;

    fn askers(&self) -> &[Api] {
        &self.bobs[..TRUTH]
    }

    async fn change(&mut self, text: &str) -> Result<()> {
        tell(&self.alice, up::edit(self.own, text)).await.map(drop)
    }

    async fn look(&self, text: &str) -> Result<()> {
        let list = same(&self.bobs, ALL).await?;
        ensure!(list.to_string().contains(text), "{list:#}");
        Ok(())
    }

    async fn warm(&self) -> Result<()> {
        warm(&self.bobs).await
    }
}

#[tokio::test]
async fn redis_is_not_believed() -> Result<()> {
    let mut cluster = three_nodes().await?;
    let alice = cluster.login("alice").await?;
    let bobs = everywhere(&cluster, "bob").await?;
    for gid in GROUPS {
        tell(&alice, up::group_create(gid, &["bob"])).await?;
    }
    let own = say(&alice, "one", "hello").await?;
    let mut list = BobsList { alice, bobs, own };
    ensure_redis_is_not_believed(&mut cluster, &mut list).await?;
    cluster.finish().await
}
