//! Search: messages are found by what they say, by those who may see them and nobody else.

use anyhow::{Context, Result};
use schema::Timestamp;
use schema::v1::{self, Message, SearchPage, ok::Answer, up::Command};
use tidings_tests::http::number;
use tidings_tests::server::Folder;
use tidings_tests::{Api, Client, Server, ask, eventually, up};

use crate::support::{say_many, text_of};

/// What a device finds.
async fn found(client: &mut Client, command: Command) -> Result<SearchPage> {
    match client.tell(command).await?.answer {
        Some(Answer::Found(page)) => Ok(page),
        other => anyhow::bail!("not a page: {other:?}"),
    }
}

/// What is found once all has been indexed that was sent.
async fn texts(client: &mut Client, query: &str) -> Result<Vec<String>> {
    let page = found(client, ask::search(query)).await?;
    Ok(page
        .messages
        .iter()
        .map(text_of)
        .map(str::to_owned)
        .collect())
}

/// Waits until a device finds so many messages.
async fn until_found(client: &mut Client, query: &str, count: usize) -> Result<()> {
    let what = format!("{count} messages with {query} are found");
    eventually(&what, async || {
        Ok(texts(client, query).await?.len() == count)
    })
    .await
}

async fn over_http(api: &Api, query: &str) -> Result<(Vec<Message>, u64)> {
    let answer = api.get(&format!("/v1/search?{query}")).await?.expect(200)?;
    let messages = serde_json::from_value(answer["messages"].clone())?;
    Ok((messages, number(&answer, "next")))
}

fn within(conversation: &str, query: &str) -> Command {
    Command::Search(v1::Search {
        query: query.into(),
        conversation: conversation.into(),
        ..Default::default()
    })
}

/// Over protobuf, JSON and HTTP, newest first, page by page, with all filters.
#[tokio::test]
async fn both_sides_find_what_was_said_through_all_doors() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let api = server.login("bob").await?;

    let first = alice.say(up::user("bob"), "Breakfast at the café?").await?;
    bob.say(up::user("alice"), "No, I had breakfast").await?;
    alice.say(up::user("carol"), "BREAKFAST?").await?;
    until_found(&mut alice, "breakfast", 3).await?;
    assert_eq!(
        texts(&mut bob, "breakfast").await?,
        ["No, I had breakfast", "Breakfast at the café?"]
    );
    assert_eq!(
        texts(&mut bob, "CAFE reak").await?,
        ["Breakfast at the café?"]
    );
    assert!(texts(&mut bob, "cafe lunch").await?.is_empty());

    let (messages, next) = over_http(&api, "q=breakfast&limit=1").await?;
    assert_eq!(text_of(&messages[0]), "No, I had breakfast");
    let (messages, next) = over_http(&api, &format!("q=breakfast&limit=1&page={next}")).await?;
    assert_eq!((messages.len(), next), (1, 0));
    let message = &messages[0];
    assert_eq!((message.msg_id, message.seq), (first.msg_id, first.seq));
    assert_eq!(message.conversation, "u:alice:bob");
    assert_eq!(message.sender, "alice");

    let sent_at: Timestamp = first.sent_at.context("the answer tells when")?;
    let sent_at = serde_json::to_value(sent_at)?;
    let sent_at = sent_at.as_str().context("a text")?;
    for (query, count) in [
        ("q=breakfast&sender=alice".to_owned(), 1),
        ("q=breakfast&sender=nobody".to_owned(), 0),
        ("q=breakfast&conversation=u:alice:bob".to_owned(), 2),
        (format!("q=breakfast&after={sent_at}"), 2),
        (format!("q=breakfast&before={sent_at}"), 0),
        (
            "q=breakfast&after=2999-01-01T00:00:00%2B08:00".to_owned(),
            0,
        ),
        ("q=nothing".to_owned(), 0),
    ] {
        let (messages, next) = over_http(&api, &query).await?;
        assert_eq!((messages.len(), next), (count, 0), "{query}");
    }
    let lag = "tidings_search_behind_seconds";
    eventually("nothing is left to be indexed", async || {
        Ok(api.metric(lag).await? == 0.0)
    })
    .await?;
    server.finish().await
}

/// Words are found in any script, as parts of longer ones too, and whatever case and width they are written in.
#[tokio::test]
async fn every_script_is_found() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").json().online().await?;
    let said = [
        "今天下午三点开会，请不要迟到",
        "明日の会議は東京タワーの近くです",
        "ｶﾞｷﾞｸﾞ ＡＢＣ１２３",
        "한국어로 말해 주세요",
        "สวัสดีครับ เจอกันพรุ่งนี้",
        "Привет, ёжик",
        "Die Straße nach Köln",
        "see https://example.com/a?b=1 🎉",
        "bob@example.org wrote C++",
    ];
    for text in said {
        alice.say(up::user("bob"), text).await?;
    }
    until_found(&mut bob, "c++", 1).await?;
    for (query, index) in [
        ("开会", 0),
        ("迟", 0),
        ("下午 请不要", 0),
        ("東京タワー", 1),
        ("会議", 1),
        ("ガギグ", 2),
        ("abc123", 2),
        ("한국", 3),
        ("พรุ่งนี้", 4),
        ("ЕЖИК", 5),
        ("STRASSE koln", 6),
        ("example.com/a?b", 7),
        ("🎉", 7),
        ("b@example.org", 8),
    ] {
        assert_eq!(texts(&mut bob, query).await?, [said[index]], "{query}");
    }
    for query in ["会开", "京東", "missing"] {
        assert!(texts(&mut bob, query).await?.is_empty(), "{query}");
    }
    server.finish().await
}

/// What was said before somebody came, and all of it once somebody is out.
#[tokio::test]
async fn a_group_is_searched_by_its_members_only() -> Result<()> {
    let server = Server::with_users(&["alice", "bob", "carol", "dave"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut bob = server.client("bob").online().await?;
    let mut carol = server.client("carol").json().online().await?;
    let mut dave = server.client("dave").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    alice.say(up::group("team"), "secret one").await?;
    alice.tell(up::group_add("team", &["carol"])).await?;
    alice.say(up::group("team"), "secret two").await?;
    until_found(&mut alice, "secret", 2).await?;
    until_found(&mut bob, "secret", 2).await?;
    assert_eq!(texts(&mut carol, "secret").await?, ["secret two"]);
    let in_team = found(&mut carol, within("g:team", "secret")).await?;
    assert_eq!(in_team.messages.len(), 1);

    alice.tell(up::group_remove("team", &["bob"])).await?;
    carol.tell(up::group_leave("team")).await?;
    for out in [&mut bob, &mut carol, &mut dave] {
        assert!(texts(out, "secret").await?.is_empty(), "{out}");
        let refused = out.tell_in_vain(within("g:team", "secret")).await?;
        assert_eq!(refused, "not_found");
        let unknown = out.tell_in_vain(within("g:unknown", "secret")).await?;
        assert_eq!(unknown, "not_found");
    }
    alice.tell(up::group_add("team", &["bob"])).await?;
    assert!(
        texts(&mut bob, "secret").await?.is_empty(),
        "not his any longer"
    );

    let strangers = server.login("dave").await?;
    let not_his = strangers.get("/v1/search?q=secret&conversation=u:alice:bob");
    not_his.await?.problem(404, "not_found")?;
    server.finish().await
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() -> Result<()> {
    let server = Server::with_users(&["alice"]).await?;
    let api = server.login("alice").await?;
    for query in [
        "",
        "q=",
        "q=%20",
        "q=x&limit=101",
        "q=x&conversation=nonsense",
        "q=x&sender=no%20body",
        "q=x&after=yesterday",
        "q=x&page=-1",
    ] {
        let answer = api.get(&format!("/v1/search?{query}")).await?;
        answer.problem(400, "invalid_argument").context(query)?;
    }
    let longest = "x".repeat(128);
    let (messages, _) = over_http(&api, &format!("q={longest}")).await?;
    assert!(messages.is_empty());
    let answer = api.get(&format!("/v1/search?q={longest}x")).await?;
    answer.problem(400, "invalid_argument")?;
    let stranger = server.api().get("/v1/search?q=x").await?;
    stranger.problem(401, "unauthenticated")?;
    server.finish().await
}

/// However soon after its answer the server is killed.
#[tokio::test]
async fn what_was_not_indexed_when_the_server_was_killed_is_found_later() -> Result<()> {
    let mut server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_many(&mut alice, &up::user("bob"), 300).await?;
    alice.say(up::user("bob"), "the very last").await?;
    server.kill().await?;
    server.restart().await?;
    let mut bob = server.client("bob").online().await?;
    until_found(&mut bob, "very last", 1).await?;
    assert_eq!(texts(&mut bob, "number 300").await?, ["number 300"]);
    server.finish().await
}

#[tokio::test]
async fn search_can_be_switched_off() -> Result<()> {
    let folder = Folder::new()?.setting("TIDINGS__SEARCH__ENABLED", "false");
    let server = Server::start_in(folder, &["alice"]).await?;
    let mut alice = server.client("alice").online().await?;
    alice.say(up::user("alice"), "a note").await?;
    let refused = alice.tell_in_vain(ask::search("note")).await?;
    assert_eq!(refused, "permission_denied");
    let api = server.login("alice").await?;
    let answer = api.get("/v1/search?q=note").await?;
    answer.problem(403, "permission_denied")?;
    server.finish().await
}
