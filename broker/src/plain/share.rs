//! A shared subscription: each of its messages goes to one member, here or at another node (MQTT 5, 4.8.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::exchange::Subscriber;
use super::policy::Policy;

/// See the module's documentation. Named by group and filter together.
#[derive(Debug)]
pub(super) struct Group {
    /// `$share/{name}/{filter}`.
    pub(super) filter: Arc<str>,
    /// Sorted by their mailboxes' numbers.
    pub(super) members: Vec<Subscriber>,
    /// How many members other nodes have; none has 0.
    elsewhere: Vec<(u32, usize)>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

/// Who has a message.
#[derive(Debug)]
pub(super) enum Chosen<'a> {
    /// A member here.
    Here(&'a Subscriber),
    /// One at that node, which chooses it.
    At(u32),
}

impl Group {
    pub(super) fn new(filter: &str) -> Self {
        Group {
            filter: filter.into(),
            members: Vec::new(),
            elsewhere: Vec::new(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Whether it has members nowhere.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.elsewhere.is_empty()
    }

    /// How many members that node has from now on.
    pub(super) fn set_elsewhere(&mut self, node: u32, members: usize) {
        self.elsewhere.retain(|(other, _)| *other != node);
        if members > 0 {
            self.elsewhere.push((node, members));
        }
    }

    /// Whether that node has members.
    pub(super) fn is_at(&self, node: u32) -> bool {
        self.elsewhere.iter().any(|(other, _)| *other == node)
    }

    /// The next one in turn. One here may have a message of the topic, and is connected, if there are such members or no
    /// other ones; a node elsewhere sees to that itself.
    pub(super) fn choose(&self, policy: &Policy, topic: &str) -> Option<Chosen<'_>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let away: usize = self.elsewhere.iter().map(|(_, members)| members).sum();
        if away == 0 {
            return self.next_here(turn, policy, topic).map(Chosen::Here);
        }
        let place = turn % (self.members.len() + away);
        if place < self.members.len()
            && let Some(member) = self.next_here(turn, policy, topic)
            && member.mailbox.is_connected()
        {
            return Some(Chosen::Here(member));
        }
        let mut place = turn % away;
        let node = self.elsewhere.iter().find(|(_, members)| {
            let is_there = place < *members;
            place = place.saturating_sub(*members);
            is_there
        });
        node.map(|(node, _)| Chosen::At(*node))
    }

    /// The next member here, for a message that is meant for one here.
    pub(super) fn choose_here(&self, policy: &Policy, topic: &str) -> Option<&Subscriber> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.next_here(turn, policy, topic)
    }

    fn next_here(&self, turn: usize, policy: &Policy, topic: &str) -> Option<&Subscriber> {
        let count = self.members.len();
        let in_turn = || {
            let members = (0..count).map(|step| &self.members[turn.wrapping_add(step) % count]);
            members.filter(|member| policy.may_receive(member.mailbox.owner.client(), topic))
        };
        in_turn()
            .find(|member| member.mailbox.is_connected())
            .or_else(|| in_turn().next())
    }
}
