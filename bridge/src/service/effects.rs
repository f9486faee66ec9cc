//! What follows a transaction once it is committed, beside answers and deliveries.

use schema::Uid;
use schema::bus::Due;
use schema::link::PlainMessage;

use super::appearance::Status;
use super::receipts::Moves;
use crate::cluster::decisions::Made;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Who has acknowledged and read.
    pub(super) moves: Moves,
    /// What sessions want their devices to pass for.
    pub(super) statuses: Vec<(Uid, u64, Status)>,
    /// Users of whom others see something else now, or nothing any more: they are told.
    pub(super) restyled: Vec<Uid>,
    /// Names of conversations of which the members, or what they may, are others now: other nodes are told.
    pub(super) changed: Vec<String>,
    /// What waits for its time, and may have come before what other nodes know of.
    pub(super) due: Vec<Due>,
    /// What is retained for topics now.
    pub(super) retained: Vec<PlainMessage>,
    /// What other nodes have to hear of.
    pub(super) decisions: Vec<Made>,
}

impl Effects {
    /// Adds what another transaction has left.
    pub(super) fn append(&mut self, mut later: Effects) {
        self.moves.cursors.append(&mut later.moves.cursors);
        self.moves.reads.append(&mut later.moves.reads);
        self.statuses.append(&mut later.statuses);
        self.restyled.append(&mut later.restyled);
        self.changed.append(&mut later.changed);
        self.due.append(&mut later.due);
        self.retained.append(&mut later.retained);
        self.decisions.append(&mut later.decisions);
    }
}
