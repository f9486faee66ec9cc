//! What a session does on its user's down topic.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use schema::Format;
use schema::link::{self, FromEdge, Gone, Position, Subscribed, from_edge};

use super::{Session, item};
use crate::codec::{PublishHead, PublishProperties, Qos, SubscribeFilter, Version};
use crate::outbox::{Answer, Feed};
use crate::payload::Payload;
use crate::registry::Handle;

/// A client of MQTT 3.1.1 can't say which packets are too large for it. Common libraries take no more than this unless
/// they are told to.
const V4_PACKET_SIZE: u32 = 10 * 1024;

/// The session's subscription to its user's down topic: at most one, in one format.
#[derive(Debug)]
pub(super) struct ChatSubscription {
    format: Format,
    pub(super) topic: String,
    pub(super) qos: Qos,
    identifier: Option<u32>,
}

impl Session {
    /// A delivery is acknowledged once: QoS 2 would add a round trip and promise nothing more, since redelivered
    /// messages carry the same msg_id. So QoS 1 is what is granted at most.
    pub(super) fn subscribe_chat(
        &mut self,
        asked: &SubscribeFilter,
        format: Format,
        identifier: Option<u32>,
        is_new: &mut bool,
    ) -> Qos {
        let qos = asked.qos.min(Qos::AtLeastOnce);
        // At QoS 0 messages may have been left out; from QoS 1 on none is, beginning with those.
        *is_new |= self.chat.as_ref().is_none_or(|old| old.qos < qos);
        self.is_resumed &= !*is_new;
        self.chat = Some(ChatSubscription {
            format,
            topic: asked.filter.to_string(),
            qos,
            identifier,
        });
        self.handle.outbox.lock().qos = qos;
        qos
    }

    pub(super) fn start_catching_up(&mut self, to_bridge: &mut Vec<FromEdge>) {
        self.epoch += 1;
        let chat = self.chat.as_ref();
        let format = chat.map_or(link::Format::Unspecified, |chat| chat.format.into());
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
            resumed: self.is_resumed,
            format: format.into(),
            packet_size_max: self.sure_packet_size().unwrap_or_default(),
        })));
    }

    /// The largest packet that the client takes for sure; `None`: any.
    fn sure_packet_size(&self) -> Option<u32> {
        match self.version {
            Version::V4 => Some(V4_PACKET_SIZE),
            // [MQTT-3.1.2-24] What it has said; larger ones are left out.
            Version::V5 => u32::try_from(self.packet_size_max).ok(),
        }
    }

    pub(super) fn on_answer(&mut self, answer: &Answer, out: &mut BytesMut) {
        let Some(reply_to) = self.publishing.end(answer.token, answer.reason) else {
            return;
        };
        self.publishing.write_acks(self.version, out);
        if answer.reply.size() == 0 {
            return;
        }
        // QoS 0: who misses a reply asks again with the same client_msg_id.
        match reply_to {
            Some(reply_to) => self.reply(*reply_to, &answer.reply, out),
            None => {
                self.write_down(&answer.reply, Qos::AtMostOnce, None, None, out);
            }
        }
    }

    pub(super) fn write_message(
        &mut self,
        payload: &Payload,
        position: Position,
        out: &mut BytesMut,
    ) {
        let qos = match &self.chat {
            Some(chat) => chat.qos,
            None => return,
        };
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            _ => Some(self.receiving.next_packet_id()),
        };
        let is_written = self.write_down(payload, qos, packet_id, None, out);
        if let (true, Some(packet_id)) = (is_written, packet_id) {
            self.receiving.sent_chat(packet_id, position);
        }
    }

    /// Writes a PUBLISH on the down topic; tells whether it was one that the client takes.
    pub(super) fn write_down(
        &self,
        payload: &Payload,
        qos: Qos,
        packet_id: Option<NonZeroU16>,
        correlation_data: Option<Bytes>,
        out: &mut BytesMut,
    ) -> bool {
        let Some(chat) = &self.chat else {
            return false;
        };
        let properties = (self.version == Version::V5
            && (chat.identifier.is_some() || correlation_data.is_some()))
        .then(|| PublishProperties {
            subscription_identifiers: chat.identifier.into_iter().collect(),
            correlation_data,
            ..Default::default()
        });
        let head = PublishHead {
            dup: false,
            qos,
            retain: false,
            topic: &chat.topic,
            packet_id,
            properties: properties.as_ref(),
        };
        let payload = payload.in_format(chat.format);
        self.write_publish(head, payload, out)
    }
}

/// The session no longer receives.
pub(super) fn gone(handle: &Handle) -> FromEdge {
    item(from_edge::Item::Gone(Gone { session: handle.id }))
}
