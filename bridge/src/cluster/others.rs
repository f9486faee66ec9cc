//! Which nodes there are, by what is heard of them, and whether something is missing.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Identity;

/// A node of which nothing is heard for so long is gone: five heartbeats may be lost.
const SILENCE: Duration = Duration::from_secs(3);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Others {
    known: HashMap<u32, Other>,
}

#[derive(Debug)]
struct Other {
    boot: u64,
    /// Of the last frame with notices that is known to exist.
    number: u64,
    heard_at: Instant,
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Its notices are new.
    pub(super) is_new: bool,
    /// Frames before it are missing.
    pub(super) has_missed: bool,
    /// The node that was known by this number is no longer there.
    pub(super) has_left: bool,
}

impl Others {
    /// A frame with that number has come, with notices or without.
    pub(super) fn take(
        &mut self,
        from: Identity,
        number: u64,
        has_notices: bool,
        now: Instant,
    ) -> Verdict {
        let more = u64::from(has_notices);
        let known = self.known.get_mut(&from.node);
        let has_left = match known {
            Some(other) if other.boot == from.boot => {
                other.heard_at = now;
                let expected = other.number + more;
                let is_new = number >= expected;
                other.number = other.number.max(number);
                return Verdict {
                    is_new,
                    has_missed: number > expected,
                    has_left: false,
                };
            }
            // Somebody who should not be there any more: what it has stored is found in the database.
            Some(other) if other.boot > from.boot => {
                return Verdict {
                    has_missed: has_notices,
                    ..Verdict::default()
                };
            }
            Some(_) => true,
            None => false,
        };
        let other = Other {
            boot: from.boot,
            number,
            heard_at: now,
        };
        self.known.insert(from.node, other);
        Verdict {
            is_new: true,
            has_missed: number > more,
            has_left,
        }
    }

    /// Those that have been silent for too long; they are forgotten.
    pub(super) fn silent(&mut self, now: Instant) -> Vec<u32> {
        let is_silent = |_: &u32, other: &mut Other| now.duration_since(other.heard_at) >= SILENCE;
        let silent = self.known.extract_if(is_silent);
        silent.map(|(node, _)| node).collect()
    }

    /// Nobody could be heard until now.
    pub(super) fn was_deaf(&mut self, now: Instant) {
        for other in self.known.values_mut() {
            other.heard_at = now;
        }
    }

    /// Their numbers.
    pub(super) fn nodes(&self) -> impl Iterator<Item = u32> {
        self.known.keys().copied()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Verdict = Verdict {
        is_new: true,
        has_missed: false,
        has_left: false,
    };
    const GAP: Verdict = Verdict {
        has_missed: true,
        ..NEW
    };
    const OLD: Verdict = Verdict {
        is_new: false,
        ..NEW
    };

    #[test]
    fn gaps_and_restarts_are_seen() {
        let mut others = Others::default();
        let now = Instant::now();
        for (step, (boot, number, has_notices, expected)) in [
            // From its first frame on, or from a heartbeat before that.
            (10, 0, false, NEW),
            (10, 1, true, NEW),
            (10, 2, true, NEW),
            (10, 2, false, NEW),
            (10, 2, true, OLD),
            (10, 1, true, OLD),
            (10, 4, true, GAP),
            // The heartbeat knows of one that has not come.
            (10, 5, false, GAP),
            (10, 5, false, NEW),
            (10, 5, true, OLD),
            // A new life.
            (
                11,
                1,
                true,
                Verdict {
                    has_left: true,
                    ..NEW
                },
            ),
            (
                10,
                6,
                true,
                Verdict {
                    has_missed: true,
                    ..OLD
                },
            ),
            (10, 6, false, OLD),
            (
                12,
                3,
                true,
                Verdict {
                    has_left: true,
                    ..GAP
                },
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let from = Identity { node: 1, boot };
            let verdict = others.take(from, number, has_notices, now);
            assert_eq!(verdict, expected, "step {step}");
        }
        let from = Identity { node: 2, boot: 1 };
        assert_eq!(others.take(from, 7, false, now), GAP);
        assert_eq!(others.len(), 2);
    }

    #[test]
    fn who_is_silent_has_left_but_not_while_nobody_could_be_heard() {
        let mut others = Others::default();
        let start = Instant::now();
        for node in [1, 2] {
            others.take(Identity { node, boot: 1 }, 1, true, start);
        }
        let later = start + SILENCE;
        others.take(Identity { node: 1, boot: 1 }, 1, false, later);
        assert_eq!(others.silent(later), [2]);
        assert!(others.silent(later).is_empty());

        others.was_deaf(later + SILENCE);
        assert!(others.silent(later + SILENCE).is_empty());
        assert_eq!(others.silent(later + SILENCE * 2), [1]);
        // It was not gone after all.
        let back = others.take(Identity { node: 1, boot: 1 }, 9, true, later);
        assert_eq!(back, GAP);
    }
}
