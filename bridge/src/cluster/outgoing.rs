//! What was told and has not left yet.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use schema::bus::Notice;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::frame;

/// Bytes that may wait; what is told beyond is missed by the others.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes beyond which publishes on plain topics are not told: the rest is for what chat needs.
const PASSING_BYTES_MAX: usize = BYTES_MAX / 2;
/// A frame takes no more notices when it has so many bytes: between two frames others get at Redis.
const FRAME_BYTES: usize = 256 * 1024;
/// How old what was told may be when it leaves. Others have found in the database by then what is there.
const AGE_MAX: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: Mutex<Queue>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Notices>,
    bytes: usize,
    /// Something was left out since the last frame was begun.
    is_lossy: bool,
    /// Something has not left yet, and may.
    is_busy: bool,
}

/// The notices of a frame.
#[derive(Debug)]
pub(super) struct Notices {
    pub(super) bytes: BytesMut,
    pub(super) count: u64,
    since: Instant,
    /// Something was left out before them.
    pub(super) is_after_loss: bool,
}

impl Outgoing {
    /// Like [`Outgoing::push`], for publishes on plain topics, as long as half of the room is there. What finds none leaves
    /// no gap, since nobody could fill it from the database.
    pub(super) fn push_passing(&self, notice: &Notice) -> bool {
        self.queue.lock().bytes <= PASSING_BYTES_MAX && self.push(notice)
    }

    /// Whether there was room.
    pub(super) fn push(&self, notice: &Notice) -> bool {
        let mut queue = self.queue.lock();
        if queue.bytes > BYTES_MAX {
            queue.is_lossy = true;
            return false;
        }
        let is_lossy = std::mem::take(&mut queue.is_lossy);
        let fits = |notices: &Notices| notices.bytes.len() < FRAME_BYTES && !is_lossy;
        if !queue.frames.back().is_some_and(fits) {
            queue.frames.push_back(Notices {
                bytes: BytesMut::new(),
                count: 0,
                since: Instant::now(),
                is_after_loss: is_lossy,
            });
        }
        if let Some(notices) = queue.frames.back_mut() {
            let before = notices.bytes.len();
            notices.count += 1;
            frame::append(notice, &mut notices.bytes);
            let more = notices.bytes.len() - before;
            queue.bytes += more;
        }
        queue.is_busy = true;
        drop(queue);
        self.filled.notify_one();
        true
    }

    /// Something is left out.
    pub(super) fn lose(&self) {
        self.queue.lock().is_lossy = true;
        self.filled.notify_one();
    }

    /// Returns when something is there.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// What there is.
    pub(super) fn take(&self) -> Taken {
        let mut queue = self.queue.lock();
        let now = Instant::now();
        let frames = std::mem::take(&mut queue.frames);
        queue.bytes = 0;
        let mut taken = Taken::default();
        for mut notices in frames {
            if now.duration_since(notices.since) > AGE_MAX {
                taken.is_lossy = true;
                taken.too_old += notices.count;
                continue;
            }
            notices.is_after_loss |= std::mem::take(&mut taken.is_lossy);
            taken.frames.push(notices);
        }
        taken.is_lossy |= std::mem::take(&mut queue.is_lossy);
        taken
    }

    /// What was taken has left, or can't.
    pub(super) fn is_done(&self) {
        let mut queue = self.queue.lock();
        queue.is_busy = !queue.frames.is_empty();
        drop(queue);
        self.emptied.notify_waiters();
    }

    /// Returns when everything has left, or can't.
    pub(super) async fn until_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if !self.queue.lock().is_busy {
                return;
            }
            emptied.await;
        }
    }
}

/// What was taken at once.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) frames: Vec<Notices>,
    /// Something was left out after the last of them.
    pub(super) is_lossy: bool,
    /// Notices that were left out for their age.
    pub(super) too_old: u64,
}

#[cfg(test)]
mod tests {
    use schema::bus::notice;

    use super::*;

    fn notice(size: usize) -> Notice {
        Notice {
            notice: Some(notice::Notice::Restyled("x".repeat(size))),
        }
    }

    fn push(outgoing: &Outgoing, size: usize) -> bool {
        outgoing.push(&notice(size))
    }

    /// How many notices each frame has, and whether something is missing before it; then whether it is at the end.
    fn shape(taken: &Taken) -> (Vec<(u64, bool)>, bool) {
        let frames = taken.frames.iter();
        let frames = frames.map(|notices| (notices.count, notices.is_after_loss));
        (frames.collect(), taken.is_lossy)
    }

    #[tokio::test]
    async fn what_finds_no_room_leaves_a_gap() {
        let outgoing = Outgoing::default();
        assert_eq!(shape(&outgoing.take()), (vec![], false));
        for size in [10, 10, FRAME_BYTES, 10] {
            assert!(push(&outgoing, size));
        }
        assert_eq!(
            shape(&outgoing.take()),
            (vec![(3, false), (1, false)], false)
        );

        assert!(push(&outgoing, BYTES_MAX));
        assert!(!push(&outgoing, 10));
        assert_eq!(shape(&outgoing.take()), (vec![(1, false)], true));
        assert!(push(&outgoing, BYTES_MAX));
        assert!(!push(&outgoing, 10));
        // Somebody has taken what was there but this.
        outgoing.queue.lock().bytes = 0;
        assert!(push(&outgoing, 10));
        assert_eq!(
            shape(&outgoing.take()),
            (vec![(1, false), (1, true)], false)
        );
    }

    #[tokio::test]
    async fn half_of_the_room_is_not_for_what_passes() {
        let outgoing = Outgoing::default();
        for _ in 0..2 {
            assert!(outgoing.push_passing(&notice(PASSING_BYTES_MAX)));
            assert!(!outgoing.push_passing(&notice(10)));
            assert!(push(&outgoing, 10));
            assert_eq!(
                shape(&outgoing.take()),
                (vec![(1, false), (1, false)], false)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_leaves_a_gap() {
        let outgoing = Outgoing::default();
        push(&outgoing, FRAME_BYTES);
        tokio::time::advance(AGE_MAX * 2).await;
        push(&outgoing, 10);
        let taken = outgoing.take();
        assert_eq!(
            (shape(&taken), taken.too_old),
            ((vec![(1, true)], false), 1)
        );
        push(&outgoing, 10);
        tokio::time::advance(AGE_MAX * 2).await;
        assert_eq!(shape(&outgoing.take()), (vec![], true));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_empty_when_what_was_taken_has_left() {
        let outgoing = Outgoing::default();
        outgoing.until_empty().await;
        push(&outgoing, 10);
        let emptied = tokio::time::timeout(AGE_MAX, outgoing.until_empty());
        assert!(emptied.await.is_err());
        outgoing.take();
        tokio::join!(outgoing.until_empty(), async { outgoing.is_done() });
    }
}
