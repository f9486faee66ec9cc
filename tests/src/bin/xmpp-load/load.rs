//! What the users do: each message carries its number and the time when it was due, so that who gets it can tell whether
//! it is the next one, and how long it took.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Notify, watch};

use crate::report::Faults;
use crate::session::Incoming;
use crate::stanza::Element;

const NANOS: u64 = 1_000_000_000;

/// Digits of a message's number and of the time when it was due, both hexadecimal.
const NUMBER_SIZE: usize = 8;
pub const STAMP_SIZE: usize = NUMBER_SIZE + 16;

/// Latencies are told apart to three digits, and up to this many microseconds.
const LATENCY_MAX: u64 = 10 * 60 * 1_000_000;

/// When it begins, what of it counts, and when it ends: in nanoseconds since it began.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub epoch: Instant,
    /// Warm-up until here.
    pub start: u64,
    /// What is due from here on is not sent.
    pub end: u64,
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Messages of one sender that may be under way.
    pub window: u32,
    /// Messages a second of all senders together, on a timetable that does not care how the server is doing; 0: as the
    /// window allows.
    pub rate: u32,
    pub senders: u32,
}

/// One sender's messages, and how far those who are to get them are.
#[derive(Debug)]
pub struct Channel {
    /// The sender's place in the timetable.
    pub index: u32,
    /// What `from` begins with where they arrive.
    pub from: String,
    receivers: u32,
    sent: AtomicU32,
    /// Messages that everyone has got. They come in order, so it is the number of the last such one.
    done: AtomicU32,
    /// Who has got a message that is under way, at its number modulo the window.
    arrivals: Vec<AtomicU32>,
    /// For the sender: something is done, or due.
    wake: Notify,
}

/// What was measured. Rates count what happens in the time that counts; latencies are those of messages due in it.
#[derive(Debug)]
pub struct Tally {
    pub delivered: u64,
    /// In microseconds.
    pub delivered_in: Histogram<u64>,
}

/// What was seen by someone who gets a channel's messages.
#[derive(Debug, Default)]
pub struct View {
    last: u32,
    pub faults: Faults,
}

// === impl Timing, Pace ===

impl Timing {
    pub fn starting_in(wait: Duration, warmup_secs: u32, secs: u32) -> Timing {
        let start = u64::from(warmup_secs) * NANOS;
        Timing {
            epoch: Instant::now() + wait,
            start,
            end: start + u64::from(secs) * NANOS,
        }
    }

    pub fn at(self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }

    fn now(self) -> u64 {
        let passed = Instant::now().saturating_duration_since(self.epoch);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_measured(self, nanos: u64) -> bool {
        (self.start..self.end).contains(&nanos)
    }
}

impl Pace {
    /// When message `number` of the sender at `index` is due.
    fn due(self, index: u32, number: u32, now: u64) -> u64 {
        if self.rate == 0 {
            return now;
        }
        self.timetable(u64::from(number - 1) * u64::from(self.senders) + u64::from(index))
    }

    /// When the `place`th message of all is due.
    fn timetable(self, place: u64) -> u64 {
        place.saturating_mul(NANOS) / u64::from(self.rate)
    }

    /// Wakes the senders when they have something to send. A thread, because tokio's timer is only good to a
    /// millisecond, which would be much of what is to be measured.
    pub fn start(self, timing: Timing, channels: Vec<Arc<Channel>>) {
        if self.rate == 0 {
            return;
        }
        let sleep_until = move |nanos: u64| {
            thread::sleep(timing.at(nanos).saturating_duration_since(Instant::now()));
        };
        thread::spawn(move || {
            for (place, channel) in (0..).zip(channels.iter().cycle()) {
                let due = self.timetable(place);
                sleep_until(due.min(timing.end));
                if due >= timing.end {
                    break;
                }
                channel.wake.notify_one();
            }
            channels
                .iter()
                .for_each(|channel| channel.wake.notify_one());
        });
    }
}

// === impl Channel ===

impl Channel {
    pub fn new(index: u32, from: String, receivers: u32, pace: Pace) -> Channel {
        Channel {
            index,
            from,
            receivers,
            sent: AtomicU32::new(0),
            done: AtomicU32::new(0),
            arrivals: (0..pace.window).map(|_| AtomicU32::new(0)).collect(),
            wake: Notify::new(),
        }
    }

    pub fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn done(&self) -> u32 {
        self.done.load(Ordering::Acquire)
    }

    /// Waits until everyone has got what was sent.
    pub async fn drained(&self) {
        while self.done() < self.sent() {
            self.wake.notified().await;
        }
    }

    /// Sends what is due, as far as the window has room, until the end.
    pub async fn send(
        &self,
        outgoing: &mut OwnedWriteHalf,
        timing: Timing,
        pace: Pace,
        template: &Template,
    ) -> Result<()> {
        let mut batch = Vec::new();
        tokio::time::sleep_until(timing.epoch.into()).await;
        for number in 1.. {
            let due = loop {
                let now = timing.now();
                let due = pace.due(self.index, number, now);
                let has_room = number - self.done() <= pace.window;
                if due >= timing.end || (due <= now && has_room) {
                    break due;
                }
                outgoing.write_all(&batch).await?;
                batch.clear();
                self.wake.notified().await;
            };
            if due >= timing.end {
                break;
            }
            template.write(&mut batch, number, due)?;
            self.sent.store(number, Ordering::Relaxed);
        }
        Ok(outgoing.write_all(&batch).await?)
    }

    /// Takes what comes until told to stop.
    pub async fn receive(
        &self,
        incoming: &mut Incoming,
        timing: Timing,
        tally: &Mutex<Tally>,
        mut stop: watch::Receiver<bool>,
    ) -> View {
        let mut view = View::default();
        loop {
            self.take(incoming, timing, tally, &mut view);
            tokio::select! {
                read = incoming.read() => if let Err(error) = read {
                    view.faults.note("broken connection", format!("{error:#}"));
                    return view;
                },
                _ = stop.wait_for(|stop| *stop) => return view,
            }
        }
    }

    fn take(&self, incoming: &mut Incoming, timing: Timing, tally: &Mutex<Tally>, view: &mut View) {
        let now = timing.now();
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(element) = incoming.next() {
            // Others in a room come and go.
            if element.name() == "presence" {
                continue;
            }
            let Some((number, due)) = self.stamp(&element) else {
                view.faults
                    .note("unexpected stanza", element.as_str().to_owned());
                continue;
            };
            if view.receive(number) {
                self.arrived(number);
            }
            tally.delivered += u64::from(timing.is_measured(now));
            if timing.is_measured(due) {
                tally
                    .delivered_in
                    .saturating_record(now.saturating_sub(due) / 1000);
            }
        }
    }

    fn stamp(&self, element: &Element) -> Option<(u32, u64)> {
        let is_theirs =
            element.name() == "message" && element.attribute("from")?.starts_with(&self.from);
        let (number, rest) = element
            .text("body")
            .filter(|_| is_theirs)?
            .split_at_checked(NUMBER_SIZE)?;
        let due = rest.get(..STAMP_SIZE - NUMBER_SIZE)?;
        Some((
            u32::from_str_radix(number, 16).ok()?,
            u64::from_str_radix(due, 16).ok()?,
        ))
    }

    /// One more has got this message.
    fn arrived(&self, number: u32) {
        let slot = &self.arrivals[number as usize % self.arrivals.len()];
        if slot.fetch_add(1, Ordering::AcqRel) + 1 == self.receivers {
            slot.store(0, Ordering::Release);
            self.done.fetch_add(1, Ordering::AcqRel);
            self.wake.notify_one();
        }
    }
}

impl View {
    /// Whether this message is new.
    fn receive(&mut self, number: u32) -> bool {
        let next = self.last + 1;
        if number < next {
            let example = format!("message {number} after {}", self.last);
            self.faults.note("received twice or late", example);
            return false;
        }
        if number > next {
            let example = format!("message {next}; {number} came");
            self.faults.note("not received in its turn", example);
        }
        self.last = number;
        true
    }
}

impl Default for Tally {
    fn default() -> Self {
        let delivered_in = Histogram::new_with_max(LATENCY_MAX, 3);
        Tally {
            delivered: 0,
            delivered_in: delivered_in.expect("three digits up to minutes are possible"),
        }
    }
}

/// A message stanza but for its stamp.
#[derive(Clone, Debug)]
pub struct Template {
    head: String,
    tail: String,
}

impl Template {
    /// `kind` is `chat` or `groupchat`; the body has `size` bytes.
    pub fn new(to: &str, kind: &str, size: usize) -> Template {
        let filler = "x".repeat(size.saturating_sub(STAMP_SIZE));
        Template {
            head: format!("<message to='{to}' type='{kind}' id='"),
            tail: format!("{filler}</body></message>"),
        }
    }

    fn write(&self, out: &mut Vec<u8>, number: u32, due: u64) -> Result<()> {
        let Template { head, tail } = self;
        Ok(write!(
            out,
            "{head}{number}'><body>{number:08x}{due:016x}{tail}"
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_tells_what_is_wrong() {
        let mut view = View::default();
        let new: Vec<bool> = [1, 2, 2, 4, 3, 5].map(|number| view.receive(number)).into();
        assert_eq!(new, [true, true, false, true, false, true]);
        assert_eq!(
            view.faults.kinds(),
            ["not received in its turn", "received twice or late"]
        );
    }

    #[test]
    fn a_message_is_done_when_everyone_has_it() {
        let pace = Pace {
            window: 2,
            rate: 0,
            senders: 1,
        };
        let channel = Channel::new(0, "a".to_owned(), 2, pace);
        let done = [1, 2, 1, 2, 3, 3].map(|number| {
            channel.arrived(number);
            channel.done()
        });
        assert_eq!(done, [0, 0, 1, 2, 2, 3]);
    }

    #[test]
    fn the_timetable_is_everyone_in_turn() {
        let pace = Pace {
            window: 16,
            rate: 4,
            senders: 2,
        };
        let due = |index, number| pace.due(index, number, 77);
        assert_eq!([due(0, 1), due(1, 1), due(0, 2)], [0, NANOS / 4, NANOS / 2]);
        assert_eq!(Pace { rate: 0, ..pace }.due(1, 9, 77), 77);
    }
}
