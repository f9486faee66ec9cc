//! What the edge counts: for `/metrics`, and for `$SYS/#`.
//!
//! Counting a packet is two relaxed additions. What happens once per connection may take a lock. What can be read off
//! elsewhere, like who is connected, is not counted but looked up for a [`Snapshot`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::closed::Closed;
use crate::codec::{PacketType, ReasonCode, packets_in};
use crate::link::RouterState;
use crate::peer::Door;

/// Numbers by their label.
pub type Counts = Vec<(String, u64)>;

/// A message that is not delivered, because its session's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// On a plain topic: QoS 0 where too much waits, and everything that waited for a session that was lost.
    Plain,
    /// Of a chat, at QoS 0: the client sees the gap.
    Chat,
}

/// How the edge is at one moment, and what it has counted since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Since the start.
    pub uptime: Duration,
    /// Clients let in, by listener.
    pub opened: Counts,
    /// Those of them that are still connected.
    pub connections: Counts,
    /// Clients that were let in and have gone, by reason.
    pub closed: Counts,
    /// Clients that were refused by CONNACK, by reason.
    pub refused: Counts,
    /// Connections closed without a word: too many, or not MQTT.
    pub turned_away: u64,
    /// Packets from clients, by type.
    pub packets_received: Counts,
    /// Their bytes.
    pub bytes_received: Counts,
    /// Packets to clients, by type.
    pub packets_sent: Counts,
    /// Their bytes.
    pub bytes_sent: Counts,
    /// Publishes that their clients were not allowed.
    pub publishes_refused: u64,
    /// Subscriptions that their clients were not allowed.
    pub subscriptions_refused: u64,
    /// Messages that full queues had no room for, by kind.
    pub dropped: Counts,
    /// Times that a session was slowed down for sending too fast.
    pub throttled: u64,
    /// Sessions with a connection.
    pub sessions_connected: u64,
    /// Sessions that wait for their client to come back.
    pub sessions_parked: u64,
    /// Subscriptions of all sessions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// Their bytes.
    pub retained_bytes: u64,
    /// Bytes that wait for their way to a bridge.
    pub uplink_queue_bytes: u64,
    /// Frames that bridges are not done with.
    pub frames_ahead: u64,
    /// Bridges that have joined.
    pub bridges: u64,
    /// The router to the bridge, where there is one.
    pub router: Option<RouterState>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Stats {
    started_at: Instant,
    doors: [Passed; Door::ALL.len()],
    closed: Mutex<BTreeMap<&'static str, u64>>,
    refused: Mutex<BTreeMap<ReasonCode, u64>>,
    turned_away: AtomicU64,
    /// By the number of the packet's type.
    received: [Traffic; PACKET_TYPES],
    sent: [Traffic; PACKET_TYPES],
    publishes_refused: AtomicU64,
    subscriptions_refused: AtomicU64,
    dropped_plain: AtomicU64,
    dropped_chat: AtomicU64,
    throttled: AtomicU64,
}

/// [MQTT-2.1.2] The type is four bits.
const PACKET_TYPES: usize = 16;

/// Who came in and went out.
#[derive(Debug, Default)]
struct Passed {
    opened: AtomicU64,
    closed: AtomicU64,
}

#[derive(Debug, Default)]
struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    fn add(&self, packets: u64, bytes: usize) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Default for Stats {
    fn default() -> Self {
        Stats {
            started_at: Instant::now(),
            doors: Default::default(),
            closed: Mutex::default(),
            refused: Mutex::default(),
            turned_away: AtomicU64::default(),
            received: Default::default(),
            sent: Default::default(),
            publishes_refused: AtomicU64::default(),
            subscriptions_refused: AtomicU64::default(),
            dropped_plain: AtomicU64::default(),
            dropped_chat: AtomicU64::default(),
            throttled: AtomicU64::default(),
        }
    }
}

impl Stats {
    /// A client was let in.
    pub(crate) fn opened(&self, door: Door) {
        add_one(&self.doors[door as usize].opened);
    }

    /// A client that was let in is gone.
    pub(crate) fn closed(&self, door: Door, reason: Closed) {
        add_one(&self.doors[door as usize].closed);
        *self.closed.lock().entry(reason.name()).or_default() += 1;
    }

    /// A client was refused by CONNACK.
    pub(crate) fn refused(&self, reason: ReasonCode) {
        *self.refused.lock().entry(reason).or_default() += 1;
    }

    /// A connection was closed without a word.
    pub(crate) fn turned_away(&self) {
        add_one(&self.turned_away);
    }

    /// A packet came, so long with its fixed header.
    pub(crate) fn received(&self, packet: PacketType, bytes: usize) {
        self.received[packet as usize].add(1, bytes);
    }

    /// These packets are sent, one after the other.
    pub(crate) fn sent(&self, packets: &[u8]) {
        // Most of a burst are of one kind: they are added together.
        let (mut kind, mut count, mut bytes) = (PacketType::Publish, 0, 0);
        for (packet, length) in packets_in(packets) {
            if packet != kind {
                self.sent[kind as usize].add(count, bytes);
                (kind, count, bytes) = (packet, 0, 0);
            }
            count += 1;
            bytes += length;
        }
        self.sent[kind as usize].add(count, bytes);
    }

    /// A client may not publish there.
    pub(crate) fn publish_refused(&self) {
        add_one(&self.publishes_refused);
    }

    /// A client may not subscribe to that.
    pub(crate) fn subscription_refused(&self) {
        add_one(&self.subscriptions_refused);
    }

    /// Messages found no room.
    pub(crate) fn dropped(&self, what: Dropped, messages: usize) {
        let counter = match what {
            Dropped::Plain => &self.dropped_plain,
            Dropped::Chat => &self.dropped_chat,
        };
        counter.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// A session that sends too fast is read from more slowly from now on.
    pub(crate) fn throttled(&self) {
        add_one(&self.throttled);
    }
}

impl Stats {
    /// What was counted; the rest is zero.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let doors = || Door::ALL.into_iter().zip(&self.doors);
        let closed = self.closed.lock().clone();
        let refused = self.refused.lock().clone();
        Snapshot {
            uptime: self.started_at.elapsed(),
            opened: doors()
                .map(|(door, passed)| (door.name().to_owned(), get(&passed.opened)))
                .collect(),
            connections: doors()
                .map(|(door, passed)| {
                    // One may have come and gone between the two.
                    let closed = get(&passed.closed);
                    let open = get(&passed.opened).saturating_sub(closed);
                    (door.name().to_owned(), open)
                })
                .collect(),
            closed: closed
                .into_iter()
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
            refused: refused
                .into_iter()
                .map(|(reason, count)| (snake_case(reason), count))
                .collect(),
            turned_away: get(&self.turned_away),
            packets_received: by_type(&self.received, |traffic| &traffic.packets),
            bytes_received: by_type(&self.received, |traffic| &traffic.bytes),
            packets_sent: by_type(&self.sent, |traffic| &traffic.packets),
            bytes_sent: by_type(&self.sent, |traffic| &traffic.bytes),
            publishes_refused: get(&self.publishes_refused),
            subscriptions_refused: get(&self.subscriptions_refused),
            dropped: vec![
                ("plain".to_owned(), get(&self.dropped_plain)),
                ("chat".to_owned(), get(&self.dropped_chat)),
            ],
            throttled: get(&self.throttled),
            ..Snapshot::default()
        }
    }
}

/// One number of each type of packet, named as in MQTT but in small letters: `connack`.
fn by_type(traffic: &[Traffic], counter: fn(&Traffic) -> &AtomicU64) -> Counts {
    let types = (0..).zip(traffic);
    types
        .filter_map(|(number, traffic)| Some((PacketType::try_from(number).ok()?, traffic)))
        .map(|(packet, traffic)| (format!("{packet:?}").to_lowercase(), get(counter(traffic))))
        .collect()
}

/// `NotAuthorized` as `not_authorized`.
fn snake_case(name: impl fmt::Debug) -> String {
    let mut snake = String::new();
    for letter in format!("{name:?}").chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The count of a label.
    fn of(counts: &Counts, label: &str) -> Option<u64> {
        let found = counts.iter().find(|(name, _)| name == label);
        found.map(|(_, count)| *count)
    }

    #[test]
    fn what_happens_is_counted_by_its_label() {
        let stats = Stats::default();
        for door in [Door::Mqtt, Door::Mqtt, Door::Wss] {
            stats.opened(door);
        }
        stats.closed(Door::Mqtt, Closed::TakenOver);
        stats.refused(ReasonCode::BadUserNameOrPassword);
        stats.refused(ReasonCode::BadUserNameOrPassword);
        stats.turned_away();
        stats.received(PacketType::PubAck, 4);
        stats.received(PacketType::Publish, 100);
        let puback = [0x40, 2, 0, 1];
        stats.sent(
            &[
                &puback[..],
                &[0x30, 3, 0, 1, b'a'],
                &[0x30, 4, 0, 1, b'a', b'x'],
                &puback,
            ]
            .concat(),
        );
        stats.publish_refused();
        stats.subscription_refused();
        stats.dropped(Dropped::Plain, 1);
        stats.dropped(Dropped::Chat, 2);
        stats.throttled();

        let seen = stats.snapshot();
        assert_eq!(of(&seen.opened, "mqtt"), Some(2));
        assert_eq!(of(&seen.connections, "mqtt"), Some(1));
        assert_eq!(of(&seen.connections, "wss"), Some(1));
        assert_eq!(of(&seen.connections, "ws"), Some(0));
        assert_eq!(seen.closed, [("taken_over".to_owned(), 1)]);
        assert_eq!(seen.refused, [("bad_user_name_or_password".to_owned(), 2)]);
        assert_eq!(seen.turned_away, 1);
        assert_eq!(of(&seen.packets_received, "puback"), Some(1));
        assert_eq!(of(&seen.bytes_received, "publish"), Some(100));
        assert_eq!(of(&seen.packets_sent, "publish"), Some(2));
        assert_eq!(of(&seen.bytes_sent, "publish"), Some(11));
        assert_eq!(of(&seen.packets_sent, "puback"), Some(2));
        assert_eq!(of(&seen.packets_sent, "auth"), Some(0));
        assert_eq!((seen.publishes_refused, seen.subscriptions_refused), (1, 1));
        assert_eq!(of(&seen.dropped, "plain"), Some(1));
        assert_eq!(of(&seen.dropped, "chat"), Some(2));
        assert_eq!(seen.throttled, 1);
    }

    #[test]
    fn every_door_has_its_place() {
        for (index, door) in Door::ALL.into_iter().enumerate() {
            assert_eq!(door as usize, index);
        }
    }
}
