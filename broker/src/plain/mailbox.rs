//! What waits for a session on plain topics, while it is connected and while it is away.
//!
//! Publishers fill it without ever waiting; the session's connection empties it. It is bounded in bytes: when it is
//! full, QoS 0 goes first; where that is not enough, a connected session is disconnected and keeps what waits, and one
//! that is away ends ([`Mailbox::is_lost`]), so that its client learns of it by "session present 0" instead of missing
//! messages without knowing.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::message::Message;
use crate::closed::Closed;
use crate::codec::Qos;
use crate::registry::Handle;

/// What a waiting message weighs besides its own size, which all who wait for it share.
const OVERHEAD: usize = 96;

/// A message on its way to one session.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    /// The lesser of what it was published and subscribed with [MQTT-3.8.4-8].
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// Identifiers of the subscriptions that it matched [MQTT-3.3.4-3].
    pub(crate) identifiers: Vec<u32>,
    /// The shared subscription that chose this session.
    pub(crate) shared: Option<Arc<str>>,
}

/// What it has cost to put a message in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// So many messages of QoS 0, itself maybe.
    Dropped(usize),
    /// So many messages, and the session, which is away.
    Lost(usize),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Unique as long as the process runs, never 0; the same for all connections of a session.
    pub(crate) id: u64,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Waiting>,
    bytes: usize,
    /// How many of them have QoS 0.
    unreliable: usize,
    connection: Option<Arc<Handle>>,
    is_lost: bool,
}

#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    weight: usize,
}

impl State {
    fn push(&mut self, delivery: Delivery, weight: usize) {
        self.bytes += weight;
        self.unreliable += usize::from(delivery.qos == Qos::AtMostOnce);
        self.queue.push_back(Waiting { delivery, weight });
    }

    /// Drops what nobody promised; returns how many.
    fn drop_unreliable(&mut self) -> usize {
        let dropped = std::mem::take(&mut self.unreliable);
        if dropped > 0 {
            let is_reliable = |waiting: &Waiting| waiting.delivery.qos != Qos::AtMostOnce;
            self.queue.retain(is_reliable);
            self.bytes = self.queue.iter().map(|waiting| waiting.weight).sum();
        }
        dropped
    }

    fn clear(&mut self) -> VecDeque<Waiting> {
        self.bytes = 0;
        self.unreliable = 0;
        std::mem::take(&mut self.queue)
    }
}

impl Mailbox {
    pub(crate) fn new(id: u64, bytes_max: usize, connection: Arc<Handle>) -> Self {
        let state = State {
            connection: Some(connection),
            ..State::default()
        };
        Mailbox {
            id,
            bytes_max,
            state: Mutex::new(state),
        }
    }

    /// Puts a message in; tells what it has cost.
    pub(crate) fn push(&self, delivery: Delivery) -> Pushed {
        let mut state = self.state.lock();
        let is_reliable = delivery.qos != Qos::AtMostOnce;
        if state.is_lost || (!is_reliable && state.connection.is_none()) {
            // QoS 0 is not kept for a session that is away (MQTT 5, 4.1 leaves it open).
            return Pushed::Dropped(1);
        }
        let weight = delivery.message.size() + OVERHEAD;
        let mut dropped = 0;
        if state.bytes + weight > self.bytes_max {
            if !is_reliable {
                return Pushed::Dropped(1);
            }
            dropped = state.drop_unreliable();
        }
        let is_full = state.bytes + weight > self.bytes_max;
        if is_full && state.connection.is_none() {
            state.is_lost = true;
            return Pushed::Lost(state.clear().len() + 1);
        }
        // Even where it is one too many, so that nothing is missing from what the session keeps.
        state.push(delivery, weight);
        let connection = match is_full {
            true => state.connection.take(),
            false => state.connection.clone(),
        };
        drop(state);
        if let Some(connection) = connection {
            match is_full {
                true => connection.outbox.close(Closed::QueueFull),
                false => connection.outbox.wake(),
            }
        }
        Pushed::Dropped(dropped)
    }

    /// Puts a retained message in; its bytes are the retained store's, so that only the entry counts. Ask
    /// [`Mailbox::is_full`] before each subscription.
    pub(crate) fn push_retained(&self, delivery: Delivery) {
        let mut state = self.state.lock();
        state.push(delivery, OVERHEAD);
    }

    /// Whether no more should be asked for.
    pub(crate) fn is_full(&self) -> bool {
        self.state.lock().bytes >= self.bytes_max
    }

    /// Takes the oldest.
    pub(crate) fn pop(&self) -> Option<Delivery> {
        let mut state = self.state.lock();
        let Waiting { delivery, weight } = state.queue.pop_front()?;
        state.bytes -= weight;
        state.unreliable -= usize::from(delivery.qos == Qos::AtMostOnce);
        if state.queue.is_empty() {
            // A burst's memory goes back.
            state.queue = VecDeque::new();
        }
        Some(delivery)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// The session has a connection again.
    pub(crate) fn connect(&self, connection: Arc<Handle>) {
        self.state.lock().connection = Some(connection);
    }

    /// The session's connection has ended: what comes now is kept, without QoS 0.
    pub(crate) fn disconnect(&self) {
        let mut state = self.state.lock();
        state.connection = None;
        state.drop_unreliable();
    }

    /// Whether somebody takes what is put in.
    pub(crate) fn is_connected(&self) -> bool {
        self.state.lock().connection.is_some()
    }

    /// Whether messages were lost while the session was away: it can't be taken up again.
    pub(crate) fn is_lost(&self) -> bool {
        self.state.lock().is_lost
    }

    /// The session has ended: nothing is put in any more. Returns what was waiting.
    pub(crate) fn end(&self) -> impl Iterator<Item = Delivery> + use<> {
        let mut state = self.state.lock();
        state.is_lost = true;
        state.connection = None;
        state.clear().into_iter().map(|waiting| waiting.delivery)
    }
}
