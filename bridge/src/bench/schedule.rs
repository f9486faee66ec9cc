//! When messages are sent and which of them count.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// On the [`Clock`].
pub(super) const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The run's clock: nanoseconds since the first message may be sent, 0 before that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(super) fn starting_in(wait: Duration) -> Clock {
        Clock {
            epoch: Instant::now() + wait,
        }
    }

    pub(super) fn now(self) -> u64 {
        let passed = Instant::now().saturating_duration_since(self.epoch);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The moment when the clock shows `nanos`.
    pub(super) fn at(self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }
}

/// Warm-up, then measuring. The load is the same in both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phases {
    /// From here on it counts, in nanoseconds of the [`Clock`].
    pub start: u64,
    /// What is due from here on is not sent.
    pub end: u64,
}

impl Phases {
    pub(super) fn new(warmup_secs: u32, secs: u32) -> Phases {
        let nanos = |secs: u32| u64::from(secs) * NANOS_PER_SECOND;
        Phases {
            start: nanos(warmup_secs),
            end: nanos(warmup_secs) + nanos(secs),
        }
    }
}

/// What makes a user send the next message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// Room in the window.
    Window,
    /// A timetable that does not care how the server is doing: a message that had to wait for room was late, and
    /// its latency counts from when it was due.
    Timetable { rate: u32, users: u32, user: u32 },
}

/// Whether a message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Yes, and it was due at this time.
    Due(u64),
    /// Not yet.
    Later,
    /// No more messages.
    Never,
}

impl Pace {
    /// The pace of the `user`th of `users`, who together send `rate` messages a second (0: as the window allows).
    pub(super) fn new(rate: u32, users: u32, user: u32) -> Pace {
        match rate {
            0 => Pace::Window,
            rate => Pace::Timetable { rate, users, user },
        }
    }

    /// What to do about the user's `index`th message, counted from 0.
    pub(super) fn next(self, index: usize, now: u64, end: u64) -> Next {
        match self {
            Pace::Window if now >= end => Next::Never,
            Pace::Window => Next::Due(now),
            Pace::Timetable { rate, users, user } => {
                let due = due(rate, index as u64 * u64::from(users) + u64::from(user));
                match due {
                    due if due >= end => Next::Never,
                    due if due > now => Next::Later,
                    due => Next::Due(due),
                }
            }
        }
    }
}

/// The place of the `index`th of `users` in the timetable. Those who send one after the other are far apart in the
/// server's tables; and a run too short for everyone's turn still has its senders all over them.
pub(super) fn place(index: usize, users: usize) -> usize {
    /// A prime number: where it does not divide the number of users, everyone has another place.
    const STRIDE: usize = 7919;
    if users.is_multiple_of(STRIDE) {
        return index;
    }
    index * STRIDE % users
}

/// When the `index`th message of all is due.
fn due(rate: u32, index: u64) -> u64 {
    (u128::from(index) * u128::from(NANOS_PER_SECOND) / u128::from(rate)) as u64
}

/// Wakes each user when its messages are due. A thread, because tokio's timer is only good to a millisecond, which
/// would be most of what is to be measured.
pub(super) fn start_pacer(rate: u32, users: Vec<Arc<Notify>>, clock: Clock, phases: Phases) {
    thread::spawn(move || {
        for index in 0_u64.. {
            let due = due(rate, index);
            if due >= phases.end {
                break;
            }
            let wait = clock.at(due).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait);
            }
            users[index as usize % users.len()].notify_one();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timetable_spreads_the_rate_over_the_users() {
        let phases = Phases::new(1, 2);
        let mut all = Vec::new();
        for user in 0..4 {
            let pace = Pace::new(10, 4, user);
            for index in 0.. {
                match pace.next(index, u64::MAX, phases.end) {
                    Next::Due(due) => all.push(due),
                    Next::Later => panic!("nothing is later than the end of time"),
                    Next::Never => break,
                }
            }
        }
        all.sort_unstable();
        let expected: Vec<u64> = (0..30).map(|index| index * 100_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_late_message_was_due_when_it_was_due() {
        let pace = Pace::new(1, 1, 0);
        let end = 10_000_000_000;
        assert_eq!(pace.next(3, 2_999_999_999, end), Next::Later);
        assert_eq!(pace.next(3, 3_000_000_000, end), Next::Due(3_000_000_000));
        assert_eq!(pace.next(3, 20_000_000_000, end), Next::Due(3_000_000_000));
        assert_eq!(pace.next(10, 20_000_000_000, end), Next::Never);
    }

    #[test]
    fn everyone_has_a_place() {
        for users in [2, 10, 1000, 7919 * 2, 50_000] {
            let mut places: Vec<usize> = (0..users).map(|index| place(index, users)).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..users), "{users}");
        }
    }

    #[test]
    fn a_window_sends_until_the_end() {
        assert_eq!(Pace::Window.next(7, 99, 100), Next::Due(99));
        assert_eq!(Pace::Window.next(7, 100, 100), Next::Never);
    }
}
