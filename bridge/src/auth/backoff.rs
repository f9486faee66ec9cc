//! How long to wait after wrong passwords.
//!
//! Failures are counted for each uid at each address, and, ten times as many allowed, for each address whichever uids it
//! tries. An attempt counts from its beginning, before it is known to fail: guesses at the same time get no further than
//! one after the other.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lru::LruCache;
use parking_lot::Mutex;
use schema::Uid;
use tokio::sync::Notify;
use tracing::warn;

use crate::settings::{AuthOptions, NetworkOptions};

/// Pairs and addresses that are remembered; the one that was not heard of for the longest time makes room.
const ENTRIES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// How many failures of an address count like one of a pair: others may be behind the same address.
const ADDRESS_FACTOR: u32 = 10;

/// There were too many wrong passwords: this long nothing is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many wrong passwords; wait before the next try")]
pub struct TooManyFailures(pub Duration);

/// Counts failures. Cheap to clone.
#[derive(Clone)]
pub struct Backoff {
    shared: Arc<Shared>,
}

struct Shared {
    /// 0: failures are not counted.
    failures_max: u32,
    wait: Duration,
    wait_max: Duration,
    /// Here failures count for pairs only.
    trusted: Vec<IpNet>,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    table: Mutex<LruCache<Key, Entry>>,
    /// Told whenever an attempt is over.
    over: Notify,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pair(Uid, IpAddr),
    Address(IpAddr),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Pair(uid, address) => write!(f, "{uid} from {address}"),
            Key::Address(address) => write!(f, "{address}"),
        }
    }
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    /// Attempts under way.
    pending: u32,
    blocked_until: Instant,
    /// Up to when failures have been forgiven.
    forgiven_until: Instant,
}

/// What an attempt has to wait for.
enum Obstacle {
    Time(TooManyFailures),
    /// Others that are under way: if they fail, it may not be made.
    Others,
}

/// An attempt under way. Dropped, it has failed.
#[must_use]
pub struct Attempt {
    shared: Arc<Shared>,
    keys: Vec<Key>,
}

// === impl Backoff ===

impl Backoff {
    /// As the settings have it.
    #[must_use]
    pub fn new(options: &AuthOptions, network: &NetworkOptions) -> Self {
        Self::with_clock(options, network, Instant::now)
    }

    fn with_clock(
        options: &AuthOptions,
        network: &NetworkOptions,
        clock: impl Fn() -> Instant + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared {
            failures_max: options.login_failures,
            wait: options.login_backoff,
            wait_max: options.login_backoff_max,
            trusted: network.trusted.clone(),
            clock: Box::new(clock),
            table: Mutex::new(LruCache::new(ENTRIES_MAX)),
            over: Notify::new(),
        };
        Backoff {
            shared: Arc::new(shared),
        }
    }

    /// Whether the address may try the uid, or without one anything at all. It costs an attacker nothing else, and us
    /// very little.
    ///
    /// # Errors
    /// [`TooManyFailures`] with the time to wait.
    pub fn check(&self, uid: &Uid, address: IpAddr) -> Result<(), TooManyFailures> {
        let keys = self.shared.keys(uid, address);
        match self.shared.obstacle(&keys, (self.shared.clock)()) {
            Some(Obstacle::Time(wait)) => Err(wait),
            Some(Obstacle::Others) | None => Ok(()),
        }
    }

    /// Begins an attempt, as soon as others that are under way can't forbid it any more. They may not wait for whoever
    /// calls this.
    ///
    /// # Errors
    /// [`TooManyFailures`] with the time to wait.
    pub async fn begin(&self, uid: &Uid, address: IpAddr) -> Result<Attempt, TooManyFailures> {
        let keys = self.shared.keys(uid, address);
        loop {
            let over = self.shared.over.notified();
            match self.shared.reserve(&keys) {
                Ok(()) => break,
                Err(Obstacle::Time(wait)) => return Err(wait),
                Err(Obstacle::Others) => over.await,
            }
        }
        Ok(Attempt {
            shared: self.shared.clone(),
            keys,
        })
    }
}

// === impl Attempt ===

impl Attempt {
    /// It was the right password: the uid starts anew at this address.
    pub fn succeed(mut self) {
        self.end(|key, entry| {
            if matches!(key, Key::Pair(..)) {
                entry.failures = 0;
            }
        });
    }

    /// Nobody knows whether it was the right password.
    pub fn withdraw(mut self) {
        self.end(|_, _| ());
    }

    fn end(&mut self, change: impl Fn(&Key, &mut Entry)) {
        let mut table = self.shared.table.lock();
        for key in std::mem::take(&mut self.keys) {
            let Some(entry) = table.get_mut(&key) else {
                continue;
            };
            entry.pending = entry.pending.saturating_sub(1);
            change(&key, entry);
            if entry.pending == 0 && entry.failures == 0 {
                table.pop(&key);
            }
        }
        drop(table);
        self.shared.over.notify_waiters();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = (self.shared.clock)();
        for key in std::mem::take(&mut self.keys) {
            self.shared.fail(&key, now);
        }
        self.shared.over.notify_waiters();
    }
}

// === impl Shared ===

impl Shared {
    fn keys(&self, uid: &Uid, address: IpAddr) -> Vec<Key> {
        if self.failures_max == 0 {
            return Vec::new();
        }
        let address = address.to_canonical();
        let is_trusted = self.trusted.iter().any(|net| net.contains(&address));
        let address = network_of(address);
        let of_address = (!is_trusted).then_some(Key::Address(address));
        let pair = Key::Pair(uid.clone(), address);
        of_address.into_iter().chain([pair]).collect()
    }

    fn failures_max(&self, key: &Key) -> u32 {
        match key {
            Key::Pair(..) => self.failures_max,
            Key::Address(_) => self.failures_max.saturating_mul(ADDRESS_FACTOR),
        }
    }

    /// What stands against an attempt now.
    fn obstacle(&self, keys: &[Key], now: Instant) -> Option<Obstacle> {
        obstacle(self, &mut self.table.lock(), keys, now)
    }

    /// Counts an attempt that has begun, unless something stands against it.
    fn reserve(&self, keys: &[Key]) -> Result<(), Obstacle> {
        let now = (self.clock)();
        let mut table = self.table.lock();
        if let Some(obstacle) = obstacle(self, &mut table, keys, now) {
            return Err(obstacle);
        }
        for key in keys {
            let entry = table.get_or_insert_mut(key.clone(), || Entry::new(now));
            entry.pending += 1;
        }
        Ok(())
    }

    /// Turns an attempt into a failure.
    fn fail(&self, key: &Key, now: Instant) {
        let mut table = self.table.lock();
        let entry = table.get_or_insert_mut(key.clone(), || Entry::new(now));
        entry.forgive(self.forgive_after(), now);
        entry.pending = entry.pending.saturating_sub(1);
        entry.failures = entry.failures.saturating_add(1);
        if let Some(beyond) = entry.failures.checked_sub(self.failures_max(key)) {
            let doubled = 2_u32.checked_pow(beyond).unwrap_or(u32::MAX);
            let wait = self.wait.saturating_mul(doubled).min(self.wait_max);
            // What no clock can tell is no time to wait until.
            entry.blocked_until = now.checked_add(wait).unwrap_or(now);
            // At first, and then more and more rarely: whoever guesses must not fill the log.
            if beyond.is_power_of_two() || beyond == 0 {
                let failures = entry.failures;
                warn!(%key, failures, "too many wrong passwords");
            }
        }
    }

    /// One failure is forgiven in so long, or an office behind one address would be shut out by a year's typing errors.
    /// It is as long as the longest wait, so that guessing does not get faster.
    fn forgive_after(&self) -> Duration {
        self.wait_max.max(Duration::from_secs(1))
    }
}

/// See [`Shared::obstacle`].
fn obstacle(
    shared: &Shared,
    table: &mut LruCache<Key, Entry>,
    keys: &[Key],
    now: Instant,
) -> Option<Obstacle> {
    let mut is_crowded = false;
    let mut wait = Duration::ZERO;
    for key in keys {
        let Some(entry) = table.get_mut(key) else {
            continue;
        };
        entry.forgive(shared.forgive_after(), now);
        wait = wait.max(entry.blocked_until.saturating_duration_since(now));
        // After a wait there is one attempt, and the next wait.
        let left = shared.failures_max(key).saturating_sub(entry.failures);
        is_crowded |= entry.pending >= left.max(1);
    }
    if !wait.is_zero() {
        Some(Obstacle::Time(TooManyFailures(wait)))
    } else {
        is_crowded.then_some(Obstacle::Others)
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Entry {
            failures: 0,
            pending: 0,
            blocked_until: now,
            forgiven_until: now,
        }
    }

    fn forgive(&mut self, after: Duration, now: Instant) {
        let since = now.saturating_duration_since(self.forgiven_until);
        let forgiven = u32::try_from(since.as_nanos() / after.as_nanos()).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(forgiven);
        self.forgiven_until = if self.failures == 0 {
            now
        } else {
            self.forgiven_until + after * forgiven
        };
    }
}

/// What one customer of a provider has: an IPv4 address, or a /64 of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests;
