//! Whose a session is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use schema::link::{FromEdge, from_edge};

use crate::session::NO_ANSWER;
use crate::uplinks::Uplinks;

/// The bridge that a session belongs to, if it has one.
#[derive(Debug, Default)]
pub(crate) struct Assigned {
    current: Mutex<Option<Arc<Uplinks>>>,
    /// The number of that bridge; 0: none.
    number: AtomicU64,
    /// The number of the bridge that the session is moving from: it has still to answer, or to hear that the session is no
    /// longer its own. 0: none.
    former: AtomicU64,
    /// Publishes that the bridge has not answered, where it may go away.
    unanswered: AtomicU32,
}

/// Nothing changes while it is held.
pub(super) struct Locked<'a> {
    current: MutexGuard<'a, Option<Arc<Uplinks>>>,
    assigned: &'a Assigned,
}

impl Assigned {
    /// To the bridge, if there is one.
    pub(crate) fn new(bridge: Option<Arc<Uplinks>>) -> Self {
        Assigned {
            number: AtomicU64::new(bridge.as_ref().map_or(0, |bridge| bridge.number)),
            former: AtomicU64::new(0),
            current: Mutex::new(bridge),
            unanswered: AtomicU32::new(0),
        }
    }

    /// As another session of the same user: that one's bridge, or on the way from the same one.
    pub(crate) fn like(other: &Assigned) -> Self {
        let current = other.current.lock().clone();
        Assigned {
            former: AtomicU64::new(other.former.load(Ordering::Acquire)),
            ..Assigned::new(current)
        }
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            current: self.current.lock(),
            assigned: self,
        }
    }

    /// Whether the session is that bridge's.
    pub(crate) fn is_of(&self, bridge: &Uplinks) -> bool {
        self.number.load(Ordering::Acquire) == bridge.number
    }

    /// Whether it is moving from that bridge: nobody's, but not free either.
    pub(super) fn is_moving_from(&self, bridge: &Uplinks) -> bool {
        self.former.load(Ordering::Acquire) == bridge.number
    }

    /// Whether it is moving.
    pub(super) fn is_moving(&self) -> bool {
        self.former.load(Ordering::Acquire) != 0
    }

    /// Whether a bridge may have it.
    pub(super) fn is_free(&self) -> bool {
        self.number.load(Ordering::Acquire) == 0 && !self.is_moving()
    }

    /// Whose it is.
    pub(crate) fn get(&self) -> Option<Arc<Uplinks>> {
        self.current.lock().clone()
    }

    /// Whether the session may read from its client; `None`: no bridge has it.
    pub(super) fn has_room(&self) -> Option<bool> {
        let bridge = self.current.lock();
        bridge.as_ref().map(|bridge| bridge.has_room())
    }

    /// Returns once there may be room again. Where the session is nobody's, its outbox is woken when it is somebody's.
    pub(crate) async fn room(&self) {
        match self.get() {
            Some(bridge) => bridge.room().await,
            None => std::future::pending().await,
        }
    }

    /// The bridge has answered a publish.
    pub(crate) fn answered_by(&self, bridge: &Uplinks) {
        if self.is_of(bridge) || self.is_moving_from(bridge) {
            self.unanswered.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether all publishes are answered.
    pub(super) fn is_idle(&self) -> bool {
        self.unanswered.load(Ordering::Acquire) == 0
    }
}

impl Locked<'_> {
    /// Queues items; `false`: there is no bridge, and they are left.
    pub(super) fn push(&self, items: &mut Vec<FromEdge>) -> bool {
        let Some(bridge) = &*self.current else {
            return false;
        };
        let publishes = items.iter().filter(|item| is_awaited(item)).count();
        let publishes = u32::try_from(publishes).unwrap_or(u32::MAX);
        // Before the answer can come.
        self.assigned
            .unanswered
            .fetch_add(publishes, Ordering::AcqRel);
        let is_pushed = bridge.push(items);
        if !is_pushed {
            self.assigned
                .unanswered
                .fetch_sub(publishes, Ordering::AcqRel);
        }
        is_pushed
    }

    /// It is that bridge's from now on.
    pub(super) fn give_to(&mut self, bridge: Arc<Uplinks>) {
        self.free();
        self.assigned.number.store(bridge.number, Ordering::Release);
        *self.current = Some(bridge);
    }

    /// It is moving from the bridge that has it: what it says from now on waits for the next one.
    pub(super) fn set_out(&mut self) {
        let number = self.assigned.number.swap(0, Ordering::AcqRel);
        self.assigned.former.store(number, Ordering::Release);
        *self.current = None;
    }

    /// Its former bridge has dealt with it, or is gone.
    pub(super) fn free(&mut self) {
        self.assigned.former.store(0, Ordering::Release);
        self.assigned.unanswered.store(0, Ordering::Release);
    }
}

/// Whether it is a publish that the session waits to have answered.
fn is_awaited(item: &FromEdge) -> bool {
    matches!(&item.item, Some(from_edge::Item::Uplink(uplink)) if uplink.token != NO_ANSWER)
}
