//! Who is connected to other nodes, as these tell.
//!
//! Each tells what happens there; who has come new, or has missed something, asks all for their rosters. They come in parts,
//! each of which is about the users between two names, and replaces what was known of these. While the bus is away,
//! what was known stays; a node that is gone takes its sessions with it.

use std::collections::HashMap;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use schema::Uid;
use schema::bus::{self, Hello, Present, Roster, Told, notice::Notice};
use schema::link::{Connected, Disconnected, Elsewhere};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Connection, Presence, State, user};
use crate::clock;
use crate::service::appearance::{Appearance, Place, Status};

/// Connections of a part of a roster, as soon as there are so many.
const PART: usize = 200;
/// Users who are looked at for a part: the lock is held meanwhile.
const LOOKED_AT_MAX: usize = 4000;
/// Between two parts, so that the bus has room for what happens meanwhile.
const PART_INTERVAL: Duration = Duration::from_millis(5);
/// After the first that is heard of others: what their rosters say until then was told to contacts before.
const LEARNING: Duration = Duration::from_secs(5);
/// Why the connections to a node ended that is gone.
const NODE_LOST: &str = "node_lost";

/// Whether this node has come a short while ago, and learns of what is known to everybody.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Learning {
    /// It has heard nothing yet.
    #[default]
    Nothing,
    Until(Instant),
}

impl Learning {
    pub(super) fn is_under_way(self) -> bool {
        match self {
            Learning::Nothing => true,
            Learning::Until(end) => Instant::now() < end,
        }
    }
}

// === impl Presence: what this node tells ===

impl Presence {
    /// Asks all others who is connected to them, and tells who is connected here: something may have been missed.
    pub(in crate::service) fn greet(&self) {
        if !self.bus.is_alone() {
            let number = self.bus.node();
            self.state.lock().appearances.set_number(number);
            self.bus.tell(Notice::Hello(Hello {}));
            self.asked();
        }
    }

    /// Others want to know who is connected here.
    pub(in crate::service) fn asked(&self) {
        self.asked.notify_one();
    }

    /// Tells them whenever they ask, until `stop`.
    pub(in crate::service) async fn tell_rosters(self, stop: CancellationToken) {
        let telling = async {
            loop {
                self.asked.notified().await;
                let mut after = None;
                loop {
                    after = self.tell_part(after.as_ref());
                    if after.is_none() {
                        break;
                    }
                    sleep(PART_INTERVAL).await;
                }
            }
        };
        stop.run_until_cancelled(telling).await;
    }

    /// Tells of the users after that one; returns the last of them, unless there are no more.
    pub(super) fn tell_part(&self, after: Option<&Uid>) -> Option<Uid> {
        let mut present = Vec::new();
        let mut up_to = None;
        // What happens later is told later.
        let state = self.state.lock();
        let users = state.connections.range((lower(after), Bound::Unbounded));
        for (looked_at, (uid, connections)) in users.enumerate() {
            let here = connections.iter().filter(|one| one.is_here());
            present.extend(here.map(|connection| of_roster(uid, connection)));
            if present.len() >= PART || looked_at >= LOOKED_AT_MAX {
                up_to = Some(uid.clone());
                break;
            }
        }
        self.bus.tell(Notice::Roster(Roster {
            after: after.map(Uid::to_string).unwrap_or_default(),
            up_to: up_to.as_ref().map(Uid::to_string).unwrap_or_default(),
            present,
        }));
        up_to
    }
}

fn lower(after: Option<&Uid>) -> Bound<Uid> {
    after.cloned().map_or(Bound::Unbounded, Bound::Excluded)
}

fn of_roster(uid: &Uid, connection: &Connection) -> Present {
    let connected = Connected {
        session: connection.session,
        uid: uid.to_string(),
        device: connection.device.clone(),
        nameless: connection.is_nameless,
        address: connection.address.clone(),
        listener: connection.listener.clone(),
        at: connection.at,
        ..Connected::default()
    };
    Present {
        connected: Some(connected),
        status: connection.status.as_str().to_owned(),
    }
}

// === impl Presence: what others tell ===

impl Presence {
    /// A device has connected there. Returns what the edge has to know: an earlier session of it may be here.
    pub(in crate::service) fn heard_connected(
        &self,
        node: u32,
        connected: Connected,
        now: SystemTime,
    ) -> Option<Elsewhere> {
        let mut state = self.state.lock();
        state.appearances.meet(node);
        let is_new = state.enter(node, &connected, None, now);
        let item = self.elsewhere(node, connected);
        drop(state);
        self.changed.notify_one();
        item.filter(|_| is_new)
    }

    pub(in crate::service) fn heard_disconnected(
        &self,
        node: u32,
        disconnected: Disconnected,
        now: SystemTime,
    ) {
        let Some(uid) = user(&disconnected.uid) else {
            return;
        };
        let there = Place::Node(node);
        let mut state = self.state.lock();
        state.change(&uid, there, now, |connections| {
            connections.retain(|found| !found.is(there, disconnected.session));
        });
        state.departures.note(uid, there, disconnected, now);
        drop(state);
        self.changed.notify_one();
    }

    pub(in crate::service) fn heard_status(
        &self,
        node: u32,
        status: &bus::Status,
        now: SystemTime,
    ) {
        let session = (Place::Node(node), status.session);
        if let (Some(uid), Some(status)) = (user(&status.uid), Status::named(&status.status)) {
            self.state.lock().set_status(&uid, session, status, now);
            self.changed.notify_one();
        }
    }

    pub(in crate::service) fn heard_restyled(&self, node: u32, uid: &str) {
        if let Some(uid) = user(uid) {
            let mut state = self.state.lock();
            let appearances = &mut state.appearances;
            appearances.restyle(&uid, Place::Node(node), Instant::now());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Contacts were told of a user, and need not be from here.
    pub(in crate::service) fn heard_told(&self, told: &Told) {
        if let (Some(uid), Some(appearance)) =
            (user(&told.uid), Appearance::named(&told.appearance))
        {
            let mut state = self.state.lock();
            let appearances = &mut state.appearances;
            appearances.told(&uid, appearance, told.hidden, Instant::now());
        }
    }

    /// Who is connected there, of some users. Returns what the edge has to know of those who were not known to be.
    pub(in crate::service) fn heard_roster(
        &self,
        node: u32,
        roster: Roster,
        now: SystemTime,
    ) -> Vec<Elsewhere> {
        let there = Place::Node(node);
        let mut state = self.state.lock();
        state.appearances.meet(node);
        if let Learning::Nothing = state.learning {
            state.learning = Learning::Until(Instant::now() + LEARNING);
        }
        let mut sessions: HashMap<String, Vec<u64>> = HashMap::new();
        for connected in roster
            .present
            .iter()
            .filter_map(|one| one.connected.as_ref())
        {
            let of_user = sessions.entry(connected.uid.clone()).or_default();
            of_user.push(connected.session);
        }
        let is_there = |uid: &Uid, session: u64| {
            let of_user = sessions.get(uid.as_str());
            of_user.is_some_and(|sessions| sessions.contains(&session))
        };
        for uid in state.users_between(there, &roster.after, &roster.up_to) {
            state.change(&uid, there, now, |connections| {
                connections.retain(|found| found.place != there || is_there(&uid, found.session));
            });
        }
        let mut items = Vec::new();
        for Present { connected, status } in roster.present {
            let Some(connected) = connected else {
                continue;
            };
            if state.enter(node, &connected, Status::named(&status), now) {
                items.extend(self.elsewhere(node, connected));
            }
        }
        drop(state);
        self.changed.notify_one();
        items
    }

    /// A node is gone, and its sessions with it. What it can't write any more, the node with the lowest number does.
    pub(in crate::service) fn left(&self, node: u32, now: SystemTime) {
        let there = Place::Node(node);
        let mut state = self.state.lock();
        state.appearances.part(node);
        let is_first = state.appearances.is_first();
        for uid in state.users_between(there, "", "") {
            let connections = state.connections.get(&uid).into_iter().flatten();
            let lost = connections.filter(|found| found.place == there);
            let lost: Vec<(String, bool)> = lost
                .map(|found| (found.device.clone(), found.is_nameless))
                .collect();
            state.change(&uid, there, now, |connections| {
                connections.retain(|found| found.place != there);
            });
            if !is_first {
                continue;
            }
            state.departures.take_over(&uid);
            for (device, nameless) in lost {
                let disconnected = Disconnected {
                    device,
                    nameless,
                    reason: NODE_LOST.to_owned(),
                    ..Disconnected::default()
                };
                let uid = uid.clone();
                state.departures.note(uid, Place::Here, disconnected, now);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What the edge has to know of a device that has connected there.
    fn elsewhere(&self, node: u32, connected: Connected) -> Option<Elsewhere> {
        (!connected.nameless).then_some(Elsewhere {
            uid: connected.uid,
            device: connected.device,
            at: connected.at,
            wins_ties: node > self.bus.node(),
            clean: connected.clean,
            session: connected.session,
        })
    }
}

impl State {
    /// Notes a connection there, with what it passes for if that is told; tells whether it is new. Of a client without user
    /// name it always is, since nothing is kept.
    fn enter(
        &mut self,
        node: u32,
        connected: &Connected,
        status: Option<Status>,
        now: SystemTime,
    ) -> bool {
        let there = Place::Node(node);
        let session = connected.session;
        let Some(uid) = user(&connected.uid) else {
            return true;
        };
        let known = self.connections.get(&uid).into_iter().flatten();
        let is_new = known.into_iter().all(|known| !known.is(there, session));
        self.change(&uid, there, now, |connections| {
            if is_new {
                let since = clock::from_millis(connected.at.cast_signed());
                connections.push(Connection::new(there, connected.clone(), since));
            }
            let meant = connections.iter_mut();
            for connection in meant.filter(|found| found.is(there, session)) {
                connection.status = status.unwrap_or(connection.status);
            }
        });
        // What a roster says was told before, and by whoever handed a session over.
        let is_told = connected.handed_over || (status.is_some() && self.learning.is_under_way());
        if is_told {
            let appearance = self.appearance(&uid);
            self.appearances
                .learn(&uid, appearance, there, Instant::now());
        }
        is_new
    }

    /// The users with connections there, after one and up to another; empty: no bound.
    fn users_between(&self, there: Place, after: &str, up_to: &str) -> Vec<Uid> {
        let bound = |name: &str| name.parse::<Uid>().ok();
        let upper = bound(up_to).map_or(Bound::Unbounded, Bound::Included);
        let lower = lower(bound(after).as_ref());
        let is_empty =
            matches!((&lower, &upper), (Bound::Excluded(a), Bound::Included(b)) if a >= b);
        if is_empty {
            return Vec::new();
        }
        let users = self.connections.range((lower, upper));
        let is_there = |found: &Connection| found.place == there;
        users
            .filter(|(_, connections)| connections.iter().any(is_there))
            .map(|(uid, _)| uid.clone())
            .collect()
    }
}
