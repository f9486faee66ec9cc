//! The gate through which messages reach the edge where there are several nodes: those of a conversation leave in the
//! order of their seq and without a gap, wherever they were stored, or their readers are told that they are behind.
//!
//! For a device must never get message 8 while it lacks 7: its acknowledgement of 8 says that it has everything before.
//! Each node tells what it has stored, and its frames may be late, lost, or overtaken by another node's. So a message that
//! is ahead of what has left is held. If what is missing does not come within [`HOLD`], the members' sessions are put
//! to catch up from the database, where it is; then the gate goes on behind it. What such sessions are sent of what was
//! held, they leave out; those at QoS 0, which do not catch up, see the gap.
//!
//! ```text
//! arrive(7) ──▶ leaves     arrive(9) ──▶ held ──arrive(8)──▶ 8 and 9 leave
//!                                         └────HOLD──▶ overdue: who reads it? ──▶ behind ──▶ 9 leaves
//! ```
//!
//! What the gate knows of a conversation it forgets [`FORGET`] after its last message. Of one that it does not know, a
//! message says which one comes before it: when that one is older than [`MEMORY`], it has left, or was caught up with, before
//! it was forgotten. That is so as long as clocks differ by less than 5 s, and a message is told at most 40 s after it
//! was given its id: transactions are ended before that, and what could not be told for 2 s is not told any more. While
//! others may not have been heard, and nobody has asked the database instead (`in doubt`), such messages are held, too.
//!
//! An event that speaks of a message comes after that message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use lru::LruCache;
use schema::MsgId;
use schema::link::Position;
use tokio::time::Instant;

/// How long a message waits for those before it: other nodes' frames take some milliseconds.
pub(super) const HOLD: Duration = Duration::from_millis(100);
/// Messages older than this have been seen here, if they ever were to be.
pub(super) const MEMORY: Duration = Duration::from_secs(60);
/// How long a conversation is known after its last message: longer than `MEMORY` by three times what clocks may differ.
const FORGET: Duration = Duration::from_secs(75);
/// How long what others tell may be in doubt before it matters: by then, what was told before would be here.
const DOUBT: Duration = Duration::from_secs(10);
/// Conversations that are known at the same time; beyond, those that are quiet are forgotten sooner.
const KNOWN_MAX: usize = 1_000_000;
/// Bytes that are held; of what comes beyond, only the newest of each conversation is known to exist.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What each that is held takes beside.
const ENTRY_BYTES: usize = 128;
/// When what is overdue is due again, where too much else is.
const LATER: Duration = Duration::from_secs(1);

/// Where a message stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) conversation: i64,
    pub(super) seq: u32,
    /// The id of the message before it in the conversation; 0: it is the first.
    pub(super) previous: u64,
}

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Instant,
    /// By the clock that ids are made with.
    pub(super) time: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Moment {
            at: Instant::now(),
            time: SystemTime::now(),
        }
    }

    /// Whether a message is so old that it has been seen here.
    pub(super) fn is_past(&self, msg_id: u64) -> bool {
        self.time
            .duration_since(MsgId(msg_id).time())
            .is_ok_and(|age| age > MEMORY)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Gate<T> {
    /// The newest message that has left, of conversations of which that is known.
    passed: LruCache<i64, Passed>,
    waiting: HashMap<i64, Waiting<T>>,
    /// When conversations with something that waits are overdue.
    due: BTreeSet<(Instant, i64)>,
    held_bytes: usize,
    doubt: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Passed {
    seq: u32,
    at: Instant,
}

/// What is ahead in a conversation.
#[derive(Debug)]
struct Waiting<T> {
    /// By seq; never empty.
    ahead: BTreeMap<u32, Ahead<T>>,
    due: Instant,
    /// It was overdue: its readers are looked up, to be put behind up to this seq.
    asked: Option<u32>,
}

/// A message that exists.
#[derive(Debug)]
struct Ahead<T> {
    message: Option<Held<T>>,
    events: Vec<Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    what: T,
    weight: usize,
}

impl<T> Default for Ahead<T> {
    fn default() -> Self {
        Ahead {
            message: None,
            events: Vec::new(),
        }
    }
}

impl<T> Ahead<T> {
    fn is_empty(&self) -> bool {
        self.message.is_none() && self.events.is_empty()
    }
}

impl<T> Gate<T> {
    /// Nothing is known, and whether others are heard is in doubt.
    pub(super) fn new(now: Instant) -> Self {
        Gate {
            passed: LruCache::new(NonZeroUsize::new(KNOWN_MAX).unwrap_or(NonZeroUsize::MIN)),
            waiting: HashMap::new(),
            due: BTreeSet::new(),
            held_bytes: 0,
            doubt: Some(now),
        }
    }

    /// A message has been stored, here or by another node.
    pub(super) fn arrive(
        &mut self,
        place: Place,
        what: T,
        weight: usize,
        now: Moment,
        out: &mut Vec<T>,
    ) {
        let Place {
            conversation, seq, ..
        } = place;
        let is_next = match self.passed(conversation, now.at) {
            Some(passed) if seq <= passed => return,
            Some(passed) => seq == passed + 1,
            None => self.begins(place, now),
        };
        if !is_next {
            if !self.is_held(conversation, seq) {
                match self.hold(what, weight) {
                    Some(held) => self.ahead(conversation, seq, now.at).message = Some(held),
                    None => self.know(conversation, seq, now.at),
                }
            }
            return;
        }
        out.push(what);
        self.pass(conversation, seq, now.at, out);
    }

    /// Something is told that speaks of a stored message.
    pub(super) fn speak_of(
        &mut self,
        about: &Position,
        what: T,
        weight: usize,
        now: Moment,
        out: &mut Vec<T>,
    ) {
        let (conversation, seq) = (about.conversation.cast_signed(), about.seq);
        let passed = self.passed(conversation, now.at);
        let has_left = passed.map_or_else(|| now.is_past(about.msg_id), |passed| seq <= passed);
        if has_left {
            out.push(what);
            return;
        }
        match self.hold(what, weight) {
            Some(held) => self.ahead(conversation, seq, now.at).events.push(held),
            None => self.know(conversation, seq, now.at),
        }
    }

    /// A message is stored, as the database says: its notice is on its way, or lost.
    pub(super) fn exists(&mut self, conversation: i64, seq: u32, now: Instant) {
        let passed = self.passed(conversation, now);
        if passed.is_none_or(|passed| seq > passed) {
            self.know(conversation, seq, now);
        }
    }

    /// Everything up to here was stored before anybody was connected.
    pub(super) fn begin_after(&mut self, conversation: i64, seq: u32, now: Instant) {
        let passed = Passed { seq, at: now };
        self.passed.put(conversation, passed);
    }

    /// Others may not have been heard from now on.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.doubt.get_or_insert(now);
    }

    /// The database was asked for what is not known here, at that time.
    pub(super) fn is_sure(&mut self, since: Instant) {
        self.doubt.take_if(|doubt| *doubt <= since);
    }

    /// When something will be overdue.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Conversations of which something is overdue, and the newest message of which is known that it exists: their
    /// readers are to be put behind up to there. Of more than `max` the rest is due again later.
    pub(super) fn overdue(&mut self, now: Instant, max: usize) -> Vec<(i64, u32)> {
        let mut overdue = Vec::new();
        while let Some((due, conversation)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            let Some(waiting) = self.waiting.get_mut(&conversation) else {
                continue;
            };
            if overdue.len() >= max {
                waiting.due = now + LATER;
                self.due.insert((waiting.due, conversation));
                continue;
            }
            waiting.asked = waiting.ahead.last_key_value().map(|(seq, _)| *seq);
            overdue.extend(waiting.asked.map(|seq| (conversation, seq)));
        }
        overdue
    }

    /// Whether the readers of what was overdue have still to be put behind.
    pub(super) fn is_awaited(&self, conversation: i64, seq: u32) -> bool {
        let waiting = self.waiting.get(&conversation);
        waiting.is_some_and(|waiting| waiting.asked == Some(seq))
    }

    /// The readers have been put behind up to here; what was held goes on.
    pub(super) fn go_on(&mut self, conversation: i64, seq: u32, now: Instant, out: &mut Vec<T>) {
        if !self.is_awaited(conversation, seq) {
            return;
        }
        if let Some(waiting) = self.waiting.get_mut(&conversation) {
            waiting.asked = None;
            let following = waiting.ahead.split_off(&(seq + 1));
            let reached = std::mem::replace(&mut waiting.ahead, following);
            for ahead in reached.into_values() {
                self.held_bytes -= release(ahead, true, out);
            }
        }
        self.pass(conversation, seq, now, out);
    }

    /// Whether nothing is held.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The newest that has left, if that is known; it stays known from now on.
    fn passed(&mut self, conversation: i64, now: Instant) -> Option<u32> {
        while let Some((_, oldest)) = self.passed.peek_lru()
            && now.duration_since(oldest.at) > FORGET
        {
            self.passed.pop_lru();
        }
        let passed = self.passed.get_mut(&conversation)?;
        passed.at = now;
        Some(passed.seq)
    }

    /// Whether everything before a message of a conversation that is not known has left.
    fn begins(&self, place: Place, now: Moment) -> bool {
        if place.seq == 1 {
            return true;
        }
        let in_doubt = self.doubt.is_some_and(|since| now.at - since > DOUBT);
        let waiting = self.waiting.get(&place.conversation);
        let first = waiting.and_then(|waiting| waiting.ahead.first_key_value());
        !in_doubt && now.is_past(place.previous) && first.is_none_or(|(seq, _)| *seq >= place.seq)
    }

    fn is_held(&self, conversation: i64, seq: u32) -> bool {
        let waiting = self.waiting.get(&conversation);
        let ahead = waiting.and_then(|waiting| waiting.ahead.get(&seq));
        ahead.is_some_and(|ahead| ahead.message.is_some())
    }

    fn hold(&mut self, what: T, weight: usize) -> Option<Held<T>> {
        let weight = weight + ENTRY_BYTES;
        if self.held_bytes + weight > HELD_BYTES_MAX {
            return None;
        }
        self.held_bytes += weight;
        Some(Held { what, weight })
    }

    fn ahead(&mut self, conversation: i64, seq: u32, now: Instant) -> &mut Ahead<T> {
        self.all_ahead(conversation, now).entry(seq).or_default()
    }

    /// Notes that a message exists. One of which nothing is held says no more than a later one.
    fn know(&mut self, conversation: i64, seq: u32, now: Instant) {
        let ahead = self.all_ahead(conversation, now);
        if let Some(newest) = ahead.last_entry() {
            if *newest.key() >= seq {
                return;
            }
            if newest.get().is_empty() {
                newest.remove();
            }
        }
        ahead.insert(seq, Ahead::default());
    }

    /// What is ahead in a conversation; the caller adds something.
    fn all_ahead(&mut self, conversation: i64, now: Instant) -> &mut BTreeMap<u32, Ahead<T>> {
        let due = &mut self.due;
        let waiting = self.waiting.entry(conversation).or_insert_with(|| {
            due.insert((now + HOLD, conversation));
            Waiting {
                ahead: BTreeMap::new(),
                due: now + HOLD,
                asked: None,
            }
        });
        &mut waiting.ahead
    }

    /// A message has left, and with it what has waited only for it.
    fn pass(&mut self, conversation: i64, seq: u32, now: Instant, out: &mut Vec<T>) {
        let mut passed = Passed { seq, at: now };
        if let Some(waiting) = self.waiting.get_mut(&conversation) {
            while let Some(first) = waiting.ahead.first_entry() {
                let is_next = *first.key() == passed.seq + 1 && first.get().message.is_some();
                if *first.key() > passed.seq && !is_next {
                    break;
                }
                passed.seq = passed.seq.max(*first.key());
                self.held_bytes -= release(first.remove(), is_next, out);
            }
            self.due.remove(&(waiting.due, conversation));
            if waiting.ahead.is_empty() {
                self.waiting.remove(&conversation);
            } else if waiting.asked.is_none() {
                // What is missing now is another one.
                waiting.due = now + HOLD;
                self.due.insert((waiting.due, conversation));
            }
        }
        self.passed.put(conversation, passed);
    }
}

/// Lets go of what was held, the message only if it has not left before; tells what it weighed.
fn release<T>(ahead: Ahead<T>, is_new: bool, out: &mut Vec<T>) -> usize {
    let mut weight = 0;
    let mut leave = |held: Held<T>, is_new: bool| {
        weight += held.weight;
        out.extend(is_new.then_some(held.what));
    };
    if let Some(message) = ahead.message {
        leave(message, is_new);
    }
    for event in ahead.events {
        leave(event, true);
    }
    weight
}

#[cfg(test)]
mod tests;
