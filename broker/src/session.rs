//! One client's protocol state, from CONNACK to the end of the connection, and what of it outlives that ([`Lasting`]).
//! No I/O: packets come in, bytes for the client go to `out`, items for the bridge to `to_bridge`.
//!
//! `publishing` is the way up (publishes that wait for the bridge's answer), `receiving` the way down (deliveries
//! that wait for the client's acknowledgement), `chat` what the session does on its user's down topic, `plain` what it
//! does on topics other than chat's.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use schema::Topic;
use schema::link::{Acked, Drained, FromEdge, from_edge};
use tokio::time::Instant;
use tracing::debug;

use crate::closed::Closed;
use crate::codec::{
    AckKind, Connect, DecodeError, Disconnect, Packet, Publish, PublishHead, PublishProperties,
    Qos, ReasonCode, SubAck, Subscribe, SubscribeFilter, UnsubAck, Unsubscribe, Version, Will,
    encode_ack, encode_publish, publish_size,
};
use crate::options::Options;
use crate::outbox::{Delivery, Feed};
use crate::parking::Parked;
use crate::payload::{Payload, outdated};
use crate::plain::exchange::Exchange;
use crate::plain::filter::{Filter, FilterError, check_topic};
use crate::plain::mailbox::Mailbox;
use crate::registry::Handle;
use crate::will;

mod aliases;
mod chat;
mod plain;
mod publishing;
mod receiving;
#[cfg(any(test, fuzzing))]
pub(crate) mod rig;
#[cfg(test)]
mod tests;

use aliases::{ClientAliases, ServerAliases};
use chat::{ChatSubscription, gone};
use plain::Plain;
use publishing::{Publishing, Received, ReplyTo};
use receiving::{Again, Receiving};

pub(crate) use publishing::{NO_ANSWER, uplink};

/// Bytes written to `out` in one go, before they have to be sent.
const OUT_MAX: usize = 64 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Session {
    handle: Arc<Handle>,
    exchange: Arc<Exchange>,
    version: Version,
    /// The client's Maximum Packet Size, in bytes.
    packet_size_max: usize,
    subscriptions_max: usize,
    /// Whether CONNECT asked for a session that outlives its connection; how long it does, in seconds, and how long it may.
    asked_to_be_kept: bool,
    expiry_secs: u32,
    expiry_max_secs: u32,
    chat: Option<ChatSubscription>,
    /// Counts the rounds of catch-up.
    epoch: u32,
    /// The subscription to chat is an earlier connection's.
    is_resumed: bool,
    /// Set with the first subscription to a plain topic.
    plain: Option<Plain>,
    publishing: Publishing,
    receiving: Receiving,
    client_aliases: ClientAliases,
    server_aliases: ServerAliases,
    will: Option<Will>,
    /// See [`Session::take_cost`].
    cost: u32,
}

/// What of a session outlives its connection.
#[derive(Debug, Default)]
pub(crate) struct Lasting {
    chat: Option<ChatSubscription>,
    plain: Option<Plain>,
    receiving: Receiving,
    received: Received,
}

impl Lasting {
    /// Whether messages were lost while nobody took them: the session can't be taken up again.
    pub(crate) fn is_lost(&self) -> bool {
        self.mailbox().is_some_and(|mailbox| mailbox.is_lost())
    }

    /// A connection takes the session up; `false`: it is lost.
    pub(crate) fn connect(&self, handle: &Arc<Handle>) -> bool {
        self.mailbox()
            .is_none_or(|mailbox| mailbox.connect(handle.clone()))
    }

    pub(crate) fn mailbox_id(&self) -> Option<u64> {
        self.mailbox().map(|mailbox| mailbox.id)
    }

    fn mailbox(&self) -> Option<&Mailbox> {
        self.plain.as_ref().map(Plain::mailbox)
    }

    /// Ends the session.
    pub(crate) fn end(self, exchange: &Exchange) {
        if let Some(plain) = self.plain {
            plain.end(self.receiving, exchange);
        }
    }
}

impl Session {
    /// A new connection's session, which goes on with what an earlier one has left.
    pub(crate) fn new(
        handle: Arc<Handle>,
        exchange: Arc<Exchange>,
        connect: &mut Connect,
        options: &Options,
        lasting: Lasting,
    ) -> Self {
        let asked_to_be_kept = asked_expiry(connect) > 0;
        let expiry_secs = session_expiry(connect, options);
        let properties = connect.properties.take().unwrap_or_default();
        let window = properties
            .receive_maximum
            .map_or(options.delivery_window, |max| {
                max.get().min(options.delivery_window)
            });
        let Lasting {
            chat,
            plain,
            mut receiving,
            received,
        } = lasting;
        receiving.resume(window.into(), options.session_queue);
        if let Some(chat) = &chat {
            handle.outbox.lock().qos = chat.qos;
        }
        let receive_maximum = options.receive_maximum.into();
        Session {
            handle,
            exchange,
            version: connect.version,
            packet_size_max: properties
                .maximum_packet_size
                .map_or(usize::MAX, |max| max.get() as usize),
            subscriptions_max: options.subscriptions_max,
            asked_to_be_kept,
            expiry_secs,
            expiry_max_secs: options.session_expiry_max_secs,
            is_resumed: chat.is_some(),
            chat,
            epoch: 0,
            plain,
            publishing: Publishing::new(receive_maximum, connect.version, received),
            receiving,
            client_aliases: ClientAliases::new(options.topic_alias_max),
            server_aliases: ServerAliases::new(properties.topic_alias_maximum.unwrap_or(0)),
            will: connect.will.take().map(will::detached),
            cost: 0,
        }
    }

    /// Says what an earlier connection's session had subscribed to: chat begins to catch up. To be called once, after
    /// CONNACK.
    pub(crate) fn resume(&mut self, to_bridge: &mut Vec<FromEdge>) {
        if self.chat.is_some() {
            self.start_catching_up(to_bridge);
        }
    }

    /// Whether the client may send another packet; otherwise the connection stops reading.
    pub(crate) fn has_room(&self) -> bool {
        self.publishing.has_room()
    }

    /// What the last packets have cost besides being publishes, in publishes: subscriptions, and looking for retained
    /// messages.
    pub(crate) fn take_cost(&mut self) -> u32 {
        std::mem::take(&mut self.cost)
    }

    /// Whether the client has been told all that it can be told now.
    pub(crate) fn is_settled(&self) -> bool {
        let is_plain_settled = || {
            let plain = self.plain.as_ref();
            plain.is_none_or(|plain| plain.mailbox().is_empty()) || !self.receiving.has_room()
        };
        self.publishing.is_idle() && is_plain_settled()
    }

    /// Takes a packet from the client.
    pub(crate) fn on_packet(
        &mut self,
        packet: Packet,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        match packet {
            Packet::Publish(publish) => self.on_publish(publish, out, to_bridge),
            Packet::PubAck(ack) => {
                self.receiving.acknowledge(ack.packet_id);
                Ok(())
            }
            Packet::PubRel(ack) => {
                let reason = self.publishing.release(ack.packet_id);
                encode_ack(AckKind::PubComp, self.version, out, ack.packet_id, reason);
                Ok(())
            }
            Packet::PubRec(ack) => {
                let is_refused = ack.reason.is_error();
                let reason = match self.receiving.receive(ack.packet_id, is_refused) {
                    true => ReasonCode::Success,
                    false => ReasonCode::PacketIdentifierNotFound,
                };
                if !is_refused {
                    encode_ack(AckKind::PubRel, self.version, out, ack.packet_id, reason);
                }
                Ok(())
            }
            Packet::PubComp(ack) => {
                self.receiving.complete(ack.packet_id);
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.on_subscribe(&subscribe, out, to_bridge),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(&unsubscribe, out, to_bridge),
            Packet::PingReq => {
                Packet::PingResp.encode(self.version, out);
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.on_disconnect(&disconnect)),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => Err(Closed::Protocol("second CONNECT")),
            // [MQTT-4.12.0-6] No enhanced authentication was begun.
            Packet::Auth(_) => Err(Closed::Protocol("AUTH without a method")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Closed::Protocol("only a server may send this packet"))
            }
        }
    }

    fn on_disconnect(&mut self, disconnect: &Disconnect) -> Closed {
        let properties = disconnect.properties.as_deref();
        if let Some(expiry) = properties.and_then(|set| set.session_expiry_interval) {
            // [MQTT-3.14.2-2] A session that was to end with its connection does.
            if !self.asked_to_be_kept && expiry > 0 {
                return Closed::Protocol("session expiry in DISCONNECT, but not in CONNECT");
            }
            self.expiry_secs = expiry.min(self.expiry_max_secs);
        }
        match disconnect.reason {
            // [MQTT-3.14.4-3] Nothing but a normal one takes the will back.
            ReasonCode::Success => Closed::ByClient,
            _ => Closed::ByClientWithWill,
        }
    }

    fn on_publish(
        &mut self,
        mut publish: Publish,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        let properties = publish.properties.as_deref();
        if properties.is_some_and(|set| !set.subscription_identifiers.is_empty()) {
            // [MQTT-3.3.4-6]
            return Err(Closed::Protocol("subscription identifier from a client"));
        }
        let is_topic_usable = publish.topic.is_empty() || self.is_usable(&publish.topic);
        if let Some(alias) = properties.and_then(|set| set.topic_alias) {
            self.client_aliases
                .resolve(alias, &mut publish.topic, is_topic_usable)?;
        }
        if !self.publishing.answer_repetition(&publish) {
            self.take_publish(publish, to_bridge)?;
        }
        self.publishing.write_acks(self.version, out);
        Ok(())
    }

    fn take_publish(
        &mut self,
        publish: Publish,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        if !self.is_usable(&publish.topic) {
            return self.refuse(&publish, ReasonCode::TopicNameInvalid);
        }
        match Topic::parse(&publish.topic) {
            // The retain flag says nothing here: a command is carried out, not kept.
            Topic::Up(format, uid) if uid == self.handle.uid => {
                let handle = self.handle.clone();
                self.publishing.begin(&handle, format, publish, to_bridge)
            }
            Topic::Up(..) | Topic::Down(..) => self.refuse(&publish, ReasonCode::NotAuthorized),
            Topic::Other => self.publish_plain(publish),
        }
    }

    fn is_usable(&self, topic: &str) -> bool {
        check_topic(topic, self.exchange.limits).is_ok()
    }

    fn refuse(&mut self, publish: &Publish, reason: ReasonCode) -> Result<(), Closed> {
        debug!(topic = &*publish.topic, ?reason, "publish refused");
        self.exchange.stats.publish_refused();
        self.publishing.answer(publish, reason)
    }

    fn on_subscribe(
        &mut self,
        subscribe: &Subscribe,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        let mut filters = Vec::with_capacity(subscribe.filters.len());
        for asked in &subscribe.filters {
            // [MQTT-4.7.1-1, MQTT-4.7.1-2] Before any of them has an effect.
            match Filter::parse(&asked.filter, self.exchange.limits) {
                Err(FilterError::Malformed) => {
                    let error = DecodeError::Malformed("a topic filter is malformed");
                    return Err(error.into());
                }
                parsed => filters.push((asked, parsed.ok())),
            }
        }
        let mut is_chat_new = false;
        let mut reasons = Vec::with_capacity(filters.len());
        let mut left = self.subscriptions_max;
        // What is kept for plain subscriptions goes out after the SUBACK: it waits in the mailbox.
        for (asked, filter) in filters {
            let identifier = subscribe.subscription_identifier;
            let granted = match (filter, Topic::parse(&asked.filter)) {
                (None, _) => Err(ReasonCode::TopicFilterInvalid),
                // More than a session may have, in one packet: most of them are repetitions.
                (Some(_), _) if left == 0 => Err(ReasonCode::QuotaExceeded),
                (Some(_), Topic::Down(format, uid)) if uid == self.handle.uid => {
                    Ok(self.subscribe_chat(asked, format, identifier, &mut is_chat_new))
                }
                (Some(filter), _) => self.subscribe_plain(asked, filter, identifier),
            };
            left = left.saturating_sub(1);
            self.cost = self.cost.saturating_add(1);
            reasons.push(match granted {
                Ok(Qos::AtMostOnce) => ReasonCode::Success,
                Ok(Qos::AtLeastOnce) => ReasonCode::GrantedQos1,
                Ok(Qos::ExactlyOnce) => ReasonCode::GrantedQos2,
                Err(reason) => {
                    debug!(filter = &*asked.filter, ?reason, "subscription refused");
                    self.exchange.stats.subscription_refused();
                    reason
                }
            });
        }
        let suback = SubAck {
            packet_id: subscribe.packet_id,
            reasons,
            properties: None,
        };
        Packet::SubAck(suback).encode(self.version, out);
        if is_chat_new {
            self.start_catching_up(to_bridge);
        }
        Ok(())
    }

    fn on_unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            let is_chat = self
                .chat
                .as_ref()
                .is_some_and(|chat| chat.topic == **filter);
            if is_chat {
                self.chat = None;
                self.handle.outbox.lock().restart(Feed::Off);
                to_bridge.push(gone(&self.handle));
            }
            let existed = is_chat || self.unsubscribe_plain(filter)?;
            reasons.push(match existed {
                true => ReasonCode::Success,
                false => ReasonCode::NoSubscriptionExisted,
            });
        }
        let unsuback = UnsubAck {
            packet_id: unsubscribe.packet_id,
            reasons,
            properties: None,
        };
        Packet::UnsubAck(unsuback).encode(self.version, out);
        Ok(())
    }

    /// Takes what the outbox and the mailbox hold, as far as the client's window and `out` have room.
    pub(crate) fn on_outbox(
        &mut self,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        // The handle is cloned so that the guard does not borrow `self`.
        let handle = self.handle.clone();
        handle.outbox.check()?;
        self.write_again(out);
        while out.len() < OUT_MAX {
            // Not under the lock: a reply on a plain topic may be for this very session.
            let Some(answer) = handle.outbox.next_answer() else {
                break;
            };
            self.on_answer(&answer, out);
        }
        let mut state = handle.outbox.lock();
        while out.len() < OUT_MAX {
            match state.deliveries.front() {
                Some(Delivery::Message(..)) if self.receiving.has_room() => {}
                Some(Delivery::Event(_)) => {}
                Some(Delivery::PageEnd) => {}
                _ => break,
            }
            match state.pop_delivery() {
                Some(Delivery::Message(payload, position)) => {
                    self.write_message(&payload, position, out);
                }
                Some(Delivery::Event(payload)) => {
                    self.write_down(&payload, Qos::AtMostOnce, None, None, out);
                }
                Some(Delivery::PageEnd) => {
                    self.flush_acks(to_bridge);
                    to_bridge.push(item(from_edge::Item::Drained(Drained {
                        session: self.handle.id,
                        epoch: self.epoch,
                    })));
                }
                None => break,
            }
        }
        if out.len() < OUT_MAX && state.take_outdated() {
            self.write_down(outdated(), Qos::AtMostOnce, None, None, out);
        }
        let caught_behind = matches!(state.feed, Feed::Behind(_)) && state.deliveries.is_empty();
        drop(state);
        if caught_behind && self.receiving.is_without_chat() {
            self.flush_acks(to_bridge);
            self.start_catching_up(to_bridge);
        }
        self.write_mailbox(out);
        Ok(())
    }

    fn write_publish(&self, head: PublishHead<'_>, payload: &[u8], out: &mut BytesMut) -> bool {
        if publish_size(self.version, &head, payload.len()) > self.packet_size_max {
            // [MQTT-3.1.2-25] It counts as sent; a message of a chat can be found in the history.
            debug!("a delivery exceeds the client's maximum packet size");
            return false;
        }
        encode_publish(self.version, out, head, payload);
        true
    }

    /// Tells the bridge what the client has acknowledged since the last call.
    pub(crate) fn flush_acks(&mut self, to_bridge: &mut Vec<FromEdge>) {
        let positions = self.receiving.take_acknowledged();
        if !positions.is_empty() {
            to_bridge.push(item(from_edge::Item::Acked(Acked {
                uid: self.handle.uid.to_string(),
                device: self.handle.device.to_string(),
                positions,
            })));
        }
    }

    /// Ends the connection's part of the session. What outlives it is returned; a will that is due at once is published.
    pub(crate) fn close(mut self, reason: Closed, to_bridge: &mut Vec<FromEdge>) -> Option<Parked> {
        self.flush_acks(to_bridge);
        if self.chat.is_some() {
            to_bridge.push(gone(&self.handle));
        }
        self.handle.outbox.clear();
        let expiry_secs = match reason.ends_session() {
            true => 0,
            false => self.expiry_secs,
        };
        let now = Instant::now();
        let after = |secs: u32| now + Duration::from_secs(secs.into());
        let will = self.will.take().filter(|_| reason.publishes_will());
        let delay_of = |will: &Will| {
            let properties = will.properties.as_deref();
            let delay = properties.and_then(|set| set.will_delay_interval);
            delay.unwrap_or(0)
        };
        let (due, delayed) = match will {
            Some(will) if delay_of(&will) > 0 && reason.cancels_delayed_will() => (None, None),
            Some(will) if delay_of(&will).min(expiry_secs) > 0 => {
                let due_at = after(delay_of(&will).min(expiry_secs));
                (None, Some((will, due_at)))
            }
            will => (will, None),
        };
        if let Some(will) = due {
            will::publish(&self.exchange, &self.handle, will, to_bridge);
        }
        let lasting = Lasting {
            chat: self.chat,
            plain: self.plain,
            receiving: self.receiving,
            received: self.publishing.into_received(),
        };
        if expiry_secs == 0 {
            lasting.end(&self.exchange);
            return None;
        }
        if let Some(mailbox) = lasting.mailbox() {
            mailbox.disconnect();
        }
        Some(Parked {
            handle: self.handle,
            lasting,
            expires_at: after(expiry_secs),
            will: delayed,
        })
    }
}

/// The Session Expiry Interval that CONNECT asks for; absent is 0 (3.1.2.11.2).
pub(crate) fn asked_expiry(connect: &Connect) -> u32 {
    let properties = connect.properties.as_deref();
    let asked = properties.and_then(|set| set.session_expiry_interval);
    asked.unwrap_or(0)
}

/// How long the session outlives its connection, in seconds. In MQTT 3.1.1 one that is not clean has no end of its own.
pub(crate) fn session_expiry(connect: &Connect, options: &Options) -> u32 {
    let asked = match connect.version {
        Version::V4 if connect.clean_start => 0,
        Version::V4 => u32::MAX,
        Version::V5 => asked_expiry(connect),
    };
    asked.min(options.session_expiry_max_secs)
}

fn item(item: from_edge::Item) -> FromEdge {
    FromEdge { item: Some(item) }
}
