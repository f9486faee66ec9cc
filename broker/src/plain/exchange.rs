//! Plain topics: who subscribes to what, and what is published to them.
//!
//! rumqttd's router could match these topics, but can't forget one: each filter, topic and client id costs it memory
//! for ever, and it delivers with the wrong QoS, loses what slow or absent sessions should get, and confuses shared
//! subscriptions. `ARCHITECTURE.md` has the table. So the edge matches plain topics itself, in a [`Tree`] that holds
//! what is subscribed now and nothing else.
//!
//! Lock order: subscriptions before a mailbox; the retained store before a mailbox or the queue of uplinks; a mailbox before
//! an outbox.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use schema::Uid;
use schema::link::{FromEdge, PlainMessage, Retain, from_edge};

use super::filter::{Filter, TopicLimits, check_topic};
use super::mailbox::{Delivery, Mailbox};
use super::message::Message;
use super::policy::{Client, Policy, Rules};
use super::retained::{Full, Retained};
use super::tree::Tree;
use crate::codec::Qos;
use crate::options::{Options, RetainedOptions};
use crate::registry::Handle;
use crate::stats::{Dropped, Stats};
use crate::uplinks::Uplinks;

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
struct Subscriber {
    mailbox: Arc<Mailbox>,
    options: SubscriptionOptions,
}

/// Where a mailbox is among members, which are sorted by their mailboxes' numbers, or should be.
fn position(members: &[Subscriber], mailbox: &Mailbox) -> Result<usize, usize> {
    members.binary_search_by_key(&mailbox.id, |member| member.mailbox.id)
}

fn remove(members: &mut Vec<Subscriber>, mailbox: &Mailbox) {
    if let Ok(index) = position(members, mailbox) {
        members.remove(index);
    }
}

/// The subscriptions to one filter.
#[derive(Debug, Default)]
struct Subscribers {
    alone: Vec<Subscriber>,
    shared: Vec<Group>,
}

impl Subscribers {
    fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.shared.is_empty()
    }
}

/// A shared subscription: named by group and filter together (MQTT 5, 4.8.2).
#[derive(Debug)]
struct Group {
    /// `$share/{name}/{filter}`.
    filter: Arc<str>,
    members: Vec<Subscriber>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

impl Group {
    /// The next one in turn who may have a message of the topic, of those that are connected if there are any.
    fn choose(&self, policy: &Policy, topic: &str) -> Option<&Subscriber> {
        let (start, count) = (
            self.turn.fetch_add(1, Ordering::Relaxed),
            self.members.len(),
        );
        let in_turn = || {
            let members = (0..count).map(|step| &self.members[start.wrapping_add(step) % count]);
            members.filter(|member| policy.may_receive(member.mailbox.owner.client(), topic))
        };
        in_turn()
            .find(|member| member.mailbox.is_connected())
            .or_else(|| in_turn().next())
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) policy: Policy,
    pub(crate) limits: TopicLimits,
    subscriptions: RwLock<Tree<Subscribers>>,
    subscription_count: AtomicUsize,
    retained: Mutex<Retained>,
    /// What the broker says of itself, which takes nobody's room.
    statistics: Mutex<Retained>,
    next_mailbox: AtomicU64,
    mailbox_bytes_max: usize,
    /// Mailboxes of sessions that are away and have been lost since the last [`Exchange::take_lost`].
    lost: Mutex<HashSet<u64>>,
    /// Where the bridge is told what to keep.
    uplinks: Arc<Uplinks>,
    pub(crate) stats: Arc<Stats>,
}

impl Exchange {
    pub(crate) fn new(
        options: &Options,
        rules: Rules,
        uplinks: Arc<Uplinks>,
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
            uplinks,
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
        let members = match filter.share() {
            None => &mut subscribers.alone,
            Some(_) => {
                let groups = &mut subscribers.shared;
                let known = groups
                    .iter()
                    .position(|group| &*group.filter == filter.as_str());
                let index = known.unwrap_or_else(|| {
                    groups.push(Group {
                        filter: filter.as_str().into(),
                        members: Vec::new(),
                        turn: AtomicUsize::new(0),
                    });
                    groups.len() - 1
                });
                &mut groups[index].members
            }
        };
        match position(members, mailbox) {
            Ok(index) => members[index].options = options,
            // Mostly the end: mailboxes are numbered in the order in which they are made.
            Err(index) => {
                let mailbox = mailbox.clone();
                members.insert(index, Subscriber { mailbox, options });
                self.subscription_count.fetch_add(1, Ordering::Relaxed);
            }
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
                if let Some(group) = subscribers
                    .shared
                    .iter_mut()
                    .find(|group| &*group.filter == filter.as_str())
                {
                    remove(&mut group.members, mailbox);
                }
                subscribers.shared.retain(|group| !group.members.is_empty());
            }
        }
        if subscribers.is_empty() {
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

// === impl Exchange: publishing ===

/// What a message has matched in one session: one delivery for all of its overlapping subscriptions.
struct Matched {
    mailbox: Arc<Mailbox>,
    delivery: Delivery,
}

impl Exchange {
    /// Puts a message into the mailboxes of all who subscribe; returns how many these are.
    pub(crate) fn publish(&self, message: &Arc<Message>) -> usize {
        let mut matched: Vec<Matched> = Vec::new();
        let mut by_mailbox: HashMap<u64, usize> = HashMap::new();
        let mut nodes = 0;
        let subscriptions = self.subscriptions.read();
        subscriptions.for_each_matching(&message.topic, |subscribers| {
            nodes += 1;
            for subscriber in &subscribers.alone {
                if subscriber.options.no_local && message.publisher == subscriber.mailbox.id {
                    continue; // [MQTT-3.8.3-3]
                }
                // Within one filter a session is found once; a table is needed from the second filter on.
                if nodes > 1 {
                    if by_mailbox.is_empty() {
                        let known = matched.iter().enumerate();
                        by_mailbox.extend(
                            known
                                .filter(|(_, one)| one.delivery.shared.is_none())
                                .map(|(index, one)| (one.mailbox.id, index)),
                        );
                    }
                    if let Some(&index) = by_mailbox.get(&subscriber.mailbox.id) {
                        merge(&mut matched[index].delivery, message, subscriber.options);
                        continue;
                    }
                    by_mailbox.insert(subscriber.mailbox.id, matched.len());
                }
                matched.push(Matched {
                    mailbox: subscriber.mailbox.clone(),
                    delivery: delivery(message, subscriber.options, None),
                });
            }
            for group in &subscribers.shared {
                if let Some(subscriber) = group.choose(&self.policy, &message.topic) {
                    matched.push(Matched {
                        mailbox: subscriber.mailbox.clone(),
                        delivery: delivery(message, subscriber.options, Some(group.filter.clone())),
                    });
                }
            }
        });
        drop(subscriptions);
        let count = matched.len();
        for Matched { mailbox, delivery } in matched {
            self.put(&mailbox, delivery);
        }
        count
    }

    /// Gives a message of a shared subscription to another member: the one that had it has ended. QoS 2 is not given
    /// to anybody else [MQTT-4.8.2-5].
    pub(crate) fn pass_on(&self, delivery: Delivery) {
        let Some(shared) = delivery.shared.filter(|_| delivery.qos == Qos::AtLeastOnce) else {
            return;
        };
        let Ok(filter) = Filter::parse(&shared, self.limits) else {
            return;
        };
        let subscriptions = self.subscriptions.read();
        let group = subscriptions.get(filter.topics()).and_then(|subscribers| {
            subscribers
                .shared
                .iter()
                .find(|group| group.filter == shared)
        });
        let topic = &delivery.message.topic;
        let next = group.and_then(|group| group.choose(&self.policy, topic));
        let next = next.map(|member| (member.mailbox.clone(), member.options));
        drop(subscriptions);
        if let Some((mailbox, options)) = next {
            let delivery = self::delivery(&delivery.message, options, Some(shared));
            let refused = self.push(&mailbox, delivery);
            // Once is enough: where one after the other is full, more would be a flood of its own.
            self.stats.dropped(Dropped::Plain, refused.len());
        }
    }

    fn put(&self, mailbox: &Mailbox, delivery: Delivery) {
        // What was meant for one of many goes to another of them.
        for delivery in self.push(mailbox, delivery) {
            self.pass_on(delivery);
        }
    }

    /// Returns what another member of a shared subscription should have instead.
    fn push(&self, mailbox: &Mailbox, delivery: Delivery) -> Vec<Delivery> {
        let pushed = mailbox.push(delivery);
        if pushed.dropped > 0 {
            self.stats.dropped(Dropped::Plain, pushed.dropped);
        }
        if pushed.has_lost {
            self.lost.lock().insert(mailbox.id);
        }
        pushed.refused
    }
}

fn delivery(
    message: &Arc<Message>,
    options: SubscriptionOptions,
    shared: Option<Arc<str>>,
) -> Delivery {
    Delivery {
        message: message.clone(),
        qos: message.qos.min(options.qos),
        retain: message.retain && options.retain_as_published, // [MQTT-3.3.1-12, MQTT-3.3.1-13]
        identifiers: options.identifier.into_iter().collect(),
        shared,
    }
}

/// One more subscription of a session matches: the greatest QoS counts, and all identifiers (MQTT 5, 3.3.4).
fn merge(delivery: &mut Delivery, message: &Message, options: SubscriptionOptions) {
    delivery.qos = delivery.qos.max(message.qos.min(options.qos));
    delivery.retain |= message.retain && options.retain_as_published;
    delivery.identifiers.extend(options.identifier);
}

// === impl Exchange: retained messages ===

impl Exchange {
    /// Publishes a message, and keeps it where it is to be retained; the bridge stores that, and answers `token`.
    /// Returns how many sessions have got it.
    ///
    /// # Errors
    /// [`Full`] when it can't be retained; nobody has got it then.
    pub(crate) fn accept(
        &self,
        message: &Arc<Message>,
        token: u32,
        publisher: &Handle,
    ) -> Result<usize, Full> {
        if message.retain {
            // First, so that whoever subscribes meanwhile gets it at least once.
            self.retain_and_store(message, token, publisher)?;
        }
        Ok(self.publish(message))
    }

    /// The database has to end up with the same message of a topic as the store here: so the bridge is told under the
    /// store's lock.
    ///
    /// # Errors
    /// [`Full`] when a bound is reached; nothing has changed then.
    pub(crate) fn retain_and_store(
        &self,
        message: &Arc<Message>,
        token: u32,
        publisher: &Handle,
    ) -> Result<(), Full> {
        let item = from_edge::Item::Retain(Retain {
            session: publisher.id,
            token,
            message: Some(PlainMessage::from(&**message)),
        });
        let mut retained = self.retained.lock();
        retained.put(message.clone())?;
        self.uplinks.push(&mut vec![FromEdge { item: Some(item) }]);
        Ok(())
    }

    /// Says something of the broker itself, to those who subscribe now or later. It is not stored.
    pub(crate) fn announce(&self, topic: String, value: String) {
        let message = Arc::new(Message::announcement(topic, value));
        if self.statistics.lock().put(message.clone()).is_ok() {
            self.publish(&message);
        }
    }

    /// Takes what the bridge has stored, at its start, and later what it has removed: a message without payload.
    pub(crate) fn restore(&self, stored: PlainMessage) {
        if check_topic(&stored.topic, self.limits).is_err() {
            tracing::warn!("a stored retained message has a topic that is no longer allowed");
            return;
        }
        match Message::try_from(stored).map(|message| self.retained.lock().put(Arc::new(message))) {
            Ok(Ok(())) => {}
            Ok(Err(full)) => tracing::warn!(%full, "a stored retained message is not delivered"),
            Err(error) => tracing::error!(%error, "a stored retained message is unusable"),
        }
    }

    /// Forgets what has expired.
    pub(crate) fn purge(&self) {
        self.retained.lock().purge(now_ms());
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

/// Rights that a user has given.
impl Exchange {
    pub(crate) fn grant(&self, grant: &schema::link::Grant) {
        let uids = (grant.owner.parse::<Uid>(), grant.user.parse::<Uid>());
        if let (Ok(owner), Ok(user)) = uids {
            self.policy
                .set_grant(&owner, &user, &grant.filter, grant.read, grant.write);
        }
    }
}
