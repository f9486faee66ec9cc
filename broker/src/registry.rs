//! Who is connected: the last hop of the user topics.
//!
//! Sessions come and go under one lock, and what the bridge is told of it is queued under that lock: so it learns of a
//! device's connections in the order in which they happened. Lock order: sessions before bridges.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytestring::ByteString;
use parking_lot::{Mutex, RwLock};
use schema::Uid;
use schema::link::{Connected, Disconnected, FromEdge, from_edge};
use tokio::sync::Notify;

use crate::bridges::{Assigned, Bridges};
use crate::closed::Closed;
use crate::outbox::Outbox;
use crate::peer::Door;
use crate::plain::exchange::now_ms;
use crate::plain::policy::Client;

/// What the rest of the edge sees of a connected session.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Unique as long as the process runs; never 0.
    pub(crate) id: u64,
    /// When it connected, in milliseconds since 1970; later than the connection that it has taken over.
    pub(crate) since: u64,
    pub(crate) who: Newcomer,
    pub(crate) outbox: Outbox,
    pub(crate) bridge: Assigned,
    /// What it passes for, where a bridge has said so.
    pub(crate) status: Mutex<String>,
    departed: Departed,
}

impl std::ops::Deref for Handle {
    type Target = Newcomer;

    fn deref(&self) -> &Newcomer {
        &self.who
    }
}

/// Who comes in.
#[derive(Clone, Debug)]
pub(crate) struct Newcomer {
    pub(crate) uid: Uid,
    /// The client id, private to the user.
    pub(crate) device: ByteString,
    /// The client came without an id: `device` is made up, and will not come again.
    pub(crate) is_nameless: bool,
    /// It wants nothing of what an earlier session has left.
    pub(crate) is_clean: bool,
    /// The login whose token opened the session.
    pub(crate) login: Option<String>,
    /// When the password that has opened it was set.
    pub(crate) password_set_at: Option<SystemTime>,
    pub(crate) is_admin: bool,
    pub(crate) address: IpAddr,
    pub(crate) door: Door,
}

impl Newcomer {
    /// What rights on plain topics are asked for with.
    pub(crate) fn client(&self) -> Client<'_> {
        Client {
            uid: &self.uid,
            client_id: &self.device,
            is_admin: self.is_admin,
        }
    }
}

/// Set once the connection's task has left everything in order for the next one.
#[derive(Debug, Default)]
struct Departed {
    is_set: AtomicBool,
    wake: Notify,
}

impl Handle {
    /// Waits until the session has let go: what outlives it can be found then.
    pub(crate) async fn departed(&self) {
        let woken = self.departed.wake.notified();
        if !self.departed.is_set.load(Ordering::Acquire) {
            woken.await;
        }
    }

    fn depart(&self) {
        self.departed.is_set.store(true, Ordering::Release);
        self.departed.wake.notify_waiters();
    }
}

/// All connected sessions, by user and by id.
#[derive(Debug)]
pub(crate) struct Registry {
    next_id: AtomicU64,
    sessions: RwLock<Sessions>,
    /// Who are told who comes and goes.
    bridges: Arc<Bridges>,
}

/// One lock for both maps: sessions come and go far more rarely than deliveries look them up.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_uid: HashMap<Uid, Vec<Arc<Handle>>>,
    by_id: HashMap<u64, Arc<Handle>>,
}

impl Sessions {
    pub(crate) fn of_user(&self, uid: &str) -> &[Arc<Handle>] {
        self.by_uid.get(uid).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Handle>> {
        self.by_id.values()
    }

    pub(crate) fn by_user(&self) -> impl Iterator<Item = (&Uid, &[Arc<Handle>])> {
        let users = self.by_uid.iter();
        users.map(|(uid, same_user)| (uid, same_user.as_slice()))
    }

    pub(crate) fn by_id(&self, id: u64) -> Option<&Arc<Handle>> {
        self.by_id.get(&id)
    }

    fn remove_from_user(&mut self, handle: &Handle) {
        if let Some(same_user) = self.by_uid.get_mut(&handle.uid) {
            same_user.retain(|other| other.id != handle.id);
            if same_user.is_empty() {
                self.by_uid.remove(&handle.uid);
            }
        }
    }
}

impl Registry {
    /// Sessions have larger ids than `last_id`.
    pub(crate) fn new(bridges: Arc<Bridges>, last_id: u64) -> Self {
        Registry {
            next_id: AtomicU64::new(last_id),
            sessions: RwLock::default(),
            bridges,
        }
    }

    /// Whether one more connection of the user is within `max`; 0: it is. One that takes over another is no more.
    /// Clients without user name are not one user.
    pub(crate) fn has_room(&self, who: &Newcomer, max: usize) -> bool {
        if max == 0 || who.uid.is_anonymous() {
            return true;
        }
        let sessions = self.read();
        let same_user = sessions.of_user(who.uid.as_str());
        same_user.len() < max || same_user.iter().any(|other| other.device == who.device)
    }

    /// Adds a session. One with the same user and client id ends, as [MQTT-3.1.4-2] asks (v5: MQTT-3.1.4-3); it is
    /// returned, to be waited for.
    pub(crate) fn add(&self, who: Newcomer, outbox: Outbox) -> (Arc<Handle>, Option<Arc<Handle>>) {
        let mut sessions = self.sessions.write();
        let same_user = sessions.by_uid.entry(who.uid.clone()).or_default();
        let earlier = same_user
            .iter()
            .position(|other| other.device == who.device)
            .map(|index| same_user.swap_remove(index));
        let after_earlier = earlier.as_ref().map_or(0, |earlier| earlier.since + 1);
        let mut others = earlier.iter().chain(same_user.iter());
        let bridge = match others.next() {
            Some(other) => Assigned::like(&other.bridge),
            None => Assigned::new(self.bridges.choose(who.uid.as_str())),
        };
        let handle = Arc::new(Handle {
            id: self.next_id.fetch_add(1, Ordering::Relaxed) + 1,
            since: now_ms().max(after_earlier),
            who,
            outbox,
            bridge,
            status: Mutex::default(),
            departed: Departed::default(),
        });
        same_user.push(handle.clone());
        if let Some(earlier) = &earlier {
            sessions.by_id.remove(&earlier.id);
            let left = disconnected(earlier, Closed::TakenOver);
            self.bridges.tell(earlier, &mut vec![left]);
        }
        sessions.by_id.insert(handle.id, handle.clone());
        self.bridges.tell(&handle, &mut vec![connected(&handle)]);
        drop(sessions);
        if let Some(earlier) = &earlier {
            earlier.outbox.close(Closed::TakenOver);
        }
        (handle, earlier)
    }

    /// Removes a session; one that was taken over is gone already. Call it when what outlives the session is in its
    /// place: whoever waits for that goes on.
    pub(crate) fn remove(&self, handle: &Handle, reason: Closed) {
        let mut sessions = self.sessions.write();
        if sessions.by_id.remove(&handle.id).is_some() {
            sessions.remove_from_user(handle);
            let left = disconnected(handle, reason);
            self.bridges.tell(handle, &mut vec![left]);
        }
        drop(sessions);
        handle.depart();
    }

    /// A client id for a client that came without; as unpredictable as a session id needs to be among a user's own.
    pub(crate) fn new_client_id(&self) -> String {
        let mut random = RandomState::new().build_hasher();
        random.write_u64(self.next_id.load(Ordering::Relaxed));
        format!("auto-{:016x}", random.finish())
    }

    /// Asks all sessions to end when they have said what they have to say.
    pub(crate) fn drain_all(&self, reason: Closed) {
        for handle in self.read().by_id.values() {
            handle.outbox.drain(reason);
        }
    }

    /// The same for some of them.
    pub(crate) fn drain(&self, ids: &[u64], reason: Closed) {
        let sessions = self.read();
        for handle in ids.iter().filter_map(|id| sessions.by_id(*id)) {
            handle.outbox.drain(reason);
        }
    }

    /// All sessions.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.read().by_id.keys().copied().collect()
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&self, reason: Closed) {
        for handle in self.read().by_id.values() {
            handle.outbox.close(reason);
        }
    }

    /// Looks sessions up; hold the guard for a short time only.
    pub(crate) fn read(&self) -> parking_lot::RwLockReadGuard<'_, Sessions> {
        self.sessions.read()
    }

    /// Keeps sessions from coming and going, and from being told anything.
    pub(crate) fn write(&self) -> parking_lot::RwLockWriteGuard<'_, Sessions> {
        self.sessions.write()
    }

    /// Ends those of a user's sessions that `is_meant`; tells whether there was one.
    pub(crate) fn kick(&self, uid: &Uid, is_meant: &impl Fn(&Handle) -> bool) -> bool {
        let sessions = self.read();
        let same_user = sessions.of_user(uid.as_str()).iter();
        let meant = same_user.filter(|handle| is_meant(handle));
        meant
            .map(|handle| handle.outbox.close(Closed::Kicked))
            .count()
            > 0
    }
}

fn connected(handle: &Handle) -> FromEdge {
    item(from_edge::Item::Connected(here(handle)))
}

fn here(handle: &Handle) -> Connected {
    Connected {
        session: handle.id,
        uid: handle.uid.to_string(),
        device: handle.device.to_string(),
        nameless: handle.is_nameless,
        address: handle.address.to_string(),
        listener: handle.door.to_string(),
        at: handle.since,
        clean: handle.is_clean,
        ..Connected::default()
    }
}

/// A session for a bridge that has not had it.
pub(crate) fn handed_over(handle: &Handle) -> FromEdge {
    let set_at = handle.password_set_at;
    let set_at = set_at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    item(from_edge::Item::Connected(Connected {
        handed_over: true,
        status: handle.status.lock().clone(),
        login: handle.login.clone().unwrap_or_default(),
        password_set_at: set_at.map_or(0, millis),
        ..here(handle)
    }))
}

fn millis(since: Duration) -> u64 {
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn disconnected(handle: &Handle, reason: Closed) -> FromEdge {
    item(from_edge::Item::Disconnected(gone(handle, reason.name())))
}

/// A session for the bridge that has had it.
pub(crate) fn no_longer_served(handle: &Handle) -> FromEdge {
    item(from_edge::Item::Disconnected(Disconnected {
        handed_over: true,
        ..gone(handle, "handed_over")
    }))
}

fn gone(handle: &Handle, reason: &str) -> Disconnected {
    Disconnected {
        session: handle.id,
        uid: handle.uid.to_string(),
        device: handle.device.to_string(),
        nameless: handle.is_nameless,
        reason: reason.to_owned(),
        ..Disconnected::default()
    }
}

fn item(item: from_edge::Item) -> FromEdge {
    FromEdge { item: Some(item) }
}
