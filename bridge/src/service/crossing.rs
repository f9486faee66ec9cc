//! Plain topics and rights where there are other nodes: what the edges tell each other about them goes through here.

use std::collections::{BTreeSet, HashMap};

use schema::bus::notice::Notice;
use schema::link::{self, PlainMessage, Publish, Published, Shared, ToEdge, to_edge};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::announce::plain_answer;
use super::reviews::Reviews;
use crate::cluster::Bus;
use crate::cluster::decisions::Decisions;

/// The reason code of MQTT 5 for a publish that other nodes can't be told of.
const QUOTA_EXCEEDED: u8 = 0x97;

/// See the module's documentation.
pub(super) struct Crossing {
    bus: Bus,
    /// Whether others are heard; `None`: there are none.
    pub(super) is_up: Option<watch::Receiver<bool>>,
    pub(super) decisions: Decisions,
    /// What other nodes have decided that users may do.
    pub(super) granted: mpsc::Receiver<link::Grant>,
    /// How many members shared subscriptions have here.
    shared: HashMap<String, u32>,
    /// The nodes of whose shared subscriptions the edge knows.
    sharers: BTreeSet<u32>,
    pub(super) reviews: Reviews,
}

/// Returns when other nodes are no longer heard.
pub(super) async fn until_alone(is_up: &mut Option<watch::Receiver<bool>>) {
    if let Some(is_up) = is_up {
        while is_up.changed().await.is_ok() {
            if !*is_up.borrow_and_update() {
                return;
            }
        }
    }
    std::future::pending().await
}

impl Crossing {
    pub(super) fn new(
        bus: Bus,
        decisions: Decisions,
        granted: mpsc::Receiver<link::Grant>,
    ) -> Self {
        Crossing {
            is_up: bus.is_up(),
            bus,
            decisions,
            granted,
            shared: HashMap::new(),
            sharers: BTreeSet::new(),
            reviews: Reviews::default(),
        }
    }

    /// Something was published here; returns the answer, if somebody waits for one.
    pub(super) fn publish(&self, publish: Publish) -> Option<ToEdge> {
        let Publish {
            session,
            token,
            published,
        } = publish;
        let is_told = published.is_none_or(|published| self.bus.publish(published));
        let reason = if is_told { 0 } else { QUOTA_EXCEEDED };
        (token != 0).then(|| plain_answer(session, token, reason))
    }

    /// What is retained has changed here, which is committed.
    pub(super) fn retained(&mut self, messages: Vec<PlainMessage>) {
        if self.bus.is_alone() {
            return;
        }
        let now = Instant::now();
        for message in messages {
            self.reviews.note_here(&message.topic, now);
            self.bus.tell(Notice::Retained(Box::new(message)));
        }
    }

    pub(super) fn heard_retained(&mut self, message: PlainMessage) -> ToEdge {
        self.reviews.note_elsewhere(&message.topic, Instant::now());
        item(to_edge::Item::Retained(message))
    }

    /// Another node has published something. Of the shared subscriptions only those count that have it here.
    pub(super) fn heard_published(&self, mut published: Box<Published>) -> ToEdge {
        let own = self.bus.node();
        published.choices.retain(|choice| choice.node == own);
        item(to_edge::Item::Published(published))
    }

    /// Another node has decided what a user may do. Less counts at once, whatever is read.
    pub(super) fn heard_grant(&mut self, grant: &link::Grant) -> Option<ToEdge> {
        self.reviews.note_right(grant);
        let is_taken_back = !grant.read && !grant.write;
        is_taken_back.then(|| item(to_edge::Item::Grant(grant.clone())))
    }

    /// A shared subscription has so many members here.
    pub(super) fn set_shared(&mut self, shared: Shared) {
        match shared.members {
            0 => self.shared.remove(&shared.filter),
            members => self.shared.insert(shared.filter.clone(), members),
        };
        self.bus.tell(Notice::Shared(shared));
    }

    /// Somebody wants to know which shared subscriptions have members here. That replaces what is known of them there.
    pub(super) fn asked(&self) {
        self.bus.tell(Notice::Shared(Shared::default()));
        for (filter, members) in &self.shared {
            self.bus.tell(Notice::Shared(Shared {
                filter: filter.clone(),
                members: *members,
                node: 0,
            }));
        }
    }

    pub(super) fn heard_shared(&mut self, node: u32, shared: Shared) -> ToEdge {
        if !shared.filter.is_empty() {
            self.sharers.insert(node);
        }
        item(to_edge::Item::Shared(Shared { node, ..shared }))
    }

    /// A node is gone.
    pub(super) fn left(&mut self, node: u32) -> Option<ToEdge> {
        self.sharers.remove(&node).then(|| shares_nothing(node))
    }

    /// Others don't hear what is published here: members there must not be chosen until they tell anew that they are there.
    pub(super) fn forget_shared(&mut self) -> impl Iterator<Item = ToEdge> + use<> {
        let sharers = std::mem::take(&mut self.sharers);
        sharers.into_iter().map(shares_nothing)
    }
}

fn shares_nothing(node: u32) -> ToEdge {
    item(to_edge::Item::Shared(Shared {
        node,
        ..Shared::default()
    }))
}

fn item(item: to_edge::Item) -> ToEdge {
    ToEdge { item: Some(item) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decisions::Decided;

    fn shared(filter: &str, members: u32, node: u32) -> Shared {
        Shared {
            filter: filter.to_owned(),
            members,
            node,
        }
    }

    fn of_edge(item: ToEdge) -> Shared {
        match item.item {
            Some(to_edge::Item::Shared(shared)) => shared,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_known_of_others_groups_ends_with_them() {
        let (bus, mut told) = Bus::of_node(1);
        let granted = Decided::nothing().grants;
        let mut crossing = Crossing::new(bus, Decisions::default(), granted);
        crossing.set_shared(shared("$share/a/t", 2, 0));
        crossing.set_shared(shared("$share/b/t", 1, 0));
        crossing.set_shared(shared("$share/b/t", 0, 0));
        crossing.asked();
        let mut said = Vec::new();
        while let Ok(notice) = told.try_recv() {
            match notice.notice {
                Some(Notice::Shared(shared)) => said.push((shared.filter, shared.members)),
                other => panic!("{other:?}"),
            }
        }
        let a = ("$share/a/t".to_owned(), 2);
        let b = |members| ("$share/b/t".to_owned(), members);
        let nothing = (String::new(), 0);
        assert_eq!(said, [a.clone(), b(1), b(0), nothing, a]);

        for node in [2, 3, 4] {
            let heard = crossing.heard_shared(node, shared("$share/a/t", 1, 0));
            assert_eq!(of_edge(heard), shared("$share/a/t", 1, node));
        }
        let left = crossing.left(3).map(of_edge);
        assert_eq!(left, Some(shared("", 0, 3)));
        assert_eq!(crossing.left(3), None);
        let forgotten: Vec<_> = crossing.forget_shared().map(of_edge).collect();
        assert_eq!(forgotten, [shared("", 0, 2), shared("", 0, 4)]);
        assert_eq!(crossing.forget_shared().count(), 0);
    }
}
