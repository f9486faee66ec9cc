//! What a node may be about to store with ids that it gave some time ago.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::store::nodes;

/// Nothing is under way.
const IDLE: i64 = i64::MAX;

/// See the module's documentation. Times are in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Work {
    /// When the transaction under way was begun.
    busy_since: AtomicI64,
    /// The same of one of which nobody knows whether the database will commit it, and how long it may.
    doubted: Mutex<Option<(i64, Instant)>>,
}

impl Default for Work {
    fn default() -> Self {
        Work {
            busy_since: AtomicI64::new(IDLE),
            doubted: Mutex::default(),
        }
    }
}

impl Work {
    /// A transaction begins.
    pub(super) fn begin(self: &Arc<Self>, since: i64) -> Busy {
        self.busy_since.store(since, Ordering::SeqCst);
        Busy {
            work: self.clone(),
            since,
        }
    }

    /// When the oldest that there may be was begun, if that was before `now`.
    pub(super) fn oldest(&self, now: i64) -> i64 {
        let since = self.busy_since.load(Ordering::SeqCst);
        now.min(since).min(self.doubted_since())
    }

    fn doubted_since(&self) -> i64 {
        let doubted = *self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        doubted
            .filter(|(_, until)| Instant::now() < *until)
            .map_or(IDLE, |(since, _)| since)
    }
}

/// A transaction that gives ids is under way.
#[derive(Debug)]
pub(crate) struct Busy {
    work: Arc<Work>,
    since: i64,
}

impl Busy {
    /// The database did not say whether it has committed the transaction, and may still do so.
    pub(crate) fn doubt(&self) {
        let since = self.since.min(self.work.doubted_since());
        let doubted = Some((since, Instant::now() + nodes::GRACE));
        *self
            .work
            .doubted
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = doubted;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.work.busy_since.store(IDLE, Ordering::SeqCst);
    }
}
