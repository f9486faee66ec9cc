//! What several topics look at in the same way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use schema::v1::{Message, message::Content};
use tidings_tests::client::Builder;
use tidings_tests::link::Version;
use tidings_tests::raw::Connect;
use tidings_tests::server::{Folder, password_of};
use tidings_tests::{Api, Client, Cluster, Device, Server, up};

/// The text of a message, or nothing.
pub fn text_of(message: &Message) -> &str {
    match &message.content {
        Some(Content::Text(text)) => text,
        _ => "",
    }
}

/// The next message that somebody has written, past those that say what happened.
pub async fn spoken(client: &mut Client) -> Result<Message> {
    loop {
        let message = client.message().await?;
        if message.kind != "system" {
            return Ok(message);
        }
    }
}

pub fn seqs(messages: &[Message]) -> Vec<u32> {
    messages.iter().map(|message| message.seq).collect()
}

pub fn msg_ids(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| message.msg_id).collect()
}

/// `from..=to`, to compare with [`seqs`].
pub fn range(from: u32, to: u32) -> Vec<u32> {
    (from..=to).collect()
}

/// The messages of each conversation, in the order in which they came.
pub fn by_conversation(messages: Vec<Message>) -> BTreeMap<String, Vec<Message>> {
    let mut sorted: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in messages {
        let conversation = sorted.entry(message.conversation.clone()).or_default();
        conversation.push(message);
    }
    sorted
}

/// Checks that these are the seqs `1..=count` of one conversation: nothing lost, doubled or out of order.
pub fn ensure_complete(messages: &[Message], count: u32) -> Result<()> {
    let seqs = seqs(messages);
    ensure!(seqs == range(1, count), "not 1..={count}: {seqs:?}");
    let ids = msg_ids(messages);
    let ascending = ids.is_sorted_by(|earlier, later| earlier < later);
    ensure!(ascending, "msg_ids not in the order of time: {ids:?}");
    Ok(())
}

/// Checks that `client` gets nothing before a message that `other` sends it now, in a conversation of the two alone.
pub async fn ensure_silence(client: &mut Client, uid: &str, other: &mut Client) -> Result<()> {
    let sentinel = other.say(up::user(uid), "is anything before me?").await?;
    let next = client.message().await?;
    ensure!(
        next.msg_id == sentinel.msg_id,
        "{client} should not have got {next:?}"
    );
    Ok(())
}

/// A server with these settings to which limits per address apply everywhere, and one user, alice.
pub async fn strict(settings: &[(&str, &str)]) -> Result<Server> {
    let mut folder = Folder::new()?.setting("TIDINGS__NETWORK__TRUSTED", "");
    for (name, value) in settings {
        folder = folder.setting(name, value);
    }
    Server::start_in(folder, &["alice"]).await
}

/// One of alice's devices, connected.
pub async fn connect(server: &Server, version: Version, id: &str) -> Result<Device> {
    let device = server.device("alice").version(version).id(id);
    device.connect().await
}

/// The bytes of a CONNECT of alice's.
pub fn connect_packet(version: Version, client_id: &str) -> Vec<u8> {
    let connect = Connect {
        version,
        client_id,
        uid: "alice",
        password: &password_of("alice"),
        clean: true,
        keep_alive_secs: 60,
        will: None,
    };
    connect.packet()
}

/// Connects a device once, so that the server knows it from then on.
pub async fn introduce(device: Builder) -> Result<()> {
    let mut client = device.online().await?;
    // Whatever the answer is, the subscription was dealt with before it.
    client.ask(&up::new(up::ack("g:nowhere", 1))).await?;
    client.disconnect().await
}

/// Sends `count` texts without waiting between them, then waits for their PUBACKs; returns the last one's answer.
pub async fn say_many(
    client: &mut Client,
    to: &schema::v1::To,
    count: u32,
) -> Result<schema::v1::Ok> {
    let mut sent = Vec::new();
    for number in 1..=count {
        let up = up::new(up::text(to.clone(), &format!("number {number}")));
        let ticket = client.publish(&up).await?;
        sent.push((up.client_msg_id, ticket));
    }
    let mut last = None;
    for (client_msg_id, ticket) in sent {
        client.puback(ticket).await?;
        let reply = client.reply_to(&client_msg_id).await?;
        last = Some(tidings_tests::client::ok_of(reply)?);
    }
    last.context("count is at least 1")
}

/// Something that nodes keep in Redis, and how a test looks at it.
pub trait KeptInRedis {
    /// What its only key begins with.
    const KEY: &str;
    /// The metric that counts what came of asking for it.
    const METRIC: &str;

    /// Who asks, with node 1 among those asked.
    fn askers(&self) -> &[Api];

    /// Gives it another text.
    async fn change(&mut self, text: &str) -> Result<()>;

    /// Looks at it: it has to be as the database has it, with that text.
    async fn look(&self, text: &str) -> Result<()>;

    /// Looks until it comes from Redis.
    async fn warm(&self) -> Result<()>;

    async fn count(&self, outcome: &str) -> Result<f64> {
        outcomes(self.askers(), Self::METRIC, outcome).await
    }
}

/// How often these nodes say by that metric that this came of looking in Redis.
pub async fn outcomes(nodes: &[Api], metric: &str, outcome: &str) -> Result<f64> {
    let sample = format!("{metric}{{outcome=\"{outcome}\"}}");
    let mut count = 0.0;
    for node in nodes {
        count += node.metric(&sample).await?;
    }
    Ok(count)
}

/// Whoever asks at either node while something is written never sees less than what was answered before he asked. `write`
/// notes how far it was answered, `newest` tells how far a node shows it.
pub async fn ensure_nothing_old_is_shown(
    nodes: &[Api; 2],
    metric: &str,
    write: impl AsyncFnOnce(&AtomicU32) -> Result<()>,
    newest: impl AsyncFn(&Api) -> Result<u32>,
) -> Result<()> {
    const WRITTEN: u32 = u32::MAX;
    let answered = AtomicU32::new(0);
    let write = async {
        write(&answered).await?;
        answered.store(WRITTEN, Ordering::SeqCst);
        anyhow::Ok(())
    };
    let read = async |node: &Api| {
        loop {
            let known = answered.load(Ordering::SeqCst);
            if known == WRITTEN {
                return anyhow::Ok(());
            }
            let seen = newest(node).await?;
            ensure!(seen >= known, "{seen} was seen after {known} was answered");
        }
    };
    let [one, other] = nodes;
    tokio::try_join!(write, read(one), read(one), read(other), read(other))?;
    let used = outcomes(nodes, metric, "hit").await? + outcomes(nodes, metric, "ignored").await?;
    ensure!(used > 0.0, "Redis was never asked, or had nothing");
    Ok(())
}

/// Redis may be emptied, put back to what it was, hold nonsense, be slow, and be away: what is looked at is right.
pub async fn ensure_redis_is_not_believed<K: KeptInRedis>(
    cluster: &mut Cluster,
    kept: &mut K,
) -> Result<()> {
    /// Longer than a node waits for what is kept.
    const SLOW: Duration = Duration::from_millis(60);
    kept.change("as it was").await?;
    kept.warm().await?;
    let pattern = format!("{}*", K::KEY);
    let keys = cluster.redis.command(&["KEYS", &pattern]).await?;
    let key = keys.trim();
    ensure!(!key.is_empty() && !key.contains('\n'), "one key: {keys}");

    cluster.redis.command(&["COPY", key, "before"]).await?;
    kept.change("changed").await?;
    kept.warm().await?;
    for nonsense in [
        ["COPY", "before", key, "REPLACE"],
        ["SET", key, "nonsense", "XX"],
    ] {
        cluster.redis.command(&nonsense).await?;
        let before = kept.count("ignored").await?;
        kept.look("changed").await?;
        ensure!(kept.count("ignored").await? > before, "{nonsense:?}");
        kept.warm().await?;
    }
    cluster.redis.command(&["FLUSHALL"]).await?;
    kept.warm().await?;

    cluster.to_redis(1).slow_down(SLOW);
    change_and_look(kept, "slow").await?;
    ensure!(kept.count("unanswered").await? > 0.0);
    cluster.to_redis(1).heal();
    kept.warm().await?;

    cluster.redis.kill().await?;
    change_and_look(kept, "away").await?;
    cluster.redis.restart().await?;
    kept.warm().await
}

async fn change_and_look(kept: &mut impl KeptInRedis, text: &str) -> Result<()> {
    for number in 0..20 {
        let text = format!("{text} {number}");
        kept.change(&text).await?;
        kept.look(&text).await?;
    }
    Ok(())
}
