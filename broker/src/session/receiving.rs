//! The way down: deliveries that the client has not acknowledged yet.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use schema::link::Position;

/// Deliveries in flight, in the order in which they were sent.
///
/// A client has to acknowledge in that order [MQTT-4.6.0-2]. One that doesn't is served all the same: a position
/// counts once everything before it is acknowledged, so that a cursor never passes a message the client may not have.
#[derive(Debug)]
pub(super) struct Receiving {
    in_flight: VecDeque<InFlight>,
    window: usize,
    last_packet_id: u16,
    acknowledged: Vec<Position>,
}

#[derive(Debug)]
struct InFlight {
    packet_id: NonZeroU16,
    position: Position,
    is_acknowledged: bool,
}

impl Receiving {
    pub(super) fn new(window: usize) -> Self {
        Receiving {
            in_flight: VecDeque::new(),
            window,
            last_packet_id: 0,
            acknowledged: Vec::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight.len() < self.window
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// 1, 2, 3 … 65,535, 1 …; the window is far smaller, so that an id is free again when its turn comes.
    pub(super) fn next_packet_id(&mut self) -> NonZeroU16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        NonZeroU16::new(self.last_packet_id).unwrap_or(NonZeroU16::MIN)
    }

    /// Notes what a packet id stands for.
    pub(super) fn sent(&mut self, packet_id: NonZeroU16, position: Position) {
        self.in_flight.push_back(InFlight {
            packet_id,
            position,
            is_acknowledged: false,
        });
    }

    /// Takes a PUBACK. One for a packet id that is not in flight changes nothing (MQTT 5, 4.3.2 leaves it open).
    pub(super) fn acknowledge(&mut self, packet_id: NonZeroU16) {
        let entry = self
            .in_flight
            .iter_mut()
            .find(|entry| entry.packet_id == packet_id);
        let Some(entry) = entry else { return };
        entry.is_acknowledged = true;
        while let Some(front) = self.in_flight.front() {
            if !front.is_acknowledged {
                return;
            }
            let position = front.position;
            self.in_flight.pop_front();
            self.note(position);
        }
        self.in_flight = VecDeque::new();
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
}
