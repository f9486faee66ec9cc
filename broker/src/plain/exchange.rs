//! Plain topics: who subscribes to what, and what is published to them.
//!
//! rumqttd's router could match these topics, but can't forget one: each filter, topic and client id costs it memory
//! for ever, and it delivers with the wrong QoS, loses what slow or absent sessions should get, and confuses shared
//! subscriptions. `ARCHITECTURE.md` has the table. So the edge matches plain topics itself, in a [`Tree`] that holds
//! what is subscribed now and nothing else.
//!
//! Lock order: subscriptions before a mailbox; the retained store is never held together with either.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use schema::Uid;
use schema::link::{FromEdge, PlainMessage, Retain, from_edge};

use super::filter::{Filter, TopicLimits};
use super::mailbox::{Delivery, Mailbox, Pushed};
use super::message::Message;
use super::policy::{Client, Policy, Rules};
use super::retained::{Full, Retained};
use super::tree::Tree;
use crate::codec::Qos;
use crate::options::Options;
use crate::registry::{Handle, Newcomer};
use crate::stats::{Dropped, Stats};

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
    /// The next one in turn, of those that are connected if there are any.
    fn choose(&self) -> Option<&Subscriber> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || {
            (0..self.members.len())
                .map(|i| &self.members[(start.wrapping_add(i)) % self.members.len()])
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
    next_mailbox: AtomicU64,
    mailbox_bytes_max: usize,
    /// Mailboxes of sessions that are away and have been lost since the last [`Exchange::take_lost`].
    lost: Mutex<Vec<u64>>,
    pub(crate) stats: Arc<Stats>,
}

impl Exchange {
    pub(crate) fn new(options: &Options, rules: Rules, stats: Arc<Stats>) -> Self {
        Exchange {
            policy: Policy::new(rules),
            limits: TopicLimits {
                length_max: options.topic_length_max,
                levels_max: options.topic_levels_max,
            },
            subscriptions: RwLock::new(Tree::default()),
            subscription_count: AtomicUsize::new(0),
            retained: Mutex::new(Retained::new(options.retained)),
            next_mailbox: AtomicU64::new(1),
            mailbox_bytes_max: options.session_queue,
            lost: Mutex::default(),
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
    pub(crate) fn take_lost(&self) -> Vec<u64> {
        std::mem::take(&mut self.lost.lock())
    }

    /// Retained messages, and their bytes.
    pub(crate) fn retained_size(&self) -> (usize, usize) {
        let retained = self.retained.lock();
        (retained.len(), retained.bytes())
    }
}

// === impl Exchange: subscriptions ===

impl Exchange {
    /// Adds or replaces a subscription [MQTT-3.8.4-3]; tells whether it is new.
    pub(crate) fn subscribe(
        &self,
        filter: &Filter,
        mailbox: &Arc<Mailbox>,
        options: SubscriptionOptions,
    ) -> bool {
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
        if let Some(member) = members
            .iter_mut()
            .find(|member| member.mailbox.id == mailbox.id)
        {
            member.options = options;
            return false;
        }
        members.push(Subscriber {
            mailbox: mailbox.clone(),
            options,
        });
        self.subscription_count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Removes a subscription.
    pub(crate) fn unsubscribe(&self, filter: &Filter, mailbox: &Mailbox) {
        let mut subscriptions = self.subscriptions.write();
        let Some(subscribers) = subscriptions.get_mut(filter.topics()) else {
            return;
        };
        let is_other = |member: &Subscriber| member.mailbox.id != mailbox.id;
        match filter.share() {
            None => subscribers.alone.retain(is_other),
            Some(_) => {
                if let Some(group) = subscribers
                    .shared
                    .iter_mut()
                    .find(|group| &*group.filter == filter.as_str())
                {
                    group.members.retain(is_other);
                }
                subscribers.shared.retain(|group| !group.members.is_empty());
            }
        }
        if subscribers.is_empty() {
            subscriptions.remove(filter.topics());
        }
        self.subscription_count.fetch_sub(1, Ordering::Relaxed);
    }

    /// Puts the retained messages of a new subscription into its mailbox (MQTT 5, 3.8.3.1).
    pub(crate) fn send_retained(
        &self,
        filter: &Filter,
        client: Client<'_>,
        mailbox: &Mailbox,
        options: SubscriptionOptions,
    ) {
        let mut found = Vec::new();
        let now = now_ms();
        self.retained
            .lock()
            .for_each_below(filter.topics(), now, |message| {
                found.push(message.clone());
                ControlFlow::Continue(())
            });
        for message in found {
            if !self.policy.may_receive(client, &message.topic) {
                continue;
            }
            mailbox.push_retained(Delivery {
                qos: message.qos.min(options.qos),
                message,
                retain: true, // [MQTT-3.3.1-8]
                identifiers: options.identifier.into_iter().collect(),
                shared: None,
            });
        }
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
                if let Some(subscriber) = group.choose() {
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
        let next = group.and_then(Group::choose);
        let next = next.map(|member| (member.mailbox.clone(), member.options));
        drop(subscriptions);
        if let Some((mailbox, options)) = next {
            self.put(
                &mailbox,
                self::delivery(&delivery.message, options, Some(shared)),
            );
        }
    }

    fn put(&self, mailbox: &Mailbox, delivery: Delivery) {
        let dropped = match mailbox.push(delivery) {
            Pushed::Dropped(0) => return,
            Pushed::Dropped(dropped) => dropped,
            Pushed::Lost(dropped) => {
                self.lost.lock().push(mailbox.id);
                dropped
            }
        };
        self.stats.dropped(Dropped::Plain, dropped);
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
    /// Keeps a message for those who subscribe later; an empty payload ends that [MQTT-3.3.1-6].
    ///
    /// # Errors
    /// [`Full`] when a bound is reached; nothing has changed then.
    pub(crate) fn retain(&self, message: Arc<Message>) -> Result<(), Full> {
        self.retained.lock().put(message)
    }

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
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<usize, Full> {
        if message.retain {
            // First, so that whoever subscribes meanwhile gets it at least once.
            self.retain(message.clone())?;
            to_bridge.push(FromEdge {
                item: Some(from_edge::Item::Retain(Retain {
                    session: publisher.id,
                    token,
                    message: Some(PlainMessage::from(&**message)),
                })),
            });
        }
        Ok(self.publish(message))
    }

    /// Says something of the broker itself, to those who subscribe now or later. It is not stored.
    pub(crate) fn announce(&self, topic: String, value: String) {
        let message = Arc::new(Message::announcement(topic, value));
        // At the bounds the statistics are still sent to those who listen.
        let _ = self.retain(message.clone());
        self.publish(&message);
    }

    /// Takes what the bridge has stored, at its start.
    pub(crate) fn restore(&self, stored: PlainMessage) {
        match Message::try_from(stored).map(|message| self.retain(Arc::new(message))) {
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

/// What rights are asked for with.
pub(crate) fn client(who: &Newcomer) -> Client<'_> {
    Client {
        uid: &who.uid,
        client_id: &who.device,
        is_admin: who.is_admin,
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
