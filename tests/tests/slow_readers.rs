//! Clients that read slowly or not at all: they keep nobody waiting, and lose nothing that they may still have.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use prost::Message as _;
use schema::v1::{Down, Message, down};
use tidings_tests::device::End;
use tidings_tests::link::Version::V4;
use tidings_tests::raw::{Connect, PINGREQ_PACKET, PUBLISH_QOS_0, Raw};
use tidings_tests::server::{Folder, password_of};
use tidings_tests::wire::{AckKind, Publish};
use tidings_tests::{Client, Device, PATIENCE, Server, eventually, up};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::support::ensure_complete;

/// Together more than sockets hold, so that the server has to wait for the reader.
const COUNT: u32 = 250;
const TEXT_BYTES: usize = 60_000;

/// What the slow readers ask for.
const KEEP_ALIVE_SECS: u16 = 2;

/// A device of bob's that holds little of what it has not read. It subscribes at QoS 0, so that reading is all that is
/// asked of it.
async fn bobs_slow_device(server: &Server, keep_alive_secs: u16) -> Result<Raw> {
    let connect = Connect {
        version: V4,
        client_id: "slow",
        uid: "bob",
        password: &password_of("bob"),
        clean: true,
        keep_alive_secs,
        will: None,
    };
    let raw = Raw::narrow(server.mqtt()).await?;
    let mut raw = raw.come_in(&connect).await?;
    raw.subscribe(V4, "im/bob/down", 0).await?;
    Ok(raw)
}

/// Sends bob `count` long messages, and waits until they are stored.
async fn say_much(alice: &mut Client, count: u32) -> Result<()> {
    let text = "x".repeat(TEXT_BYTES);
    let mut tickets = Vec::new();
    for _ in 0..count {
        let up = up::new(up::text(up::user("bob"), &text));
        tickets.push(alice.publish(&up).await?);
    }
    for ticket in tickets {
        alice.puback(ticket).await?;
    }
    Ok(())
}

/// The server leaves in time after SIGTERM although a client does not read; what it had acknowledged is there again.
#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_up_the_shutdown() -> Result<()> {
    /// A server that has to be cut off at its limit needs longer than that.
    const LIMIT: Duration = Duration::from_secs(4);
    let folder = Folder::new()?.setting("TIDINGS__SHUTDOWN__TIMEOUT", "4s");
    let mut server = Server::start_in(folder, &["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    let deaf = bobs_slow_device(&server, 0).await?;
    say_much(&mut alice, COUNT).await?;

    let took = server.shut_down().await?;
    ensure!(took < LIMIT, "it took {took:?}");
    drop(deaf);

    server.restart().await?;
    let history = server.login("bob").await?.history("u:alice:bob").await?;
    ensure_complete(&history, COUNT)?;
    let mut bob = server.client("bob").device("slow").online().await?;
    ensure_complete(&bob.messages(COUNT as usize).await?, COUNT)?;
    server.finish().await
}

/// A slow reader that pings during a long catch-up is not taken for silent, and gets everything.
#[tokio::test]
async fn a_slow_reader_that_pings_is_not_cut() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_much(&mut alice, COUNT).await?;

    let mut bob = bobs_slow_device(&server, KEEP_ALIVE_SECS).await?;
    let heard = read_slowly(&mut bob, PINGREQ_PACKET).await?;
    let heard = heard + read_publishes(&mut bob, COUNT - heard).await?;
    ensure!(heard == COUNT, "cut although it pinged, after {heard}");
    ensure!(bob.is_alive().await?, "cut although it pinged");
    server.finish().await
}

/// One that says nothing is cut, although there is still much to write to it. [MQTT-3.1.2-24]
#[tokio::test]
async fn a_slow_reader_that_says_nothing_is_cut() -> Result<()> {
    let server = Server::with_users(&["alice", "bob"]).await?;
    let mut alice = server.client("alice").online().await?;
    say_much(&mut alice, COUNT).await?;

    let mut bob = bobs_slow_device(&server, KEEP_ALIVE_SECS).await?;
    let heard = read_slowly(&mut bob, &[]).await?;
    let heard = heard + read_publishes(&mut bob, COUNT - heard).await?;
    ensure!(heard < COUNT, "not cut although it said nothing");
    server.finish().await
}

/// Says `word` and reads a message, slowly, for more than twice the silence that is allowed; returns how many came.
async fn read_slowly(raw: &mut Raw, word: &[u8]) -> Result<u32> {
    const SLOW: Duration = Duration::from_millis(7_500);
    let started = Instant::now();
    let mut ticks = interval(Duration::from_millis(150));
    let mut publishes = 0;
    while started.elapsed() < SLOW {
        ticks.tick().await;
        raw.send_to_the_deaf(word).await;
        publishes += read_publishes(raw, 1).await?;
    }
    Ok(publishes)
}

/// Reads until `count` publishes have come, or the connection ends; returns how many came.
async fn read_publishes(raw: &mut Raw, count: u32) -> Result<u32> {
    let mut publishes = 0;
    while publishes < count {
        let packet = timeout(PATIENCE, raw.read_packet())
            .await
            .with_context(|| format!("{publishes} of {count} came"))?;
        match packet {
            Ok(Some((PUBLISH_QOS_0, _))) => publishes += 1,
            Ok(Some(_)) => {}
            // A reset is an end, too.
            Ok(None) | Err(_) => break,
        }
    }
    Ok(publishes)
}

// === readers that stop ===

/// Who writes to the groups, all at once.
const SENDERS: [&str; 4] = ["rita", "sam", "tess", "ulf"];
/// Publishes that a sender has under way: the server's Receive Maximum.
const SEND_WINDOW: usize = 64;
/// Fills SQLite's cache of 64 MiB, which would be taken for the reader's otherwise.
const FIRST_STORM: Storm = Storm {
    count: 16_000,
    text_bytes: 5000,
};
/// What the server may need more for a storm that a reader has to hear and does not: less than the storm weighs.
const GROWTH_MAX: u64 = 12 * 1024 * 1024;
/// What it may need more while the reader catches up: those who read from SQLite have caches, too.
const CATCH_UP_GROWTH_MAX: u64 = 64 * 1024 * 1024;

/// A server with two groups, `team` with bob in it and `quiet` without, and two who talk with each other about something
/// else.
struct Stage {
    server: Server,
    alice: Client,
    carol: Client,
    dave: Client,
    /// How long a message takes between the two when nothing else happens.
    latency: Duration,
}

/// Messages to a group, all of this length.
#[derive(Clone, Copy, Debug)]
struct Storm {
    count: u32,
    text_bytes: usize,
}

/// What was seen while something went on.
#[derive(Clone, Copy, Debug)]
struct Seen {
    resident_bytes: u64,
    resident_bytes_max: u64,
    /// From carol's sending a message to her having its reply, and dave the message: the median.
    latency: Duration,
}

impl Seen {
    fn growth(&self) -> u64 {
        self.resident_bytes_max - self.resident_bytes
    }
}

impl Stage {
    async fn set(folder: Folder) -> Result<Self> {
        let folder = folder
            // All that was missed is pushed, however much.
            .setting("TIDINGS__MESSAGES__CATCH_UP_MAX", "1000000")
            .setting("TIDINGS__MQTT__PUBLISH_RATE", "0")
            .setting("TIDINGS__MQTT__BYTE_RATE", "0");
        let users = [&["alice", "bob", "carol", "dave"], &SENDERS[..]].concat();
        let server = Server::start_in(folder, &users).await?;
        let mut stage = Stage {
            alice: server.client("alice").online().await?,
            carol: server.client("carol").online().await?,
            dave: server.client("dave").online().await?,
            server,
            latency: Duration::ZERO,
        };
        let everyone = [&["bob"], &SENDERS[..]].concat();
        for (group, members) in [("team", &everyone[..]), ("quiet", &SENDERS)] {
            stage.alice.tell(up::group_create(group, members)).await?;
        }
        let nothing = async {
            sleep(Duration::from_secs(1)).await;
            Ok(())
        };
        stage.latency = stage.watch(JoinSet::from_iter([nothing])).await?.latency;
        Ok(stage)
    }

    /// Lets carol and dave talk, and looks at the server's memory, until all `tasks` are done.
    async fn watch(&mut self, mut tasks: JoinSet<Result<()>>) -> Result<Seen> {
        let resident_bytes = self.server.resident_bytes()?;
        let mut resident_bytes_max = resident_bytes;
        let mut latencies = Vec::new();
        while !tasks.is_empty() {
            let started = Instant::now();
            let told = self.carol.say(up::user("dave"), "still there?").await?;
            let heard = self.dave.message().await?;
            ensure!(heard.msg_id == told.msg_id, "dave has heard {heard:?}");
            latencies.push(started.elapsed());
            resident_bytes_max = resident_bytes_max.max(self.server.resident_bytes()?);
            if let Ok(Some(done)) = timeout(Duration::from_millis(10), tasks.join_next()).await {
                done??;
            }
        }
        latencies.sort();
        Ok(Seen {
            resident_bytes,
            resident_bytes_max,
            latency: latencies[latencies.len() / 2],
        })
    }

    /// The same, and checks that the two are not kept waiting.
    async fn watch_calm(&mut self, what: &str, tasks: JoinSet<Result<()>>) -> Result<Seen> {
        let started = Instant::now();
        let seen = self.watch(tasks).await?;
        println!("{what}: {:?}, {seen:?}", started.elapsed());
        // The machine is busy now; who waits for the reader waits far longer.
        let latency_max = (self.latency * 20).max(Duration::from_secs(1));
        let latency = seen.latency;
        ensure!(
            latency < latency_max,
            "{what}: {latency:?}, {:?} before",
            self.latency
        );
        Ok(seen)
    }

    /// Lets the storm break over a group, and waits until all is stored.
    async fn storm(&mut self, group: &str, storm: Storm) -> Result<Seen> {
        let text = "x".repeat(storm.text_bytes);
        let payload = format!(r#"{{"send":{{"to":{{"group":"{group}"}},"text":"{text}"}}}}"#);
        let mut sending = JoinSet::new();
        for uid in SENDERS {
            let sender = self.server.device(uid).connect().await?;
            let (topic, payload) = (format!("imj/{uid}/up"), payload.clone());
            sending.spawn(send(
                sender,
                topic,
                payload,
                storm.count / SENDERS.len() as u32,
            ));
        }
        self.watch_calm(&format!("{storm:?} over {group}"), sending)
            .await
    }

    /// Checks that `reader` gets the messages of a storm over bob's group, each once and in order.
    async fn ensure_all_come(&mut self, reader: Device, storm: Storm) -> Result<()> {
        let (hand_back, mut reader_back) = oneshot::channel();
        let reading = async move {
            let reader = read_all(reader, storm.count).await?;
            hand_back.send(reader).ok().context("somebody waits for it")
        };
        let seen = self
            .watch_calm("reading", JoinSet::from_iter([reading]))
            .await?;
        ensure!(
            seen.growth() < CATCH_UP_GROWTH_MAX,
            "while reading: {seen:?}"
        );

        let last = self.alice.say(up::group("team"), "that was all").await?;
        let next = next_message(&mut reader_back.try_recv()?).await?;
        ensure!(next.msg_id == last.msg_id, "one more than all: {next:?}");
        Ok(())
    }
}

/// Publishes `count` times, with a full window, and waits for all PUBACKs.
async fn send(mut device: Device, topic: String, payload: String, count: u32) -> Result<()> {
    let mut open = VecDeque::new();
    for _ in 0..count {
        if open.len() == SEND_WINDOW {
            device
                .ack(AckKind::PubAck, open.pop_front().context("it is full")?)
                .await?;
        }
        open.push_back(device.start(Publish::new(&topic, &payload, 1)).await?);
    }
    for packet_id in open {
        device.ack(AckKind::PubAck, packet_id).await?;
    }
    Ok(())
}

/// Reads the messages `1..=count` of a conversation.
async fn read_all(mut reader: Device, count: u32) -> Result<Device> {
    let (mut last_seq, mut last_id) = (0, 0);
    while last_seq < count {
        for message in next_messages(&mut reader).await? {
            let (seq, id) = (message.seq, message.msg_id);
            ensure!(seq == last_seq + 1, "{seq} after {last_seq}");
            ensure!(id > last_id, "{id} after {last_id}");
            (last_seq, last_id) = (seq, id);
        }
    }
    Ok(reader)
}

async fn next_message(device: &mut Device) -> Result<Message> {
    let mut messages = next_messages(device).await?;
    match (messages.pop(), messages.len()) {
        (Some(message), 0) => Ok(message),
        (_, more) => bail!("{more} messages more than one"),
    }
}

/// The messages of the next publish that has any.
async fn next_messages(device: &mut Device) -> Result<Vec<Message>> {
    loop {
        let publish = device.next().await?;
        match Down::decode(&publish.payload[..])?.content {
            Some(down::Content::Message(message)) => return Ok(vec![message]),
            Some(down::Content::Batch(batch)) => return Ok(batch.messages),
            Some(down::Content::Event(_)) => {}
            other => bail!("{other:?} instead of messages"),
        }
    }
}

/// A chat device at QoS 1 stops reading, and acknowledging. Nobody notices, the server holds next to nothing for it, and
/// when it goes on it gets everything.
///
/// `STORM_MESSAGES=100000` in the environment makes it more messages.
#[tokio::test]
async fn a_reader_that_stops_gets_everything_later() -> Result<()> {
    let storm = Storm {
        count: std::env::var("STORM_MESSAGES").map_or(Ok(20_000), |count| count.parse())?,
        text_bytes: 1000,
    };
    let mut stage = Stage::set(Folder::new()?).await?;
    stage.storm("quiet", FIRST_STORM).await?;
    let mut bob = stage.server.device("bob").keep_alive(0).connect().await?;
    assert_eq!(bob.subscribe("im/bob/down", 1).await?, 1);

    let seen = stage.storm("team", storm).await?;
    ensure!(seen.growth() < GROWTH_MAX, "{storm:?}: {seen:?}");
    stage.ensure_all_come(bob, storm).await?;
    stage.server.finish().await
}

/// The same for one that may have so much unacknowledged that its socket is full: it is cut after some time, and gets
/// everything when it comes back.
#[tokio::test]
async fn a_reader_that_is_cut_gets_everything_when_it_is_back() -> Result<()> {
    /// Together more than sockets hold.
    const STORM: Storm = Storm {
        count: 4000,
        text_bytes: 3000,
    };
    let folder = Folder::new()?
        .setting("TIDINGS__MQTT__DELIVERY_WINDOW", "65535")
        .setting("TIDINGS__MQTT__SESSION_QUEUE", "16 MiB")
        .setting("TIDINGS__MQTT__WRITE_TIMEOUT", "2s");
    let mut stage = Stage::set(folder).await?;
    let bob = stage.server.device("bob").keep_alive(0);
    let mut deaf = bob.clone().narrow().manual_acks().connect().await?;
    assert_eq!(deaf.subscribe("im/bob/down", 1).await?, 1);

    stage.storm("team", STORM).await?;
    eventually("the reader is cut", async || {
        let cut = r#"tidings_connections_closed_total{reason="not_reading"}"#;
        Ok(stage.server.api().metric(cut).await? == 1.0)
    })
    .await?;
    assert_eq!(deaf.closed().await?, End::Closed);
    let mut bob = bob.connect().await?;
    assert_eq!(bob.subscribe("im/bob/down", 1).await?, 1);
    stage.ensure_all_come(bob, STORM).await?;
    stage.server.finish().await
}

/// A plain topic at QoS 0: what a reader has no room for is dropped and counted; the rest comes, and the connection stays.
#[tokio::test]
async fn plain_messages_are_dropped_at_qos_0() -> Result<()> {
    /// Together more than sockets hold.
    const COUNT: u32 = 4_000;
    const PAYLOAD_BYTES: usize = 8_000;
    const TOPIC: &str = "dev/alice/x";
    let folder = Folder::new()?
        .setting("TIDINGS__MQTT__PUBLISH_RATE", "0")
        .setting("TIDINGS__MQTT__BYTE_RATE", "0");
    let server = Server::start_in(folder, &["alice"]).await?;
    let mut reader = server
        .device("alice")
        .id("reader")
        .narrow()
        .connect()
        .await?;
    assert_eq!(reader.subscribe(TOPIC, 0).await?, 0);
    let before = server.resident_bytes()?;

    let lamp = server.device("alice").id("lamp").connect().await?;
    send(lamp, TOPIC.into(), "x".repeat(PAYLOAD_BYTES), COUNT).await?;
    let grown = server.resident_bytes()?.saturating_sub(before);
    ensure!(
        grown < 24 * 1024 * 1024,
        "the server needs {grown} bytes more"
    );
    let dropped = server
        .api()
        .metric(r#"tidings_messages_dropped_total{kind="plain"}"#)
        .await? as u32;
    ensure!(dropped > 0 && dropped < COUNT, "{dropped} were dropped");

    for number in dropped..COUNT {
        let next = reader.next().await;
        next.with_context(|| format!("{} of {COUNT} were dropped, then {number}", dropped))?;
    }
    let mut lamp = server.device("alice").id("lamp").connect().await?;
    reader.hears_only(&mut lamp, TOPIC).await?;
    server.finish().await
}

/// At QoS 1 nothing is dropped: the reader is disconnected with 0x97, and a kept session has all of it.
#[tokio::test]
async fn plain_messages_are_kept_at_qos_1() -> Result<()> {
    const TOPIC: &str = "dev/alice/x";
    let folder = Folder::new()?
        .setting("TIDINGS__MESSAGES__TEXT_MAX", "16 KiB")
        .setting("TIDINGS__MQTT__MAX_PACKET_SIZE", "32 KiB")
        .setting("TIDINGS__MQTT__SESSION_QUEUE", "64 KiB");
    let server = Server::start_in(folder, &["alice"]).await?;
    let builder = server.device("alice").v5().id("reader").kept();
    let mut reader = builder.clone().manual_acks().connect().await?;
    assert_eq!(reader.subscribe(TOPIC, 1).await?, 1);
    let mut lamp = server.device("alice").v5().id("lamp").connect().await?;

    let mut sent = Vec::new();
    let mut is_connected = true;
    while is_connected {
        ensure!(sent.len() < 1000, "the reader is never disconnected");
        let text = format!("{:01000}", sent.len());
        assert_eq!(lamp.publish(TOPIC, &text, 1).await?, 0);
        sent.push(text);
        // It was closed before the PUBACK, if at all.
        is_connected = reader.ping().await.is_ok();
    }
    assert_eq!(reader.closed().await?, End::Disconnect(0x97));

    let mut reader = builder.connect().await?;
    ensure!(reader.connack.session_present, "the session is not kept");
    let got = reader.texts(sent.len()).await?;
    ensure!(
        got == sent,
        "not the same, or not in order: {} messages",
        sent.len()
    );
    reader.hears_only(&mut lamp, TOPIC).await?;
    server.finish().await
}
