//! Devices and users that have left, until the database knows it. Each node writes what happened there; of the others it
//! remembers for as long what they are about to write.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use schema::Uid;
use schema::link::Disconnected;
use tokio::time::Instant;

use crate::service::appearance::Place;
use crate::store::devices::Departure;

/// How long an end may wait for others.
const DELAY: Duration = Duration::from_secs(1);
/// How many may wait.
pub(super) const PENDING_MAX: usize = 4096;

/// Users' devices that have left.
type Left = HashMap<(Uid, String), End>;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Departures {
    left: Left,
    /// Those that are being written.
    leaving: Left,
    /// When the first of them came.
    since: Option<Instant>,
    /// When users were last seen who have left, and those of them that were written last: who has read the database
    /// before that finds them here.
    last_seen: HashMap<Uid, Seen>,
    written_users: HashMap<Uid, Seen>,
}

/// The end of a device's connection.
#[derive(Clone, Debug)]
struct End {
    at: SystemTime,
    reason: String,
    is_ours: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: SystemTime,
    is_ours: bool,
}

impl Departures {
    /// A connection has ended there. Nothing is kept of a device that does not come again.
    pub(super) fn note(
        &mut self,
        uid: Uid,
        there: Place,
        disconnected: Disconnected,
        now: SystemTime,
    ) {
        if disconnected.nameless {
            return;
        }
        let end = End {
            at: now,
            reason: disconnected.reason,
            is_ours: there == Place::Here,
        };
        self.left.insert((uid, disconnected.device), end);
        self.wait();
    }

    /// A user was seen there until now.
    pub(super) fn note_last_seen(&mut self, uid: &Uid, there: Place, now: SystemTime) {
        let seen = Seen {
            at: now,
            is_ours: there == Place::Here,
        };
        self.last_seen.insert(uid.clone(), seen);
        self.wait();
    }

    /// Nobody else writes when that user was last seen.
    pub(super) fn take_over(&mut self, uid: &Uid) {
        if let Some(seen) = self.last_seen.get_mut(uid) {
            seen.is_ours = true;
        }
    }

    fn wait(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    pub(super) fn last_seen_at(&self, uid: &Uid) -> Option<SystemTime> {
        let last_seen = self.last_seen.get(uid);
        let seen = last_seen.or_else(|| self.written_users.get(uid));
        seen.map(|seen| seen.at)
    }

    /// When and why the user's devices have left.
    pub(super) fn of(&self, uid: &Uid) -> HashMap<String, (SystemTime, String)> {
        let ends = self.leaving.iter().chain(&self.left);
        ends.filter(|((of, _), _)| of == uid)
            .map(|((_, device), end)| (device.clone(), (end.at, end.reason.clone())))
            .collect()
    }

    /// When they have to be written; `None`: nothing is waiting.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.since.map(|since| since + DELAY)
    }

    pub(super) fn is_due(&self) -> bool {
        self.left.len().max(self.last_seen.len()) >= PENDING_MAX
            || self.due_at().is_some_and(|at| at <= Instant::now())
    }

    /// Those that are to be written. They are known here until they are.
    pub(super) fn take(&mut self) -> Vec<Departure> {
        self.since = None;
        self.leaving = std::mem::take(&mut self.left);
        let ours = self.leaving.iter().filter(|(_, end)| end.is_ours);
        let departure = |((uid, device), end): (&(Uid, String), &End)| Departure {
            uid: uid.clone(),
            device: device.clone(),
            at: end.at,
            reason: end.reason.clone(),
        };
        let mut departures: Vec<Departure> = ours.map(departure).collect();
        // In one order on all nodes, so that two transactions don't wait for each other.
        departures.sort_unstable_by(|a, b| (&a.uid, &a.device).cmp(&(&b.uid, &b.device)));
        departures
    }

    /// The users who have left, and when they were last seen.
    pub(super) fn take_last_seen(&mut self) -> Vec<(Uid, SystemTime)> {
        let left = std::mem::take(&mut self.last_seen);
        if left.is_empty() {
            return Vec::new();
        }
        let ours = left.iter().filter(|(_, seen)| seen.is_ours);
        let mut ours: Vec<_> = ours.map(|(uid, seen)| (uid.clone(), seen.at)).collect();
        ours.sort_unstable();
        self.written_users = left;
        ours
    }

    /// What was taken is in the database, or given up.
    pub(super) fn written(&mut self) {
        self.leaving.clear();
    }
}
