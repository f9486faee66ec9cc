//! Who is connected, and whose connection has ended without the database knowing it yet.
//!
//! The edge says both, once and in order. Like cursors, ends are written a little later than they come; a crash takes
//! those of the last second, and of devices that were connected then. So it is noted every hour that those are here.
//!
//! A device may pass for something else than it is while it is connected. A user was last seen when the last device left
//! that others could see: one that is invisible leaves no trace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use schema::Uid;
use schema::link::{Connected, Disconnected};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::error;

use super::appearance::{Appearance, Appearances, Change, Pace, Status};
use crate::store::devices::Departure;

/// How long an end may wait for others.
const DELAY: Duration = Duration::from_secs(1);
/// How many may wait.
const PENDING_MAX: usize = 4096;

/// A device that is connected now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    session: u64,
    /// Its client id, or the one that it was given.
    pub device: String,
    /// Since when.
    pub connected_at: SystemTime,
    /// The client's IP address.
    pub address: String,
    /// `mqtt`, `mqtts`, `ws` or `wss`.
    pub listener: String,
    /// What it wants to pass for.
    pub status: Status,
}

/// What [`Presence`] knows of a user's devices.
#[derive(Debug, Default)]
pub struct Devices {
    /// Oldest first.
    pub connections: Vec<Connection>,
    /// When and why the last connection of each of these devices ended.
    pub departures: HashMap<String, (SystemTime, String)>,
}

/// See the module's documentation. Cheap to clone; the pipeline writes, others read.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    state: Arc<Mutex<State>>,
    /// There is something to tell.
    changed: Arc<Notify>,
}

/// Users' devices that have left: when and why.
type Departures = HashMap<(Uid, String), (SystemTime, String)>;

/// There is one entry for each of the edge's connections, which bounds the maps together with `PENDING_MAX`.
#[derive(Debug, Default)]
struct State {
    connections: HashMap<Uid, Vec<Connection>>,
    departures: Departures,
    /// Those that are being written.
    leaving: Departures,
    /// When the first of the departures came.
    since: Option<Instant>,
    /// When users were last seen who have left, and those of them that were written last: who has read the database
    /// before that finds them here.
    last_seen: HashMap<Uid, SystemTime>,
    written_users: HashMap<Uid, SystemTime>,
    appearances: Appearances,
}

impl State {
    fn appearance(&self, uid: &Uid) -> Appearance {
        let connections = self.connections.get(uid);
        Appearance::of(connections.into_iter().flatten().map(|found| found.status))
    }

    /// What follows from a change of the user's connections: `before` is how the user appeared until then.
    fn follow(&mut self, uid: &Uid, before: Appearance, now: SystemTime) {
        let appearance = self.appearance(uid);
        if appearance == before {
            return;
        }
        if appearance == Appearance::Offline {
            self.last_seen.insert(uid.clone(), now);
            self.since.get_or_insert_with(Instant::now);
        }
        self.appearances.set(uid, appearance, Instant::now());
    }
}

impl Presence {
    /// Tells others of changes at that pace.
    pub(super) fn new(pace: Pace) -> Self {
        let state = State {
            appearances: Appearances::new(pace),
            ..State::default()
        };
        Presence {
            state: Arc::new(Mutex::new(state)),
            changed: Arc::default(),
        }
    }

    /// Whether one of the user's devices is connected.
    pub(super) fn is_online(&self, uid: &Uid) -> bool {
        self.state.lock().connections.contains_key(uid)
    }

    /// How the user appears to who asks.
    pub(super) fn appearance(&self, uid: &Uid) -> Appearance {
        self.state.lock().appearances.ask(uid, Instant::now())
    }

    /// When the user was last seen, where the database may not know it yet.
    pub(super) fn last_seen_at(&self, uid: &Uid) -> Option<SystemTime> {
        let state = self.state.lock();
        let last_seen = state.last_seen.get(uid);
        last_seen.or_else(|| state.written_users.get(uid)).copied()
    }

    /// The users who appear to be here, seen now.
    pub(super) fn visible(&self, now: SystemTime) -> Vec<(Uid, SystemTime)> {
        let state = self.state.lock();
        let users = state.connections.keys();
        let visible = users.filter(|uid| state.appearance(uid) != Appearance::Offline);
        visible.map(|uid| (uid.clone(), now)).collect()
    }

    /// A session's device wants to pass for something else from now on.
    pub(super) fn set_status(&self, uid: &Uid, session: u64, status: Status, now: SystemTime) {
        let mut state = self.state.lock();
        let before = state.appearance(uid);
        let connections = state.connections.get_mut(uid).into_iter().flatten();
        for connection in connections.filter(|found| found.session == session) {
            connection.status = status;
        }
        state.follow(uid, before, now);
        drop(state);
        self.changed.notify_one();
    }

    /// Others see something else of the user, or are not to see it any longer.
    pub(super) fn restyled(&self, uid: &Uid) {
        self.state.lock().appearances.restyle(uid, Instant::now());
        self.changed.notify_one();
    }

    /// Returns when a change has to be told.
    pub(super) async fn has_news(&self) {
        loop {
            let due = self.state.lock().appearances.next_due();
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// A change that has to be told now. It counts as told.
    pub(super) fn take_news(&self) -> Option<Change> {
        self.state.lock().appearances.take(Instant::now())
    }

    /// Others may not see the user whose change was taken, and were told so.
    pub(super) fn hidden(&self, uid: &Uid) {
        self.state.lock().appearances.hide(uid, Instant::now());
    }

    /// A change that was taken could not be told.
    pub(super) fn untold(&self, change: &Change) {
        self.state.lock().appearances.fail(change, Instant::now());
    }

    /// What is known of the user's devices beyond the database. Whoever reads there, too, asks here first: what is no
    /// longer here is there.
    #[must_use]
    pub fn of(&self, uid: &Uid) -> Devices {
        let state = self.state.lock();
        let departures = state.leaving.iter().chain(&state.departures);
        let departures = departures.filter(|((of, _), _)| of == uid);
        Devices {
            connections: state.connections.get(uid).cloned().unwrap_or_default(),
            departures: departures
                .map(|((_, device), departure)| (device.clone(), departure.clone()))
                .collect(),
        }
    }

    /// The devices that are connected, by users.
    pub(super) fn devices(&self) -> Vec<(Uid, String)> {
        let state = self.state.lock();
        let connections = state.connections.iter();
        let devices = connections.flat_map(|(uid, devices)| {
            devices
                .iter()
                .map(|found| (uid.clone(), found.device.clone()))
        });
        devices.collect()
    }

    pub(crate) fn connected(&self, connected: Connected, now: SystemTime) {
        let Some(uid) = user(&connected.uid) else {
            return;
        };
        let connection = Connection {
            session: connected.session,
            device: connected.device,
            connected_at: now,
            address: connected.address,
            listener: connected.listener,
            status: Status::default(),
        };
        let mut state = self.state.lock();
        let before = state.appearance(&uid);
        let connections = state.connections.entry(uid.clone()).or_default();
        connections.push(connection);
        state.follow(&uid, before, now);
        drop(state);
        self.changed.notify_one();
    }

    pub(crate) fn disconnected(&self, disconnected: Disconnected, now: SystemTime) {
        let Some(uid) = user(&disconnected.uid) else {
            return;
        };
        let mut state = self.state.lock();
        let before = state.appearance(&uid);
        if let Some(connections) = state.connections.get_mut(&uid) {
            connections.retain(|connection| connection.session != disconnected.session);
            if connections.is_empty() {
                state.connections.remove(&uid);
            }
        }
        state.follow(&uid, before, now);
        if !disconnected.nameless {
            let departure = (now, disconnected.reason);
            let device = (uid, disconnected.device);
            state.departures.insert(device, departure);
            state.since.get_or_insert_with(Instant::now);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// When the departures have to be written; `None`: nothing is waiting.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.state.lock().since.map(|since| since + DELAY)
    }

    pub(super) fn is_due(&self) -> bool {
        let state = self.state.lock();
        let is_full = state.departures.len().max(state.last_seen.len()) >= PENDING_MAX;
        drop(state);
        is_full || self.due_at().is_some_and(|at| at <= Instant::now())
    }

    /// Those that are to be written. They are known here until they are.
    pub(super) fn take(&self) -> Vec<Departure> {
        let mut state = self.state.lock();
        state.since = None;
        state.leaving = std::mem::take(&mut state.departures);
        let departure =
            |((uid, device), (at, reason)): (&(Uid, String), &(SystemTime, String))| Departure {
                uid: uid.clone(),
                device: device.clone(),
                at: *at,
                reason: reason.clone(),
            };
        let mut departures: Vec<Departure> = state.leaving.iter().map(departure).collect();
        drop(state);
        // In one order on all nodes, so that two transactions don't wait for each other.
        departures.sort_unstable_by(|a, b| (&a.uid, &a.device).cmp(&(&b.uid, &b.device)));
        departures
    }

    /// The users who have left, and when they were last seen: the rest of what [`take`](Self::take) takes.
    pub(super) fn take_last_seen(&self) -> Vec<(Uid, SystemTime)> {
        let mut state = self.state.lock();
        let left = std::mem::take(&mut state.last_seen);
        if !left.is_empty() {
            state.written_users.clone_from(&left);
        }
        drop(state);
        let mut left: Vec<_> = left.into_iter().collect();
        left.sort_unstable();
        left
    }

    /// What was taken is in the database, or given up.
    pub(super) fn written(&self) {
        self.state.lock().leaving.clear();
    }
}

/// Whose connection it is; of anonymous ones nothing is kept.
fn user(name: &str) -> Option<Uid> {
    if name.starts_with('$') {
        return None;
    }
    let uid = name.parse().ok();
    if uid.is_none() {
        error!("the edge spoke of a user who can't exist");
    }
    uid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn connect(presence: &Presence, session: u64, uid: &str, device: &str) {
        let connected = Connected {
            session,
            uid: uid.to_owned(),
            device: device.to_owned(),
            nameless: device.starts_with("auto-"),
            address: "192.0.2.1".to_owned(),
            listener: "mqtt".to_owned(),
            ..Connected::default()
        };
        presence.connected(connected, at(session));
    }

    fn disconnect(presence: &Presence, session: u64, uid: &str, device: &str, reason: &str) {
        let disconnected = Disconnected {
            session,
            uid: uid.to_owned(),
            device: device.to_owned(),
            nameless: device.starts_with("auto-"),
            reason: reason.to_owned(),
        };
        presence.disconnected(disconnected, at(100 + session));
    }

    fn sessions(presence: &Presence, uid: &str) -> Vec<u64> {
        let connections = presence.of(&uid.parse().unwrap()).connections;
        let sessions = connections.iter().map(|connection| connection.session);
        sessions.collect()
    }

    /// The end of a connection that was taken over says nothing of the one that took it over.
    #[test]
    fn a_device_is_there_until_its_last_connection_ends() {
        let presence = Presence::default();
        connect(&presence, 1, "alice", "phone");
        connect(&presence, 2, "alice", "laptop");
        disconnect(&presence, 1, "alice", "phone", "taken_over");
        connect(&presence, 3, "alice", "phone");
        connect(&presence, 4, "bob", "phone");
        assert_eq!(sessions(&presence, "alice"), [2, 3]);
        let alice: Uid = "alice".parse().unwrap();
        assert_eq!(presence.of(&alice).connections[1].connected_at, at(3));
        let departure = |device: &str| presence.of(&alice).departures.remove(device);
        let taken_over = Some((at(101), "taken_over".to_owned()));
        assert_eq!(departure("phone"), taken_over);

        disconnect(&presence, 3, "alice", "phone", "by_client");
        disconnect(&presence, 2, "alice", "laptop", "lost");
        assert!(sessions(&presence, "alice").is_empty());
        assert_eq!(sessions(&presence, "bob"), [4]);
        let departures: Vec<(String, SystemTime, String)> = presence
            .take()
            .into_iter()
            .map(|departure| (departure.device, departure.at, departure.reason))
            .collect();
        let expected = [
            ("laptop".to_owned(), at(102), "lost".to_owned()),
            ("phone".to_owned(), at(103), "by_client".to_owned()),
        ];
        assert_eq!(departures, expected);
        let lost = Some((at(102), "lost".to_owned()));
        assert_eq!(departure("laptop"), lost, "it is not written yet");
        presence.written();
        assert_eq!(departure("laptop"), None);
        assert_eq!((presence.due_at(), presence.take().len()), (None, 0));
        disconnect(&presence, 4, "bob", "phone", "lost");
        assert!(presence.state.lock().connections.is_empty());
    }

    #[test]
    fn nameless_and_anonymous_clients_are_not_stored() {
        let presence = Presence::default();
        connect(&presence, 1, "$anonymous", "sensor");
        connect(&presence, 2, "alice", "auto-1");
        assert_eq!(sessions(&presence, "alice"), [2]);
        disconnect(&presence, 1, "$anonymous", "sensor", "lost");
        disconnect(&presence, 2, "alice", "auto-1", "lost");
        assert!(presence.state.lock().connections.is_empty());
        assert_eq!(presence.take().len(), 0);
    }

    #[test]
    fn departures_wait_for_each_other() {
        let presence = Presence::default();
        connect(&presence, 1, "alice", "phone");
        assert_eq!(presence.due_at(), None);
        disconnect(&presence, 1, "alice", "phone", "lost");
        let due_at = presence.due_at().unwrap();
        for number in 2..=PENDING_MAX as u64 {
            disconnect(&presence, number, "alice", &format!("d{number}"), "lost");
        }
        assert_eq!(presence.due_at(), Some(due_at));
        assert!(presence.is_due());
    }
}
