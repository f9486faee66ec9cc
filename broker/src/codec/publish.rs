//! PUBLISH: an application message (MQTT 3.3).

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::{
    DecodeError, PacketType, Qos, UserProperty, Version,
    properties::{self, properties},
    reader::Reader,
    writer::{self, Encode, Sink},
};

/// An application message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// The sender may have sent this message before (3.3.1.1). Never set with QoS 0.
    pub dup: bool,
    /// How hard delivery is tried.
    pub qos: Qos,
    /// To the server: keep the message for later subscribers. To a client: it was kept.
    pub retain: bool,
    /// The topic name, without wildcards. Empty only in MQTT 5 and with a topic alias.
    pub topic: ByteString,
    /// Present exactly if the QoS is over 0.
    pub packet_id: Option<NonZeroU16>,
    /// The message itself.
    pub payload: Bytes,
    /// MQTT 5: `None` stands for an empty set.
    pub properties: Option<Box<PublishProperties>>,
}

properties! {
    /// The properties of PUBLISH (3.3.2.3).
    pub struct PublishProperties {
        /// Whether the payload is UTF-8 text; not verified here.
        payload_format_indicator: Option<bool> = PayloadFormatIndicator,
        /// How long the message is of use, in seconds.
        message_expiry_interval: Option<u32> = MessageExpiryInterval,
        /// A number that stands for the topic on this connection.
        topic_alias: Option<NonZeroU16> = TopicAlias,
        /// Where the receiver should answer; a topic name without wildcards.
        response_topic: Option<ByteString> = ResponseTopic,
        /// What makes the sender recognise the answer.
        correlation_data: Option<Bytes> = CorrelationData,
        /// Meant for the receiving application.
        user_properties: Vec<UserProperty> = UserProperty,
        /// The subscriptions that the message matched, each 1 to 268,435,455. Server to client
        /// only.
        subscription_identifiers: Vec<u32> = SubscriptionIdentifier,
        /// What the payload is, for example a MIME type.
        content_type: Option<ByteString> = ContentType,
    }
}

/// A PUBLISH that is about to be written, without its payload and without owning anything, so that
/// a message for many receivers is not cloned for each.
#[derive(Clone, Copy, Debug)]
pub struct PublishHead<'a> {
    /// See [`Publish::dup`]; ignored with QoS 0.
    pub dup: bool,
    /// See [`Publish::qos`]; without a packet id the message is written as QoS 0.
    pub qos: Qos,
    /// See [`Publish::retain`].
    pub retain: bool,
    /// See [`Publish::topic`]; at most 65,535 bytes.
    pub topic: &'a str,
    /// See [`Publish::packet_id`]; ignored with QoS 0.
    pub packet_id: Option<NonZeroU16>,
    /// Ignored in MQTT 3.1.1.
    pub properties: Option<&'a PublishProperties>,
}

/// Appends a PUBLISH to `out`; what holds for [`Packet::encode`](super::Packet::encode) holds here.
pub fn encode_publish(version: Version, out: &mut BytesMut, head: PublishHead<'_>, payload: &[u8]) {
    writer::encode(&head, version, payload, out);
}

/// The size in bytes that [`encode_publish`] gives the packet, fixed header included.
pub fn publish_size(version: Version, head: &PublishHead<'_>, payload_len: usize) -> usize {
    writer::size(head, version, payload_len)
}

impl Publish {
    /// The packet without its payload, to be written with changes.
    pub fn head(&self) -> PublishHead<'_> {
        PublishHead {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: &self.topic,
            packet_id: self.packet_id,
            properties: self.properties.as_deref(),
        }
    }

    pub(super) fn read(
        version: Version,
        flags: u8,
        mut reader: Reader,
    ) -> Result<Self, DecodeError> {
        let dup = flags & 0b1000 != 0;
        let qos = Qos::try_from(flags >> 1 & 0b11)?;
        if dup && qos == Qos::AtMostOnce {
            return Err(DecodeError::Protocol("dup with qos 0")); // [MQTT-3.3.1-2]
        }
        let topic = reader.string()?;
        let packet_id = match qos {
            Qos::AtMostOnce => None,
            Qos::AtLeastOnce | Qos::ExactlyOnce => Some(reader.packet_id()?),
        };
        let properties = properties::read::<PublishProperties>(version, &mut reader)?;
        let has_alias = properties
            .as_ref()
            .is_some_and(|set| set.topic_alias.is_some());
        if !(topic.is_empty() && has_alias) {
            check_topic_name(&topic)?;
        }
        check_response_topic(
            properties
                .as_ref()
                .and_then(|set| set.response_topic.as_ref()),
        )?;
        Ok(Self {
            dup,
            qos,
            retain: flags & 1 != 0,
            topic,
            packet_id,
            payload: reader.rest(),
            properties,
        })
    }
}

impl PublishHead<'_> {
    /// The QoS with the packet id that it needs. The two are kept together here, because a
    /// receiver would misread the rest of a packet in which they are not.
    fn delivery(&self) -> (Qos, Option<NonZeroU16>) {
        let is_consistent = (self.qos == Qos::AtMostOnce) == self.packet_id.is_none();
        debug_assert!(
            is_consistent,
            "{:?} with packet id {:?}",
            self.qos, self.packet_id
        );
        match (self.qos, self.packet_id) {
            (Qos::AtMostOnce, _) | (_, None) => (Qos::AtMostOnce, None),
            with_id => with_id,
        }
    }
}

impl Encode for PublishHead<'_> {
    fn first_byte(&self) -> u8 {
        let (qos, _) = self.delivery();
        let dup = self.dup && qos > Qos::AtMostOnce;
        PacketType::Publish.first_byte()
            | u8::from(dup) << 3
            | (qos as u8) << 1
            | u8::from(self.retain)
    }

    fn write_body<S: Sink>(&self, version: Version, out: &mut S) {
        out.name(self.topic);
        if let (_, Some(packet_id)) = self.delivery() {
            out.u16(packet_id.get());
        }
        properties::write(version, self.properties, out);
    }
}

/// Checks a topic to which a message goes.
pub(super) fn check_topic_name(topic: &str) -> Result<(), DecodeError> {
    if topic.is_empty() {
        return Err(DecodeError::Protocol("topic name is empty")); // [MQTT-4.7.3-1]
    }
    if topic.bytes().any(|byte| matches!(byte, b'+' | b'#')) {
        return Err(DecodeError::TopicNameInvalid); // [MQTT-3.3.2-2]
    }
    Ok(())
}

/// [MQTT-3.3.2-14] A response topic is a topic name like any.
pub(super) fn check_response_topic(topic: Option<&ByteString>) -> Result<(), DecodeError> {
    topic.map_or(Ok(()), |topic| check_topic_name(topic))
}
