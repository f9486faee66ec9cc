//! How fast a session may send: token buckets for publishes and for bytes.
//!
//! What has come is charged when it has come. A session that has sent more than it may is not read from until that is
//! paid off, so that the client is slowed down by its own full socket; one that is slowed without a break for too long
//! is disconnected.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::closed::Closed;
use crate::codec::ReasonCode;
use crate::options::RateOptions;
use crate::stats::Stats;

type Limiter =
    RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// A bucket, and what could not be taken out of it yet.
#[derive(Debug)]
struct Bucket {
    limiter: Limiter,
    /// The largest amount that it can hold.
    burst: u32,
    owed: u32,
    /// What a session that keeps overdrawing it is told.
    reason: ReasonCode,
}

impl Bucket {
    fn new(per_second: usize, reason: ReasonCode) -> Option<Self> {
        let rate = NonZeroU32::new(u32::try_from(per_second).unwrap_or(u32::MAX))?;
        let burst = rate.saturating_add(rate.get());
        let quota = Quota::per_second(rate).allow_burst(burst);
        Some(Bucket {
            limiter: RateLimiter::direct_with_clock(quota, MonotonicClock),
            burst: burst.get(),
            owed: 0,
            reason,
        })
    }

    fn charge(&mut self, amount: u32) {
        self.owed = self.owed.saturating_add(amount);
    }

    /// Pays what is owed; otherwise returns how long that takes.
    fn pay(&mut self) -> Option<Duration> {
        while let Some(part) = NonZeroU32::new(self.owed.min(self.burst)) {
            match self.limiter.check_n(part) {
                Ok(Ok(())) => self.owed -= part.get(),
                Ok(Err(not_until)) => {
                    return Some(not_until.wait_time_from(MonotonicClock.now()));
                }
                // Not reached: a part is never more than the burst.
                Err(_) => self.owed = 0,
            }
        }
        None
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Throttle {
    publishes: Option<Box<Bucket>>,
    bytes: Option<Box<Bucket>>,
    patience: Option<Duration>,
    /// Until when nothing is read.
    until: Option<Instant>,
    slowed_since: Option<Instant>,
    /// Something has come since the last payment.
    is_charged: bool,
}

impl Throttle {
    pub(crate) fn new(options: RateOptions) -> Self {
        let bucket = |rate, reason| Bucket::new(rate, reason).map(Box::new);
        Throttle {
            publishes: bucket(options.publishes as usize, ReasonCode::MessageRateTooHigh),
            bytes: bucket(options.bytes, ReasonCode::QuotaExceeded),
            patience: options.patience,
            until: None,
            slowed_since: None,
            is_charged: false,
        }
    }

    /// Until when the client may not be read from.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Bytes have come.
    pub(crate) fn charge_bytes(&mut self, bytes: usize) {
        self.is_charged = true;
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Publishes have come.
    pub(crate) fn charge_publishes(&mut self, publishes: u32) {
        if let Some(bucket) = &mut self.publishes {
            bucket.charge(publishes);
        }
    }

    /// Pays for what has come; tells whether the client may be read from.
    ///
    /// # Errors
    /// [`Closed::TooFast`] for one that has been slowed down for too long.
    pub(crate) fn settle(&mut self, stats: &Stats) -> Result<bool, Closed> {
        let buckets = [&mut self.publishes, &mut self.bytes];
        let mut longest: Option<(Duration, ReasonCode)> = None;
        for bucket in buckets.into_iter().flatten() {
            if let Some(wait) = bucket.pay()
                && longest.is_none_or(|(other, _)| wait > other)
            {
                longest = Some((wait, bucket.reason));
            }
        }
        let Some((wait, reason)) = longest else {
            let had_to_wait = self.until.take().is_some();
            if std::mem::take(&mut self.is_charged) && !had_to_wait {
                self.slowed_since = None;
            }
            return Ok(true);
        };
        let now = Instant::now();
        let since = *self.slowed_since.get_or_insert_with(|| {
            stats.throttled();
            now
        });
        if self
            .patience
            .is_some_and(|patience| now - since >= patience)
        {
            return Err(Closed::TooFast(reason));
        }
        self.until = Some(now + wait);
        Ok(false)
    }
}
