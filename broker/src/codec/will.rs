//! The will: a message that the server publishes for a client that is lost (MQTT 3.1.2.5).

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    DecodeError, Qos, UserProperty, Version,
    properties::{self, properties},
    publish::{check_response_topic, check_topic_name},
    reader::Reader,
    writer::Sink,
};

/// A message that the server publishes when the client is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// How hard delivery is tried.
    pub qos: Qos,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
    /// The topic name, without wildcards, never empty.
    pub topic: ByteString,
    /// The message itself, at most 65,535 bytes.
    pub payload: Bytes,
    /// MQTT 5: `None` stands for an empty set.
    pub properties: Option<Box<WillProperties>>,
}

properties! {
    /// The properties of a will (3.1.3.2).
    pub struct WillProperties {
        /// How long to wait for the client's return before publishing, in seconds; absent 0.
        will_delay_interval: Option<u32> = WillDelayInterval,
        /// Whether the payload is UTF-8 text; not verified here.
        payload_format_indicator: Option<bool> = PayloadFormatIndicator,
        /// How long the message is of use once published, in seconds.
        message_expiry_interval: Option<u32> = MessageExpiryInterval,
        /// What the payload is, for example a MIME type.
        content_type: Option<ByteString> = ContentType,
        /// Where the receiver should answer; a topic name without wildcards.
        response_topic: Option<ByteString> = ResponseTopic,
        /// What makes the asker recognise the answer.
        correlation_data: Option<Bytes> = CorrelationData,
        /// Meant for the receiving application.
        user_properties: Vec<UserProperty> = UserProperty,
    }
}

impl Will {
    /// Reads the will's part of a CONNECT; QoS and retain stand in the flags of that.
    pub(super) fn read(
        version: Version,
        qos: Qos,
        retain: bool,
        reader: &mut Reader,
    ) -> Result<Self, DecodeError> {
        let properties = properties::read::<WillProperties>(version, reader)?;
        check_response_topic(
            properties
                .as_ref()
                .and_then(|set| set.response_topic.as_ref()),
        )?;
        let topic = reader.string()?;
        check_topic_name(&topic)?;
        let payload = reader.binary()?;
        Ok(Self {
            qos,
            retain,
            topic,
            payload,
            properties,
        })
    }

    pub(super) fn write<S: Sink>(&self, version: Version, out: &mut S) {
        properties::write(version, self.properties.as_deref(), out);
        out.name(&self.topic);
        out.binary(&self.payload);
    }
}
