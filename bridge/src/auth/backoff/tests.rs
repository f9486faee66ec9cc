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
