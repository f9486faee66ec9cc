//! What waits for a session on plain topics, while it is connected and while it is away.
//!
//! Publishers fill it without ever waiting; the session's connection empties it. It is bounded in bytes: when it is
//! full, QoS 0 goes first; where that is not enough, a connected session is disconnected and keeps what waits. One that is
//! away and has as much again ends ([`Mailbox::is_lost`]), so that its client learns of it by "session present 0" instead
//! of missing messages without knowing.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::message::Message;
use crate::closed::Closed;
use crate::codec::Qos;
use crate::registry::{Handle, Newcomer};

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
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    /// How many messages are lost to this session, the new one maybe among them.
    pub(crate) dropped: usize,
    /// Messages of shared subscriptions that another member should have instead.
    pub(crate) refused: Vec<Delivery>,
    /// The session, which is away, is lost with this message.
    pub(crate) has_lost: bool,
}

impl Pushed {
    fn dropped(dropped: usize) -> Self {
        Pushed {
            dropped,
            ..Pushed::default()
        }
    }

    /// None of these is delivered here.
    fn refused(deliveries: impl Iterator<Item = Delivery>) -> Self {
        let mut pushed = Pushed::default();
        for delivery in deliveries {
            match delivery.shared {
                Some(_) => pushed.refused.push(delivery),
                None => pushed.dropped += 1,
            }
        }
        pushed
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Unique as long as the process runs, never 0; the same for all connections of a session.
    pub(crate) id: u64,
    /// Whose it is.
    pub(crate) owner: Newcomer,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Waiting>,
    bytes: usize,
    /// How many of them have QoS 0.
    unreliable: usize,
    /// How many came from the retained store.
    retained: usize,
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
            self.retained = self
                .queue
                .iter()
                .filter(|waiting| waiting.weight == 0)
                .count();
        }
        dropped
    }

    fn clear(&mut self) -> impl Iterator<Item = Delivery> + use<> {
        (self.bytes, self.unreliable, self.retained) = (0, 0, 0);
        let queue = std::mem::take(&mut self.queue);
        queue.into_iter().map(|waiting| waiting.delivery)
    }
}

impl Mailbox {
    pub(crate) fn new(id: u64, bytes_max: usize, connection: Arc<Handle>) -> Self {
        let owner = connection.who.clone();
        let state = State {
            connection: Some(connection),
            ..State::default()
        };
        Mailbox {
            id,
            owner,
            bytes_max,
            state: Mutex::new(state),
        }
    }

    /// Puts a message in; tells what it has cost.
    pub(crate) fn push(&self, delivery: Delivery) -> Pushed {
        let mut state = self.state.lock();
        let is_reliable = delivery.qos != Qos::AtMostOnce;
        if state.is_lost {
            return Pushed::refused([delivery].into_iter());
        }
        if !is_reliable && state.connection.is_none() {
            // Not kept for a session that is away (MQTT 5, 4.1 leaves it open).
            return Pushed::default();
        }
        let weight = delivery.message.size() + OVERHEAD;
        let mut dropped = 0;
        if state.bytes + weight > self.bytes_max {
            if !is_reliable {
                return Pushed::dropped(1);
            }
            dropped = state.drop_unreliable();
        }
        let is_full = state.bytes + weight > self.bytes_max;
        // As much again: the burst that has filled it goes on while the client is told.
        if state.connection.is_none() && state.bytes + weight > 2 * self.bytes_max {
            state.is_lost = true;
            return Pushed {
                has_lost: true,
                ..Pushed::refused(state.clear().chain([delivery]))
            };
        }
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
        Pushed::dropped(dropped)
    }

    /// Puts a retained message in. Its bytes are the retained store's, and there may be many of them at once: they count
    /// only against further subscriptions, by [`Mailbox::is_full`].
    pub(crate) fn push_retained(&self, delivery: Delivery) {
        let mut state = self.state.lock();
        state.retained += 1;
        state.push(delivery, 0);
    }

    /// Whether no more should be asked for.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.bytes + state.retained * OVERHEAD >= self.bytes_max
    }

    /// Takes the oldest.
    pub(crate) fn pop(&self) -> Option<Delivery> {
        let mut state = self.state.lock();
        let Waiting { delivery, weight } = state.queue.pop_front()?;
        state.bytes -= weight;
        state.unreliable -= usize::from(delivery.qos == Qos::AtMostOnce);
        state.retained -= usize::from(weight == 0);
        if state.queue.is_empty() {
            // A burst's memory goes back.
            state.queue = VecDeque::new();
        }
        Some(delivery)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    /// The session has a connection again; `false`: it is lost.
    pub(crate) fn connect(&self, connection: Arc<Handle>) -> bool {
        let mut state = self.state.lock();
        if !state.is_lost {
            state.connection = Some(connection);
        }
        !state.is_lost
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
        state.clear()
    }
}
