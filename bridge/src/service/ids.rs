//! Gives messages their ids.

use std::time::SystemTime;

use schema::MsgId;

/// The counter within a millisecond.
const COUNTER: u64 = 0xfff;
/// Everything of an id below its time.
const BELOW_TIME: u64 = 0x3f_ffff;

/// The ids of one node: each larger than the one before, also when the clock is set back, or the process starts anew
/// with a clock behind the newest stored message.
#[derive(Debug)]
pub struct MsgIds {
    node: u64,
    last: u64,
}

impl MsgIds {
    /// Ids of node `node` (0–1023) after `newest`.
    #[must_use]
    pub fn new(newest: u64, node: u64) -> Self {
        debug_assert!(node < 1024, "a node's number has 10 bits");
        // The next millisecond: `newest` may be another node's.
        MsgIds {
            node,
            last: match newest {
                0 => 0,
                newest => end_of_millisecond(newest, node),
            },
        }
    }

    /// The next id.
    pub fn next(&mut self, now: SystemTime) -> MsgId {
        let earliest = MsgId::at(now).0 | (self.node << 12);
        self.last = if earliest > self.last {
            earliest
        } else if self.last & COUNTER < COUNTER {
            self.last + 1
        } else {
            // The counter is used up: borrow from the next millisecond.
            ((self.last | BELOW_TIME) + 1) | (self.node << 12)
        };
        MsgId(self.last)
    }

    /// Goes on under number `node`, after all ids so far and after `newest`; nothing changes, if that is its number already.
    pub fn go_on_as(&mut self, node: u64, newest: u64) {
        if node != self.node {
            *self = MsgIds::new(self.last.max(newest), node);
        }
    }

    /// The next id, which is also larger than `other`, another node's.
    pub fn after(&mut self, other: u64, now: SystemTime) -> MsgId {
        let next = self.next(now);
        if next.0 > other {
            return next;
        }
        self.last = end_of_millisecond(other, self.node);
        self.next(now)
    }
}

/// The node's last id in the millisecond of an id.
fn end_of_millisecond(id: u64, node: u64) -> u64 {
    (id | BELOW_TIME) & !(0x3ff << 12) | (node << 12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_only_grow_and_keep_their_node() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let later = MsgId::at(now + Duration::from_secs(60)).0;
        let mut ids = MsgIds::new(later, 5);
        let mut last = later;
        for step in 0..10_000_u32 {
            // A clock that runs backwards.
            let id = ids.next(now - Duration::from_millis(step.into())).0;
            assert!(id > last, "{id} after {last}");
            assert_eq!(id >> 12 & 0x3ff, 5);
            last = id;
        }
        let id = ids.next(now + Duration::from_secs(3600));
        assert_eq!(id.time(), now + Duration::from_secs(3600));
    }

    /// A node whose clock is behind another's gives ids after it all the same, and never one twice.
    #[test]
    fn ids_come_after_those_of_others() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let mut ids = MsgIds::new(0, 5);
        let mut last = ids.next(now).0;
        for (ahead, other) in [
            (0, 4),
            (0, 6),
            (1, 5),
            (2000, 1023),
            (1000, 0),
            (2000, 1023),
        ] {
            let other = MsgId::at(now + Duration::from_millis(ahead)).0 | other << 12 | COUNTER;
            let id = ids.after(other, now).0;
            assert!(id > other && id > last, "{id} after {other} and {last}");
            assert_eq!(id >> 12 & 0x3ff, 5);
            last = id;
        }
        assert!(ids.next(now).0 > last);
    }
}
