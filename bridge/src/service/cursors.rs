//! What devices have acknowledged and the database does not know yet.
//!
//! Cursors are written a little later than they move, many positions of a device in one row. What a crash takes from
//! here is delivered again.

use std::collections::HashMap;
use std::time::Duration;

use schema::Uid;
use schema::link::Acked;
use tokio::time::Instant;

use crate::store::devices::Cursor;

/// How long a position may wait for others.
const DELAY: Duration = Duration::from_millis(50);
/// How many may wait.
const PENDING_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Cursors {
    pending: HashMap<(Uid, String, i64), (u32, u64)>,
    since: Option<Instant>,
}

impl Cursors {
    pub(super) fn note(&mut self, acked: Acked) {
        let Ok(uid) = acked.uid.parse::<Uid>() else {
            return;
        };
        for position in acked.positions {
            let key = (
                uid.clone(),
                acked.device.clone(),
                position.conversation.cast_signed(),
            );
            self.note_position(key, position.seq, position.msg_id);
        }
    }

    /// Notes cursors that moved without an acknowledgement.
    pub(super) fn note_all(&mut self, cursors: Vec<Cursor>) {
        for cursor in cursors {
            let key = (cursor.uid, cursor.device, cursor.conversation_id);
            self.note_position(key, cursor.seq, cursor.msg_id);
        }
    }

    fn note_position(&mut self, key: (Uid, String, i64), seq: u32, msg_id: u64) {
        let position = self.pending.entry(key).or_default();
        if seq > position.0 {
            *position = (seq, msg_id);
        }
        self.since.get_or_insert_with(Instant::now);
    }

    /// When they have to be written; `None`: nothing is waiting.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.since.map(|since| since + DELAY)
    }

    pub(super) fn is_due(&self) -> bool {
        self.pending.len() >= PENDING_MAX || self.due_at().is_some_and(|at| at <= Instant::now())
    }

    pub(super) fn take(&mut self) -> Vec<Cursor> {
        self.since = None;
        let cursor = |((uid, device, conversation_id), (seq, msg_id))| Cursor {
            uid,
            device,
            conversation_id,
            seq,
            msg_id,
        };
        let mut cursors: Vec<Cursor> = self.pending.drain().map(cursor).collect();
        // In one order on all nodes, so that two transactions don't wait for each other.
        cursors.sort_unstable_by(|a, b| {
            (a.conversation_id, &a.uid, &a.device).cmp(&(b.conversation_id, &b.uid, &b.device))
        });
        cursors
    }
}
