use std::time::Duration;

use super::departures::PENDING_MAX;
use super::*;
use crate::cluster::Bus;

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
        handed_over: false,
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

/// A node, and what it has told.
struct Node {
    number: u32,
    presence: Presence,
    told: tokio::sync::mpsc::Receiver<bus::Notice>,
}

impl Node {
    fn new(number: u32) -> Self {
        let (bus, told) = Bus::of_node(number);
        Node {
            number,
            presence: Presence::new(Pace::default(), bus),
            told,
        }
    }

    /// Tells another node all that has not been told yet; returns the devices whose earlier sessions may be there.
    fn tell(&mut self, other: &Node) -> Vec<(String, u64)> {
        let (node, now) = (self.number, SystemTime::now());
        let mut elsewhere = Vec::new();
        while let Ok(notice) = self.told.try_recv() {
            let presence = &other.presence;
            match notice.notice.unwrap() {
                Notice::Connected(connected) => {
                    elsewhere.extend(presence.heard_connected(node, connected, now));
                }
                Notice::Disconnected(gone) => presence.heard_disconnected(node, gone, now),
                Notice::Status(status) => presence.heard_status(node, &status, now),
                Notice::Roster(roster) => {
                    elsewhere.extend(presence.heard_roster(node, roster, now));
                }
                other => panic!("{other:?}"),
            }
        }
        let devices = elsewhere.into_iter();
        devices.map(|found| (found.device, found.at)).collect()
    }

    fn tell_roster(&self) {
        let mut after = None;
        loop {
            after = self.presence.tell_part(after.as_ref());
            if after.is_none() {
                return;
            }
        }
    }

    fn places(&self, uid: &str) -> Vec<(Place, String)> {
        let connections = self.presence.of(&uid.parse().unwrap()).connections;
        let places = connections.into_iter();
        places.map(|found| (found.place, found.device)).collect()
    }
}

/// What happens at one node is known at the other, and which device was seen where last decides, not whose clock is ahead.
#[test]
fn nodes_know_of_each_other() {
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    let alice: Uid = "alice".parse().unwrap();
    connect(&one.presence, 500, "alice", "phone");
    connect(&one.presence, 501, "alice", "laptop");
    assert_eq!(one.tell(&two), [("phone".into(), 0), ("laptop".into(), 0)]);
    connect(&two.presence, 500, "alice", "phone");
    assert_eq!(two.tell(&one), [("phone".to_owned(), 1)]);
    let phone = || "phone".to_owned();
    let expected = [
        (Place::Here, phone()),
        (Place::Here, "laptop".to_owned()),
        (Place::Node(2), phone()),
    ];
    assert_eq!(one.places("alice"), expected);
    disconnect(&one.presence, 500, "alice", "phone", "taken_over");
    assert!(one.tell(&two).is_empty());
    let expected = [
        (Place::Node(1), "laptop".to_owned()),
        (Place::Here, phone()),
    ];
    assert_eq!(two.places("alice"), expected);
    assert_eq!(two.presence.devices_elsewhere(&alice), ["laptop"]);
    assert_eq!(two.presence.devices(), [(alice.clone(), phone())]);
    let known = &two.presence.of(&alice).departures["phone"];
    assert_eq!(known.1, "taken_over");
    assert!(
        two.presence.take().is_empty(),
        "that is written where it was"
    );
    assert_eq!(one.presence.take().len(), 1);

    for (node, session) in [(&one, 501), (&two, 500)] {
        let now = SystemTime::now();
        node.presence.set_status(&alice, session, Status::Away, now);
    }
    one.tell(&two);
    two.tell(&one);
    for node in [&one, &two] {
        assert_eq!(node.presence.appearance(&alice), Appearance::Away);
    }
    disconnect(&one.presence, 501, "alice", "laptop", "lost");
    disconnect(&two.presence, 500, "alice", "phone", "lost");
    for node in [&one, &two] {
        assert_eq!(node.presence.take_last_seen().len(), 1, "each its own");
    }
}

/// A roster replaces what was known, in parts of a bounded size, and with what happens between them.
#[test]
fn rosters_mend_what_was_missed() {
    let (mut one, mut two) = (Node::new(1), Node::new(2));
    for number in 0..1000 {
        connect(&one.presence, number, &format!("u{number:03}"), "phone");
        connect(&two.presence, number, &format!("u{number:03}"), "laptop");
    }
    while one.told.try_recv().is_ok() {}
    one.tell_roster();
    assert_eq!(one.told.len(), 5 + 1);
    assert_eq!(one.tell(&two).len(), 1000);
    for number in (0..1000).step_by(2) {
        let uid = format!("u{number:03}");
        disconnect(&one.presence, number, &uid, "phone", "lost");
    }
    connect(&one.presence, 2000, "u5005", "phone");
    while one.told.try_recv().is_ok() {}
    let part = one.presence.tell_part(None).unwrap();
    connect(&one.presence, 3000, "u0001", "tablet");
    one.presence.tell_part(Some(&part));
    connect(&one.presence, 3001, "u999", "tablet");
    one.tell_roster();
    let new: Vec<String> = one
        .tell(&two)
        .into_iter()
        .map(|(device, _)| device)
        .collect();
    assert_eq!(new, ["tablet", "phone", "tablet"]);
    let here = |device: &str| (Place::Here, device.to_owned());
    let there = |device: &str| (Place::Node(1), device.to_owned());
    assert_eq!(two.places("u000"), [here("laptop")]);
    assert_eq!(two.places("u001"), [here("laptop"), there("phone")]);
    assert_eq!(two.places("u0001"), [there("tablet")]);
    assert_eq!(two.places("u5005"), [there("phone")]);
    let expected = [here("laptop"), there("phone"), there("tablet")];
    assert_eq!(two.places("u999"), expected);
    two.told.close();
}

/// The first of those who stay writes what the one that is gone can't.
#[test]
fn a_node_that_is_gone_takes_its_sessions_along() {
    let (mut one, two, three) = (Node::new(1), Node::new(2), Node::new(3));
    connect(&one.presence, 1, "alice", "phone");
    connect(&one.presence, 2, "alice", "auto-1");
    connect(&two.presence, 1, "alice", "laptop");
    one.tell_roster();
    one.tell(&two);
    one.tell_roster();
    one.tell(&three);
    three.presence.state.lock().appearances.meet(2);
    two.presence.state.lock().appearances.meet(3);
    for node in [&two, &three] {
        node.presence.left(1, SystemTime::now());
    }
    assert_eq!(two.places("alice"), [(Place::Here, "laptop".to_owned())]);
    assert!(three.places("alice").is_empty());
    let departures = two.presence.take();
    let [departure] = departures.as_slice() else {
        panic!("{departures:?}");
    };
    assert_eq!(
        (&*departure.device, &*departure.reason),
        ("phone", "node_lost")
    );
    assert_eq!(two.presence.take_last_seen().len(), 1);
    assert!(three.presence.take().is_empty() && three.presence.take_last_seen().is_empty());
}
