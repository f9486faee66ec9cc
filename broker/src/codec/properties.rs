//! The properties of MQTT 5 (2.2.2): typed values behind a total length.
//!
//! Each packet declares its set with [`properties!`]: field, type and identifier in one line. The
//! type decides the form on the wire ([`Value`]) and how often the property may occur ([`Slot`]).

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    DecodeError, Qos, VARINT_MAX, Version,
    reader::Reader,
    wire_enum::wire_enum,
    writer::{Sink, Size, saturate},
};

/// A name and a value whose meaning is up to the applications. Order and repetition are kept.
pub type UserProperty = (ByteString, ByteString);

wire_enum! {
    /// The identifiers of all properties (MQTT 5: table 2-4).
    pub(super) enum PropertyId, "unknown property" {
        PayloadFormatIndicator = 0x01,
        MessageExpiryInterval = 0x02,
        ContentType = 0x03,
        ResponseTopic = 0x08,
        CorrelationData = 0x09,
        SubscriptionIdentifier = 0x0B,
        SessionExpiryInterval = 0x11,
        AssignedClientIdentifier = 0x12,
        ServerKeepAlive = 0x13,
        AuthenticationMethod = 0x15,
        AuthenticationData = 0x16,
        RequestProblemInformation = 0x17,
        WillDelayInterval = 0x18,
        RequestResponseInformation = 0x19,
        ResponseInformation = 0x1A,
        ServerReference = 0x1C,
        ReasonString = 0x1F,
        ReceiveMaximum = 0x21,
        TopicAliasMaximum = 0x22,
        TopicAlias = 0x23,
        MaximumQos = 0x24,
        RetainAvailable = 0x25,
        UserProperty = 0x26,
        MaximumPacketSize = 0x27,
        WildcardSubscriptionAvailable = 0x28,
        SubscriptionIdentifierAvailable = 0x29,
        SharedSubscriptionAvailable = 0x2A,
    }
}

/// Declares the property set of a packet as a struct, with its [`PropertySet`].
macro_rules! properties {
    (
        $(#[$outer:meta])*
        $vis:vis struct $name:ident {
            $( $(#[$inner:meta])* $field:ident: $type:ty = $id:ident, )*
        }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        $vis struct $name {
            $( $(#[$inner])* pub $field: $type, )*
        }

        impl $crate::codec::properties::PropertySet for $name {
            fn read_value(
                &mut self,
                id: $crate::codec::properties::PropertyId,
                reader: &mut $crate::codec::reader::Reader,
            ) -> Result<(), $crate::codec::DecodeError> {
                use $crate::codec::properties::{PropertyId, Slot};
                match id {
                    $( PropertyId::$id => self.$field.read(reader), )*
                    _ => Err($crate::codec::DecodeError::Malformed(
                        "property does not belong to this packet",
                    )),
                }
            }

            fn write_values<S: $crate::codec::writer::Sink>(&self, out: &mut S) {
                use $crate::codec::properties::{PropertyId, Slot};
                $( self.$field.write(PropertyId::$id, out); )*
            }
        }
    };
}

pub(super) use properties;

/// The properties that one kind of packet may carry.
pub(super) trait PropertySet: Default {
    /// Reads the value that follows `id`.
    fn read_value(&mut self, id: PropertyId, reader: &mut Reader) -> Result<(), DecodeError>;

    /// Writes all properties that are set, without the total length.
    fn write_values<S: Sink>(&self, out: &mut S);
}

/// Reads the properties of a packet. MQTT 3.1.1 has none; an empty set is `None` and costs nothing.
pub(super) fn read<P: PropertySet>(
    version: Version,
    reader: &mut Reader,
) -> Result<Option<Box<P>>, DecodeError> {
    if version == Version::V4 {
        return Ok(None);
    }
    let len = reader.varint()?;
    if len == 0 {
        return Ok(None);
    }
    let mut section = reader.section(len as usize)?;
    let mut set = Box::<P>::default();
    while !section.is_empty() {
        // Officially a variable byte integer, but all identifiers fit its first byte.
        let id = PropertyId::try_from(section.u8()?)?;
        set.read_value(id, &mut section)?;
    }
    Ok(Some(set))
}

/// Writes the properties of a packet with their total length. MQTT 3.1.1 has none.
pub(super) fn write<S: Sink>(version: Version, set: Option<&impl PropertySet>, out: &mut S) {
    if version == Version::V4 {
        return;
    }
    let Some(set) = set else {
        return out.u8(0);
    };
    let mut size = Size(0);
    set.write_values(&mut size);
    out.varint(saturate(size.0));
    set.write_values(out);
}

/// A field of a property set: how often its property may occur.
pub(super) trait Slot {
    fn read(&mut self, reader: &mut Reader) -> Result<(), DecodeError>;
    fn write<S: Sink>(&self, id: PropertyId, out: &mut S);
}

/// At most once; a second time is a protocol error.
impl<T: Value> Slot for Option<T> {
    fn read(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        match self.replace(T::read(reader)?) {
            None => Ok(()),
            Some(_) => Err(DecodeError::Protocol("property occurs twice")),
        }
    }

    fn write<S: Sink>(&self, id: PropertyId, out: &mut S) {
        if let Some(value) = self {
            value.write(id, out);
        }
    }
}

/// User properties.
impl Slot for Vec<UserProperty> {
    fn read(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        self.push((reader.string()?, reader.string()?));
        Ok(())
    }

    fn write<S: Sink>(&self, id: PropertyId, out: &mut S) {
        for (name, value) in self {
            out.u8(id as u8);
            out.string(name);
            out.string(value);
        }
    }
}

/// Subscription identifiers, the only repeated number and the only variable byte integer.
impl Slot for Vec<u32> {
    fn read(&mut self, reader: &mut Reader) -> Result<(), DecodeError> {
        match reader.varint()? {
            0 => Err(DecodeError::Protocol("subscription identifier is 0")),
            identifier => {
                self.push(identifier);
                Ok(())
            }
        }
    }

    fn write<S: Sink>(&self, id: PropertyId, out: &mut S) {
        for identifier in self {
            debug_assert!(
                (1..=VARINT_MAX).contains(identifier),
                "subscription identifier"
            );
            out.u8(id as u8);
            out.varint(*identifier);
        }
    }
}

/// A value of a property.
pub(super) trait Value: Sized {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError>;

    /// Writes the identifier and the value.
    fn write<S: Sink>(&self, id: PropertyId, out: &mut S);
}

/// Declares a [`Value`] by how it is read and how it is written behind its identifier.
macro_rules! value {
    ($type:ty, |$reader:ident| $read:expr, |$value:ident, $out:ident| $write:expr) => {
        impl Value for $type {
            fn read($reader: &mut Reader) -> Result<Self, DecodeError> {
                $read
            }

            fn write<S: Sink>(&self, id: PropertyId, $out: &mut S) {
                let $value = self;
                $out.u8(id as u8);
                $write;
            }
        }
    };
}

const ZERO: DecodeError = DecodeError::Protocol("property may not be 0");

value!(u16, |reader| reader.u16(), |value, out| out.u16(*value));
value!(u32, |reader| reader.u32(), |value, out| out.u32(*value));
value!(ByteString, |reader| reader.string(), |value, out| {
    out.string(value)
});
value!(Bytes, |reader| reader.binary(), |value, out| {
    out.binary(value)
});
value!(
    NonZeroU16,
    |reader| Self::new(reader.u16()?).ok_or(ZERO),
    |value, out| out.u16(value.get())
);
value!(
    NonZeroU32,
    |reader| Self::new(reader.u32()?).ok_or(ZERO),
    |value, out| out.u32(value.get())
);
value!(
    bool,
    |reader| match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Protocol("property is neither 0 nor 1")),
    },
    |value, out| out.u8(u8::from(*value))
);

/// Maximum QoS: a server that offers QoS 2 says so by leaving the property out (3.2.2.3.4).
impl Value for Qos {
    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            _ => Err(DecodeError::Protocol("maximum qos is neither 0 nor 1")),
        }
    }

    fn write<S: Sink>(&self, id: PropertyId, out: &mut S) {
        if *self < Self::ExactlyOnce {
            out.u8(id as u8);
            out.u8(*self as u8);
        }
    }
}
