//! Waiting for a database that is away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use crate::store;

/// Waiting between attempts: at first, and at most.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The attempts of something that must succeed in the end.
pub(super) struct Patience<'a> {
    is_stalled: &'a AtomicBool,
    wait: Duration,
}

impl<'a> Patience<'a> {
    pub(super) fn new(is_stalled: &'a AtomicBool) -> Self {
        Patience {
            is_stalled,
            wait: WAIT_MIN,
        }
    }

    /// Waits for a while, longer each time.
    pub(super) async fn wait_after(&mut self, error: &store::Error) {
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
