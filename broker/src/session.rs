//! One client's protocol state, from CONNACK to the end of the connection. No I/O: packets come in, bytes for the
//! client go to `out`, items for the bridge to `to_bridge`.
//!
//! `publishing` is the way up (publishes that wait for the bridge's answer), `receiving` the way down (deliveries
//! that wait for the client's PUBACK).

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use schema::link::{Acked, Drained, FromEdge, Gone, Position, Subscribed, from_edge};
use schema::{Format, Topic};
use tracing::debug;

use crate::closed::Closed;
use crate::codec::{
    AckKind, Connect, DecodeError, Disconnect, Packet, Publish, PublishHead, PublishProperties,
    Qos, ReasonCode, SubAck, Subscribe, SubscribeFilter, UnsubAck, Unsubscribe, Version, Will,
    encode_ack, encode_publish, publish_size,
};
use crate::options::Options;
use crate::outbox::{Delivery, Feed};
use crate::payload::Payload;
use crate::registry::Handle;

mod publishing;
mod receiving;
#[cfg(test)]
mod tests;

use publishing::{NO_ANSWER, Publishing};
use receiving::Receiving;

/// Bytes written to `out` in one go, before they have to be sent.
const OUT_MAX: usize = 64 * 1024;
/// Longest topic taken in a PUBLISH, in bytes, and its most levels.
const TOPIC_MAX: usize = 512;
const TOPIC_LEVELS_MAX: usize = 16;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Session {
    handle: Arc<Handle>,
    version: Version,
    /// The client's Maximum Packet Size, in bytes.
    packet_size_max: usize,
    subscription: Option<Subscription>,
    /// Counts the rounds of catch-up.
    epoch: u32,
    publishing: Publishing,
    receiving: Receiving,
    will: Option<Will>,
}

/// The session's subscription to its user's down topic: at most one, in one format.
#[derive(Debug)]
struct Subscription {
    format: Format,
    topic: String,
    qos: Qos,
    identifier: Option<u32>,
}

impl Session {
    pub(crate) fn new(handle: Arc<Handle>, connect: &mut Connect, options: &Options) -> Self {
        let properties = connect.properties.take().unwrap_or_default();
        let window = properties
            .receive_maximum
            .map_or(options.delivery_window, |max| {
                max.get().min(options.delivery_window)
            });
        Session {
            handle,
            version: connect.version,
            packet_size_max: properties
                .maximum_packet_size
                .map_or(usize::MAX, |max| max.get() as usize),
            subscription: None,
            epoch: 0,
            publishing: Publishing::new(options.receive_maximum.into(), connect.version),
            receiving: Receiving::new(window.into()),
            will: connect.will.take(),
        }
    }

    /// Whether the client may send another packet; otherwise the connection stops reading.
    pub(crate) fn has_room(&self) -> bool {
        self.publishing.has_room()
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
            // No delivery has QoS 2, so that the packet id is unknown (MQTT 5, 4.3.3).
            Packet::PubRec(ack) if !ack.reason.is_error() => {
                let unknown = ReasonCode::PacketIdentifierNotFound;
                encode_ack(AckKind::PubRel, self.version, out, ack.packet_id, unknown);
                Ok(())
            }
            Packet::PubRec(_) | Packet::PubComp(_) => Ok(()),
            Packet::Subscribe(subscribe) => {
                if !subscribe
                    .filters
                    .iter()
                    .all(|one| is_well_formed(&one.filter))
                {
                    // [MQTT-4.7.1-2, MQTT-4.7.1-3]
                    let error = DecodeError::Malformed("a topic filter's wildcards are misplaced");
                    return Err(error.into());
                }
                self.on_subscribe(&subscribe, out, to_bridge);
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.on_unsubscribe(&unsubscribe, out, to_bridge);
                Ok(())
            }
            Packet::PingReq => {
                Packet::PingResp.encode(self.version, out);
                Ok(())
            }
            Packet::Disconnect(Disconnect { reason, .. }) => Err(match reason {
                ReasonCode::DisconnectWithWill => Closed::ByClientWithWill,
                _ => Closed::ByClient,
            }),
            // [MQTT-3.1.0-2]
            Packet::Connect(_) => Err(Closed::Protocol("second CONNECT")),
            // [MQTT-4.12.0-6] No enhanced authentication was begun.
            Packet::Auth(_) => Err(Closed::Protocol("AUTH without a method")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Closed::Protocol("only a server may send this packet"))
            }
        }
    }

    fn on_publish(
        &mut self,
        publish: Publish,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        let properties = publish.properties.as_deref();
        if properties.is_some_and(|set| set.topic_alias.is_some()) {
            // [MQTT-3.3.2-9] CONNACK allowed none.
            return Err(Closed::Unsupported(ReasonCode::TopicAliasInvalid));
        }
        if properties.is_some_and(|set| !set.subscription_identifiers.is_empty()) {
            // [MQTT-3.3.4-6]
            return Err(Closed::Protocol("subscription identifier from a client"));
        }
        if publish.retain && self.version == Version::V5 {
            return Err(Closed::Unsupported(ReasonCode::RetainNotSupported));
        }
        match self.uplink_format(&publish.topic) {
            Ok(format) => self
                .publishing
                .begin(&self.handle, format, publish, to_bridge)?,
            Err(reason) => {
                debug!(topic = &*publish.topic, ?reason, "publish refused");
                self.publishing.refuse(&publish, reason)?;
            }
        }
        self.publishing.write_acks(self.version, out);
        Ok(())
    }

    /// Only the user's own up topics take publishes.
    fn uplink_format(&self, topic: &str) -> Result<Format, ReasonCode> {
        if topic.len() > TOPIC_MAX || topic.split('/').count() > TOPIC_LEVELS_MAX {
            return Err(ReasonCode::TopicNameInvalid);
        }
        match Topic::parse(topic) {
            Topic::Up(format, uid) if uid == self.handle.uid => Ok(format),
            _ => Err(ReasonCode::NotAuthorized),
        }
    }

    fn on_subscribe(
        &mut self,
        subscribe: &Subscribe,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) {
        let mut is_new = false;
        let grant = |filter: &SubscribeFilter| match Topic::parse(&filter.filter) {
            Topic::Down(format, uid) if uid == self.handle.uid => {
                // A delivery is acknowledged once: QoS 2 would add a round trip and promise nothing more,
                // since redelivered messages carry the same msg_id.
                let qos = filter.qos.min(Qos::AtLeastOnce);
                // At QoS 0 messages may have been left out; from QoS 1 on none is, beginning with those.
                is_new |= self.subscription.as_ref().is_none_or(|old| old.qos < qos);
                self.subscription = Some(Subscription {
                    format,
                    topic: filter.filter.to_string(),
                    qos,
                    identifier: subscribe.subscription_identifier,
                });
                self.handle.outbox.lock().qos = qos;
                match qos {
                    Qos::AtMostOnce => ReasonCode::Success,
                    _ => ReasonCode::GrantedQos1,
                }
            }
            _ => {
                debug!(filter = &*filter.filter, "subscription refused");
                ReasonCode::NotAuthorized
            }
        };
        let reasons = subscribe.filters.iter().map(grant).collect();
        let suback = SubAck {
            packet_id: subscribe.packet_id,
            reasons,
            properties: None,
        };
        Packet::SubAck(suback).encode(self.version, out);
        if is_new {
            self.start_catching_up(to_bridge);
        }
    }

    fn on_unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) {
        let mut end = |filter: &ByteString| {
            let topic = self.subscription.as_ref().map(|sub| sub.topic.as_str());
            if topic != Some(filter) {
                return ReasonCode::NoSubscriptionExisted;
            }
            self.subscription = None;
            self.handle.outbox.lock().restart(Feed::Off);
            to_bridge.push(gone(&self.handle));
            ReasonCode::Success
        };
        let unsuback = UnsubAck {
            packet_id: unsubscribe.packet_id,
            reasons: unsubscribe.filters.iter().map(&mut end).collect(),
            properties: None,
        };
        Packet::UnsubAck(unsuback).encode(self.version, out);
    }

    fn start_catching_up(&mut self, to_bridge: &mut Vec<FromEdge>) {
        self.epoch += 1;
        self.handle
            .outbox
            .lock()
            .restart(Feed::CatchingUp(self.epoch));
        to_bridge.push(item(from_edge::Item::Subscribed(Subscribed {
            session: self.handle.id,
            epoch: self.epoch,
            uid: self.handle.uid.to_string(),
            device: self.handle.device.to_string(),
            nameless: self.handle.is_nameless,
        })));
    }

    /// Takes what the outbox holds, as far as the client's window and `out` have room.
    pub(crate) fn on_outbox(
        &mut self,
        out: &mut BytesMut,
        to_bridge: &mut Vec<FromEdge>,
    ) -> Result<(), Closed> {
        // The handle is cloned so that the guard does not borrow `self`.
        let handle = self.handle.clone();
        let mut state = handle.outbox.lock();
        if let Some(reason) = state.closed {
            return Err(reason);
        }
        while out.len() < OUT_MAX {
            let Some(answer) = state.answers.pop_front() else {
                break;
            };
            if let Some(correlation_data) = self.publishing.end(answer.token, answer.reason) {
                self.publishing.write_acks(self.version, out);
                // A Response Topic has to be one that the session gets, and there is only one. QoS 0: who misses
                // a reply asks again with the same client_msg_id.
                self.write_down(&answer.reply, Qos::AtMostOnce, None, correlation_data, out);
            }
        }
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
        let caught_behind = matches!(state.feed, Feed::Behind(_)) && state.deliveries.is_empty();
        drop(state);
        if caught_behind && self.receiving.is_idle() {
            self.flush_acks(to_bridge);
            self.start_catching_up(to_bridge);
        }
        Ok(())
    }

    fn write_message(&mut self, payload: &Payload, position: Position, out: &mut BytesMut) {
        let qos = match &self.subscription {
            Some(subscription) => subscription.qos,
            None => return,
        };
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            _ => Some(self.receiving.next_packet_id()),
        };
        let is_written = self.write_down(payload, qos, packet_id, None, out);
        if let (true, Some(packet_id)) = (is_written, packet_id) {
            self.receiving.sent(packet_id, position);
        }
    }

    /// Writes a PUBLISH on the down topic; tells whether it was one that the client takes.
    fn write_down(
        &self,
        payload: &Payload,
        qos: Qos,
        packet_id: Option<NonZeroU16>,
        correlation_data: Option<Bytes>,
        out: &mut BytesMut,
    ) -> bool {
        let Some(subscription) = &self.subscription else {
            return false;
        };
        let properties = (self.version == Version::V5
            && (subscription.identifier.is_some() || correlation_data.is_some()))
        .then(|| PublishProperties {
            subscription_identifiers: subscription.identifier.into_iter().collect(),
            correlation_data,
            ..Default::default()
        });
        let head = PublishHead {
            dup: false,
            qos,
            retain: false,
            topic: &subscription.topic,
            packet_id,
            properties: properties.as_ref(),
        };
        let payload = payload.in_format(subscription.format);
        if publish_size(self.version, &head, payload.len()) > self.packet_size_max {
            // [MQTT-3.1.2-25] It counts as sent; the client finds it in the history.
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

    /// Ends the session; its will, if it is due, goes the way of a publish.
    pub(crate) fn close(mut self, reason: Closed, to_bridge: &mut Vec<FromEdge>) {
        self.flush_acks(to_bridge);
        if let Some(will) = self.will.take()
            && reason.publishes_will()
            && let Topic::Up(format, _) = Topic::parse(&will.topic)
        {
            to_bridge.push(publishing::uplink(
                &self.handle,
                NO_ANSWER,
                format,
                will.payload,
            ));
        }
        if self.subscription.is_some() {
            to_bridge.push(gone(&self.handle));
        }
    }
}

/// Whether `+` and `#` stand alone in their levels, and `#` in the last one.
fn is_well_formed(filter: &str) -> bool {
    let mut levels = filter.split('/').rev();
    let last = levels.next().unwrap_or_default();
    let is_plain = |level: &str| !level.contains(['+', '#']);
    (last == "#" || last == "+" || is_plain(last))
        && levels.all(|level| level == "+" || is_plain(level))
}

fn item(item: from_edge::Item) -> FromEdge {
    FromEdge { item: Some(item) }
}

fn gone(handle: &Handle) -> FromEdge {
    item(from_edge::Item::Gone(Gone { session: handle.id }))
}
