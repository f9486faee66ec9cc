//! How many connections an address may have, and how fast it may open them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use ipnet::IpNet;
use parking_lot::Mutex;

use super::is_within;
use crate::codec::ReasonCode;
use crate::options::NetworkOptions;

/// New connections after which addresses are forgotten that have not come for a while. So the memory for them is that
/// of so many, and of those that really did come within a few seconds.
const SWEEP_AFTER: usize = 4096;

/// Who may have a connection.
pub struct Guests<C: Clock = DefaultClock> {
    trusted: Vec<IpNet>,
    /// `None`: no limit.
    places: Option<Arc<Places>>,
    /// `None`: no limit.
    pace: Option<Pace<C>>,
}

/// The right to a connection. Its place is given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Pass {
    _place: Option<Arc<Place>>,
}

/// Why there is no [`Pass`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Turned {
    /// The address has as many connections as it may.
    #[error("too many connections of one address")]
    TooMany,
    /// The address opens connections faster than it may.
    #[error("too many new connections of one address")]
    TooFast,
}

/// What counts as one address: a household or a server has a whole /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Origin {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

/// Connections of each address that has any.
#[derive(Debug)]
struct Places {
    max: u32,
    taken: Mutex<HashMap<Origin, u32>>,
}

#[derive(Debug)]
struct Place {
    places: Arc<Places>,
    origin: Origin,
}

/// How fast each address has come of late.
struct Pace<C: Clock> {
    limiter: RateLimiter<Origin, DashMapStateStore<Origin>, C, NoOpMiddleware<C::Instant>>,
    since_sweep: AtomicUsize,
}

// === impl Guests ===

impl Guests {
    /// With the limits of `options`.
    #[must_use]
    pub fn new(options: &NetworkOptions) -> Self {
        Self::with_clock(options, DefaultClock::default())
    }
}

impl<C: Clock> Guests<C> {
    fn with_clock(options: &NetworkOptions, clock: C) -> Self {
        let places = |max| {
            let taken = Mutex::default();
            Arc::new(Places { max, taken })
        };
        Guests {
            trusted: options.trusted.clone(),
            places: Some(options.connections_per_address)
                .filter(|max| *max > 0)
                .map(places),
            pace: NonZeroU32::new(options.connects_per_second)
                .map(|rate| Pace::new(rate, options.connects_burst, clock)),
        }
    }

    /// Admits one more connection of `address`.
    ///
    /// # Errors
    /// [`Turned`] where it has reached a limit.
    pub fn admit(&self, address: IpAddr) -> Result<Pass, Turned> {
        let address = address.to_canonical();
        if is_within(&self.trusted, address) {
            return Ok(Pass::unlimited());
        }
        let origin = Origin::of(address);
        let place = match &self.places {
            Some(places) => Some(places.take(origin).ok_or(Turned::TooMany)?),
            None => None,
        };
        if self.pace.as_ref().is_some_and(|pace| !pace.allows(origin)) {
            return Err(Turned::TooFast);
        }
        Ok(Pass { _place: place })
    }
}

impl Pass {
    /// For those who are not limited.
    pub(crate) fn unlimited() -> Self {
        Pass { _place: None }
    }
}

impl Turned {
    pub(crate) fn reason(self) -> ReasonCode {
        match self {
            Turned::TooMany => ReasonCode::QuotaExceeded,
            Turned::TooFast => ReasonCode::ConnectionRateExceeded,
        }
    }
}

impl Origin {
    /// Of an address in its canonical spelling.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Origin::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Origin::V6([a, b, c, d])
            }
        }
    }
}

// === impl Places ===

impl Places {
    fn take(self: &Arc<Self>, origin: Origin) -> Option<Arc<Place>> {
        let mut taken = self.taken.lock();
        let count = taken.entry(origin).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        let places = self.clone();
        Some(Arc::new(Place { places, origin }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.places.taken.lock().entry(self.origin) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

// === impl Pace ===

impl<C: Clock> Pace<C> {
    fn new(rate: NonZeroU32, burst: u32, clock: C) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(rate).allow_burst(burst);
        Pace {
            limiter: RateLimiter::dashmap_with_clock(quota, clock),
            since_sweep: AtomicUsize::new(0),
        }
    }

    fn allows(&self, origin: Origin) -> bool {
        let earlier = self.since_sweep.fetch_add(1, Ordering::Relaxed);
        if earlier % SWEEP_AFTER == SWEEP_AFTER - 1 {
            self.sweep();
        }
        self.limiter.check_key(&origin).is_ok()
    }

    fn sweep(&self) {
        self.limiter.retain_recent();
        if self.limiter.len() < SWEEP_AFTER {
            // After a crowd; in the midst of one it would be work for nothing.
            self.limiter.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn guests(options: NetworkOptions) -> (Guests<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Guests::with_clock(&options, clock.clone()), clock)
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let (guests, _) = guests(NetworkOptions {
            connections_per_address: 2,
            ..NetworkOptions::default()
        });
        let first = guests.admit(v4(1)).unwrap();
        let copy = first.clone();
        let second = guests.admit(v4(1)).unwrap();
        assert_eq!(guests.admit(v4(1)).unwrap_err(), Turned::TooMany);
        assert!(guests.admit(v4(2)).is_ok());
        drop(first);
        assert_eq!(guests.admit(v4(1)).unwrap_err(), Turned::TooMany);
        drop(copy);
        let third = guests.admit(v4(1)).unwrap();
        drop((second, third));
        assert!(guests.places.unwrap().taken.lock().is_empty());
    }

    #[test]
    fn one_address_has_many_spellings() {
        let (guests, _) = guests(NetworkOptions {
            connections_per_address: 1,
            trusted: vec!["198.51.100.0/24".parse().unwrap()],
            ..NetworkOptions::default()
        });
        for (first, second, is_same) in [
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("198.51.100.1", "198.51.100.1", false),
            ("::ffff:198.51.100.1", "198.51.100.1", false),
        ] {
            let _pass = guests.admit(first.parse().unwrap()).unwrap();
            let second = guests.admit(second.parse().unwrap());
            assert_eq!(second.err(), is_same.then_some(Turned::TooMany), "{first}");
        }
    }

    #[test]
    fn new_connections_are_limited_in_time() {
        let (guests, clock) = guests(NetworkOptions {
            connections_per_address: 100,
            connects_per_second: 2,
            connects_burst: 3,
            ..NetworkOptions::default()
        });
        for _ in 0..3 {
            guests.admit(v4(1)).unwrap();
        }
        assert_eq!(guests.admit(v4(1)).unwrap_err(), Turned::TooFast);
        assert!(guests.admit(v4(2)).is_ok());
        clock.advance(Duration::from_millis(500));
        assert!(guests.admit(v4(1)).is_ok());
        assert_eq!(guests.admit(v4(1)).unwrap_err(), Turned::TooFast);
        // Who is turned away keeps no place.
        assert!(guests.places.unwrap().taken.lock().is_empty());
    }

    #[test]
    fn nothing_is_limited_unless_it_is_set() {
        let (guests, _) = guests(NetworkOptions::default());
        let passes: Result<Vec<_>, _> = (0..1000).map(|_| guests.admit(v4(1))).collect();
        assert!(passes.is_ok());
    }

    #[test]
    fn who_does_not_come_again_is_forgotten() {
        let (guests, clock) = guests(NetworkOptions {
            connects_per_second: 1,
            connects_burst: 1,
            ..NetworkOptions::default()
        });
        for n in 0..10 * SWEEP_AFTER as u32 {
            guests.admit(Ipv4Addr::from_bits(n).into()).unwrap();
            clock.advance(Duration::from_millis(10));
        }
        assert!(guests.pace.unwrap().limiter.len() < 2 * SWEEP_AFTER);
    }
}
