//! Several bridges that share the users of one broker, on one PostgreSQL and one Redis.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tidings_tests::client::Ticket;
use tidings_tests::postgres::{self, Postgres};
use tidings_tests::redis::Redis;
use tidings_tests::server::{Folder, password_of};
use tidings_tests::split::{Split, bridge_folder};
use tidings_tests::{Client, Server, eventually, up};

use crate::support::{ensure_complete, text_of};

/// Pairs of people.
const PAIRS: usize = 8;
/// What each sender says before each fault.
const ROUND: u32 = 120;

/// A broker with its bridges, and what they share.
struct Shared {
    split: Split,
    postgres: Postgres,
    redis: Redis,
}

impl Shared {
    async fn with_bridges(count: usize, uids: &[&str]) -> Result<Self> {
        let (postgres, redis) = tokio::try_join!(
            Postgres::start(postgres::Options::default()),
            Redis::start()
        )?;
        let split = Split::without_bridges().await?;
        let mut shared = Shared {
            split,
            postgres,
            redis,
        };
        for _ in 0..count {
            shared.add().await?;
        }
        try_join_all(uids.iter().map(|uid| shared.split.bridges[0].add_user(uid))).await?;
        Ok(shared)
    }

    fn folder(&self) -> Result<Folder> {
        let port = self.postgres.port();
        let postgres = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let folder = bridge_folder(&self.split.address())?;
        Ok(folder
            .setting("TIDINGS__DATABASE__URL", &postgres)
            .setting("TIDINGS__REDIS__URL", &self.redis.url()))
    }

    async fn add(&mut self) -> Result<()> {
        let folder = self.folder()?;
        self.split.add(folder, &[]).await
    }
}

/// One who says something to another.
struct Sender {
    client: Client,
    to: String,
    said: u32,
    tickets: Vec<Ticket>,
}

impl Sender {
    async fn speak(&mut self) -> Result<()> {
        for _ in 0..ROUND {
            self.said += 1;
            let text = up::text(up::user(&self.to), &self.said.to_string());
            let up = up::with_id(&format!("m{}", self.said), text);
            self.tickets.push(self.client.publish(&up).await?);
        }
        Ok(())
    }

    /// Waits until all of it is acknowledged.
    async fn settle(&mut self) -> Result<()> {
        for ticket in std::mem::take(&mut self.tickets) {
            let code = self.client.puback(ticket).await?;
            ensure!(code == 0, "PUBACK {code:#04x}");
        }
        Ok(())
    }
}

async fn settle_all(senders: &mut [Sender]) -> Result<()> {
    try_join_all(senders.iter_mut().map(Sender::settle)).await?;
    Ok(())
}

/// What one bridge says of a conversation, and the device of who has listened.
async fn check(split: &Split, bridge: &Server, from: usize, count: u32) -> Result<()> {
    let (sender, receiver) = (format!("sender{from}"), format!("receiver{from}"));
    let api = bridge.api().login(&sender, &password_of(&sender)).await?;
    let history = api.history(&format!("u:{receiver}:{sender}")).await?;
    ensure_complete(&history, count)?;
    let mut texts: Vec<u32> = Vec::new();
    for message in &history {
        texts.push(text_of(message).parse()?);
    }
    let expected: Vec<u32> = (1..=count).collect();
    ensure!(texts == expected, "said in another order: {texts:?}");
    let mut receiver = split.client(&receiver).online().await?;
    ensure_complete(&receiver.messages(count as usize).await?, count)?;
    receiver.disconnect().await
}

#[tokio::test]
async fn a_bridge_that_is_killed_takes_nothing_along() -> Result<()> {
    let names: Vec<String> = (0..PAIRS)
        .flat_map(|pair| [format!("sender{pair}"), format!("receiver{pair}")])
        .collect();
    let uids: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut shared = Shared::with_bridges(2, &uids).await?;
    shared.split.until_bridges(2).await?;
    let mut senders = Vec::new();
    for pair in 0..PAIRS {
        let to = format!("receiver{pair}");
        // Its device is known from now on: it misses nothing.
        shared
            .split
            .client(&to)
            .online()
            .await?
            .disconnect()
            .await?;
        let client = shared.split.client(&format!("sender{pair}")).v5();
        senders.push(Sender {
            client: client.online().await?,
            to,
            said: 0,
            tickets: Vec::new(),
        });
    }
    eventually("everybody is one bridge's", async || {
        let (one, other) =
            tokio::try_join!(shared.split.sessions_of(0), shared.split.sessions_of(1))?;
        Ok(one + other == PAIRS)
    })
    .await?;

    for victim in [0, 1, 0] {
        let speaking = senders.iter_mut().map(Sender::speak);
        try_join_all(speaking).await?;
        senders[0].client.until_pubacks(20).await?;
        shared.split.bridges[victim].kill().await?;
        shared.split.until_bridges(1).await?;
        settle_all(&mut senders)
            .await
            .with_context(|| format!("after bridge {victim} was killed"))?;
        shared.split.bridges[victim].restart().await?;
        shared.split.until_bridges(2).await?;
    }
    // One that ends in good order.
    try_join_all(senders.iter_mut().map(Sender::speak)).await?;
    shared.split.bridges[1].shut_down().await?;
    shared.split.until_bridges(1).await?;
    settle_all(&mut senders).await?;
    for pair in 0..PAIRS {
        check(&shared.split, &shared.split.bridges[0], pair, 4 * ROUND)
            .await
            .with_context(|| format!("pair {pair}"))?;
    }
    shared.split.bridges[1].restart().await?;
    shared.split.stop().await
}

/// The only one is to leave while the database does not answer, and the next one comes before it is gone.
#[tokio::test]
async fn nobody_overtakes_a_bridge_that_leaves() -> Result<()> {
    let mut shared = Shared::with_bridges(1, &["sender0", "receiver0"]).await?;
    let mut sender = Sender {
        client: shared.split.client("sender0").v5().online().await?,
        to: "receiver0".to_owned(),
        said: 0,
        tickets: Vec::new(),
    };
    let receiver = shared.split.client("receiver0").online().await?;
    receiver.disconnect().await?;
    let mut locks = shared.postgres.session("postgres")?;
    for (leaving, is_killed) in [(0, false), (1, true)] {
        sender.speak().await?;
        sender.client.until_pubacks(10).await?;
        locks
            .execute("BEGIN; LOCK TABLE messages IN EXCLUSIVE MODE;")
            .await?;
        sender.speak().await?;
        shared.split.bridges[leaving].signal("TERM").await?;
        sender.speak().await?;
        match leaving {
            0 => shared.add().await?,
            _ => shared.split.bridges[0].restart().await?,
        }
        if is_killed {
            shared.split.bridges[leaving].kill().await?;
        }
        sender.speak().await?;
        locks.execute("COMMIT;").await?;
        sender.settle().await?;
        if !is_killed {
            shared.split.bridges[leaving].wait().await?;
        }
        shared.split.until_bridges(1).await?;
    }
    check(&shared.split, &shared.split.bridges[0], 0, 8 * ROUND).await?;
    shared.split.bridges[1].restart().await?;
    shared.split.stop().await
}

#[tokio::test]
async fn a_bridge_that_comes_gets_its_share() -> Result<()> {
    const USERS: usize = 24;
    let names: Vec<String> = (0..USERS).map(|user| format!("user{user}")).collect();
    let uids: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut shared = Shared::with_bridges(1, &uids).await?;
    let online = uids
        .iter()
        .map(|uid| shared.split.client(uid).v5().online());
    let mut clients = try_join_all(online).await?;
    eventually("the only one has all", async || {
        Ok(shared.split.sessions_of(0).await? == USERS)
    })
    .await?;
    shared.add().await?;
    eventually("both have some", async || {
        let (one, other) =
            tokio::try_join!(shared.split.sessions_of(0), shared.split.sessions_of(1))?;
        Ok(one + other == USERS && one.min(other) >= USERS / 6)
    })
    .await?;
    for (client, uid) in clients.iter_mut().zip(&uids) {
        client.say(up::user(uid), "a note to myself").await?;
    }
    // What a session passes for goes along, and so does what it has to be told.
    let count = shared.split.sessions_of(1).await?;
    ensure!(count > 0);
    shared.split.bridges[0].shut_down().await?;
    eventually("the other one has all", async || {
        Ok(shared.split.sessions_of(1).await? == USERS)
    })
    .await?;
    for (client, uid) in clients.iter_mut().zip(&uids) {
        client.say(up::user(uid), "another one").await?;
    }
    shared.split.bridges[0].restart().await?;
    shared.split.finish().await
}
