//! What waits for a session: answers to its publishes, and deliveries.
//!
//! The bridge's side fills it without ever waiting; the connection's task empties it as the client takes it. It
//! also holds the session's place in the feed, since what is filled in depends on it:
//!
//! ```text
//! Off ──subscribe──▶ CatchingUp(e) ──Live(e)──▶ Live(e) ──queue full──▶ Behind(e)
//!                        ▲                                                  │
//!                        └──────────── all taken, epoch e + 1 ──────────────┘
//! ```
//! While `CatchingUp`, live messages are dropped here: the bridge sends them as catch-up, then says `Live` at a point
//! in its stream before which everything has been sent.
//!
//! Events are not caught up: where one has found no room, or may have been missed between two bridges, the client is told that
//! what it knows is out of date, once the session is live and has taken all else.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use schema::link::Position;
use tokio::sync::Notify;

use crate::closed::Closed;
use crate::codec::{Qos, ReasonCode};
use crate::payload::Payload;

/// What a queued delivery weighs besides its payload: packet header, topic, table entries.
const DELIVERY_OVERHEAD: usize = 64;

/// The end of an uplink.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) token: u32,
    pub(crate) reason: ReasonCode,
    pub(crate) reply: Arc<Payload>,
}

/// Something for the session's down topic.
#[derive(Clone, Debug)]
pub(crate) enum Delivery {
    /// A stored message; acknowledging it moves the device's cursor to the position.
    Message(Arc<Payload>, Position),
    /// An event: QoS 0.
    Event(Arc<Payload>),
    /// The catch-up page ends here: tell the bridge once everything before it is taken.
    PageEnd,
}

/// Where the session stands in its user's stream of messages. The number is the subscription's epoch: it names this
/// round of catch-up, so that the bridge's answers to an earlier one are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// Not subscribed.
    Off,
    /// The bridge is sending what was missed.
    CatchingUp(u32),
    /// Messages come as they are stored.
    Live(u32),
    /// The queue was full: messages are left out until it is empty, then catch-up begins anew.
    Behind(u32),
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
    bytes_max: usize,
    is_nameless: bool,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) answers: VecDeque<Answer>,
    pub(crate) deliveries: VecDeque<Delivery>,
    pub(crate) feed: Feed,
    pub(crate) closed: Option<Closed>,
    /// The session ends for this reason once it has nothing more to say.
    pub(crate) leaving: Option<Closed>,
    /// QoS of the subscription: decides what a full queue means.
    pub(crate) qos: Qos,
    bytes: usize,
    /// Events were lost, and the client does not know yet.
    is_outdated: bool,
    /// Newest messages of conversations that were sent before the session went live, and may come live, too.
    sent: Vec<Position>,
}

impl State {
    /// Takes the oldest delivery.
    pub(crate) fn pop_delivery(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.bytes -= weight(&delivery);
        if self.deliveries.is_empty() {
            // A burst's memory goes back; an idle session holds none.
            self.deliveries = VecDeque::new();
        }
        Some(delivery)
    }

    /// Puts the session at the beginning of a new round, with nothing left over from an earlier one.
    pub(crate) fn restart(&mut self, feed: Feed) {
        self.deliveries = VecDeque::new();
        self.bytes = 0;
        self.sent = Vec::new();
        self.is_outdated &= feed != Feed::Off;
        self.feed = feed;
    }

    /// Whether it is time to tell the client that events were lost: what it asks for then contains all of them. It counts as told.
    pub(crate) fn take_outdated(&mut self) -> bool {
        let is_due = matches!(self.feed, Feed::Live(_)) && self.deliveries.is_empty();
        is_due && std::mem::take(&mut self.is_outdated)
    }

    /// Whether a message that comes live was sent before; the first that was not ends the question for its conversation.
    fn was_sent(&mut self, message: &Position) -> bool {
        let of_it = |sent: &Position| sent.conversation == message.conversation;
        let Some(found) = self.sent.iter().position(of_it) else {
            return false;
        };
        let was_sent = message.seq <= self.sent[found].seq;
        if !was_sent {
            self.sent.swap_remove(found);
        }
        was_sent
    }

    fn push_delivery(&mut self, delivery: Delivery) {
        self.bytes += weight(&delivery);
        self.deliveries.push_back(delivery);
    }
}

fn weight(delivery: &Delivery) -> usize {
    match delivery {
        Delivery::Message(payload, _) | Delivery::Event(payload) => {
            payload.size() + DELIVERY_OVERHEAD
        }
        Delivery::PageEnd => 0,
    }
}

impl Outbox {
    /// A session without a name can't be caught up: it ends when it falls behind.
    pub(crate) fn new(bytes_max: usize, is_nameless: bool) -> Self {
        Outbox {
            state: Mutex::new(State {
                answers: VecDeque::new(),
                deliveries: VecDeque::new(),
                feed: Feed::Off,
                closed: None,
                leaving: None,
                qos: Qos::AtMostOnce,
                bytes: 0,
                is_outdated: false,
                sent: Vec::new(),
            }),
            wake: Notify::new(),
            bytes_max,
            is_nameless,
        }
    }

    /// Waits until something was put in since the last call.
    pub(crate) async fn filled(&self) {
        self.wake.notified().await;
    }

    /// Looks in; hold the guard for a short time only.
    pub(crate) fn lock(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Why the connection was asked to read no more, if it was.
    ///
    /// # Errors
    /// The reason for which it was asked to end.
    pub(crate) fn check(&self) -> Result<Option<Closed>, Closed> {
        let state = self.state.lock();
        state.closed.map_or(Ok(state.leaving), Err)
    }

    /// Makes the connection look at what is waiting.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Asks the connection to read no more, to say what it has to say, and to end.
    pub(crate) fn drain(&self, reason: Closed) {
        self.state.lock().leaving.get_or_insert(reason);
        self.wake.notify_one();
    }

    /// Asks the connection to end; the first reason counts.
    pub(crate) fn close(&self, reason: Closed) {
        self.state.lock().closed.get_or_insert(reason);
        self.wake.notify_one();
    }

    /// Not bounded in bytes, since each belongs to a publish inside the session's window.
    pub(crate) fn answer(&self, answer: Answer) {
        self.state.lock().answers.push_back(answer);
        self.wake.notify_one();
    }

    /// Takes the oldest answer.
    pub(crate) fn next_answer(&self) -> Option<Answer> {
        let mut state = self.state.lock();
        let answer = state.answers.pop_front();
        if state.answers.is_empty() {
            state.answers = VecDeque::new();
        }
        answer
    }

    /// The connection has ended: nothing is kept for it.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        state.answers = VecDeque::new();
        state.restart(Feed::Off);
    }

    /// A message or event as it happens; tells whether the client misses it.
    pub(crate) fn deliver_live(&self, delivery: &Delivery) -> bool {
        let mut state = self.state.lock();
        let is_message = matches!(delivery, Delivery::Message(..));
        match state.feed {
            Feed::Off => return false,
            Feed::CatchingUp(_) | Feed::Behind(_) if is_message => return false,
            Feed::CatchingUp(_) | Feed::Behind(_) | Feed::Live(_) => {}
        }
        if let Delivery::Message(_, position) = delivery
            && state.was_sent(position)
        {
            return false;
        }
        if state.bytes + weight(delivery) > self.bytes_max {
            if !is_message {
                state.is_outdated = true;
                return true;
            }
            // QoS 0 promises nothing: the client sees the gap in `seq`. QoS 1 has to be caught up.
            return !self.is_now_behind(state);
        }
        state.push_delivery(delivery.clone());
        drop(state);
        self.wake.notify_one();
        false
    }

    /// The bridge has not got everything for the session. QoS 0 promises nothing: its client sees the gap in `seq`.
    pub(crate) fn fall_behind(&self) {
        self.is_now_behind(self.state.lock());
    }

    /// From live to behind; tells whether the session was live, and has to be caught up.
    fn is_now_behind(&self, mut state: parking_lot::MutexGuard<'_, State>) -> bool {
        let Feed::Live(epoch) = state.feed else {
            return false;
        };
        if state.qos == Qos::AtMostOnce {
            return false;
        }
        state.feed = Feed::Behind(epoch);
        if self.is_nameless {
            state.closed.get_or_insert(Closed::QueueFull);
        }
        drop(state);
        self.wake.notify_one();
        true
    }

    /// The session is for another bridge: when the client has taken what is here, it catches up from the database. Events of
    /// the time between the two are lost.
    pub(crate) fn change_hands(&self) {
        let mut state = self.state.lock();
        state.is_outdated |= state.feed != Feed::Off;
        if let Feed::CatchingUp(epoch) | Feed::Live(epoch) = state.feed {
            state.feed = Feed::Behind(epoch);
            if self.is_nameless {
                // What it has had is known to nobody.
                state.closed.get_or_insert(Closed::Unserved);
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Whether catching up gives the client nothing that it has had: its acknowledgements say what that is.
    pub(crate) fn catches_up_quietly(&self) -> bool {
        let state = self.state.lock();
        state.feed == Feed::Off || (state.qos != Qos::AtMostOnce && !self.is_nameless)
    }

    /// A page of catch-up. The bridge sends the next one when this one is taken, so that it needs no bound here.
    pub(crate) fn catch_up(&self, epoch: u32, page: impl Iterator<Item = Delivery>) {
        let mut state = self.state.lock();
        if state.feed != Feed::CatchingUp(epoch) {
            return;
        }
        for delivery in page {
            state.push_delivery(delivery);
        }
        state.push_delivery(Delivery::PageEnd);
        drop(state);
        self.wake.notify_one();
    }

    /// From here on messages are delivered as they happen.
    pub(crate) fn go_live(&self, epoch: u32, sent: Vec<Position>) {
        let mut state = self.state.lock();
        if state.feed == Feed::CatchingUp(epoch) {
            state.feed = Feed::Live(epoch);
            state.sent = sent;
            if state.is_outdated {
                drop(state);
                self.wake.notify_one();
            }
        }
    }
}
