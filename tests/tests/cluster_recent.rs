//! Newest messages of groups that are kept in Redis: pages come from there, and say at every node what the database says.

use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use schema::v1::Message;
use tidings_tests::cluster::Plan;
use tidings_tests::http::Api;
use tidings_tests::{Client, Cluster, ask, eventually, up};

use crate::support::{
    KeptInRedis, ensure_nothing_old_is_shown, ensure_redis_is_not_believed, outcomes, say_many,
    text_of,
};

const PAGE: &str = "limit=50";
/// Longer than what is kept, so that it is asked of the database.
const TRUTH: &str = "limit=200";
const METRIC: &str = "tidings_recent_pages_total";

/// The newest page, which has to be what the database says.
async fn page(api: &Api) -> Result<Vec<Message>> {
    let page = api.page("g:team", PAGE).await?;
    let mut truth = api.page("g:team", TRUTH).await?.messages;
    let has_more = truth.len() > 50;
    let expected = truth.split_off(truth.len().saturating_sub(50));
    ensure!(
        page.messages == expected && page.more == has_more,
        "a page differs from the database:\n{:#?}\n{expected:#?}",
        page.messages
    );
    Ok(page.messages)
}

/// Asks until the page comes from Redis.
async fn warm(api: &Api) -> Result<Vec<Message>> {
    let mut found = Vec::new();
    let hits = async || outcomes(slice::from_ref(api), METRIC, "hit").await;
    eventually("a page comes from Redis", async || {
        let before = hits().await?;
        found = page(api).await?;
        Ok(hits().await? > before)
    })
    .await?;
    Ok(found)
}

fn at(messages: &[Message], seq: u32) -> Result<&Message> {
    let found = messages.iter().find(|message| message.seq == seq);
    found.with_context(|| format!("no {seq} among {} messages", messages.len()))
}

/// A user's access to each of two nodes.
async fn both(cluster: &Cluster, uid: &str) -> Result<[Api; 2]> {
    let user = cluster.login(uid).await?;
    Ok([0, 1].map(|node| cluster.api_at(node, &user)))
}

/// What is done at one node, the other one says at once, though it has just answered from Redis.
#[tokio::test]
async fn what_has_changed_is_shown_everywhere_at_once() -> Result<()> {
    let cluster = Cluster::with_users(2, &["alice", "bob", "carol", "dave"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    let mut bob = cluster.node(0).client("bob").online().await?;
    let members = ["bob", "carol", "dave"];
    alice.tell(up::group_create("team", &members)).await?;
    let mut dave = cluster.node(0).client("dave").online().await?;
    dave.say(up::group("team"), "of dave").await?;
    say_many(&mut alice, &up::group("team"), 60).await?;
    let last = say_many(&mut alice, &up::group("team"), 1).await?;
    let (seq, id) = (last.seq, last.msg_id);
    let [_, bobs] = both(&cluster, "bob").await?;
    let [_, carols] = both(&cluster, "carol").await?;

    // Each in the state that the other one's question was kept in.
    warm(&bobs).await?;
    let hits = outcomes(slice::from_ref(&carols), METRIC, "hit").await?;
    page(&carols).await?;
    ensure!(
        outcomes(slice::from_ref(&carols), METRIC, "hit").await? > hits,
        "not from Redis"
    );

    alice.tell(up::edit(id, "edited")).await?;
    ensure!(text_of(at(&page(&bobs).await?, seq)?) == "edited");
    warm(&bobs).await?;
    bob.tell(up::react(id, "👍", false)).await?;
    ensure!(at(&page(&carols).await?, seq)?.reactions.len() == 1);
    warm(&bobs).await?;
    bob.tell(up::react(id, "👍", true)).await?;
    ensure!(at(&page(&carols).await?, seq)?.reactions.is_empty());
    warm(&carols).await?;
    alice.tell(up::recall(id)).await?;
    ensure!(at(&page(&carols).await?, seq)?.gone == "recalled");
    warm(&carols).await?;
    let next = alice.say(up::group("team"), "next").await?;
    ensure!(text_of(at(&page(&bobs).await?, next.seq)?) == "next");

    // What bob alone has deleted, bob alone misses.
    warm(&bobs).await?;
    warm(&carols).await?;
    bob.tell(up::delete(&[next.msg_id])).await?;
    ensure!(at(&page(&bobs).await?, next.seq).is_err());
    ensure!(at(&warm(&carols).await?, next.seq).is_ok());
    bob.tell(ask::conversation_clear("g:team")).await?;
    ensure!(page(&bobs).await?.is_empty());
    ensure!(warm(&carols).await?.len() == 50);

    // What disappears, and what goes with an account.
    warm(&carols).await?;
    let daves = cluster.login("dave").await?;
    let password = tidings_tests::server::password_of("dave");
    let account = serde_json::json!({ "password": password });
    daves
        .delete_with("/v1/users/dave", &account)
        .await?
        .success()?;
    eventually("what dave wrote is gone", async || {
        let first = carols.page("g:team", "after_seq=0&limit=1").await?;
        Ok(first
            .messages
            .iter()
            .all(|message| message.gone == "deleted"))
    })
    .await?;

    // Who is out sees nothing, and who comes back not what was before.
    warm(&carols).await?;
    alice.tell(up::group_remove("team", &["carol"])).await?;
    let messages = format!("/v1/conversations/g:team/messages?{PAGE}");
    carols.get(&messages).await?.problem(404, "not_found")?;
    alice.tell(up::group_add("team", &["carol"])).await?;
    let new = alice.say(up::group("team"), "after carol").await?;
    let seen = warm(&carols).await?;
    ensure!(
        seen.iter().all(|message| message.seq + 1 >= new.seq),
        "{seen:?}"
    );
    cluster.finish().await
}

/// Members who read at both nodes while messages are edited never see less than what was answered before they asked.
#[tokio::test]
async fn nothing_old_is_shown_after_something_newer() -> Result<()> {
    const EDITS: u32 = 25;
    let cluster = Cluster::with_users(2, &["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    let bobs = both(&cluster, "bob").await?;
    let write = async |answered: &AtomicU32| {
        for round in 0..2 {
            let own = alice
                .say(up::group("team"), &(round * EDITS).to_string())
                .await?;
            for number in 0..EDITS {
                let number = round * EDITS + number;
                alice
                    .tell(up::edit(own.msg_id, &format!("now {number}")))
                    .await?;
                answered.store(number, Ordering::SeqCst);
            }
        }
        Ok(())
    };
    let newest = async |api: &Api| {
        let page = api.page("g:team", PAGE).await?;
        let seen = page.messages.iter().filter_map(|message| {
            let text = text_of(message);
            text.trim_start_matches("now ").parse::<u32>().ok()
        });
        Ok(seen.max().unwrap_or_default())
    };
    ensure_nothing_old_is_shown(&bobs, METRIC, write, newest).await?;
    cluster.finish().await
}

/// The page that bob gets at node 1, in which a message of alice's is changed.
struct BobsPage {
    alice: Client,
    bobs: [Api; 1],
    own: schema::v1::Ok,
}

impl KeptInRedis for BobsPage {
    const KEY: &str = "tidings:recent";
    const METRIC: &str = METRIC;

    fn askers(&self) -> &[Api] {
        &self.bobs
    }

    async fn change(&mut self, text: &str) -> Result<()> {
        let edit = up::edit(self.own.msg_id, text);
        self.alice.tell(edit).await.map(drop)
    }

    async fn look(&self, text: &str) -> Result<()> {
        let page = page(&self.bobs[0]).await?;
        let own = at(&page, self.own.seq)?;
        ensure!(text_of(own) == text, "{own:?}");
        Ok(())
    }

    async fn warm(&self) -> Result<()> {
        warm(&self.bobs[0]).await.map(drop)
    }
}

#[tokio::test]
async fn redis_is_not_believed() -> Result<()> {
    let mut cluster = Plan::of(2).start(&["alice", "bob"]).await?;
    let mut alice = cluster.node(0).client("alice").online().await?;
    alice.tell(up::group_create("team", &["bob"])).await?;
    let own = say_many(&mut alice, &up::group("team"), 60).await?;
    let [_, bobs] = both(&cluster, "bob").await?;
    let bobs = [bobs];
    let mut page = BobsPage { alice, bobs, own };
    ensure_redis_is_not_believed(&mut cluster, &mut page).await?;
    cluster.finish().await
}
