//! Sessions that go from one bridge to another.
//!
//! When a bridge is gone, the others have its sessions at once: they learn who is connected, get the publishes that it has not
//! answered, and the sessions catch up from the database. A bridge that comes gets its share little by little: of a
//! user without unanswered publishes the old bridge hears that the sessions are no longer its own, and when it has dealt with
//! that, the new one gets them. So what it knows is in the database by then, unless it takes longer than [`HEARD_WITHIN`].
//!
//! In between sessions are *moving*: nobody else gets them, and what they say waits, but for publishes at QoS 0, which any bridge
//! may get before those at QoS 1. Of the last bridge that is about to leave
//! all are, until it has answered all that they had said before, or another one has come that they can go to.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use schema::Uid;
use schema::link::FromEdge;
use tokio::time::{interval, timeout};

use super::{Bridges, Set};
use crate::edge::Edge;
use crate::link::LinkClosed;
use crate::registry::{Handle, Registry, Sessions, handed_over, no_longer_served};
use crate::uplinks::Uplinks;

/// How often users are moved, and how many at once: a bridge has to read what each of them has missed.
const MOVE_INTERVAL: Duration = Duration::from_millis(100);
const MOVED_AT_ONCE: usize = 100;
/// How long an old bridge may take to hear of it.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

impl Bridges {
    /// A bridge has come, which has said nothing yet. If it is the only one, it waits until it has briefed the edge.
    pub(crate) fn come(&self, bridge: Arc<Uplinks>, registry: &Registry) {
        let sessions = registry.write();
        let mut set = self.set.write();
        if set.joined.is_empty() {
            set.coming.push(bridge);
            if set.voice.is_none() {
                set.replace_voice(&mut self.waiting.lock());
            }
            return;
        }
        set.joined.push(bridge);
        self.serve_all(&set, &sessions);
        drop((set, sessions));
        self.has_changed();
    }

    /// The edge has been briefed: whoever waits for that has joined.
    pub(crate) fn briefed(&self, registry: &Registry) {
        let sessions = registry.write();
        let mut set = self.set.write();
        let coming = std::mem::take(&mut set.coming);
        if coming.is_empty() {
            return;
        }
        set.joined.extend(coming);
        self.serve_all(&set, &sessions);
        drop((set, sessions));
        self.has_changed();
    }

    /// A bridge is gone: the others have what was its. Tells whether there is another voice now.
    pub(crate) fn gone(&self, bridge: &Uplinks, registry: &Registry) -> bool {
        let sessions = registry.write();
        let mut set = self.set.write();
        let is_other = |other: &Arc<Uplinks>| other.number != bridge.number;
        set.joined.retain(is_other);
        set.coming.retain(is_other);
        // What sessions say from now on comes after what the bridge has not dealt with.
        let mut waiting = self.waiting.lock();
        waiting.keep_rest(bridge.close(), &sessions);
        drop(waiting);
        for handle in sessions.all() {
            if handle.bridge.is_of(bridge) {
                set_out(handle);
            }
            if handle.bridge.is_moving_from(bridge) {
                handle.bridge.lock().free();
            }
        }
        let was_voice = set
            .voice
            .as_ref()
            .is_some_and(|voice| voice.number == bridge.number);
        let is_voice_new = was_voice && set.replace_voice(&mut self.waiting.lock());
        retire_last(&set, &sessions);
        self.serve_all(&set, &sessions);
        drop((set, sessions));
        self.has_changed();
        is_voice_new
    }

    /// A bridge is to end: others get its sessions, or the next one that comes. It stays the voice until it is gone, so that
    /// what is retained is stored in its order.
    pub(crate) fn leaves(&self, bridge: &Uplinks, registry: &Registry) {
        let sessions = registry.write();
        let set = self.set.write();
        bridge.leave();
        retire_last(&set, &sessions);
        drop((set, sessions));
        self.has_changed();
    }

    /// Whether a bridge that leaves has nobody any more who waits for it.
    pub(crate) fn has_left(&self, bridge: &Uplinks, registry: &Registry) -> bool {
        let sessions = registry.read();
        let is_deserted = !sessions.all().any(|handle| handle.bridge.is_of(bridge));
        is_deserted && bridge.has_answered_all()
    }

    /// Gives sessions that are free to a bridge, and what was said in the meantime.
    fn serve_all(&self, set: &Set, sessions: &Sessions) {
        if set.staying().next().is_none() {
            return;
        }
        // First what has ended, and what was acknowledged: whoever subscribes anew is not to get it again.
        let loose = self.waiting.lock().take_loose(sessions);
        for (uid, item) in loose {
            if let Some(bridge) = set.choose(uid.as_str()) {
                bridge.push(&mut vec![item]);
            }
        }
        for (uid, same_user) in sessions.by_user() {
            self.serve_user(set, uid, same_user);
        }
    }

    /// All of a user's sessions are with the same bridge.
    fn serve_user(&self, set: &Set, uid: &Uid, same_user: &[Arc<Handle>]) {
        let is_moving = same_user.iter().any(|handle| handle.bridge.is_moving());
        if is_moving || !same_user.iter().any(|handle| handle.bridge.is_free()) {
            return;
        }
        let current = same_user.iter().find_map(|handle| handle.bridge.get());
        let Some(bridge) = current.as_ref().or_else(|| set.choose(uid.as_str())) else {
            return;
        };
        for handle in same_user.iter().filter(|handle| handle.bridge.is_free()) {
            self.attach(handle, bridge);
        }
    }

    fn attach(&self, handle: &Handle, bridge: &Arc<Uplinks>) {
        let mut assigned = handle.bridge.lock();
        assigned.give_to(bridge.clone());
        let mut items = vec![handed_over(handle)];
        items.append(&mut self.waiting.lock().take(handle.id));
        assigned.push(&mut items);
        drop(assigned);
        // It may read again.
        handle.outbox.wake();
    }

    /// Users who should be another bridge's.
    pub(super) fn misplaced(&self, sessions: &Sessions) -> VecDeque<Uid> {
        let set = self.set.read();
        if set.joined.len() < 2 {
            return VecDeque::new();
        }
        let users = sessions.by_user();
        let misplaced = users.filter(|(uid, same_user)| {
            let chosen = set.choose(uid.as_str());
            let is_well =
                |handle: &Arc<Handle>| chosen.is_none_or(|chosen| handle.bridge.is_of(chosen));
            !same_user.iter().all(is_well)
        });
        misplaced.map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes a user's sessions from their bridge, if they can go now.
    fn release(&self, sessions: &Sessions, uid: &Uid) -> Released {
        let same_user = sessions.of_user(uid.as_str());
        let set = self.set.read();
        let is_with = |handle: &Arc<Handle>, bridge: &Uplinks| {
            handle.bridge.is_of(bridge) || handle.bridge.is_moving_from(bridge)
        };
        let has_some = |bridge: &&Arc<Uplinks>| same_user.iter().any(|one| is_with(one, bridge));
        let Some(old) = set.joined.iter().find(has_some) else {
            return Released::Stays;
        };
        let is_chosen = |chosen: &Arc<Uplinks>| chosen.number == old.number;
        let is_quiet = |handle: &Arc<Handle>| handle.outbox.catches_up_quietly();
        let may_go = old.is_leaving() || same_user.iter().all(is_quiet);
        if !may_go || set.choose(uid.as_str()).is_none_or(is_chosen) {
            return Released::Stays;
        }
        let is_ready = |handle: &Arc<Handle>| {
            handle.bridge.is_free() || is_with(handle, old) && handle.bridge.is_idle()
        };
        if !same_user.iter().all(is_ready) {
            return Released::Later;
        }
        let own = same_user.iter().filter(|handle| handle.bridge.is_of(old));
        let mut told = own.map(|handle| set_out(handle)).collect();
        old.push(&mut told);
        Released::By(old.clone())
    }

    /// Takes the sessions of some of these users from their bridges, and leaves those whose turn has not come. Returns who is
    /// moving now, and from where.
    pub(super) fn release_some(
        &self,
        sessions: &Sessions,
        misplaced: &mut VecDeque<Uid>,
    ) -> Vec<(Uid, Arc<Uplinks>)> {
        let next = misplaced.len().min(MOVED_AT_ONCE);
        let users: Vec<Uid> = misplaced.drain(..next).collect();
        let mut moving = Vec::new();
        for uid in users {
            match self.release(sessions, &uid) {
                Released::By(old) => moving.push((uid, old)),
                Released::Later => misplaced.push_back(uid),
                Released::Stays => {}
            }
        }
        moving
    }

    /// Moves some of these users, and leaves those whose turn has not come.
    pub(super) async fn move_some(&self, registry: &Registry, misplaced: &mut VecDeque<Uid>) {
        let moving = self.release_some(&registry.write(), misplaced);
        let old_ones: HashMap<u64, &Arc<Uplinks>> =
            moving.iter().map(|(_, old)| (old.number, old)).collect();
        let hearing = async {
            for old in old_ones.values() {
                old.flushed().await;
            }
        };
        if timeout(HEARD_WITHIN, hearing).await.is_err() {
            tracing::debug!("a bridge takes long to hear that sessions are no longer its own");
        }
        let sessions = registry.write();
        let set = self.set.read();
        for (uid, old) in &moving {
            let mut is_complete = true;
            let same_user = sessions.of_user(uid.as_str()).iter();
            for handle in same_user.filter(|handle| handle.bridge.is_moving_from(old)) {
                // It may have said something when it was about to set out.
                if handle.bridge.is_idle() {
                    handle.bridge.lock().free();
                } else {
                    is_complete = false;
                }
            }
            if !is_complete {
                misplaced.push_back(uid.clone());
            }
        }
        self.serve_all(&set, &sessions);
    }
}

/// What became of a user who should be another bridge's.
enum Released {
    /// The sessions are moving from there now.
    By(Arc<Uplinks>),
    /// They wait for answers.
    Later,
    /// They are well where they are: it would cost too much, or the other bridge is gone.
    Stays,
}

/// What the session says from now on waits for its next bridge; returns what the one that has it is told.
fn set_out(handle: &Handle) -> FromEdge {
    handle.bridge.lock().set_out();
    handle.outbox.change_hands();
    no_longer_served(handle)
}

/// Where no bridge stays, the sessions of those that are about to leave set out at once, so that these can be done.
fn retire_last(set: &Set, sessions: &Sessions) {
    if set.staying().next().is_some() {
        return;
    }
    for bridge in &set.joined {
        let own = sessions.all().filter(|handle| handle.bridge.is_of(bridge));
        let mut told = own.map(|handle| set_out(handle)).collect();
        bridge.push(&mut told);
    }
}

/// Moves users to the bridges that should have them, whenever one has come or is about to leave.
pub(crate) async fn keep_balance(edge: Arc<Edge>) -> Result<Infallible, LinkClosed> {
    let mut changes = edge.bridges.changes();
    loop {
        // The sender is the edge's.
        drop(changes.changed().await);
        let mut misplaced = edge.bridges.misplaced(&edge.registry.read());
        let mut ticks = interval(MOVE_INTERVAL);
        while !misplaced.is_empty() && !changes.has_changed().unwrap_or(true) {
            ticks.tick().await;
            edge.bridges.move_some(&edge.registry, &mut misplaced).await;
        }
    }
}
