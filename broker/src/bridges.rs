//! The bridges that have joined, and which of them has whom.
//!
//! Each connected session belongs to one bridge at a time: all of a user's to the same one, chosen by the uid, so that the
//! load is shared. In `tidings serve` there is one bridge for as long as the process runs; in an edge of its own they come and go,
//! and sessions are handed over (`handover`). While there is none but such as are about to leave, what sessions have said is
//! kept for the next (`waiting`).
//!
//! One of them, the voice, has everything about plain topics: it keeps what is retained, in the order in which it was
//! published, and hears what others have published and granted. It is the one that has been there for the longest time.
//!
//! Lock order: sessions, the set of bridges, a session's [`Assigned`], what waits, a queue of uplinks. The retained store and
//! the subscriptions come before the set.

mod assigned;
mod handover;
#[cfg(test)]
mod tests;
mod waiting;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use schema::Uid;
use schema::link::{Brief, FromEdge, from_edge};
use tokio::sync::watch;
use tokio::time::timeout;

use self::waiting::Waiting;
use crate::link::Flow;
use crate::registry::Handle;
use crate::uplinks::{Unstored, Uplinks};

pub(crate) use assigned::Assigned;
pub(crate) use handover::keep_balance;

/// How long somebody who wants to come in waits for a bridge where there is none: less than clients wait for CONNACK.
pub(crate) const ABSENCE_MAX: Duration = Duration::from_secs(4);

/// Bytes that all sessions together may say while no bridge hears them; then they are no longer read from.
const WAITING_MAX: usize = 16 * 1024 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Bridges {
    set: RwLock<Set>,
    waiting: Mutex<Waiting>,
    unstored: Arc<Unstored>,
    last_number: AtomicU64,
    /// Counts changes of the set.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Set {
    /// Oldest first.
    joined: Vec<Arc<Uplinks>>,
    /// Those that wait for the edge to be told what is kept for it.
    coming: Vec<Arc<Uplinks>>,
    voice: Option<Arc<Uplinks>>,
}

impl Set {
    /// Those that are not about to leave.
    fn staying(&self) -> impl Iterator<Item = &Arc<Uplinks>> {
        self.joined.iter().filter(|bridge| !bridge.is_leaving())
    }

    /// Whose the user's sessions should be. Nobody's, where all are about to leave: they would not be done otherwise.
    fn choose(&self, uid: &str) -> Option<&Arc<Uplinks>> {
        self.staying()
            .max_by_key(|bridge| weight(bridge.number, uid))
    }

    /// Chooses another voice, which has to brief the edge first; tells whether there is one.
    fn replace_voice(&mut self, waiting: &mut Waiting) -> bool {
        let next = self.staying().next();
        let next = next.or(self.joined.first()).or(self.coming.first());
        self.voice = next.cloned();
        let Some(voice) = &self.voice else {
            return false;
        };
        let brief = from_edge::Item::Brief(Brief {});
        let mut items = vec![FromEdge { item: Some(brief) }];
        items.append(&mut waiting.take_plain());
        voice.push(&mut items);
        true
    }
}

/// Rendezvous hashing: a bridge that comes or goes changes nothing among the others.
fn weight(number: u64, uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (number, uid).hash(&mut hasher);
    hasher.finish()
}

impl Bridges {
    /// None yet.
    pub(crate) fn new() -> Self {
        Bridges {
            set: RwLock::default(),
            waiting: Mutex::default(),
            unstored: Arc::default(),
            last_number: AtomicU64::new(0),
            changes: watch::Sender::default(),
        }
    }

    /// One that lives as long as the edge.
    pub(crate) fn only(flow: Arc<Flow>) -> (Self, Arc<Uplinks>) {
        let bridges = Bridges::new();
        let uplinks = Uplinks::new(bridges.next_number(), flow, bridges.unstored.clone());
        let uplinks = Arc::new(uplinks);
        let mut set = bridges.set.write();
        set.joined.push(uplinks.clone());
        set.replace_voice(&mut bridges.waiting.lock());
        drop(set);
        (bridges, uplinks)
    }

    /// The queue to another one, which has not joined yet.
    pub(crate) fn one_more(&self, flow: Arc<Flow>) -> Arc<Uplinks> {
        let number = self.next_number();
        Arc::new(Uplinks::kept(number, flow, self.unstored.clone()))
    }

    fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whose the user's sessions should be.
    pub(crate) fn choose(&self, uid: &str) -> Option<Arc<Uplinks>> {
        self.set.read().choose(uid).cloned()
    }

    /// Who is to be asked about the user: none of these, unless there is no other, and one that is about to leave last.
    pub(crate) fn choose_other(&self, uid: &str, tried: &[u64]) -> Option<Arc<Uplinks>> {
        let set = self.set.read();
        let others = set.joined.iter();
        let others = others.filter(|bridge| !tried.contains(&bridge.number));
        let chosen = others.max_by_key(|bridge| (!bridge.is_leaving(), weight(bridge.number, uid)));
        chosen.or_else(|| set.choose(uid)).cloned()
    }

    /// How many have joined.
    pub(crate) fn count(&self) -> usize {
        self.set.read().joined.len()
    }

    /// Whether it is the voice.
    pub(crate) fn is_voice(&self, bridge: &Uplinks) -> bool {
        let set = self.set.read();
        let voice = set.voice.as_ref();
        voice.is_some_and(|voice| voice.number == bridge.number)
    }

    /// Topics whose retained messages are not stored yet.
    pub(crate) fn unstored(&self) -> &Unstored {
        &self.unstored
    }

    /// Whether a session may be read from.
    pub(crate) fn has_room(&self, handle: &Handle) -> bool {
        let of_bridge = handle.bridge.has_room();
        of_bridge.unwrap_or_else(|| self.waiting.lock().bytes() < WAITING_MAX)
    }

    /// Waits until there is one, and it has room, for somebody who wants to come in; `false`: not in that time.
    pub(crate) async fn welcome(&self, uid: &Uid, patience: Duration) -> bool {
        let welcoming = async {
            let mut changes = self.changes.subscribe();
            loop {
                match self.choose(uid.as_str()) {
                    Some(bridge) if bridge.has_room() => return true,
                    Some(bridge) => bridge.room().await,
                    None if timeout(ABSENCE_MAX, changes.changed()).await.is_err() => return false,
                    None => {}
                }
            }
        };
        timeout(patience, welcoming).await.unwrap_or(false)
    }

    /// Changes of the set from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn has_changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn all(&self) -> Vec<Arc<Uplinks>> {
        self.set.read().joined.clone()
    }

    /// Bytes that wait for their way to a bridge.
    pub(crate) fn queued_bytes(&self) -> usize {
        let set = self.set.read();
        let queued = set.joined.iter().map(|bridge| bridge.queued_bytes());
        queued.sum::<usize>() + self.waiting.lock().bytes()
    }

    /// Frames that bridges are not done with.
    pub(crate) fn frames_ahead(&self) -> u64 {
        let set = self.set.read();
        set.joined.iter().map(|bridge| bridge.frames_ahead()).sum()
    }

    /// Waits until all of them are done with what is queued now.
    pub(crate) async fn flushed(&self) {
        for bridge in self.all() {
            bridge.flushed().await;
        }
    }
}

// === impl Bridges: what they are told ===

impl Bridges {
    /// Queues a session's items, in their order, and leaves `items` empty.
    pub(crate) fn tell(&self, handle: &Handle, items: &mut Vec<FromEdge>) {
        if items.is_empty() {
            return;
        }
        let assigned = handle.bridge.lock();
        if !assigned.push(items) {
            self.waiting.lock().keep(handle, items);
        }
    }

    /// Queues what is said in the name of a user whose session need not be there any more.
    pub(crate) fn tell_of(&self, uid: &Uid, items: &mut Vec<FromEdge>) {
        let set = self.set.read();
        let is_told = set
            .choose(uid.as_str())
            .is_some_and(|bridge| bridge.push(items));
        if !is_told {
            self.waiting.lock().keep_loose(uid, items);
        }
    }

    /// Queues something about plain topics.
    pub(crate) fn tell_voice(&self, item: from_edge::Item) {
        self.unstored.begin(&item);
        let mut items = vec![FromEdge { item: Some(item) }];
        let set = self.set.read();
        if !set
            .voice
            .as_ref()
            .is_some_and(|voice| voice.push(&mut items))
        {
            self.waiting.lock().keep_plain(&mut items);
        }
    }
}
