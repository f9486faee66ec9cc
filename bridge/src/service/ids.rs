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
    pub fn after(newest: u64, node: u64) -> Self {
        debug_assert!(node < 1024, "a node's number has 10 bits");
        // The next millisecond: `newest` may be another node's.
        let last = (newest | BELOW_TIME) & !(0x3ff << 12) | (node << 12);
        MsgIds {
            node,
            last: if newest == 0 { 0 } else { last },
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_only_grow_and_keep_their_node() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let later = MsgId::at(now + Duration::from_secs(60)).0;
        let mut ids = MsgIds::after(later, 5);
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
}
