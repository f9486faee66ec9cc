//! Who is connected, and whose connection has ended without the database knowing it yet.
//!
//! The edge says both, once and in order; of other nodes' sessions those nodes tell ([`elsewhere`]). Like cursors, ends are
//! written a little later than they come (`departures`); a crash takes those of the last second, and of devices that were
//! connected then. So it is noted every hour that those are here.
//!
//! A device may pass for something else than it is while it is connected. A user was last seen when the last device left
//! that others could see: one that is invisible leaves no trace.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use schema::Uid;
use schema::bus::{self, notice::Notice};
use schema::link::{Connected, Disconnected};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::error;

use super::appearance::{Appearance, Appearances, Change, Pace, Place, Status};
use crate::clock;
use crate::cluster::Bus;
use crate::store::devices::Departure;

mod departures;
pub mod elsewhere;

use departures::Departures;
use elsewhere::Learning;

/// A device that is connected now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// At which node.
    pub place: Place,
    session: u64,
    /// Its client id, or the one that it was given.
    pub device: String,
    is_nameless: bool,
    /// Since when.
    pub connected_at: SystemTime,
    /// The same for all nodes, in milliseconds since 1970: of two connections of a device, the later one stays.
    at: u64,
    /// The client's IP address.
    pub address: String,
    /// `mqtt`, `mqtts`, `ws` or `wss`.
    pub listener: String,
    /// What it wants to pass for.
    pub status: Status,
}

impl Connection {
    fn new(place: Place, connected: Connected, connected_at: SystemTime) -> Self {
        Connection {
            place,
            session: connected.session,
            device: connected.device,
            is_nameless: connected.nameless,
            connected_at,
            at: connected.at,
            address: connected.address,
            listener: connected.listener,
            status: Status::default(),
        }
    }

    fn is(&self, place: Place, session: u64) -> bool {
        self.place == place && self.session == session
    }

    fn is_here(&self) -> bool {
        self.place == Place::Here
    }
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
    /// Other nodes want to know who is connected here.
    asked: Arc<Notify>,
    /// They hear of what happens here in its order: they are told under the lock.
    bus: Bus,
}

/// There is one entry for each connection, which bounds the maps together with what may wait to be written.
#[derive(Debug, Default)]
struct State {
    /// In the order of the users, in which other nodes are told.
    connections: BTreeMap<Uid, Vec<Connection>>,
    departures: Departures,
    appearances: Appearances,
    learning: Learning,
}

impl State {
    fn appearance(&self, uid: &Uid) -> Appearance {
        let connections = self.connections.get(uid);
        Appearance::of(connections.into_iter().flatten().map(|found| found.status))
    }

    /// How the user would appear with the connections there alone.
    fn appearance_at(&self, uid: &Uid, there: Place) -> Appearance {
        let connections = self.connections.get(uid).into_iter().flatten();
        let connections = connections.filter(|connection| connection.place == there);
        Appearance::of(connections.map(|found| found.status))
    }

    /// Changes a user's connections here, of which contacts have been told by the bridge that has them no longer, or will be
    /// by the one that has them now.
    fn hand_over(&mut self, uid: &Uid, change: impl FnOnce(&mut Vec<Connection>)) {
        let connections = self.connections.entry(uid.clone()).or_default();
        change(connections);
        if connections.is_empty() {
            self.connections.remove(uid);
        }
        let appearance = self.appearance(uid);
        let appearances = &mut self.appearances;
        appearances.learn(uid, appearance, Place::Here, Instant::now());
    }

    /// Changes a user's connections there, and follows it up.
    fn change(
        &mut self,
        uid: &Uid,
        there: Place,
        now: SystemTime,
        change: impl FnOnce(&mut Vec<Connection>),
    ) {
        let (before, before_there) = (self.appearance(uid), self.appearance_at(uid, there));
        let connections = self.connections.entry(uid.clone()).or_default();
        change(connections);
        if connections.is_empty() {
            self.connections.remove(uid);
        }
        let after = self.appearance(uid);
        let offline = Appearance::Offline;
        if before_there != offline && self.appearance_at(uid, there) == offline {
            // Whether the user is to be seen elsewhere or not: of two nodes that are left at the same time, each would
            // believe that the other one notes it.
            self.departures.note_last_seen(uid, there, now);
        }
        if after == before {
            return;
        }
        self.appearances.set(uid, after, there, Instant::now());
    }
}

impl Presence {
    /// Tells contacts of changes at that pace, and other nodes by the bus.
    pub(super) fn new(pace: Pace, bus: Bus) -> Self {
        let state = State {
            appearances: Appearances::new(pace, bus.node()),
            ..State::default()
        };
        Presence {
            state: Arc::new(Mutex::new(state)),
            bus,
            ..Presence::default()
        }
    }

    /// Whether one of the user's devices is connected.
    pub(super) fn is_online(&self, uid: &Uid) -> bool {
        self.state.lock().connections.contains_key(uid)
    }

    /// Users who are connected here.
    pub(super) fn users_here(&self) -> Vec<Uid> {
        let state = self.state.lock();
        let here = state
            .connections
            .iter()
            .filter(|(_, connections)| connections.iter().any(Connection::is_here));
        here.map(|(uid, _)| uid.clone()).collect()
    }

    /// Leaves only those of these users who are connected here.
    pub(super) fn retain_here(&self, uids: &mut Vec<String>) {
        let state = self.state.lock();
        uids.retain(|uid| {
            let mut connections = state.connections.get(uid.as_str()).into_iter().flatten();
            connections.any(Connection::is_here)
        });
    }

    /// How the user appears to who asks.
    pub(super) fn appearance(&self, uid: &Uid) -> Appearance {
        self.state.lock().appearances.ask(uid, Instant::now())
    }

    /// When the user was last seen, where the database may not know it yet.
    pub(super) fn last_seen_at(&self, uid: &Uid) -> Option<SystemTime> {
        self.state.lock().departures.last_seen_at(uid)
    }

    /// The users who appear to be here, at this node, seen now.
    pub(super) fn visible(&self, now: SystemTime) -> Vec<(Uid, SystemTime)> {
        let state = self.state.lock();
        let users = state.connections.keys();
        let visible =
            users.filter(|uid| state.appearance_at(uid, Place::Here) != Appearance::Offline);
        visible.map(|uid| (uid.clone(), now)).collect()
    }

    /// A session's device wants to pass for something else from now on.
    pub(super) fn set_status(&self, uid: &Uid, session: u64, status: Status, now: SystemTime) {
        let mut state = self.state.lock();
        state.set_status(uid, (Place::Here, session), status, now);
        self.bus.tell(Notice::Status(bus::Status {
            uid: uid.to_string(),
            session,
            status: status.as_str().to_owned(),
        }));
        drop(state);
        self.changed.notify_one();
    }

    /// Others see something else of the user, or are not to see it any longer.
    pub(super) fn restyled(&self, uid: &Uid) {
        let mut state = self.state.lock();
        let appearances = &mut state.appearances;
        appearances.restyle(uid, Place::Here, Instant::now());
        self.bus.tell(Notice::Restyled(uid.to_string()));
        drop(state);
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

    /// A change that was taken was told, so that other nodes need not.
    pub(super) fn told(&self, change: &Change) {
        self.tell_told(&change.uid, change.now, false);
    }

    /// Others may not see the user whose change was taken, and were told so.
    pub(super) fn hidden(&self, uid: &Uid) {
        self.state.lock().appearances.hide(uid, Instant::now());
        self.tell_told(uid, Appearance::Offline, true);
    }

    fn tell_told(&self, uid: &Uid, appearance: Appearance, hidden: bool) {
        self.bus.tell(Notice::Told(bus::Told {
            uid: uid.to_string(),
            appearance: appearance.as_str().to_owned(),
            hidden,
        }));
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
        Devices {
            connections: state.connections.get(uid).cloned().unwrap_or_default(),
            departures: state.departures.of(uid),
        }
    }

    /// How many sessions this node has.
    #[must_use]
    pub fn count_here(&self) -> usize {
        let state = self.state.lock();
        let connections = state.connections.values().flatten();
        connections.filter(|found| found.is_here()).count()
    }

    /// The devices that are connected to this node, by users.
    pub(super) fn devices(&self) -> Vec<(Uid, String)> {
        let state = self.state.lock();
        let connections = state.connections.iter();
        let devices = connections.flat_map(|(uid, devices)| {
            let here = devices.iter().filter(|found| found.is_here());
            here.map(|found| (uid.clone(), found.device.clone()))
        });
        devices.collect()
    }

    /// The user's devices that are connected to other nodes.
    pub(super) fn devices_elsewhere(&self, uid: &Uid) -> Vec<String> {
        let state = self.state.lock();
        let connections = state.connections.get(uid).into_iter().flatten();
        let elsewhere = connections.filter(|found| !found.is_here());
        elsewhere.map(|found| found.device.clone()).collect()
    }

    pub(crate) fn connected(&self, mut connected: Connected, now: SystemTime) {
        let mut state = self.state.lock();
        if let Some(uid) = user(&connected.uid) {
            // Later than a connection that is known, whatever the clocks say: only of two that don't know of each other
            // they decide.
            let known = state.connections.get(&uid).into_iter().flatten();
            let same = known.filter(|known| known.device == connected.device);
            let last = same.map(|known| known.at).max();
            // One that is handed over is the one that is known: were it later, it would end itself.
            if !connected.handed_over {
                connected.at = connected.at.max(last.map_or(0, |last| last + 1));
            }
            let status = Status::named(&connected.status);
            let since = match connected.handed_over {
                true => clock::from_millis(connected.at.cast_signed()),
                false => now,
            };
            let connection = Connection {
                status: status.unwrap_or_default(),
                ..Connection::new(Place::Here, connected.clone(), since)
            };
            let add = |connections: &mut Vec<Connection>| connections.push(connection);
            match connected.handed_over {
                true => state.hand_over(&uid, add),
                false => state.change(&uid, Place::Here, now, add),
            }
        }
        self.bus.tell(Notice::Connected(connected));
        drop(state);
        self.changed.notify_one();
    }

    pub(crate) fn disconnected(&self, disconnected: Disconnected, now: SystemTime) {
        let Some(uid) = user(&disconnected.uid) else {
            return;
        };
        let mut state = self.state.lock();
        let session = disconnected.session;
        let remove = |connections: &mut Vec<Connection>| {
            connections.retain(|found| !found.is(Place::Here, session));
        };
        match disconnected.handed_over {
            true => state.hand_over(&uid, remove),
            false => state.change(&uid, Place::Here, now, remove),
        }
        if !self.bus.is_alone() {
            self.bus.tell(Notice::Disconnected(disconnected.clone()));
        }
        if !disconnected.handed_over {
            state.departures.note(uid, Place::Here, disconnected, now);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// No session is this node's any more: another bridge has them, or nobody.
    pub(super) fn end_all(&self) {
        let mut state = self.state.lock();
        let users = state.connections.iter();
        let users = users.filter(|(_, connections)| connections.iter().any(Connection::is_here));
        let users: Vec<Uid> = users.map(|(uid, _)| uid.clone()).collect();
        for uid in &users {
            state.hand_over(uid, |connections| {
                connections.retain(|found| !found.is_here())
            });
        }
        drop(state);
        self.changed.notify_one();
    }

    /// When the departures have to be written; `None`: nothing is waiting.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.state.lock().departures.due_at()
    }

    pub(super) fn is_due(&self) -> bool {
        self.state.lock().departures.is_due()
    }

    /// Those that are to be written. They are known here until they are.
    pub(super) fn take(&self) -> Vec<Departure> {
        self.state.lock().departures.take()
    }

    /// The users who have left, and when they were last seen: the rest of what [`take`](Self::take) takes.
    pub(super) fn take_last_seen(&self) -> Vec<(Uid, SystemTime)> {
        self.state.lock().departures.take_last_seen()
    }

    /// What was taken is in the database, or given up.
    pub(super) fn written(&self) {
        self.state.lock().departures.written();
    }
}

impl State {
    fn set_status(
        &mut self,
        uid: &Uid,
        (place, session): (Place, u64),
        status: Status,
        now: SystemTime,
    ) {
        self.change(uid, place, now, |connections| {
            let meant = connections.iter_mut();
            for connection in meant.filter(|found| found.is(place, session)) {
                connection.status = status;
            }
        });
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
mod tests;
