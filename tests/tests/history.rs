//! History beyond the newest page: pages both ways, from a date on, and media.

use anyhow::{Context, Result, ensure};
use schema::Timestamp;
use schema::v1::{self, Batch, up::Command};
use tidings_tests::{Client, Server, ask, up};

use crate::support::{range, say_many, seqs};

async fn page(client: &mut Client, command: Command) -> Result<Batch> {
    let batch = client.tell(command).await?.batch;
    Ok(*batch.context("the answer has a page")?)
}

fn in_json(time: &Timestamp) -> Result<String> {
    let json = serde_json::to_value(time)?;
    Ok(json.as_str().context("a time is a text")?.to_owned())
}

fn page_from(conversation: &str, time: Timestamp, limit: u32) -> Command {
    Command::Sync(v1::Sync {
        conversation: conversation.into(),
        from_time: Some(time),
        limit,
        ..Default::default()
    })
}

/// The next millisecond.
fn after(time: &Timestamp) -> Timestamp {
    let millis = time.seconds * 1000 + i64::from(time.nanos / 1_000_000);
    Timestamp::from_millis(millis + 1)
}

/// Backward from the newest message and forward from the first, on two devices, in two formats.
#[tokio::test]
async fn pages_go_both_ways() -> Result<()> {
    const COUNT: u32 = 250;
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut tablet = server
        .client("alice")
        .device("tablet")
        .json()
        .online()
        .await?;
    say_many(&mut alice, &up::user("bob"), COUNT).await?;
    for client in [&mut alice, &mut tablet] {
        let mut backward = Vec::new();
        let mut before = COUNT + 1;
        loop {
            let page = page(client, ask::page_before("u:alice:bob", before, 60)).await?;
            before = page.messages.first().context("a page has messages")?.seq;
            backward.splice(0..0, seqs(&page.messages));
            if !page.more {
                break;
            }
        }
        assert_eq!(backward, range(1, COUNT));
        let mut forward = Vec::new();
        loop {
            let after = forward.last().copied().unwrap_or_default();
            let page = page(client, up::sync("u:alice:bob", after, 60)).await?;
            forward.extend(seqs(&page.messages));
            if !page.more {
                break;
            }
        }
        assert_eq!(forward, range(1, COUNT));
    }
    server.finish().await
}

/// The page begins with the first message of that time or later that the reader may see.
#[tokio::test]
async fn a_page_begins_at_a_time() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut carol = server.client("carol").json().online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    let before_all = Timestamp::from_millis(0);
    say_many(&mut alice, &up::group("team"), 20).await?;
    let middle = loop {
        // Two messages of the same millisecond would both be on the page.
        let earlier = alice.say(up::group("team"), "earlier").await?;
        let middle = alice.say(up::group("team"), "it begins here").await?;
        if earlier.sent_at != middle.sent_at {
            break middle;
        }
    };
    alice.tell(up::group_add("team", &["carol"])).await?;
    let last = say_many(&mut alice, &up::group("team"), 5).await?;
    let at = middle.sent_at.context("the answer tells when")?;
    let long_after = after(last.sent_at.as_ref().context("it tells when")?);

    let api = server.login("alice").await?;
    for (time, first) in [
        (before_all, Some(1)),
        (at, Some(middle.seq)),
        (long_after, None),
    ] {
        let batch = page(&mut alice, page_from("g:team", time, 3)).await?;
        let expected = first.map_or(Vec::new(), |first| range(first, first + 2));
        assert_eq!(seqs(&batch.messages), expected, "from {time:?}");
        assert_eq!(batch.more, first.is_some());
        let query = format!("from_time={}&limit=3", in_json(&time)?);
        let over_http = api.page("g:team", &query).await?;
        assert_eq!(seqs(&over_http.messages), expected, "{query}");
        assert_eq!(over_http.more, first.is_some());
    }
    let hers = page(&mut carol, page_from("g:team", at, 100)).await?;
    let first = hers.messages.first().context("she sees the last five")?;
    ensure!(first.seq > middle.seq, "{first:?} was before her");
    server.finish().await
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.say(up::user("bob"), "hi").await?;
    let sync = v1::Sync {
        conversation: "u:alice:bob".into(),
        from_time: Some(Timestamp::from_millis(0)),
        ..Default::default()
    };
    for sync in [
        v1::Sync {
            after_seq: 1,
            ..sync.clone()
        },
        v1::Sync {
            before_seq: 1,
            ..sync.clone()
        },
        v1::Sync {
            changed_after: Some(0),
            ..sync
        },
    ] {
        let refused = alice.tell_in_vain(Command::Sync(sync)).await?;
        assert_eq!(refused, "invalid_argument");
    }
    let api = server.login("alice").await?;
    let of_bob = "/v1/conversations/u:alice:bob";
    for query in [
        "messages?from_time=2026-01-01T00:00:00Z&after_seq=1",
        "messages?from_time=2026-01-01T00:00:00Z&before_seq=1",
        "messages?from_time=yesterday",
        "media?kinds=image,text",
        "media?limit=501",
        "media?before_seq=-1",
    ] {
        let answer = api.get(&format!("{of_bob}/{query}")).await?;
        answer.problem(400, "invalid_argument").context(query)?;
    }
    let carol = server.login("carol").await?;
    for path in [
        format!("{of_bob}/media"),
        "/v1/conversations/g:nothing/media".to_owned(),
        "/v1/conversations/nonsense/media".to_owned(),
        format!("{of_bob}/messages?from_time=2026-01-01T00:00:00Z"),
    ] {
        carol.get(&path).await?.problem(404, "not_found")?;
    }
    server.finish().await
}

/// Texts are no media.
#[tokio::test]
async fn a_conversation_without_media_has_none() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut carol = server.client("carol").json().online().await?;
    alice.say(up::user("bob"), "no picture").await?;
    let media = page(&mut alice, ask::media("u:alice:bob", &["image"])).await?;
    assert_eq!((media.messages.len(), media.last_seq), (0, 1));
    let api = server.login("bob").await?;
    let answer = api.get("/v1/conversations/u:alice:bob/media").await?;
    let answer = answer.expect(200)?;
    assert_eq!(answer["messages"], serde_json::json!([]));
    for conversation in ["u:alice:bob", "g:nothing"] {
        let refused = carol.tell_in_vain(ask::media(conversation, &[])).await?;
        assert_eq!(refused, "not_found");
    }
    server.finish().await
}
