//! When work that waits for its time is due, without looking again and again: the pipeline says when there is
//! something new, and a task in the background sleeps until the earliest.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock;
use crate::cluster::duty::Duty;
use crate::store;

/// How long to wait before looking again, after the database did not answer or the work was not done.
const RETRY: Duration = Duration::from_secs(1);
/// The clock may have been set: it is looked at this often.
const LOOK: Duration = Duration::from_secs(60);
/// The same where there may be other nodes.
const LOOK_SHARED: Duration = Duration::from_secs(3);
/// No time at all.
const NEVER: i64 = i64::MAX;

/// Work that waits for its time.
pub(super) trait Due {
    /// When the earliest that is stored is due, in milliseconds since 1970.
    fn next(&self) -> impl Future<Output = Result<Option<i64>, store::Error>> + Send;
}

/// The pipeline's end: times that a transaction has stored count when it has been committed.
#[derive(Debug)]
pub(super) struct Alarm {
    bell: Arc<Bell>,
    staged: i64,
}

/// The task's end.
#[derive(Debug)]
pub(super) struct Bell {
    /// For when the task waits, in milliseconds since 1970.
    awaited: AtomicI64,
    earlier: Notify,
}

impl Default for Alarm {
    fn default() -> Self {
        Alarm {
            bell: Arc::new(Bell {
                awaited: AtomicI64::new(NEVER),
                earlier: Notify::new(),
            }),
            staged: NEVER,
        }
    }
}

impl Alarm {
    pub(super) fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// The transaction has stored something that is due at `at`, in milliseconds since 1970.
    pub(super) fn stage(&mut self, at: i64) {
        self.staged = self.staged.min(at);
    }

    /// The transaction was committed.
    ///
    /// Returns whether other nodes should hear of it, since the one that looks after it would not see it in time.
    pub(super) fn commit(&mut self) -> bool {
        let staged = std::mem::replace(&mut self.staged, NEVER);
        if staged < self.bell.awaited.load(Ordering::SeqCst) {
            self.bell.earlier.notify_one();
        }
        let looked_at = clock::millis(SystemTime::now() + LOOK_SHARED);
        staged < looked_at
    }

    /// The transaction was not committed.
    pub(super) fn rollback(&mut self) {
        self.staged = NEVER;
    }
}

impl Bell {
    /// Another node has stored something that may be due soon.
    pub(super) fn ring(&self) {
        self.earlier.notify_one();
    }

    /// Returns when something is due, and it is this node that looks after it. `None`: the service stops.
    pub(super) async fn rung(
        &self,
        stop: &CancellationToken,
        due: &impl Due,
        duty: &mut Duty,
    ) -> Option<()> {
        loop {
            stop.run_until_cancelled(duty.held()).await?;
            // Whatever is committed from here on is noticed, whether `next` has seen it or not.
            self.awaited.store(NEVER, Ordering::SeqCst);
            let wait = match due.next().await {
                Ok(next) => {
                    let at = next.unwrap_or(NEVER);
                    self.awaited.store(at, Ordering::SeqCst);
                    let left = at.saturating_sub(clock::millis(SystemTime::now()));
                    let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else {
                        return Some(());
                    };
                    Duration::from_millis(left).min(look_after(duty))
                }
                Err(error) => {
                    // The pipeline warns of it, once for everybody.
                    debug!(error = %store::chain(&error), "what is due can't be read");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                () = self.earlier.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Other nodes may have stored something earlier, and what they tell of it may be lost.
fn look_after(duty: &Duty) -> Duration {
    if duty.is_shared() { LOOK_SHARED } else { LOOK }
}

/// Waits before work that could not be done is tried again.
pub(super) async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(RETRY) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells one time, and counts how often it was asked.
    struct Stored {
        at: AtomicI64,
        asked: AtomicI64,
    }

    impl Due for Stored {
        async fn next(&self) -> Result<Option<i64>, store::Error> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Ok(Some(self.at.load(Ordering::SeqCst)))
        }
    }

    /// A task that waits for long hears of something earlier, once that is committed.
    #[tokio::test]
    async fn what_is_earlier_wakes() {
        let mut alarm = Alarm::default();
        let bell = alarm.bell();
        let now = clock::millis(SystemTime::now());
        let stored = Arc::new(Stored {
            at: AtomicI64::new(now + 1_000_000_000),
            asked: AtomicI64::new(0),
        });
        let task = tokio::spawn({
            let stored = stored.clone();
            async move {
                let stop = CancellationToken::new();
                bell.rung(&stop, &*stored, &mut Duty::always()).await
            }
        });
        tokio::task::yield_now().await;
        for at in [now + 2_000_000_000, now - 1] {
            alarm.stage(at);
            alarm.rollback();
            alarm.commit();
        }
        alarm.stage(now + 2_000_000_000);
        alarm.commit();
        tokio::task::yield_now().await;
        assert_eq!(
            stored.asked.load(Ordering::SeqCst),
            1,
            "later, or not committed"
        );
        stored.at.store(now - 1, Ordering::SeqCst);
        alarm.stage(now - 1);
        alarm.commit();
        assert_eq!(task.await.unwrap(), Some(()));
        assert_eq!(stored.asked.load(Ordering::SeqCst), 2);
    }
}
