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
            self.bytes += item.encoded_len();
            if let Some(item) = item.item {
                self.keep_one(handle, item);
            }
        }
    }

    /// Bytes of all that waits, or somewhat more.
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
        self.bytes = self.bytes.saturating_sub(bytes_of(&plain));
        plain
    }

    fn keep_one(&mut self, handle: &Handle, item: from_edge::Item) {
        let own = match &item {
            from_edge::Item::Uplink(uplink) => uplink.token != NO_ANSWER,
            from_edge::Item::Subscribed(_) => true,
            from_edge::Item::Disconnected(disconnected) => {
                // Publishes without an answer are sent again by their client, when it comes back.
                self.sessions.remove(&handle.id);
                self.loose
                    .push((handle.uid.clone(), was_here(disconnected)));
                false
            }
            from_edge::Item::Acked(_) => false,
            from_edge::Item::Gone(_) => return self.forget_subscription(handle.id),
            from_edge::Item::Retain(_)
            | from_edge::Item::Publish(_)
            | from_edge::Item::Shared(_) => {
                return self.plain.push(FromEdge { item: Some(item) });
            }
            from_edge::Item::Connected(_)
            | from_edge::Item::Drained(_)
            | from_edge::Item::Brief(_)
            | from_edge::Item::Authenticate(_) => return,
        };
        if let from_edge::Item::Subscribed(_) = &item {
            self.forget_subscription(handle.id);
        }
        let item = FromEdge { item: Some(item) };
        match own {
            true => self.sessions.entry(handle.id).or_default().push(item),
            false => self.loose.push((handle.uid.clone(), item)),
        }
    }

    fn forget_subscription(&mut self, session: u64) {
        if let Some(items) = self.sessions.get_mut(&session) {
            items.retain(|item| !matches!(item.item, Some(from_edge::Item::Subscribed(_))));
        }
    }

    /// Keeps what is said in a user's name, and leaves `items` empty.
    pub(super) fn keep_loose(&mut self, uid: &Uid, items: &mut Vec<FromEdge>) {
        self.bytes += bytes_of(items);
        let items = items.drain(..).map(|item| (uid.clone(), item));
        self.loose.extend(items);
    }

    /// Keeps what a bridge has not dealt with that is gone. Its sessions will subscribe anew.
    pub(super) fn keep_rest(&mut self, rest: Vec<from_edge::Item>, sessions: &Sessions) {
        for item in rest {
            let item = FromEdge { item: Some(item) };
            self.bytes += item.encoded_len();
            let Some(item) = item.item else {
                continue;
            };
            match &item {
                from_edge::Item::Uplink(uplink) if uplink.token != NO_ANSWER => {
                    if let Some(handle) = sessions.by_id(uplink.session) {
                        self.keep_one(handle, item);
                    }
                }
                from_edge::Item::Disconnected(disconnected) if !disconnected.handed_over => {
                    if let Ok(uid) = disconnected.uid.parse::<Uid>() {
                        let was_here = was_here(disconnected);
                        self.loose.push((uid.clone(), was_here));
                        self.loose.push((uid, FromEdge { item: Some(item) }));
                    }
                }
                from_edge::Item::Uplink(link::Uplink { uid, .. })
                | from_edge::Item::Acked(link::Acked { uid, .. }) => {
                    if let Ok(uid) = uid.parse() {
                        self.loose.push((uid, FromEdge { item: Some(item) }));
                    }
                }
                from_edge::Item::Retain(_)
                | from_edge::Item::Publish(_)
                | from_edge::Item::Shared(_) => self.plain.push(FromEdge { item: Some(item) }),
                from_edge::Item::Subscribed(_)
                | from_edge::Item::Connected(_)
                | from_edge::Item::Disconnected(_)
                | from_edge::Item::Drained(_)
                | from_edge::Item::Gone(_)
                | from_edge::Item::Brief(_)
                | from_edge::Item::Authenticate(_) => {}
            }
        }
    }

    /// What the session has said.
    pub(super) fn take(&mut self, session: u64) -> Vec<FromEdge> {
        self.sessions.remove(&session).unwrap_or_default()
    }

    /// What is said in users' names. Whatever is here of sessions after that is of such as have ended.
    pub(super) fn take_loose(&mut self) -> Vec<(Uid, FromEdge)> {
        self.sessions = HashMap::new();
        self.bytes = bytes_of(&self.plain);
        std::mem::take(&mut self.loose)
    }
}

fn bytes_of(items: &[FromEdge]) -> usize {
    items.iter().map(prost::Message::encoded_len).sum()
}

/// Who hears that a session has ended has to know of it first.
fn was_here(disconnected: &Disconnected) -> FromEdge {
    FromEdge {
        item: Some(from_edge::Item::Connected(Connected {
            session: disconnected.session,
            uid: disconnected.uid.clone(),
            device: disconnected.device.clone(),
            nameless: disconnected.nameless,
            handed_over: true,
            ..Connected::default()
        })),
    }
}
