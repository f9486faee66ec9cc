//! SUBSCRIBE and UNSUBSCRIBE: a client says what it wants (MQTT 3.8, 3.10).

use std::num::NonZeroU16;

use bytestring::ByteString;

use super::{
    DecodeError, Qos, UserProperty, Version,
    properties::{self, properties},
    reader::Reader,
    wire_enum::wire_enum,
    writer::Sink,
};

/// A client asks for the messages of some topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// What SUBACK will refer to.
    pub packet_id: NonZeroU16,
    /// What to subscribe to, never empty.
    pub filters: Vec<SubscribeFilter>,
    /// MQTT 5: comes with each message of these subscriptions; 1 to 268,435,455.
    pub subscription_identifier: Option<u32>,
    /// MQTT 5: meant for the server.
    pub user_properties: Vec<UserProperty>,
}

/// A topic filter and how its messages should come. In MQTT 3.1.1 only the QoS can be chosen; the
/// rest reads as its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeFilter {
    /// Not empty; its shape is not checked here.
    pub filter: ByteString,
    /// The highest QoS to receive messages with.
    pub qos: Qos,
    /// Whether to leave out what this client published itself. Never set for `$share/`.
    pub no_local: bool,
    /// Whether messages keep the retain flag that they were published with.
    pub retain_as_published: bool,
    /// Whether retained messages are sent at once.
    pub retain_handling: RetainHandling,
}

wire_enum! {
    /// Whether a subscription brings retained messages when it is made (3.8.3.1).
    #[derive(Default)]
    pub enum RetainHandling, "retain handling 3 does not exist" {
        /// Always; the only way of MQTT 3.1.1.
        #[default]
        SendAtSubscribe = 0,
        /// Only if there was no such subscription before.
        SendIfNew = 1,
        /// Never.
        DoNotSend = 2,
    }
}

/// A client ends subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// What UNSUBACK will refer to.
    pub packet_id: NonZeroU16,
    /// What to end, never empty; the shape of the filters is not checked here.
    pub filters: Vec<ByteString>,
    /// MQTT 5: meant for the server.
    pub user_properties: Vec<UserProperty>,
}

properties! {
    /// The properties of SUBSCRIBE (3.8.2.1).
    struct SubscribeProperties {
        subscription_identifiers: Vec<u32> = SubscriptionIdentifier,
        user_properties: Vec<UserProperty> = UserProperty,
    }
}

properties! {
    /// The properties of UNSUBSCRIBE (3.10.2.1).
    struct UnsubscribeProperties {
        user_properties: Vec<UserProperty> = UserProperty,
    }
}

impl Subscribe {
    pub(super) fn read(version: Version, mut reader: Reader) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = properties::read::<SubscribeProperties>(version, &mut reader)?;
        let properties = properties.map(|set| *set).unwrap_or_default();
        if properties.subscription_identifiers.len() > 1 {
            return Err(DecodeError::Protocol("property occurs twice"));
        }
        let filters = read_filters(reader, |reader| SubscribeFilter::read(version, reader))?;
        Ok(Self {
            packet_id,
            filters,
            subscription_identifier: properties.subscription_identifiers.first().copied(),
            user_properties: properties.user_properties,
        })
    }

    pub(super) fn write<S: Sink>(&self, version: Version, out: &mut S) {
        debug_assert!(!self.filters.is_empty(), "SUBSCRIBE without filters");
        out.u16(self.packet_id.get());
        let properties = SubscribeProperties {
            subscription_identifiers: self.subscription_identifier.into_iter().collect(),
            user_properties: self.user_properties.clone(),
        };
        properties::write(version, Some(&properties), out);
        for filter in &self.filters {
            filter.write(version, out);
        }
    }
}

impl SubscribeFilter {
    /// A filter with the default options.
    pub fn new(filter: impl Into<ByteString>, qos: Qos) -> Self {
        Self {
            filter: filter.into(),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::default(),
        }
    }

    fn read(version: Version, reader: &mut Reader) -> Result<Self, DecodeError> {
        let filter = read_filter(reader)?;
        let options = reader.u8()?;
        let reserved = match version {
            Version::V4 => 0b1111_1100, // [MQTT-3-8.3-4]
            Version::V5 => 0b1100_0000, // [MQTT-3.8.3-5]
        };
        if options & reserved != 0 {
            return Err(DecodeError::Malformed("reserved subscription options"));
        }
        let no_local = options & 0b100 != 0;
        if no_local && filter.starts_with("$share/") {
            return Err(DecodeError::Protocol("no local on a shared subscription")); // [MQTT-3.8.3-4]
        }
        Ok(Self {
            filter,
            qos: Qos::try_from(options & 0b11)?,
            no_local,
            retain_as_published: options & 0b1000 != 0,
            // 3.8.3.1: A protocol error, where an unknown number is malformed elsewhere.
            retain_handling: RetainHandling::try_from(options >> 4)
                .map_err(|_| DecodeError::Protocol("retain handling 3 does not exist"))?,
        })
    }

    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        out.name(&self.filter);
        out.u8(match version {
            Version::V4 => self.qos as u8,
            Version::V5 => {
                self.qos as u8
                    | u8::from(self.no_local) << 2
                    | u8::from(self.retain_as_published) << 3
                    | (self.retain_handling as u8) << 4
            }
        });
    }
}

impl Unsubscribe {
    pub(super) fn read(version: Version, mut reader: Reader) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = properties::read::<UnsubscribeProperties>(version, &mut reader)?;
        let user_properties = properties
            .map(|set| set.user_properties)
            .unwrap_or_default();
        let filters = read_filters(reader, read_filter)?;
        Ok(Self {
            packet_id,
            filters,
            user_properties,
        })
    }

    pub(super) fn write<S: Sink>(&self, version: Version, out: &mut S) {
        debug_assert!(!self.filters.is_empty(), "UNSUBSCRIBE without filters");
        out.u16(self.packet_id.get());
        let properties = UnsubscribeProperties {
            user_properties: self.user_properties.clone(),
        };
        properties::write(version, Some(&properties), out);
        for filter in &self.filters {
            out.name(filter);
        }
    }
}

/// Reads filters until the packet ends.
fn read_filters<T>(
    mut reader: Reader,
    read: impl Fn(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(read(&mut reader)?);
    }
    if filters.is_empty() {
        return Err(DecodeError::Protocol("no topic filters")); // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
    }
    Ok(filters)
}

fn read_filter(reader: &mut Reader) -> Result<ByteString, DecodeError> {
    let filter = reader.string()?;
    if filter.is_empty() {
        return Err(DecodeError::Protocol("topic filter is empty")); // [MQTT-4.7.3-1]
    }
    Ok(filter)
}
