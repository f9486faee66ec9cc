//! Plain topics: who subscribes to what, and what all of them share.
//!
//! rumqttd's router could match these topics, but can't forget one: each filter, topic and client id costs it memory
//! for ever, and it delivers with the wrong QoS, loses what slow or absent sessions should get, and confuses shared
//! subscriptions. `ARCHITECTURE.md` has the table. So the edge matches plain topics itself, in a [`Tree`] that holds
//! what is subscribed now and nothing else.
//!
//! Lock order: subscriptions, or the retained store, before a mailbox or bridges; a mailbox before an outbox.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use super::filter::{Filter, TopicLimits};
use super::mailbox::{Delivery, Mailbox};
use super::policy::{Client, Policy, Rules};
use super::retained::Retained;
use super::share::Group;
use super::tree::Tree;
use crate::bridges::Bridges;
use crate::codec::Qos;
use crate::options::{Options, RetainedOptions};
use crate::registry::Handle;
use crate::stats::Stats;

/// For the broker's own topics, which are few.
const UNBOUNDED: RetainedOptions = RetainedOptions {
    messages_max: usize::MAX,
    bytes_max: usize::MAX,
    per_user_max: usize::MAX,
    bytes_per_user_max: usize::MAX,
};

/// How the messages of a subscription should come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubscriptionOptions {
    pub(crate) qos: Qos,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) identifier: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) options: SubscriptionOptions,
}

/// Where a mailbox is among members, which are sorted by their mailboxes' numbers, or should be.
fn position(members: &[Subscriber], mailbox: &Mailbox) -> Result<usize, usize> {
    members.binary_search_by_key(&mailbox.id, |member| member.mailbox.id)
}

/// Tells whether it was not there.
fn set(
    members: &mut Vec<Subscriber>,
    mailbox: &Arc<Mailbox>,
    options: SubscriptionOptions,
) -> bool {
    match position(members, mailbox) {
        Ok(index) => {
            members[index].options = options;
            false
        }
        // Mostly the end: mailboxes are numbered in the order in which they are made.
        Err(index) => {
            let mailbox = mailbox.clone();
            members.insert(index, Subscriber { mailbox, options });
            true
        }
    }
}

fn remove(members: &mut Vec<Subscriber>, mailbox: &Mailbox) {
    if let Ok(index) = position(members, mailbox) {
        members.remove(index);
    }
}

/// The subscriptions to one filter.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    pub(super) alone: Vec<Subscriber>,
    pub(super) shared: Vec<Group>,
}

impl Subscribers {
    /// The group of that name, a new one if need be.
    pub(super) fn group(&mut self, filter: &str) -> &mut Group {
        let groups = &mut self.shared;
        let known = groups.iter().position(|group| &*group.filter == filter);
        let index = known.unwrap_or_else(|| {
            groups.push(Group::new(filter));
            groups.len() - 1
        });
        &mut groups[index]
    }

    /// Forgets groups without members; tells whether nobody is left.
    pub(super) fn tidy(&mut self) -> bool {
        self.shared.retain(|group| !group.is_empty());
        self.alone.is_empty() && self.shared.is_empty()
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) policy: Policy,
    pub(crate) limits: TopicLimits,
    pub(super) subscriptions: RwLock<Tree<Subscribers>>,
    subscription_count: AtomicUsize,
    pub(super) retained: Mutex<Retained>,
    /// What the broker says of itself, which takes nobody's room.
    pub(super) statistics: Mutex<Retained>,
    next_mailbox: AtomicU64,
    mailbox_bytes_max: usize,
    /// Mailboxes of sessions that are away and have been lost since the last [`Exchange::take_lost`].
    pub(super) lost: Mutex<HashSet<u64>>,
    /// Where the bridge is told what to keep, and what is for other nodes.
    pub(super) bridges: Arc<Bridges>,
    /// There are other nodes.
    pub(super) has_others: AtomicBool,
    pub(crate) stats: Arc<Stats>,
}

impl Exchange {
    pub(crate) fn new(
        options: &Options,
        rules: Rules,
        bridges: Arc<Bridges>,
        stats: Arc<Stats>,
    ) -> Self {
        Exchange {
            policy: Policy::new(rules),
            limits: TopicLimits {
                length_max: options.topic_length_max,
                levels_max: options.topic_levels_max,
            },
            subscriptions: RwLock::new(Tree::default()),
            subscription_count: AtomicUsize::new(0),
            retained: Mutex::new(Retained::new(options.retained)),
            statistics: Mutex::new(Retained::new(UNBOUNDED)),
            next_mailbox: AtomicU64::new(1),
            mailbox_bytes_max: options.session_queue,
            lost: Mutex::default(),
            bridges,
            has_others: AtomicBool::new(false),
            stats,
        }
    }

    /// For a session's first subscription.
    pub(crate) fn new_mailbox(&self, connection: Arc<Handle>) -> Arc<Mailbox> {
        let id = self.next_mailbox.fetch_add(1, Ordering::Relaxed);
        Arc::new(Mailbox::new(id, self.mailbox_bytes_max, connection))
    }

    pub(crate) fn subscription_count(&self) -> usize {
        self.subscription_count.load(Ordering::Relaxed)
    }

    /// Whether nobody subscribes to anything, here or elsewhere.
    #[cfg(test)]
    pub(crate) fn is_without_subscriptions(&self) -> bool {
        self.subscriptions.read().len() == 0
    }

    /// Sessions to be ended: more has come than they can keep.
    pub(crate) fn take_lost(&self) -> HashSet<u64> {
        std::mem::take(&mut *self.lost.lock())
    }

    /// Retained messages, and their bytes.
    pub(crate) fn retained_size(&self) -> (usize, usize) {
        let retained = self.retained.lock();
        (retained.len(), retained.bytes())
    }
}

// === impl Exchange: subscriptions ===

impl Exchange {
    /// Adds or replaces a subscription [MQTT-3.8.4-3].
    pub(crate) fn subscribe(
        &self,
        filter: &Filter,
        mailbox: &Arc<Mailbox>,
        options: SubscriptionOptions,
    ) {
        let mut subscriptions = self.subscriptions.write();
        let subscribers = subscriptions.get_or_insert_with(filter.topics(), Subscribers::default);
        let is_new = match filter.share() {
            None => set(&mut subscribers.alone, mailbox, options),
            Some(_) => {
                let group = subscribers.group(filter.as_str());
                let is_new = set(&mut group.members, mailbox, options);
                if is_new && self.has_others() {
                    self.tell_members(group);
                }
                is_new
            }
        };
        if is_new {
            self.subscription_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes a subscription.
    pub(crate) fn unsubscribe(&self, filter: &Filter, mailbox: &Mailbox) {
        let mut subscriptions = self.subscriptions.write();
        let Some(subscribers) = subscriptions.get_mut(filter.topics()) else {
            return;
        };
        match filter.share() {
            None => remove(&mut subscribers.alone, mailbox),
            Some(_) => {
                let group = subscribers.group(filter.as_str());
                remove(&mut group.members, mailbox);
                if self.has_others() {
                    self.tell_members(group);
                }
            }
        }
        if subscribers.tidy() {
            subscriptions.remove(filter.topics());
        }
        self.subscription_count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Puts the retained messages of a new subscription into its mailbox (MQTT 5, 3.8.3.1). Returns how many topics had
    /// to be looked at.
    ///
    /// Under the store's lock, so that nothing newer can come before them.
    pub(crate) fn send_retained(
        &self,
        filter: &Filter,
        client: Client<'_>,
        mailbox: &Mailbox,
        options: SubscriptionOptions,
    ) -> u32 {
        let store = match filter.topics().starts_with('$') {
            true => &self.statistics,
            false => &self.retained,
        };
        let store = store.lock();
        store.for_each_below(filter.topics(), now_ms(), |message| {
            if self.policy.may_receive(client, &message.topic) {
                mailbox.push_retained(Delivery {
                    qos: message.qos.min(options.qos),
                    message: message.clone(),
                    retain: true, // [MQTT-3.3.1-8]
                    identifiers: options.identifier.into_iter().collect(),
                    shared: None,
                });
            }
        })
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
