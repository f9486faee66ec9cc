//! The operator's word filter: refused, masked or marked, and replaced while people write.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidings_tests::server::Folder;
use tidings_tests::{Server, eventually, up};

use crate::support::text_of;

const LIST: &str = "forbidden\nrude\tmask\n坏人\tmask\nodd\tflag\n";

/// A server with that list and some users, and the list's file.
async fn server_with(list: &str, uids: &[&str]) -> Result<(Server, PathBuf)> {
    let folder = Folder::new()?;
    let file = folder.data_dir().join("words.txt");
    fs::write(&file, list)?;
    let folder = folder.setting("TIDINGS__WORDS__FILE", &file.display().to_string());
    Ok((Server::start_in(folder, uids).await?, file))
}

/// A masked text is what everybody gets, live and later, whatever format and door it came in by.
#[tokio::test]
async fn masked_words_reach_nobody() -> Result<()> {
    let (server, _) = server_with(LIST, &["alice", "bob"]).await?;
    let mut phone = server.client("bob").device("phone").online().await?;
    let mut laptop = server
        .client("bob")
        .device("laptop")
        .json()
        .online()
        .await?;
    let mut alice = server.client("alice").device("a").online().await?;
    let mut json = server.client("alice").device("b").json().online().await?;
    let api = server.login("alice").await?;

    alice.say(up::user("bob"), "How Rude!").await?;
    json.say(up::user("bob"), "一个坏人").await?;
    let masked = up::new(up::text(up::user("bob"), "RUDE rudeness"));
    api.up(&masked).await?;

    let expected = ["How ****!", "一个**", "**** rudeness"];
    for device in [&mut phone, &mut laptop] {
        for text in expected {
            assert_eq!(text_of(&device.message().await?), text);
        }
    }
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    let texts: Vec<&str> = history.iter().map(text_of).collect();
    assert_eq!(texts, expected);
    let found = r#"tidings_words_found_total{action="mask"}"#;
    assert_eq!(api.metric(found).await?, 3.0);
    server.finish().await
}

/// A refused text leaves nothing, and is not told which word it was. Names are looked at like messages.
#[tokio::test]
async fn forbidden_words_are_refused() -> Result<()> {
    let (server, _) = server_with(LIST, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let mut json = server.client("alice").device("b").json().online().await?;
    for client in [&mut alice, &mut json] {
        for text in ["Forbidden", "this is ｆｏｒｂｉｄｄｅｎ."] {
            let said = up::text(up::user("bob"), text);
            assert_eq!(client.tell_in_vain(said).await?, "invalid_argument");
        }
    }
    let api = server.login("alice").await?;
    let group = json!({ "name": "forbidden fruit" });
    let answer = api.post("/v1/groups", &group).await?;
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    ensure!(!detail.contains("forbidden"), "{answer:?}");
    answer.problem(400, "invalid_argument")?;
    assert_eq!(api.conversations().await?.len(), 0);

    let ok = alice.say(up::user("bob"), "unforbidden").await?;
    assert_eq!(ok.seq, 1);
    server.finish().await
}

/// The list is replaced under traffic: by itself, and on SIGHUP. No message is lost, and one that can't be used is not
/// taken.
#[tokio::test]
async fn the_list_is_replaced_under_traffic() -> Result<()> {
    let (server, file) = server_with("# nothing yet\n", &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let bob = server.login("bob").await?;
    let mut seq = 0;
    let mut until_masked = async |what: &str, by_signal: bool, text: &str, masked: &str| {
        loop {
            let ok = alice.say(up::user("bob"), text).await?;
            seq += 1;
            assert_eq!(ok.seq, seq, "every message has its place");
            let page = bob.page("u:alice:bob", "limit=1").await?;
            let last = page.messages.last().context("it was just sent")?;
            if text_of(last) == masked {
                return anyhow::Ok(());
            }
            ensure!(text_of(last) == text, "{what}: {last:?}");
            ensure!(seq < 2000, "{what}: not taken");
            if by_signal {
                server.signal("HUP").await?;
            }
        }
    };
    fs::write(&file, "apple\tmask\n")?;
    until_masked("a new file", false, "an apple", "an *****").await?;
    fs::write(&file, "pear\tmask\napple\tmask\n")?;
    until_masked("on SIGHUP", true, "a pear", "a ****").await?;

    let refusals = || server.log().matches("stays in use").count();
    let before = refusals();
    fs::write(&file, "fig\tmash\n")?;
    eventually("the server says that it can't be used", async || {
        Ok(refusals() > before)
    })
    .await?;
    until_masked("the old list", false, "a pear", "a ****").await?;
    server.stop().await
}
