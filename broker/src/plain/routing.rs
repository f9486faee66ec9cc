//! The way of a published message to those who subscribe.

use std::collections::HashMap;
use std::sync::Arc;

use schema::link::Choice;

use super::exchange::{Exchange, Subscriber, SubscriptionOptions};
use super::filter::Filter;
use super::mailbox::{Delivery, Mailbox};
use super::message::Message;
use super::retained::Full;
use super::share::{Chosen, Group};
use crate::codec::Qos;
use crate::registry::Handle;
use crate::session::NO_ANSWER;
use crate::stats::Dropped;

/// What a message has matched in one session: one delivery for all of its overlapping subscriptions.
struct Matched {
    mailbox: Arc<Mailbox>,
    delivery: Delivery,
}

/// A publish of a client, or in its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) publisher: &'a Handle,
    /// Names it for the bridge's answer; [`NO_ANSWER`](crate::session::NO_ANSWER): nobody waits for that.
    pub(crate) token: u32,
    /// It is for other nodes, too.
    pub(crate) is_for_others: bool,
}

impl Exchange {
    /// Publishes a message, and keeps it where it is to be retained. What is retained, or is for other nodes, goes to the
    /// bridge, which answers the token. Returns how many sessions have got it here.
    ///
    /// # Errors
    /// [`Full`] when it can't be retained; nobody has got it then.
    pub(crate) fn accept(
        &self,
        message: &Arc<Message>,
        publication: Publication<'_>,
    ) -> Result<usize, Full> {
        let mut publication = publication;
        if message.retain {
            // First, so that whoever subscribes meanwhile gets it at least once.
            self.retain_and_store(message, publication.token, publication.publisher)?;
            publication.token = NO_ANSWER;
        }
        Ok(self.publish_everywhere(message, publication))
    }

    /// Publishes a message here, and elsewhere if it is for other nodes. Returns how many sessions have got it here.
    pub(crate) fn publish_everywhere(
        &self,
        message: &Arc<Message>,
        publication: Publication<'_>,
    ) -> usize {
        let Publication {
            publisher,
            token,
            is_for_others,
        } = publication;
        let mut choices = Vec::new();
        let count = self.put_matching(message, |group| {
            match group.choose(&self.policy, &message.topic)? {
                Chosen::Here(member) => Some(member),
                Chosen::At(node) => {
                    let filter = group.filter.to_string();
                    choices.push(Choice { filter, node });
                    None
                }
            }
        });
        if is_for_others {
            self.forward(message, (publisher.id, token), choices, false);
        }
        count
    }

    /// Puts a message into the mailboxes of all who subscribe here; returns how many these are.
    pub(crate) fn publish(&self, message: &Arc<Message>) -> usize {
        self.put_matching(message, |group| {
            group.choose_here(&self.policy, &message.topic)
        })
    }

    /// Puts a message of another node into the mailboxes of those who subscribe here, and of members of the chosen groups:
    /// of these only, unless it is `for_all`.
    pub(super) fn put_chosen(&self, message: &Arc<Message>, chosen: &[&str], for_all: bool) {
        if for_all {
            self.put_matching(message, |group| {
                let is_chosen = chosen.contains(&&*group.filter);
                is_chosen.then(|| group.choose_here(&self.policy, &message.topic))?
            });
            return;
        }
        for filter in chosen {
            self.put_next(message, filter, false);
        }
    }

    /// `choose` says which member of a shared subscription gets it. Returns how many sessions have got it.
    fn put_matching<'a>(
        &'a self,
        message: &Arc<Message>,
        mut choose: impl for<'g> FnMut(&'g Group) -> Option<&'g Subscriber>,
    ) -> usize {
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
                if let Some(subscriber) = choose(group) {
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
        if let Some(shared) = delivery.shared.filter(|_| delivery.qos == Qos::AtLeastOnce) {
            self.put_next(&delivery.message, &shared, self.has_others());
        }
    }

    /// Puts a message into the mailbox of the next member of a shared subscription, wherever it is or only here.
    fn put_next(&self, message: &Arc<Message>, shared: &str, anywhere: bool) {
        let Ok(filter) = Filter::parse(shared, self.limits) else {
            return;
        };
        let subscriptions = self.subscriptions.read();
        let subscribers = subscriptions.get(filter.topics());
        let groups = subscribers.into_iter().flat_map(|found| &found.shared);
        let Some(group) = groups.into_iter().find(|group| &*group.filter == shared) else {
            return;
        };
        let chosen = match anywhere {
            true => group.choose(&self.policy, &message.topic),
            false => (group.choose_here(&self.policy, &message.topic)).map(Chosen::Here),
        };
        match chosen {
            None => {}
            Some(Chosen::At(node)) => {
                let filter = group.filter.to_string();
                drop(subscriptions);
                self.forward(message, (0, NO_ANSWER), vec![Choice { filter, node }], true);
            }
            Some(Chosen::Here(member)) => {
                let delivery = delivery(message, member.options, Some(group.filter.clone()));
                let mailbox = member.mailbox.clone();
                drop(subscriptions);
                let refused = self.push(&mailbox, delivery);
                // Once is enough: where one after the other is full, more would be a flood of its own.
                self.stats.dropped(Dropped::Plain, refused.len());
            }
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
