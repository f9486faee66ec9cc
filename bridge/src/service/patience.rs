//! Waiting for a database that is away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::store;

/// Waiting between attempts: at first, and at most.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Attempts after another transaction was in the way that are made almost at once.
const CONFLICTS_MAX: u32 = 8;

/// The attempts of something that must succeed in the end.
pub(super) struct Patience<'a> {
    is_stalled: &'a AtomicBool,
    wait: Duration,
    conflicts: u32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(is_stalled: &'a AtomicBool) -> Self {
        Patience {
            is_stalled,
            wait: WAIT_MIN,
            conflicts: 0,
        }
    }

    /// Waits for a while, longer each time; hardly at all where only another transaction was in the way.
    pub(super) async fn wait_after(&mut self, error: &store::Error) {
        if !matches!(error, store::Error::Unavailable(_)) && self.conflicts < CONFLICTS_MAX {
            debug!(error = %store::chain(error), "another transaction was in the way");
            tokio::time::sleep(Duration::from_millis(self.conflicts.into())).await;
            self.conflicts += 1;
            return;
        }
        if !self.is_stalled.swap(true, Ordering::Relaxed) {
            warn!(error = %store::chain(error), "the database is away: commands and subscriptions wait");
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(WAIT_MAX);
    }

    /// It has succeeded.
    pub(super) fn end(self) {
        if self.is_stalled.swap(false, Ordering::Relaxed) {
            info!("the database is back");
        }
    }
}
