//! What is measured: counts and latencies, as a whole and second by second.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::results::Second;
use super::schedule::{NANOS_PER_SECOND, Phases};

/// Latencies are told apart up to this many microseconds.
const LATENCY_MAX: u64 = 10 * 60 * 1_000_000;
/// Latencies that a client keeps before it hands them over: the tally is everyone's.
const BATCH: usize = 256;
/// Latencies of a second are told apart to two digits: there is a histogram for each.
const SECOND_DIGITS: u8 = 2;

/// What one client has measured since it last handed its samples over.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// In which second of the clock all of the following was.
    second: usize,
    sent: u64,
    stored: u64,
    delivered: u64,
    stored_in: Vec<Latency>,
    delivered_in: Vec<Latency>,
}

/// How long a message took, and in which second it was due.
#[derive(Clone, Copy, Debug)]
struct Latency {
    second: u32,
    micros: u32,
}

impl Latency {
    fn new(due: u64, now: u64) -> Latency {
        let micros = now.saturating_sub(due) / 1000;
        Latency {
            second: u32::try_from(second_of(due)).unwrap_or(u32::MAX),
            micros: u32::try_from(micros).unwrap_or(u32::MAX),
        }
    }
}

impl Samples {
    /// A message was published.
    pub(super) fn sent(&mut self) {
        self.sent += 1;
    }

    /// A message is stored that was due at `due`: so says a chat's reply, or a plain broker's PUBACK.
    pub(super) fn stored(&mut self, due: u64, now: u64) {
        self.stored += 1;
        self.stored_in.push(Latency::new(due, now));
    }

    /// A message of someone else came, that was due at `due`.
    pub(super) fn delivered(&mut self, due: u64, now: u64) {
        self.delivered += 1;
        self.delivered_in.push(Latency::new(due, now));
    }

    /// A message of someone else came that was missed when it was sent: how long ago says nothing about the server.
    pub(super) fn caught_up(&mut self) {
        self.delivered += 1;
    }

    /// Whether this has to be handed over before anything that is counted from `now` on.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.second != second_of(now) || self.stored_in.len().max(self.delivered_in.len()) >= BATCH
    }
}

/// What all clients have measured. Rates count what happened in the measured time; latencies are those of the messages
/// that were due in it, however late they came.
#[derive(Debug)]
pub(super) struct Tally {
    phases: Phases,
    /// From the beginning of the warm-up to the end.
    ticks: Vec<Tick>,
    stored_in: Histogram<u64>,
    delivered_in: Histogram<u64>,
}

/// One second.
#[derive(Clone, Debug)]
struct Tick {
    counts: Counts,
    delivered_in: Histogram<u64>,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub sent: u64,
    /// Replies; of plain messages PUBACKs.
    pub stored: u64,
    pub delivered: u64,
}

impl Tally {
    pub(super) fn new(phases: Phases) -> Tally {
        let tick = Tick {
            counts: Counts::default(),
            delivered_in: latencies(SECOND_DIGITS),
        };
        Tally {
            phases,
            ticks: vec![tick; second_of(phases.end)],
            stored_in: latencies(3),
            delivered_in: latencies(3),
        }
    }

    /// Takes everything out of `samples`, which are of the time from `now` on then.
    pub(super) fn add(&mut self, samples: &mut Samples, now: u64) {
        if let Some(Tick { counts, .. }) = self.ticks.get_mut(samples.second) {
            counts.sent += samples.sent;
            counts.stored += samples.stored;
            counts.delivered += samples.delivered;
        }
        (samples.sent, samples.stored, samples.delivered) = (0, 0, 0);
        samples.second = second_of(now);
        let measured = second_of(self.phases.start) as u32..second_of(self.phases.end) as u32;
        for Latency { second, micros } in samples.stored_in.drain(..) {
            if measured.contains(&second) {
                self.stored_in.saturating_record(micros.into());
            }
        }
        for Latency { second, micros } in samples.delivered_in.drain(..) {
            if measured.contains(&second) {
                self.delivered_in.saturating_record(micros.into());
            }
            if let Some(tick) = self.ticks.get_mut(second as usize) {
                tick.delivered_in.saturating_record(micros.into());
            }
        }
    }

    /// What happened in the measured time.
    pub(super) fn counts(&self) -> Counts {
        let measured = &self.ticks[second_of(self.phases.start)..];
        let mut all = Counts::default();
        for Tick { counts, .. } in measured {
            all.sent += counts.sent;
            all.stored += counts.stored;
            all.delivered += counts.delivered;
        }
        all
    }

    /// How long that was.
    pub(super) fn measured_secs(&self) -> f64 {
        Duration::from_nanos(self.phases.end - self.phases.start).as_secs_f64()
    }

    /// How many messages came until now, warm-up included.
    pub(super) fn so_far(&self) -> u64 {
        self.ticks.iter().map(|tick| tick.counts.delivered).sum()
    }

    /// From when a message was due until it was stored, in microseconds.
    pub(super) fn stored_in(&self) -> &Histogram<u64> {
        &self.stored_in
    }

    /// From when a message was due to its arrival at a receiver, in microseconds.
    pub(super) fn delivered_in(&self) -> &Histogram<u64> {
        &self.delivered_in
    }

    /// Second by second, without what is known of the server.
    pub(super) fn series(&self) -> Vec<Second> {
        let warmup = second_of(self.phases.start) as i64;
        let second = |(at, tick): (i64, &Tick)| {
            let Tick {
                counts,
                delivered_in,
            } = tick;
            Second {
                at: at - warmup,
                sent: counts.sent,
                stored: counts.stored,
                delivered: counts.delivered,
                delivered_p50: delivered_in.value_at_quantile(0.5),
                delivered_p99: delivered_in.value_at_quantile(0.99),
                delivered_p999: delivered_in.value_at_quantile(0.999),
                ..Second::default()
            }
        };
        (0..).zip(&self.ticks).map(second).collect()
    }
}

/// For microseconds, told apart to so many digits, of which there may be up to five.
pub(super) fn latencies(digits: u8) -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX, digits).expect("few digits up to minutes are possible")
}

/// The second of the clock in which this time is.
fn second_of(nanos: u64) -> usize {
    (nanos / NANOS_PER_SECOND) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Measured from 1 s to 3 s; each event at its time.
    fn tally() -> Tally {
        let mut tally = Tally::new(Phases::new(1, 2));
        let mut samples = Samples::default();
        let mut at = |now: u64, event: fn(&mut Samples, u64)| {
            if samples.is_due(now) {
                tally.add(&mut samples, now);
            }
            event(&mut samples, now);
        };
        at(999 * MS, |samples, _| samples.sent());
        at(1001 * MS, |samples, now| samples.stored(999 * MS, now));
        at(2000 * MS, |samples, _| samples.sent());
        at(2003 * MS, |samples, now| samples.stored(2000 * MS, now));
        at(2004 * MS, |samples, now| samples.delivered(2000 * MS, now));
        at(2999 * MS, |samples, _| samples.sent());
        at(3009 * MS, |samples, now| samples.stored(2999 * MS, now));
        at(3019 * MS, |samples, now| samples.delivered(2999 * MS, now));
        tally.add(&mut samples, 3100 * MS);
        tally
    }

    #[test]
    fn rates_count_events_and_latencies_count_messages() {
        let tally = tally();
        let counts = Counts {
            sent: 2,
            stored: 2,
            delivered: 1,
        };
        assert_eq!(tally.counts(), counts);
        assert_eq!(tally.stored_in().len(), 2);
        assert_eq!(tally.stored_in().min(), 3000);
        assert_eq!(tally.delivered_in().len(), 2);
        assert_eq!(tally.so_far(), 1);
    }

    #[test]
    fn a_second_has_the_latencies_of_what_was_due_in_it() {
        let series = tally().series();
        let counts = |second: &Second| (second.at, second.sent, second.stored, second.delivered);
        let counts: Vec<_> = series.iter().map(counts).collect();
        assert_eq!(counts, [(-1, 1, 0, 0), (0, 0, 1, 0), (1, 2, 1, 1)]);
        let p50 = |at: usize| series[at].delivered_p50 / 1000;
        assert_eq!([p50(0), p50(1), p50(2)], [0, 0, 4]);
        assert!(series[2].delivered_p999 / 1000 >= 20);
    }

    #[test]
    fn samples_are_not_kept_for_ever() {
        let mut samples = Samples::default();
        for _ in 0..BATCH {
            assert!(!samples.is_due(5));
            samples.delivered(0, 5);
        }
        assert!(samples.is_due(5));
    }
}
