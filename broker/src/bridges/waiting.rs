//! What has been said while nobody was there to hear it: for the next bridge.
//!
//! Sessions that are nobody's are read from until too much waits here, of all of them together. What comes on top is in their
//! windows already.

use std::collections::HashMap;

use prost::Message as _;
use schema::Uid;
use schema::link::{self, Connected, Disconnected, FromEdge, from_edge};

use crate::registry::{Handle, Sessions};
use crate::session::NO_ANSWER;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// By session: publishes, and the last subscription.
    sessions: HashMap<u64, Vec<FromEdge>>,
    /// In the name of users: wills, acknowledgements, and who has left.
    loose: Vec<(Uid, FromEdge)>,
    /// For the voice.
    plain: Vec<FromEdge>,
    bytes: usize,
}

impl Waiting {
    /// Keeps a session's items, as far as the next bridge does not learn of them otherwise.
    pub(super) fn keep(&mut self, handle: &Handle, items: &mut Vec<FromEdge>) {
        for item in items.drain(..) {
            if let Some(item) = item.item {
                self.keep_one(handle, item);
            }
        }
    }

    /// Bytes of all that waits.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps what is for the voice, and leaves `items` empty.
    pub(super) fn keep_plain(&mut self, items: &mut Vec<FromEdge>) {
        self.bytes += bytes_of(items);
        self.plain.append(items);
    }

    /// What is for the voice.
    pub(super) fn take_plain(&mut self) -> Vec<FromEdge> {
        let plain = std::mem::take(&mut self.plain);
        self.bytes -= bytes_of(&plain);
        plain
    }

    fn keep_one(&mut self, handle: &Handle, item: from_edge::Item) {
        let is_own = match &item {
            from_edge::Item::Uplink(uplink) => uplink.token != NO_ANSWER,
            from_edge::Item::Subscribed(_) => true,
            from_edge::Item::Disconnected(disconnected) => {
                // Publishes without an answer are sent again by their client, when it comes back.
                drop(self.take(handle.id));
                self.add_loose(handle.uid.clone(), was_here(disconnected));
                false
            }
            from_edge::Item::Acked(_) => false,
            from_edge::Item::Gone(_) => return self.forget_subscription(handle.id),
            from_edge::Item::Retain(_)
            | from_edge::Item::Publish(_)
            | from_edge::Item::Shared(_) => return self.keep_plain(&mut vec![wrapped(item)]),
            from_edge::Item::Connected(_)
            | from_edge::Item::Drained(_)
            | from_edge::Item::Brief(_)
            | from_edge::Item::Authenticate(_) => return,
        };
        if let from_edge::Item::Subscribed(_) = &item {
            self.forget_subscription(handle.id);
        }
        let item = wrapped(item);
        match is_own {
            true => {
                self.bytes += item.encoded_len();
                self.sessions.entry(handle.id).or_default().push(item);
            }
            false => self.add_loose(handle.uid.clone(), item),
        }
    }

    fn forget_subscription(&mut self, session: u64) {
        if let Some(items) = self.sessions.get_mut(&session) {
            let before = bytes_of(items);
            items.retain(|item| !matches!(item.item, Some(from_edge::Item::Subscribed(_))));
            self.bytes -= before - bytes_of(items);
        }
    }

    fn add_loose(&mut self, uid: Uid, item: FromEdge) {
        self.bytes += item.encoded_len();
        self.loose.push((uid, item));
    }

    /// Keeps what is said in a user's name, and leaves `items` empty.
    pub(super) fn keep_loose(&mut self, uid: &Uid, items: &mut Vec<FromEdge>) {
        for item in items.drain(..) {
            self.add_loose(uid.clone(), item);
        }
    }

    /// Keeps what a bridge has not dealt with that is gone: before what its sessions have said since. They will subscribe anew.
    pub(super) fn keep_rest(&mut self, rest: Vec<from_edge::Item>, sessions: &Sessions) {
        let mut earlier: HashMap<u64, Vec<FromEdge>> = HashMap::new();
        for item in rest {
            match &item {
                from_edge::Item::Uplink(uplink) if uplink.token != NO_ANSWER => {
                    let session = uplink.session;
                    if sessions.by_id(session).is_some() {
                        earlier.entry(session).or_default().push(wrapped(item));
                    }
                }
                from_edge::Item::Disconnected(disconnected) if !disconnected.handed_over => {
                    if let Ok(uid) = disconnected.uid.parse::<Uid>() {
                        self.add_loose(uid.clone(), was_here(disconnected));
                        self.add_loose(uid, wrapped(item));
                    }
                }
                from_edge::Item::Uplink(link::Uplink { uid, .. })
                | from_edge::Item::Acked(link::Acked { uid, .. }) => {
                    if let Ok(uid) = uid.parse() {
                        self.add_loose(uid, wrapped(item));
                    }
                }
                from_edge::Item::Retain(_)
                | from_edge::Item::Publish(_)
                | from_edge::Item::Shared(_) => self.keep_plain(&mut vec![wrapped(item)]),
                from_edge::Item::Subscribed(_)
                | from_edge::Item::Connected(_)
                | from_edge::Item::Disconnected(_)
                | from_edge::Item::Drained(_)
                | from_edge::Item::Gone(_)
                | from_edge::Item::Brief(_)
                | from_edge::Item::Authenticate(_) => {}
            }
        }
        for (session, mut items) in earlier {
            self.bytes += bytes_of(&items);
            let kept = self.sessions.entry(session).or_default();
            items.append(kept);
            *kept = items;
        }
    }

    /// What the session has said.
    pub(super) fn take(&mut self, session: u64) -> Vec<FromEdge> {
        let items = self.sessions.remove(&session).unwrap_or_default();
        self.bytes -= bytes_of(&items);
        items
    }

    /// What is said in users' names. What sessions have said that have ended since is forgotten.
    pub(super) fn take_loose(&mut self, sessions: &Sessions) -> Vec<(Uid, FromEdge)> {
        let bytes = &mut self.bytes;
        self.sessions.retain(|session, items| {
            let is_there = sessions.by_id(*session).is_some();
            if !is_there {
                *bytes -= bytes_of(items);
            }
            is_there
        });
        let loose = std::mem::take(&mut self.loose);
        let taken: usize = loose.iter().map(|(_, item)| item.encoded_len()).sum();
        self.bytes -= taken;
        loose
    }
}

fn wrapped(item: from_edge::Item) -> FromEdge {
    FromEdge { item: Some(item) }
}

fn bytes_of(items: &[FromEdge]) -> usize {
    items.iter().map(prost::Message::encoded_len).sum()
}

/// Who hears that a session has ended has to know of it first.
fn was_here(disconnected: &Disconnected) -> FromEdge {
    wrapped(from_edge::Item::Connected(Connected {
        session: disconnected.session,
        uid: disconnected.uid.clone(),
        device: disconnected.device.clone(),
        nameless: disconnected.nameless,
        handed_over: true,
        ..Connected::default()
    }))
}
