//! What the archiver of this node has done since the start, for the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Counts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(in crate::service) struct Counts {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    moved: AtomicU64,
    dropped: AtomicU64,
    written: AtomicU64,
    bytes: AtomicU64,
    removed: AtomicU64,
    failures: AtomicU64,
    /// In seconds since 1970; 0: none yet.
    walked_at: AtomicU64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Messages that have gone to files.
    pub moved: u64,
    /// Messages that were deleted for their age.
    pub dropped: u64,
    /// Files that were written, those that took another's place included.
    pub written: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were deleted.
    pub removed: u64,
    /// Times that something could not be done and was put off.
    pub failures: u64,
    /// When all conversations had been looked at last, since 1970; `None`: not by this node.
    pub walked_at: Option<Duration>,
}

impl Counts {
    pub(super) fn moved(&self, messages: usize) {
        add(&self.inner.moved, messages);
    }

    pub(super) fn dropped(&self, messages: u64) {
        self.inner.dropped.fetch_add(messages, Ordering::Relaxed);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        add(&self.inner.written, 1);
        add(&self.inner.bytes, bytes);
    }

    pub(super) fn removed(&self) {
        add(&self.inner.removed, 1);
    }

    pub(super) fn failed(&self) {
        add(&self.inner.failures, 1);
    }

    pub(super) fn walked(&self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let walked_at = &self.inner.walked_at;
        walked_at.store(since.as_secs(), Ordering::Relaxed);
    }

    pub(in crate::service) fn figures(&self) -> Figures {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let walked_at = of(&self.inner.walked_at);
        Figures {
            moved: of(&self.inner.moved),
            dropped: of(&self.inner.dropped),
            written: of(&self.inner.written),
            bytes: of(&self.inner.bytes),
            removed: of(&self.inner.removed),
            failures: of(&self.inner.failures),
            walked_at: (walked_at > 0).then(|| Duration::from_secs(walked_at)),
        }
    }
}

fn add(count: &AtomicU64, more: usize) {
    count.fetch_add(more as u64, Ordering::Relaxed);
}
