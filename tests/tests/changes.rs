//! "What is new since 4711": exactly the differences, for each device that asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use prost::Message as _;
use schema::v1::{Changes, GetChanges, ok::Answer, up::Command};
use serde_json::Value;
use tidings_tests::http::number;
use tidings_tests::{Client, Server, ask, up};

use crate::support::say_many;

async fn changes(client: &mut Client, since: u64, limit: u32) -> Result<Changes> {
    match client.tell(ask::changes(since, limit)).await?.answer {
        Some(Answer::Changes(changes)) => Ok(*changes),
        other => bail!("{other:?}"),
    }
}

/// The conversations in an answer; `-` before those that are gone.
fn names(changes: &Changes) -> Vec<String> {
    let states = changes.conversations.iter().flat_map(|c| &c.state);
    let name = |state: &schema::v1::ConversationState| match state.removed {
        true => format!("-{}", state.conversation),
        false => state.conversation.clone(),
    };
    let mut names: Vec<String> = states.map(name).collect();
    names.sort_unstable();
    names
}

fn gids(changes: &Changes) -> Vec<String> {
    let mut gids: Vec<String> = changes.groups.iter().map(|g| g.gid.clone()).collect();
    gids.sort_unstable();
    gids
}

/// Two devices that ask at different times each get every difference once, and nothing else.
#[tokio::test]
async fn each_device_gets_exactly_the_differences() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    for gid in ["one", "two"] {
        alice.tell(up::group_create(gid, &["bob"])).await?;
    }
    let mut phone = server.client("bob").device("phone").online().await?;
    let mut tablet = server
        .client("bob")
        .device("tablet")
        .json()
        .online()
        .await?;

    let all = changes(&mut phone, 0, 0).await?;
    assert_eq!(names(&all), ["g:one", "g:two"]);
    assert_eq!(gids(&all), ["one", "two"]);
    assert_eq!(all.groups[0].member_count, 2);
    ensure!(all.groups[0].members.is_empty() && all.groups[0].partial);
    ensure!(all.profile.is_some() && !all.more);
    let start = all.version;
    let none = changes(&mut phone, start, 0).await?;
    assert_eq!(
        none,
        Changes {
            version: start,
            ..Default::default()
        }
    );

    alice.say(up::user("bob"), "hello").await?;
    let first = changes(&mut phone, start, 0).await?;
    assert_eq!(names(&first), ["u:alice:bob"]);
    let hello = &first.conversations[0];
    assert_eq!(hello.state.as_ref().context("a state")?.unread, 1);
    assert_eq!(hello.last_message.as_ref().context("a message")?.seq, 1);
    ensure!(first.groups.is_empty() && first.profile.is_none());

    alice.say(up::group("one"), "hello").await?;
    phone.tell(up::read("u:alice:bob", 1)).await?;
    let second = changes(&mut phone, first.version, 0).await?;
    assert_eq!(names(&second), ["g:one", "u:alice:bob"]);
    ensure!(
        second.groups.is_empty(),
        "a message does not change the group"
    );
    // The tablet has not asked in between: it gets both as they are now, once.
    let both = changes(&mut tablet, start, 0).await?;
    assert_eq!(names(&both), ["g:one", "u:alice:bob"]);
    assert_eq!(both.version, second.version);

    alice.tell(up::group_remove("two", &["bob"])).await?;
    for (device, since) in [(&mut tablet, both.version), (&mut phone, second.version)] {
        let gone = changes(device, since, 0).await?;
        assert_eq!(names(&gone), ["-g:two"]);
    }
    alice.tell(up::group_add("two", &["bob"])).await?;
    let back = changes(&mut tablet, both.version, 0).await?;
    assert_eq!(names(&back), ["g:two"]);
    assert_eq!(gids(&back), ["two"]);
    // Alice's own versions are others.
    assert_eq!(
        names(&changes(&mut alice, 0, 0).await?),
        ["g:one", "g:two", "u:alice:bob"]
    );
    server.finish().await
}

/// Pages are cut anywhere, and the same comes over both doors.
#[tokio::test]
async fn pages_of_any_size_hold_everything_once() -> Result<()> {
    const GROUPS: usize = 7;
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for number in 0..GROUPS {
        let gid = format!("team-{number}");
        alice.tell(up::group_create(&gid, &["bob"])).await?;
    }
    let api = server.login("bob").await?;
    let mut bob = server.client("bob").online().await?;
    for limit in [1, 2, 3] {
        let (mut since, mut conversations, mut groups, mut profiles) = (0, 0, 0, 0);
        for page in 0.. {
            let changes = changes(&mut bob, since, limit).await?;
            let path = format!("/v1/changes?since={since}&limit={limit}");
            let over_http: Value = api.get(&path).await?.expect(200)?;
            assert_eq!(over_http, serde_json::to_value(&changes)?);
            let items = changes.conversations.len() + changes.groups.len();
            let items = items + usize::from(changes.profile.is_some());
            ensure!(items <= limit as usize);
            conversations += changes.conversations.len();
            groups += changes.groups.len();
            profiles += usize::from(changes.profile.is_some());
            // What changes before it has come comes at the end, and once.
            if page == 0 {
                alice.say(up::group("team-3"), "news").await?;
            }
            since = changes.version;
            if !changes.more {
                break;
            }
        }
        assert_eq!((conversations, groups, profiles), (GROUPS, GROUPS, 1));
    }
    server.finish().await
}

/// An answer stays small, whatever is in it, and smaller still as zstd.
#[tokio::test]
async fn answers_are_bounded_and_may_be_packed() -> Result<()> {
    const GROUPS: usize = 6;
    const TEXT_BYTES: usize = 60_000;
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    for number in 0..GROUPS {
        let gid = format!("team-{number}");
        alice.tell(up::group_create(&gid, &["bob"])).await?;
        alice.say(up::group(&gid), &"x".repeat(TEXT_BYTES)).await?;
    }
    let mut bob = server.client("bob").json().connect().await?;
    bob.subscribe_down().await?;
    let (mut since, mut conversations, mut pages) = (0, 0, 0);
    loop {
        let plain = changes(&mut bob, since, 0).await?;
        ensure!(plain.encoded_len() < 130 * 1024);
        let asked = Command::GetChanges(GetChanges {
            since,
            limit: 0,
            zstd: true,
        });
        let Some(Answer::Changes(packed)) = bob.tell(asked).await?.answer else {
            bail!("no changes");
        };
        assert_eq!((packed.version, packed.more), (plain.version, plain.more));
        ensure!(packed.encoded_len() < 1000 && packed.conversations.is_empty());
        let unpacked = zstd::bulk::decompress(&packed.zstd, 256 * 1024)?;
        assert_eq!(Changes::decode(&*unpacked)?, plain);
        since = plain.version;
        conversations += plain.conversations.len();
        pages += 1;
        if !plain.more {
            break;
        }
    }
    assert_eq!(conversations, GROUPS);
    ensure!(pages >= 3, "{pages}");
    server.finish().await
}

/// While others write and the user reads, two devices ask again and again: what they know in the end is what is there.
#[tokio::test]
async fn devices_that_keep_asking_know_everything() -> Result<()> {
    const ROUNDS: u32 = 10;
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut carol = server.client("carol").online().await?;
    alice
        .tell(up::group_create("team", &["bob", "carol"]))
        .await?;
    let mut phone = server.client("bob").device("phone").online().await?;
    let mut tablet = server
        .client("bob")
        .device("tablet")
        .json()
        .online()
        .await?;
    let talking_on = AtomicU32::new(2);
    let talking = async |client: &mut Client| {
        for _ in 0..ROUNDS {
            say_many(client, &up::group("team"), 3).await?;
            say_many(client, &up::user("bob"), 2).await?;
        }
        talking_on.fetch_sub(1, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let asking = async |client: &mut Client, limit: u32| {
        let mut known = BTreeMap::new();
        let mut since = 0;
        loop {
            let is_over = talking_on.load(Ordering::Relaxed) == 0;
            let page = changes(client, since, limit).await?;
            ensure!(page.version >= since);
            for conversation in page.conversations {
                let state = conversation.state.context("a state")?;
                let seq = known.insert(state.conversation.clone(), state.last_seq);
                ensure!(seq.is_none_or(|seq| seq < state.last_seq), "{state:?}");
            }
            since = page.version;
            if is_over && !page.more {
                return anyhow::Ok(known);
            }
        }
    };
    let ((), (), one, other) = tokio::try_join!(
        talking(&mut alice),
        talking(&mut carol),
        asking(&mut phone, 1),
        asking(&mut tablet, 100),
    )?;
    assert_eq!(one, other);
    let api = server.login("bob").await?;
    for listed in api.conversations().await? {
        let name = listed["conversation"].as_str().context("a name")?;
        let known = one.get(name).context("it is known")?;
        assert_eq!(number(&listed, "lastSeq"), u64::from(*known), "{name}");
    }
    assert_eq!(one.len(), 3);
    server.finish().await
}

/// A version that was never given says so, over both doors; so does a limit that is too large.
#[tokio::test]
async fn bad_versions_are_refused() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let mut alice = server.client("alice").online().await?;
    let now = changes(&mut alice, 0, 0).await?.version;
    for (since, limit) in [(now + 1, 0), (u64::MAX, 0), (0, 501)] {
        let code = alice.tell_in_vain(ask::changes(since, limit)).await?;
        assert_eq!(code, "invalid_argument");
    }
    let api = server.login("alice").await?;
    for query in ["since=99", "since=-1", "since=x", "limit=501"] {
        let answer = api.get(&format!("/v1/changes?{query}")).await?;
        answer.problem(400, "invalid_argument").context(query)?;
    }
    let changes = api.get("/v1/changes").await?.expect(200)?;
    assert_eq!(number(&changes, "version"), now);
    server.finish().await
}
