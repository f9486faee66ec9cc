//! A message on a plain topic, on its way to any number of subscribers.

use bytes::Bytes;
use bytestring::ByteString;
use schema::link::{self, PlainMessage};

use crate::codec::{Publish, PublishProperties, Qos, UserProperty, Will};

/// What a piece of memory of its own costs beside its bytes: the allocator's share, and `Bytes`' counter.
const ALLOCATION: usize = 32;

/// An application message, shared by all whom it is for. It owns its bytes: a slice of a client's read buffer, or of a
/// frame of the link, would keep the whole of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: ByteString,
    /// The QoS that it was published with; a subscription can only lower it (3.8.4).
    pub(crate) qos: Qos,
    pub(crate) payload: Bytes,
    /// What travels on to subscribers unaltered [MQTT-3.3.2-4, 15, 16, 17, 20]. Message expiry, topic alias and
    /// subscription identifiers are never set: those are each receiver's own. `None` stands for an empty set.
    pub(crate) properties: Option<Box<PublishProperties>>,
    /// When it is no longer worth anything, in milliseconds since 1970; 0: never.
    pub(crate) expires_at_ms: u64,
    /// As it was published.
    pub(crate) retain: bool,
    /// The session that published it, which may not want it back (No Local); 0: none.
    pub(crate) publisher: u64,
}

/// What came over the link is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a plain message has no qos {0}")]
pub(crate) struct NoSuchQos(u32);

impl Message {
    /// Takes a client's publish. `topic` is the one that is meant, since the packet may have just an alias.
    pub(crate) fn from_publish(
        publish: &Publish,
        topic: &str,
        publisher: u64,
        now_ms: u64,
    ) -> Self {
        let properties = publish.properties.as_deref();
        let expiry_secs = properties.and_then(|set| set.message_expiry_interval);
        let expires_at_ms = expiry_secs.map_or(0, |secs| {
            now_ms.saturating_add(u64::from(secs) * 1000).max(1)
        });
        Message {
            topic: topic.into(),
            qos: publish.qos,
            payload: Bytes::copy_from_slice(&publish.payload),
            properties: properties.and_then(travelling),
            expires_at_ms,
            retain: publish.retain,
            publisher,
        }
    }

    /// Takes a will at the time at which it is published.
    pub(crate) fn from_will(will: &Will, now_ms: u64) -> Self {
        let properties = will.properties.as_deref().map(|set| PublishProperties {
            payload_format_indicator: set.payload_format_indicator,
            message_expiry_interval: set.message_expiry_interval,
            content_type: set.content_type.clone(),
            response_topic: set.response_topic.clone(),
            correlation_data: set.correlation_data.clone(),
            user_properties: set.user_properties.clone(),
            ..PublishProperties::default()
        });
        let publish = Publish {
            qos: will.qos,
            retain: will.retain,
            payload: will.payload.clone(),
            properties: properties.map(Box::new),
            ..Publish::default()
        };
        Self::from_publish(&publish, &will.topic, 0, now_ms)
    }

    /// Something that the broker says of itself, the latest of which is kept.
    pub(crate) fn announcement(topic: String, value: String) -> Self {
        Message {
            topic: topic.into(),
            qos: Qos::AtMostOnce,
            payload: value.into(),
            properties: None,
            expires_at_ms: 0,
            retain: true,
            publisher: 0,
        }
    }

    /// The answer to a command, for its Response Topic.
    pub(crate) fn reply(
        topic: ByteString,
        payload: Bytes,
        correlation_data: Option<Bytes>,
    ) -> Self {
        Message {
            topic,
            qos: Qos::AtLeastOnce,
            payload,
            properties: boxed(PublishProperties {
                correlation_data,
                ..PublishProperties::default()
            }),
            expires_at_ms: 0,
            retain: false,
            publisher: 0,
        }
    }

    /// Whether it is too late to begin delivering it [MQTT-3.3.2-5].
    pub(crate) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }

    /// What is left of the Message Expiry Interval, in seconds [MQTT-3.3.2-6]; `None`: it does not expire. Rounded up,
    /// so that a message that is not yet expired here is not so for its receiver.
    pub(crate) fn expiry_interval(&self, now_ms: u64) -> Option<u32> {
        let left_ms = self.expires_at_ms.saturating_sub(now_ms);
        let left_secs = u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        (self.expires_at_ms != 0).then_some(left_secs)
    }

    /// The memory that it takes, in bytes, rather too much than too little.
    pub(crate) fn size(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, size_of_properties);
        size_of::<Self>() + piece(&self.topic) + piece(&self.payload) + properties + ALLOCATION
    }
}

/// The properties that are the same for all receivers; `None` if there are none.
fn travelling(all: &PublishProperties) -> Option<Box<PublishProperties>> {
    let own = |text: &ByteString| ByteString::from(&**text);
    let user_properties = all.user_properties.iter();
    boxed(PublishProperties {
        payload_format_indicator: all.payload_format_indicator,
        content_type: all.content_type.as_ref().map(own),
        response_topic: all.response_topic.as_ref().map(own),
        correlation_data: all.correlation_data.as_deref().map(Bytes::copy_from_slice),
        user_properties: user_properties
            .map(|(name, value)| (own(name), own(value)))
            .collect(),
        ..PublishProperties::default()
    })
}

fn boxed(set: PublishProperties) -> Option<Box<PublishProperties>> {
    (set != PublishProperties::default()).then(|| Box::new(set))
}

fn size_of_properties(set: &PublishProperties) -> usize {
    let texts = [&set.content_type, &set.response_topic];
    let texts: usize = texts.into_iter().flatten().map(piece).sum();
    let correlation_data = set.correlation_data.as_deref().map_or(0, piece);
    let user_property =
        |(name, value): &UserProperty| size_of::<UserProperty>() + piece(name) + piece(value);
    let user_properties: usize = set.user_properties.iter().map(user_property).sum();
    size_of::<PublishProperties>() + texts + correlation_data + user_properties + 2 * ALLOCATION
}

fn piece(bytes: impl AsRef<[u8]>) -> usize {
    match bytes.as_ref().len() {
        0 => 0,
        len => len + ALLOCATION,
    }
}

impl From<&Message> for PlainMessage {
    fn from(message: &Message) -> Self {
        let none = PublishProperties::default();
        let set = message.properties.as_deref().unwrap_or(&none);
        let text = |text: &Option<ByteString>| text.as_deref().map(str::to_owned);
        let user_properties = set.user_properties.iter();
        PlainMessage {
            topic: message.topic.to_string(),
            qos: message.qos as u32,
            payload: message.payload.clone(),
            is_utf8: set.payload_format_indicator,
            content_type: text(&set.content_type),
            response_topic: text(&set.response_topic),
            correlation_data: set.correlation_data.clone(),
            user_properties: user_properties
                .map(|(name, value)| link::UserProperty {
                    name: name.to_string(),
                    value: value.to_string(),
                })
                .collect(),
            expires_at: message.expires_at_ms,
        }
    }
}

/// A retained message: that is what the bridge keeps.
impl TryFrom<PlainMessage> for Message {
    type Error = NoSuchQos;

    fn try_from(message: PlainMessage) -> Result<Self, NoSuchQos> {
        let qos = u8::try_from(message.qos).ok();
        let qos = qos.and_then(|qos| Qos::try_from(qos).ok());
        let user_properties = message.user_properties.into_iter();
        Ok(Message {
            topic: message.topic.into(),
            qos: qos.ok_or(NoSuchQos(message.qos))?,
            payload: Bytes::copy_from_slice(&message.payload),
            properties: boxed(PublishProperties {
                payload_format_indicator: message.is_utf8,
                content_type: message.content_type.map(ByteString::from),
                response_topic: message.response_topic.map(ByteString::from),
                correlation_data: message
                    .correlation_data
                    .map(|data| Bytes::copy_from_slice(&data)),
                user_properties: user_properties
                    .map(|property| (property.name.into(), property.value.into()))
                    .collect(),
                ..PublishProperties::default()
            }),
            expires_at_ms: message.expires_at,
            retain: true,
            publisher: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn publish() -> Publish {
        Publish {
            qos: Qos::AtLeastOnce,
            retain: true,
            topic: "dev/alice/t".into(),
            packet_id: NonZeroU16::new(7),
            payload: Bytes::from_static(b"21.5"),
            properties: Some(Box::new(PublishProperties {
                payload_format_indicator: Some(true),
                message_expiry_interval: Some(60),
                topic_alias: NonZeroU16::new(3),
                response_topic: Some("dev/alice/answer".into()),
                correlation_data: Some(Bytes::from_static(&[0, 255])),
                user_properties: vec![("a".into(), "1".into()), ("a".into(), "".into())],
                content_type: Some("text/plain".into()),
                ..PublishProperties::default()
            })),
            ..Publish::default()
        }
    }

    #[test]
    fn what_travels_on_survives_the_link() {
        let message = Message::from_publish(&publish(), "dev/alice/t", 9, NOW);
        let properties = message.properties.as_deref().unwrap();
        assert_eq!(
            (properties.message_expiry_interval, properties.topic_alias),
            (None, None)
        );
        assert_eq!(message.expires_at_ms, NOW + 60_000);
        let kept = Message::try_from(PlainMessage::from(&message)).unwrap();
        assert_eq!(
            Message {
                publisher: 9,
                ..kept
            },
            message
        );
        let bare = Message::from_publish(&Publish::default(), "a", 0, NOW);
        assert_eq!((&bare.properties, bare.expires_at_ms), (&None, 0));
        let unknown = PlainMessage {
            qos: 3,
            ..PlainMessage::default()
        };
        assert_eq!(Message::try_from(unknown), Err(NoSuchQos(3)));
    }

    #[test]
    fn a_message_does_not_hold_the_read_buffer() {
        let buffer = Bytes::from(b"dev/alice/t 21.5".repeat(100));
        let text = |range| ByteString::try_from(buffer.slice(range)).unwrap();
        let properties = PublishProperties {
            response_topic: Some(text(0..11)),
            content_type: Some(text(0..3)),
            correlation_data: Some(buffer.slice(12..16)),
            user_properties: vec![(text(0..3), text(4..9))],
            ..PublishProperties::default()
        };
        let publish = Publish {
            topic: text(0..11),
            payload: buffer.slice(12..16),
            properties: Some(Box::new(properties)),
            ..Publish::default()
        };
        let message = Message::from_publish(&publish, &publish.topic, 0, NOW);
        drop(publish);
        assert!(buffer.is_unique());
        assert_eq!(
            (&*message.topic, &*message.payload),
            ("dev/alice/t", &b"21.5"[..])
        );
    }

    #[test]
    fn a_kept_message_does_not_hold_its_frame() {
        let frame = Bytes::from(vec![7; 1000]);
        let message = Message::try_from(PlainMessage {
            payload: frame.slice(0..4),
            correlation_data: Some(frame.slice(4..8)),
            ..PlainMessage::default()
        });
        assert!(frame.is_unique() && message.is_ok());
    }

    #[test]
    fn messages_expire() {
        let message = Message::from_publish(&publish(), "dev/alice/t", 9, NOW);
        let left = |later_ms| message.expiry_interval(NOW + later_ms);
        assert_eq!(
            [left(0), left(1), left(59_001), left(70_000)],
            [Some(60), Some(60), Some(1), Some(0)]
        );
        assert!(!message.is_expired(NOW + 59_999) && message.is_expired(NOW + 60_000));
        let eternal = Message {
            expires_at_ms: 0,
            ..message
        };
        assert!(!eternal.is_expired(u64::MAX));
        assert_eq!(eternal.expiry_interval(NOW), None);
    }
}
