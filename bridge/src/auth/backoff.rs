//! How long to wait after wrong passwords.
//!
//! Failures are counted for each uid at each address, and, ten times as many allowed, for each address whichever uids it
//! tries. An attempt counts from its beginning, before it is known to fail: guesses at the same time get no further than
//! one after the other.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lru::LruCache;
use parking_lot::Mutex;
use schema::Uid;
use tokio::sync::Notify;

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
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::settings::Settings;

    const HERE: &str = "192.0.2.1";

    struct Fixture {
        backoff: Backoff,
        /// Milliseconds since the start.
        time: Arc<AtomicU64>,
    }

    impl Fixture {
        /// 3 failures, then 1 s to 8 s.
        fn new() -> Self {
            let mut settings = Settings::defaults();
            settings.auth.login_failures = 3;
            settings.auth.login_backoff = Duration::from_secs(1);
            settings.auth.login_backoff_max = Duration::from_secs(8);
            Self::with(&settings)
        }

        fn with(settings: &Settings) -> Self {
            let time = Arc::new(AtomicU64::new(0));
            let (start, elapsed) = (Instant::now(), time.clone());
            let clock = move || start + Duration::from_millis(elapsed.load(Ordering::Relaxed));
            Fixture {
                backoff: Backoff::with_clock(&settings.auth, &settings.network, clock),
                time,
            }
        }

        fn pass(&self, millis: u64) {
            self.time.fetch_add(millis, Ordering::Relaxed);
        }

        async fn begin(&self, uid: &str, address: &str) -> Result<Attempt, TooManyFailures> {
            let (uid, address) = (uid.parse().unwrap(), address.parse().unwrap());
            self.backoff.begin(&uid, address).await
        }

        async fn fail(&self, uid: &str, address: &str) {
            drop(self.begin(uid, address).await.expect("it may be tried"));
        }

        /// How long it has to wait, in milliseconds.
        async fn wait(&self, uid: &str, address: &str) -> u128 {
            let begun = self.begin(uid, address).await;
            let by_attempt = match begun {
                Ok(attempt) => {
                    attempt.withdraw();
                    0
                }
                Err(TooManyFailures(wait)) => wait.as_millis(),
            };
            let (uid, address) = (uid.parse().unwrap(), address.parse().unwrap());
            let checked = self.backoff.check(&uid, address);
            let by_check = checked.map_or_else(|TooManyFailures(wait)| wait.as_millis(), |()| 0);
            assert_eq!(by_attempt, by_check);
            by_attempt
        }
    }

    #[tokio::test]
    async fn each_further_failure_doubles_the_wait_and_success_ends_it() {
        let fixture = Fixture::new();
        for _ in 0..3 {
            assert_eq!(fixture.wait("alice", HERE).await, 0);
            fixture.fail("alice", HERE).await;
        }
        for expected in [1000, 2000, 4000, 8000, 8000] {
            assert_eq!(fixture.wait("alice", HERE).await, expected);
            fixture.pass(expected as u64 - 1);
            assert_eq!(fixture.wait("alice", HERE).await, 1);
            fixture.pass(1);
            fixture.fail("alice", HERE).await;
        }
        assert_eq!(fixture.wait("bob", HERE).await, 0, "another uid");
        assert_eq!(
            fixture.wait("alice", "192.0.2.2").await,
            0,
            "from elsewhere"
        );

        fixture.pass(8000);
        fixture.begin("alice", HERE).await.unwrap().succeed();
        for _ in 0..3 {
            fixture.fail("alice", HERE).await;
        }
        assert_eq!(fixture.wait("alice", HERE).await, 1000);
    }

    #[tokio::test]
    async fn an_address_that_tries_many_uids_waits_unless_it_is_trusted() {
        let fixture = Fixture::new();
        for (address, waits) in [(HERE, true), ("127.0.0.1", false), ("::1", false)] {
            for number in 0..30 {
                assert_eq!(fixture.wait("alice", address).await, 0);
                fixture.fail(&format!("user-{number}"), address).await;
            }
            let expected = if waits { 1000 } else { 0 };
            assert_eq!(fixture.wait("alice", address).await, expected, "{address}");
        }
        // One failure is forgiven, so one more is as good as none.
        fixture.pass(8000);
        fixture.begin("alice", HERE).await.unwrap().succeed();
        fixture.fail("bob", HERE).await;
        assert_eq!(
            fixture.wait("alice", HERE).await,
            1000,
            "a success resets no address"
        );
        fixture.pass(30 * 8000);
        assert_eq!(fixture.wait("alice", HERE).await, 0, "all is forgiven");
    }

    #[tokio::test]
    async fn a_customer_has_a_whole_ipv6_network() {
        let fixture = Fixture::new();
        for host in 1..=3 {
            fixture
                .fail("alice", &format!("2001:db8:1:2::{host}"))
                .await;
        }
        assert_eq!(fixture.wait("alice", "2001:db8:1:2:ffff::1").await, 1000);
        assert_eq!(fixture.wait("alice", "2001:db8:1:3::1").await, 0);
        for _ in 0..3 {
            fixture.fail("bob", HERE).await;
        }
        let mapped = format!("::ffff:{HERE}");
        assert_eq!(fixture.wait("bob", &mapped).await, 1000);
    }

    /// As many attempts at the same time as may fail; the others wait for these, and then have to wait, or not.
    #[tokio::test]
    async fn guesses_at_the_same_time_count_before_they_fail() {
        for is_right in [false, true] {
            let fixture = Fixture::new();
            fixture.fail("alice", HERE).await;
            let first = fixture.begin("alice", HERE).await.unwrap();
            let second = fixture.begin("alice", HERE).await.unwrap();
            let mut third = Box::pin(fixture.begin("alice", HERE));
            let early = tokio::time::timeout(Duration::from_millis(20), third.as_mut()).await;
            assert!(early.is_err(), "it did not wait");
            drop(first);
            let early = tokio::time::timeout(Duration::from_millis(20), third.as_mut()).await;
            assert!(early.is_err(), "it did not wait for the second");
            if is_right {
                second.succeed();
                drop(third.await.unwrap());
            } else {
                drop(second);
                let wait = third.await.err();
                assert_eq!(wait, Some(TooManyFailures(Duration::from_secs(1))));
            }
        }
    }

    #[tokio::test]
    async fn what_is_withdrawn_does_not_count_and_leaves_nothing() {
        let fixture = Fixture::new();
        for _ in 0..10 {
            fixture.begin("alice", HERE).await.unwrap().withdraw();
        }
        assert_eq!(fixture.wait("alice", HERE).await, 0);
        assert!(fixture.backoff.shared.table.lock().is_empty());

        let mut settings = Settings::defaults();
        settings.auth.login_failures = 0;
        let never = Fixture::with(&settings);
        for _ in 0..100 {
            never.fail("alice", HERE).await;
        }
        assert_eq!(never.wait("alice", HERE).await, 0);
    }
}
