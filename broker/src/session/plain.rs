//! What a session does on plain topics.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::*;
use crate::codec::RetainHandling;
use crate::plain::exchange::{SubscriptionOptions, now_ms};
use crate::plain::mailbox::Delivery;
use crate::plain::message::Message;
use crate::plain::routing::Publication;

/// Topics that can be looked at for retained messages at the cost of a publish.
const NODES_PER_PUBLISH: u32 = 64;

/// A session's subscriptions to plain topics, and what waits for it there.
#[derive(Debug)]
pub(super) struct Plain {
    mailbox: Arc<Mailbox>,
    filters: Vec<Filter>,
}

impl Plain {
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The session has ended: what others may get of what it had goes to them.
    pub(super) fn end(self, receiving: Receiving, exchange: &Exchange) {
        for filter in &self.filters {
            exchange.unsubscribe(filter, &self.mailbox);
        }
        let waiting = self.mailbox.end();
        for delivery in receiving.into_unacknowledged().chain(waiting) {
            exchange.pass_on(delivery);
        }
    }
}

impl Session {
    /// The way up: routes a publish to whoever subscribes, and keeps it if it is to be retained.
    pub(super) fn publish_plain(&mut self, publish: Publish) -> Result<(), Closed> {
        let policy = &self.exchange.policy;
        if !policy.may_publish(self.handle.client(), &publish.topic) {
            return self.refuse(&publish, ReasonCode::NotAuthorized);
        }
        self.publishing.check_unreleased(&publish)?;
        let publisher = self.plain.as_ref().map_or(0, |plain| plain.mailbox.id);
        let message = Arc::new(Message::from_publish(
            &publish,
            &publish.topic,
            publisher,
            now_ms(),
        ));
        let exchange = self.exchange.clone();
        let is_routed = self.publishing.take_routed(&publish);
        let is_for_others = exchange.has_others() && !is_routed;
        // "Stored" is what an acknowledgement of a retained message says, and "told" that of one for other nodes.
        let is_withheld = (message.retain || is_for_others) && publish.qos != Qos::AtMostOnce;
        let token = match is_withheld {
            true => self.publishing.withhold(&publish),
            false => NO_ANSWER,
        };
        let accepted = match (is_routed, message.retain) {
            // [MQTT-4.3.3-10] It comes again only because it was not acknowledged.
            (true, true) => exchange
                .retain_and_store(&message, token, &self.handle)
                .map(|()| 1),
            (true, false) => Ok(1),
            (false, _) => {
                let publication = Publication {
                    publisher: &self.handle,
                    token,
                    is_for_others,
                };
                exchange.accept(&message, publication)
            }
        };
        let reason = match accepted {
            Ok(_) if is_withheld => return Ok(()),
            Ok(0) => ReasonCode::NoMatchingSubscribers,
            Ok(_) => ReasonCode::Success,
            Err(full) => {
                debug!(topic = &*publish.topic, %full, "publish refused");
                exchange.stats.publish_refused();
                ReasonCode::QuotaExceeded
            }
        };
        if is_withheld {
            self.publishing.end(token, reason);
            return Ok(());
        }
        self.publishing.answer(&publish, reason)
    }

    /// Sends a reply to where its command asks for: the Response Topic, if the user may publish there, else the down
    /// topic (MQTT 5, 4.10).
    pub(super) fn reply(&mut self, reply_to: ReplyTo, payload: &Payload, out: &mut BytesMut) {
        let ReplyTo {
            format,
            response_topic,
            correlation_data,
        } = reply_to;
        let policy = &self.exchange.policy;
        let may_use = |topic: &ByteString| {
            self.is_usable(topic) && policy.may_publish(self.handle.client(), topic)
        };
        match response_topic.filter(may_use) {
            Some(topic) => {
                let payload = payload.in_format(format).clone();
                let message = Message::reply(topic, payload, correlation_data);
                let publication = Publication {
                    publisher: &self.handle,
                    token: NO_ANSWER,
                    is_for_others: self.exchange.has_others(),
                };
                self.exchange
                    .publish_everywhere(&Arc::new(message), publication);
            }
            None => {
                self.write_down(payload, Qos::AtMostOnce, None, correlation_data, out);
            }
        }
    }

    /// Grants a subscription, or tells why not.
    pub(super) fn subscribe_plain(
        &mut self,
        asked: &SubscribeFilter,
        filter: Filter,
        identifier: Option<u32>,
    ) -> Result<Qos, ReasonCode> {
        let exchange = self.exchange.clone();
        let who = self.handle.clone();
        let client = who.client();
        if !exchange.policy.may_subscribe(client, filter.topics()) {
            return Err(match exchange.policy.is_denied(client, filter.topics()) {
                // What the operator has against it is nobody's business.
                true => ReasonCode::UnspecifiedError,
                false => ReasonCode::NotAuthorized,
            });
        }
        let plain = self.plain.get_or_insert_with(|| Plain {
            mailbox: exchange.new_mailbox(self.handle.clone()),
            filters: Vec::new(),
        });
        let is_known = plain.filters.contains(&filter);
        let is_too_many = !is_known && plain.filters.len() >= self.subscriptions_max;
        // One that does not take what it has asked for may not ask for more.
        if is_too_many || plain.mailbox.is_full() {
            return Err(ReasonCode::QuotaExceeded);
        }
        let options = SubscriptionOptions {
            qos: asked.qos,
            no_local: asked.no_local,
            retain_as_published: asked.retain_as_published,
            identifier,
        };
        exchange.subscribe(&filter, &plain.mailbox, options);
        let wants_retained = match asked.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => !is_known,
            RetainHandling::DoNotSend => false,
        };
        // A shared subscription gets none (MQTT 5, 4.8.2).
        if wants_retained && filter.share().is_none() {
            let visited = exchange.send_retained(&filter, client, &plain.mailbox, options);
            self.cost = self.cost.saturating_add(visited / NODES_PER_PUBLISH);
        }
        if !is_known {
            plain.filters.push(filter);
        }
        Ok(asked.qos)
    }

    /// Ends a subscription; tells whether there was one.
    pub(super) fn unsubscribe_plain(&mut self, text: &str) -> Result<bool, Closed> {
        let filter = match Filter::parse(text, self.exchange.limits) {
            Ok(filter) => filter,
            Err(FilterError::Malformed) => {
                return Err(DecodeError::Malformed("a topic filter is malformed").into());
            }
            Err(_) => return Ok(false),
        };
        let Some(plain) = &mut self.plain else {
            return Ok(false);
        };
        let Some(index) = plain.filters.iter().position(|known| *known == filter) else {
            return Ok(false);
        };
        plain.filters.swap_remove(index);
        self.exchange.unsubscribe(&filter, &plain.mailbox);
        Ok(true)
    }

    /// The way down, for a client that has come back: what it has not acknowledged [MQTT-4.4.0-1].
    pub(super) fn write_again(&mut self, out: &mut BytesMut) {
        while out.len() < OUT_MAX {
            match self.receiving.next_again() {
                None => return,
                Some(Again::PubRel(packet_id)) => {
                    let success = ReasonCode::Success;
                    encode_ack(AckKind::PubRel, self.version, out, packet_id, success);
                }
                Some(Again::Publish(packet_id, delivery)) => {
                    if !self.write_plain(&delivery, Some(packet_id), true, out) {
                        self.receiving.give_up(packet_id);
                    }
                }
            }
        }
    }

    /// The way down: what waits in the mailbox.
    pub(super) fn write_mailbox(&mut self, out: &mut BytesMut) {
        while out.len() < OUT_MAX && self.receiving.has_room() {
            let Some(delivery) = self.plain.as_ref().and_then(|plain| plain.mailbox.pop()) else {
                return;
            };
            let packet_id =
                (delivery.qos != Qos::AtMostOnce).then(|| self.receiving.next_packet_id());
            let is_written = self.write_plain(&delivery, packet_id, false, out);
            if let (true, Some(packet_id)) = (is_written, packet_id) {
                self.receiving.sent_plain(packet_id, delivery);
            }
        }
    }

    /// Tells whether the client gets it: not what has expired, what the user may no longer see, or what is too large.
    fn write_plain(
        &mut self,
        delivery: &Delivery,
        packet_id: Option<NonZeroU16>,
        dup: bool,
        out: &mut BytesMut,
    ) -> bool {
        let message = &delivery.message;
        let now = now_ms();
        // [MQTT-3.3.2-5] What was begun is brought to its end [MQTT-4.3.3-7].
        if !dup && message.is_expired(now) {
            return false;
        }
        let policy = &self.exchange.policy;
        if !policy.may_receive(self.handle.client(), &message.topic) {
            return false;
        }
        let alias = self.server_aliases.alias(&message.topic);
        let properties = (self.version == Version::V5).then(|| PublishProperties {
            topic_alias: alias.map(|(alias, _)| alias),
            subscription_identifiers: delivery.identifiers.clone(),
            message_expiry_interval: message.expiry_interval(now),
            ..message.properties.as_deref().cloned().unwrap_or_default()
        });
        let head = PublishHead {
            dup,
            qos: delivery.qos,
            retain: delivery.retain,
            topic: match alias {
                Some((_, true)) => "",
                _ => &message.topic,
            },
            packet_id,
            properties: properties.as_ref(),
        };
        let is_written = self.write_publish(head, &message.payload, out);
        if let (true, Some((alias, false))) = (is_written, alias) {
            self.server_aliases.set(&message.topic, alias);
        }
        is_written
    }
}
