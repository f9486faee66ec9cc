//! Plain topics where there are other nodes: what is published here is for their subscribers, too, and the other way round.
//!
//! Each node routes to its own subscribers. Of a shared subscription, which has members at several nodes, the one where a
//! message is published chooses the node.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use schema::link::{Choice, PlainMessage, Publish, Published, Shared, from_edge};

use super::exchange::{Exchange, Subscribers};
use super::filter::{Filter, check_topic};
use super::message::Message;
use super::share::Group;
use super::tree::Tree;

impl Exchange {
    /// Whether there are other nodes.
    pub(crate) fn has_others(&self) -> bool {
        self.has_others.load(Ordering::Relaxed)
    }

    /// There are other nodes, or there are none.
    pub(super) fn set_has_others(&self, has_others: bool) {
        // Under the lock that groups change under, so that each change is told from here on.
        let subscriptions = self.subscriptions.read();
        self.has_others.store(has_others, Ordering::Relaxed);
        if has_others {
            self.tell_all_of(&subscriptions);
        }
    }

    /// Says again how many members all shared subscriptions have here: to a bridge that others hear of them by from now on.
    pub(crate) fn tell_all_members(&self) {
        let subscriptions = self.subscriptions.read();
        if self.has_others() {
            self.tell_all_of(&subscriptions);
        }
    }

    fn tell_all_of(&self, subscriptions: &Tree<Subscribers>) {
        subscriptions.for_each(|subscribers| {
            let groups = subscribers.shared.iter();
            for group in groups.filter(|group| !group.members.is_empty()) {
                self.tell_members(group);
            }
        });
    }

    /// Tells other nodes how many members a shared subscription has here.
    pub(super) fn tell_members(&self, group: &Group) {
        self.tell(from_edge::Item::Shared(Shared {
            filter: group.filter.to_string(),
            members: u32::try_from(group.members.len()).unwrap_or(u32::MAX),
            node: 0,
        }));
    }

    /// Hands a message on to other nodes. `choices` are the shared subscriptions that have it there.
    pub(super) fn forward(
        &self,
        message: &Message,
        (session, token): (u64, u32),
        choices: Vec<Choice>,
        again: bool,
    ) {
        self.tell(from_edge::Item::Publish(Box::new(Publish {
            session,
            token,
            published: Some(Published {
                message: Some(PlainMessage::from(message)),
                retain: message.retain,
                choices,
                again,
            }),
        })));
    }

    /// Takes what was published at another node.
    pub(crate) fn publish_from_elsewhere(&self, published: Published) {
        let Some(message) = published.message else {
            return tracing::error!("another node has published nothing");
        };
        if check_topic(&message.topic, self.limits).is_err() {
            return tracing::warn!(
                "a message of another node has a topic that is not allowed here"
            );
        }
        match Message::try_from(message) {
            Ok(message) => {
                let retain = published.retain;
                let message = Arc::new(Message { retain, ..message });
                let chosen = published.choices.iter();
                let chosen: Vec<&str> = chosen.map(|choice| &*choice.filter).collect();
                self.put_chosen(&message, &chosen, !published.again);
            }
            Err(error) => tracing::error!(%error, "a message of another node is unusable"),
        }
    }

    /// Another node has so many members of a shared subscription; no filter: it has none of any.
    pub(crate) fn set_shared(&self, shared: &Shared) {
        let mut subscriptions = self.subscriptions.write();
        if !shared.filter.is_empty() {
            let Ok(filter) = Filter::parse(&shared.filter, self.limits) else {
                return tracing::warn!("another node shares a filter that is not allowed here");
            };
            let members = usize::try_from(shared.members).unwrap_or(usize::MAX);
            let key = filter.topics();
            let subscribers = match members {
                0 => subscriptions.get_mut(key),
                _ => Some(subscriptions.get_or_insert_with(key, Subscribers::default)),
            };
            if let Some(subscribers) = subscribers {
                let group = subscribers.group(filter.as_str());
                group.set_elsewhere(shared.node, members);
                if subscribers.tidy() {
                    subscriptions.remove(key);
                }
            }
            return;
        }
        let mut gone: Vec<Arc<str>> = Vec::new();
        subscriptions.for_each(|subscribers| {
            let groups = subscribers.shared.iter();
            let there = groups.filter(|group| group.is_at(shared.node));
            gone.extend(there.map(|group| group.filter.clone()));
        });
        for filter in gone {
            let Ok(filter) = Filter::parse(&filter, self.limits) else {
                continue;
            };
            let Some(subscribers) = subscriptions.get_mut(filter.topics()) else {
                continue;
            };
            let group = subscribers.group(filter.as_str());
            group.set_elsewhere(shared.node, 0);
            if subscribers.tidy() {
                subscriptions.remove(filter.topics());
            }
        }
    }

    fn tell(&self, item: from_edge::Item) {
        self.bridges.tell_voice(item);
    }
}
