//! The way down: deliveries that the client has not acknowledged yet.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use schema::link::Position;

use crate::codec::Qos;
use crate::plain::mailbox::Delivery;

/// Deliveries in flight, in the order in which they were sent.
///
/// A client has to acknowledge in that order [MQTT-4.6.0-2]. One that doesn't is served all the same: a position
/// counts once everything before it is acknowledged, so that a cursor never passes a message the client may not have.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    in_flight: VecDeque<InFlight>,
    /// How many at the end of `in_flight` the client has to be sent again: it has a new connection.
    unsent: usize,
    window: usize,
    /// Of the plain messages in flight: what they are, and how many may be before nothing new is sent.
    bytes: usize,
    bytes_max: usize,
    /// How many in flight are of chats.
    chats: usize,
    last_packet_id: u16,
    /// Packet ids of an earlier connection are in flight, so that the next one may be among them.
    is_resumed: bool,
    acknowledged: Vec<Position>,
}

#[derive(Debug)]
struct InFlight {
    packet_id: NonZeroU16,
    what: What,
    stage: Stage,
}

/// What a packet id stands for.
#[derive(Debug)]
enum What {
    Chat(Position),
    Plain(Delivery),
    /// The client has said that it has the message.
    Received,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// PUBLISH was sent.
    Published,
    /// PUBREL was sent.
    Released,
    Done,
}

/// What a client that has come back has to be sent again [MQTT-4.4.0-1].
#[derive(Debug)]
pub(super) enum Again {
    Publish(NonZeroU16, Delivery),
    PubRel(NonZeroU16),
}

impl Receiving {
    /// Goes on with a connection, the session's first or another. Chat is not sent again from here: it is caught up from
    /// the database.
    pub(super) fn resume(&mut self, window: usize, bytes_max: usize) {
        self.window = window;
        self.bytes_max = bytes_max;
        self.in_flight
            .retain(|entry| !matches!(entry.what, What::Chat(_)) && entry.stage != Stage::Done);
        self.chats = 0;
        self.unsent = self.in_flight.len();
        self.is_resumed = self.unsent > 0;
    }

    /// What is to be sent again next, as far as the window has room.
    pub(super) fn next_again(&mut self) -> Option<Again> {
        let index = self.in_flight.len() - self.unsent;
        let entry = self.in_flight.get(index)?;
        if index >= self.window {
            return None;
        }
        self.unsent -= 1;
        Some(match &entry.what {
            What::Plain(delivery) => Again::Publish(entry.packet_id, delivery.clone()),
            What::Chat(_) | What::Received => Again::PubRel(entry.packet_id),
        })
    }

    /// Whether something new may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.unsent == 0 && self.in_flight.len() < self.window && self.bytes < self.bytes_max
    }

    /// Whether every message of a chat that was sent is acknowledged.
    pub(super) fn is_without_chat(&self) -> bool {
        self.chats == 0
    }

    /// 1, 2, 3 … 65,535, 1 …; the window is far smaller, so that an id is free again when its turn comes, except where
    /// one was left over from an earlier connection.
    pub(super) fn next_packet_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let id = NonZeroU16::new(self.last_packet_id).unwrap_or(NonZeroU16::MIN);
            if !self.is_resumed || self.find(id).is_none() {
                return id;
            }
        }
    }

    /// Notes that a packet id stands for a message of a chat.
    pub(super) fn sent_chat(&mut self, packet_id: NonZeroU16, position: Position) {
        self.chats += 1;
        self.sent(packet_id, What::Chat(position));
    }

    /// Notes that a packet id stands for a plain message.
    pub(super) fn sent_plain(&mut self, packet_id: NonZeroU16, delivery: Delivery) {
        self.bytes += delivery.message.size();
        self.sent(packet_id, What::Plain(delivery));
    }

    fn sent(&mut self, packet_id: NonZeroU16, what: What) {
        self.in_flight.push_back(InFlight {
            packet_id,
            what,
            stage: Stage::Published,
        });
    }

    fn find(&mut self, packet_id: NonZeroU16) -> Option<&mut InFlight> {
        let mut entries = self.in_flight.iter_mut();
        entries.find(|entry| entry.packet_id == packet_id)
    }

    /// Takes a PUBACK. One for a packet id that is not in flight changes nothing (MQTT 5, 4.3.2 leaves it open).
    pub(super) fn acknowledge(&mut self, packet_id: NonZeroU16) {
        let Some(entry) = self.find(packet_id) else {
            return;
        };
        match &entry.what {
            What::Chat(_) => entry.stage = Stage::Done,
            What::Plain(delivery) if delivery.qos == Qos::AtLeastOnce => {
                entry.stage = Stage::Done;
                self.let_go(packet_id);
            }
            What::Plain(_) | What::Received => return,
        }
        self.settle();
    }

    /// Takes a PUBREC; tells whether its packet id is one of a QoS 2 delivery. With `is_refused` the client does not
    /// want the message, and nothing more is said of it (MQTT 5, 4.3.3).
    pub(super) fn receive(&mut self, packet_id: NonZeroU16, is_refused: bool) -> bool {
        let Some(entry) = self.find(packet_id) else {
            return false;
        };
        let is_qos2 = match &entry.what {
            What::Plain(delivery) => delivery.qos == Qos::ExactlyOnce,
            What::Received => true,
            What::Chat(_) => false,
        };
        if !is_qos2 {
            return false;
        }
        entry.stage = if is_refused {
            Stage::Done
        } else {
            Stage::Released
        };
        self.let_go(packet_id);
        self.settle();
        true
    }

    /// What has to be sent again can't be: the user may no longer see it, or it is too large.
    pub(super) fn give_up(&mut self, packet_id: NonZeroU16) {
        if let Some(entry) = self.find(packet_id) {
            entry.stage = Stage::Done;
            self.let_go(packet_id);
            self.settle();
        }
    }

    /// Takes a PUBCOMP.
    pub(super) fn complete(&mut self, packet_id: NonZeroU16) {
        if let Some(entry) = self.find(packet_id)
            && entry.stage == Stage::Released
        {
            entry.stage = Stage::Done;
            self.settle();
        }
    }

    /// The message itself is no longer needed.
    fn let_go(&mut self, packet_id: NonZeroU16) {
        if let Some(entry) = self.find(packet_id)
            && let What::Plain(delivery) = std::mem::replace(&mut entry.what, What::Received)
        {
            self.bytes -= delivery.message.size();
        }
    }

    /// Notes how far the client has come in chats, which is not held up by plain messages, and takes what is done from
    /// the front.
    fn settle(&mut self) {
        for index in 0..self.in_flight.len() {
            let entry = &mut self.in_flight[index];
            let What::Chat(position) = entry.what else {
                continue;
            };
            if entry.stage != Stage::Done {
                break;
            }
            entry.what = What::Received;
            self.chats -= 1;
            self.note(position);
        }
        while let Some(front) = self.in_flight.front() {
            if front.stage != Stage::Done {
                return;
            }
            // Acknowledged without having been sent again: an answer to the earlier connection, said late.
            self.unsent = self.unsent.min(self.in_flight.len() - 1);
            self.in_flight.pop_front();
        }
        self.in_flight = VecDeque::new();
        self.is_resumed = false;
    }

    /// Keeps one position per conversation where they come in a row, as they mostly do.
    fn note(&mut self, position: Position) {
        match self.acknowledged.last_mut() {
            Some(last) if last.conversation == position.conversation => *last = position,
            _ => self.acknowledged.push(position),
        }
    }

    /// The positions acknowledged since the last call.
    pub(super) fn take_acknowledged(&mut self) -> Vec<Position> {
        std::mem::take(&mut self.acknowledged)
    }

    /// The session ends: what the client has not said to have.
    pub(super) fn into_unacknowledged(self) -> impl Iterator<Item = Delivery> {
        self.in_flight
            .into_iter()
            .filter_map(|entry| match entry.what {
                What::Plain(delivery) if entry.stage != Stage::Done => Some(delivery),
                _ => None,
            })
    }
}
