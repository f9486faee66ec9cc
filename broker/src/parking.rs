//! Sessions without a connection: what they keep until their client comes back, or their time is over.
//!
//! Bounded in all and per user: where one is too many, the one that was left first ends. They live in memory only; a
//! restart ends them, which clients learn from "session present 0".

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytestring::ByteString;
use parking_lot::Mutex;
use schema::Uid;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::codec::Will;
use crate::registry::Handle;
use crate::session::Lasting;

/// A session that waits for its client.
#[derive(Debug)]
pub(crate) struct Parked {
    /// The connection that it had last.
    pub(crate) handle: Arc<Handle>,
    pub(crate) lasting: Lasting,
    pub(crate) expires_at: Instant,
    /// The will, and when it is due: at the session's end at the latest (MQTT 5, 3.1.3.2.2).
    pub(crate) will: Option<(Will, Instant)>,
}

impl Parked {
    /// When something has to be done about it.
    fn due_at(&self) -> Instant {
        let will_at = self.will.as_ref().map(|(_, at)| *at);
        will_at.map_or(self.expires_at, |at| at.min(self.expires_at))
    }
}

type Key = (Uid, ByteString);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Parking {
    lot: Mutex<Lot>,
    /// The earliest time at which something is due has changed.
    changed: Notify,
    max: usize,
    per_user_max: usize,
}

/// Sessions are numbered in the order in which they were left.
#[derive(Debug, Default)]
struct Lot {
    last_number: u64,
    numbers: HashMap<Key, u64>,
    sessions: BTreeMap<u64, Parked>,
    by_user: HashMap<Uid, BTreeSet<u64>>,
    due: BTreeSet<(Instant, u64)>,
}

impl Lot {
    fn insert(&mut self, parked: Parked) {
        self.last_number += 1;
        let number = self.last_number;
        let handle = &parked.handle;
        let key = (handle.uid.clone(), handle.device.clone());
        self.numbers.insert(key, number);
        let same_user = self.by_user.entry(handle.uid.clone()).or_default();
        same_user.insert(number);
        self.due.insert((parked.due_at(), number));
        self.sessions.insert(number, parked);
    }

    fn remove(&mut self, number: u64) -> Option<Parked> {
        let parked = self.sessions.remove(&number)?;
        let handle = &parked.handle;
        self.numbers
            .remove(&(handle.uid.clone(), handle.device.clone()));
        if let Some(same_user) = self.by_user.get_mut(&handle.uid) {
            same_user.remove(&number);
            if same_user.is_empty() {
                self.by_user.remove(&handle.uid);
            }
        }
        self.due.remove(&(parked.due_at(), number));
        Some(parked)
    }

    /// The user's session that was left first, if the user has more than `max`.
    fn one_too_many(&self, uid: &Uid, max: usize) -> Option<u64> {
        let same_user = self.by_user.get(uid)?;
        (same_user.len() > max)
            .then(|| same_user.first().copied())
            .flatten()
    }
}

impl Parking {
    pub(crate) fn new(max: usize, per_user_max: usize) -> Self {
        Parking {
            lot: Mutex::default(),
            changed: Notify::new(),
            max,
            per_user_max,
        }
    }

    /// Leaves a session here; returns those that have to end for it.
    pub(crate) fn park(&self, parked: Parked) -> Vec<Parked> {
        let mut lot = self.lot.lock();
        let uid = parked.handle.uid.clone();
        let first_due = lot.due.first().copied();
        lot.insert(parked);
        let mut evicted = Vec::new();
        // All clients without user name count as one user, who is bounded by the sessions in all.
        if !uid.is_anonymous()
            && let Some(number) = lot.one_too_many(&uid, self.per_user_max)
        {
            evicted.extend(lot.remove(number));
        }
        if lot.sessions.len() > self.max {
            // Strangers go first: they can come in any number, and users' sessions should not have to give way to them.
            let stranger = lot.one_too_many(&Uid::anonymous(), 0);
            let first = || lot.sessions.first_key_value().map(|(number, _)| *number);
            let number = stranger.or_else(first);
            evicted.extend(number.and_then(|number| lot.remove(number)));
        }
        if lot.due.first().copied() != first_due {
            self.changed.notify_one();
        }
        evicted
    }

    /// Takes a session up, or away.
    pub(crate) fn take(&self, uid: &Uid, device: &ByteString) -> Option<Parked> {
        let mut lot = self.lot.lock();
        let number = *lot.numbers.get(&(uid.clone(), device.clone()))?;
        lot.remove(number)
    }

    /// Takes a session away, if the connection that it had last `is_meant`.
    pub(crate) fn take_if(
        &self,
        uid: &str,
        device: &str,
        is_meant: impl Fn(&Handle) -> bool,
    ) -> Option<Parked> {
        let mut lot = self.lot.lock();
        let (uid, _) = lot.by_user.get_key_value(uid)?;
        let number = *lot.numbers.get(&(uid.clone(), device.into()))?;
        is_meant(&lot.sessions[&number].handle).then(|| lot.remove(number))?
    }

    /// Takes those of a user's sessions that `is_meant`.
    pub(crate) fn take_where(&self, uid: &Uid, is_meant: impl Fn(&Handle) -> bool) -> Vec<Parked> {
        let mut lot = self.lot.lock();
        let numbers = lot.by_user.get(uid).into_iter().flatten();
        let meant = |number: &&u64| is_meant(&lot.sessions[*number].handle);
        let numbers: Vec<u64> = numbers.filter(meant).copied().collect();
        numbers
            .into_iter()
            .filter_map(|number| lot.remove(number))
            .collect()
    }

    /// Takes all of them.
    pub(crate) fn take_all(&self) -> Vec<Parked> {
        let lot = std::mem::take(&mut *self.lot.lock());
        lot.sessions.into_values().collect()
    }

    /// Takes those whose mailboxes are among these.
    pub(crate) fn take_lost(&self, mailboxes: &HashSet<u64>) -> Vec<Parked> {
        if mailboxes.is_empty() {
            return Vec::new();
        }
        let mut lot = self.lot.lock();
        let is_lost = |parked: &Parked| {
            parked
                .lasting
                .mailbox_id()
                .is_some_and(|id| mailboxes.contains(&id))
        };
        let lost = lot.sessions.iter().filter(|(_, parked)| is_lost(parked));
        let numbers: Vec<u64> = lost.map(|(number, _)| *number).collect();
        numbers
            .into_iter()
            .filter_map(|number| lot.remove(number))
            .collect()
    }

    /// Takes the wills that are due, and the sessions whose time is over.
    pub(crate) fn take_due(&self, now: Instant) -> (Vec<(Arc<Handle>, Will)>, Vec<Parked>) {
        let mut lot = self.lot.lock();
        let (mut wills, mut ended) = (Vec::new(), Vec::new());
        while let Some(&(at, number)) = lot.due.first()
            && at <= now
        {
            lot.due.remove(&(at, number));
            let Some(parked) = lot.sessions.get_mut(&number) else {
                continue;
            };
            if let Some((will, _)) = parked.will.take() {
                wills.push((parked.handle.clone(), will));
            }
            if parked.expires_at <= now {
                ended.extend(lot.remove(number));
            } else {
                let next = (parked.due_at(), number);
                lot.due.insert(next);
            }
        }
        (wills, ended)
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.lot.lock().due.first().map(|(at, _)| *at)
    }

    /// Waits until [`Parking::next_due`] may say something else.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn count(&self) -> usize {
        self.lot.lock().sessions.len()
    }
}
