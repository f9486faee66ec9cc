//! What users use up at all nodes together: each node counts by itself and decides at once, and what a user has used beyond
//! a small part of the limit is added up in Redis, some times a second. Who is over the limit there is refused everywhere.
//!
//! So a limit can be overstepped by what the nodes have not told each other yet: [`PART`] of it each, and what comes within
//! [`INTERVAL`]. While Redis is away each node keeps to the limit alone.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use parking_lot::Mutex;
use redis::Script;
use tokio::time::{Instant, interval};
use tracing::debug;

use crate::redis::Redis;
use crate::store::chain;

/// How often it is added up.
const INTERVAL: Duration = Duration::from_millis(100);
/// What of a limit's burst a node uses before it tells.
const PART: u32 = 16;
/// Questions to Redis at the same time.
const AT_ONCE: usize = 32;
/// Entries after which those that no longer matter are looked for.
const SWEEP_AFTER: usize = 4096;

/// Adds up what was used, as the time (in microseconds, by Redis' clock) until which it would be used up at the limit's pace
/// (the generic cell rate algorithm); returns how far that is ahead of now.
const ADD: &str = "
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    local until_then = tonumber(redis.call('GET', KEYS[1]) or now)
    if until_then < now then until_then = now end
    until_then = until_then + ARGV[1] * ARGV[2]
    local ahead = until_then - now
    redis.call('SET', KEYS[1], string.format('%.0f', until_then), 'PX', math.ceil(ahead / 1000) + 1)
    return string.format('%.0f', ahead)
";

/// A limit's part in it.
#[derive(Debug)]
pub(super) struct Shared {
    /// What one use takes, at the limit's pace.
    each: Duration,
    burst: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: HashMap<Box<str>, Used>,
    /// Those in `used` that are to be told.
    due: Vec<Box<str>>,
    blocked: HashMap<Box<str>, Instant>,
    sweep_after: usize,
}

/// What was used and not told yet.
#[derive(Debug)]
struct Used {
    times: u32,
    since: Instant,
}

impl Shared {
    pub(super) fn new(each: Duration, burst: u32) -> Self {
        Shared {
            each,
            burst,
            state: Mutex::default(),
        }
    }

    /// How long the name has to wait, since it is over the limit at all nodes together.
    pub(super) fn wait(&self, name: &str, now: Instant) -> Option<Duration> {
        let state = self.state.lock();
        let until = state.blocked.get(name)?;
        until
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    /// Counts a use that was allowed here.
    pub(super) fn note(&self, name: &str, now: Instant) {
        let mut state = self.state.lock();
        let State { used, due, .. } = &mut *state;
        let Some(entry) = used.get_mut(name) else {
            let entry = Used {
                times: 1,
                since: now,
            };
            used.insert(name.into(), entry);
            if self.tell_after() <= 1 {
                due.push(name.into());
            }
            self.sweep(&mut state, now);
            return;
        };
        if now - entry.since > self.window() {
            // What was used so long ago is allowed again.
            *entry = Used {
                times: 0,
                since: now,
            };
        }
        entry.times += 1;
        if entry.times == self.tell_after() {
            due.push(name.into());
        }
    }

    /// Adds up at Redis what has to be told.
    async fn tell(&self, redis: &Redis, kind: &str) {
        let due = {
            let mut state = self.state.lock();
            let names = std::mem::take(&mut state.due);
            let taken = |name: Box<str>| state.used.remove(&name).map(|used| (name, used.times));
            names.into_iter().filter_map(taken).collect::<Vec<_>>()
        };
        let script = &Script::new(ADD);
        let each = u64::try_from(self.each.as_micros()).unwrap_or(u64::MAX);
        stream::iter(due)
            .for_each_concurrent(AT_ONCE, async |(name, times)| {
                let key = redis.key(kind, &name);
                match redis.script::<u64>(script, &[key], (times, each)).await {
                    Ok(ahead) => self.told(name, Duration::from_micros(ahead), Instant::now()),
                    Err(error) => {
                        debug!(error = %chain(&error), "what users have used is not shared");
                    }
                }
            })
            .await;
    }

    /// All nodes together are so far ahead of the limit's pace.
    fn told(&self, name: Box<str>, ahead: Duration, now: Instant) {
        let over = ahead.saturating_sub(self.window());
        if !over.is_zero() {
            self.state.lock().blocked.insert(name, now + over);
        }
    }

    fn sweep(&self, state: &mut State, now: Instant) {
        if state.used.len() + state.blocked.len() < state.sweep_after.max(SWEEP_AFTER) {
            return;
        }
        let window = self.window();
        state.used.retain(|_, used| now - used.since <= window);
        state.blocked.retain(|_, until| *until > now);
        state.sweep_after = 2 * (state.used.len() + state.blocked.len());
    }

    /// How long a burst lasts at the limit's pace.
    fn window(&self) -> Duration {
        self.each * self.burst
    }

    fn tell_after(&self) -> u32 {
        (self.burst / PART).max(1)
    }
}

/// Adds up at Redis what all these limits have to tell, as long as it is polled. Each has a name of its own there.
pub(super) async fn run(limits: Vec<(&'static str, &Shared)>, redis: &Redis) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (kind, shared) in &limits {
            shared.tell(redis, kind).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(shared: &Shared) -> usize {
        shared.state.lock().due.len()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_what_matters_is_told() {
        let (shared, begin) = (Shared::new(SECOND, 32), Instant::now());
        shared.note("alice", begin);
        assert_eq!(due(&shared), 0, "it is less than a part of the limit");
        let later = begin + 40 * SECOND;
        shared.note("alice", later);
        assert_eq!(due(&shared), 0, "the first is allowed again");
        shared.note("alice", later);
        shared.note("alice", later);
        assert_eq!(due(&shared), 1);
    }

    #[test]
    fn who_is_over_the_limit_waits() {
        let (shared, now) = (Shared::new(SECOND, 32), Instant::now());
        shared.told("alice".into(), 32 * SECOND, now);
        assert_eq!(shared.wait("alice", now), None);
        shared.told("alice".into(), 35 * SECOND, now);
        assert_eq!(shared.wait("alice", now), Some(3 * SECOND));
        assert_eq!(shared.wait("bob", now), None);
        assert_eq!(shared.wait("alice", now + 3 * SECOND), None);
    }

    #[test]
    fn names_do_not_gather() {
        let shared = Shared::new(SECOND / 1000, 1);
        let mut now = Instant::now();
        for number in 0..3 * SWEEP_AFTER {
            shared.note(&number.to_string(), now);
            now += SECOND / 1000;
        }
        assert!(shared.state.lock().used.len() <= SWEEP_AFTER);
    }
}
