//! DISCONNECT: the last packet of a connection (MQTT 3.14).

use bytestring::ByteString;

use super::{
    DecodeError, PacketType, ReasonCode, UserProperty, Version,
    properties::{self, properties},
    reader::Reader,
    writer::Sink,
};

/// One side ends the connection; in MQTT 3.1.1 only a client says so, and never why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// Why. MQTT 3.1.1 always reads as [`ReasonCode::Success`], a normal disconnection.
    pub reason: ReasonCode,
    /// MQTT 5: `None` stands for an empty set.
    pub properties: Option<Box<DisconnectProperties>>,
}

properties! {
    /// The properties of DISCONNECT (3.14.2.2).
    pub struct DisconnectProperties {
        /// Changes what CONNECT said, in seconds. Client to server only.
        session_expiry_interval: Option<u32> = SessionExpiryInterval,
        /// A text for people.
        reason_string: Option<ByteString> = ReasonString,
        /// More about the reason.
        user_properties: Vec<UserProperty> = UserProperty,
        /// Another server to use. Server to client only.
        server_reference: Option<ByteString> = ServerReference,
    }
}

impl Disconnect {
    /// A reason without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            properties: None,
        }
    }

    pub(super) fn read(version: Version, mut reader: Reader) -> Result<Self, DecodeError> {
        let mut disconnect = Self::default();
        // MQTT 5 may leave out the properties, or the properties and a success (3.14.2.1).
        if version == Version::V5 && !reader.is_empty() {
            disconnect.reason = ReasonCode::read(PacketType::Disconnect, &mut reader)?;
        }
        if version == Version::V5 && !reader.is_empty() {
            disconnect.properties = properties::read(version, &mut reader)?;
        }
        reader.finish()?;
        Ok(disconnect)
    }

    pub(super) fn write<S: Sink>(&self, version: Version, out: &mut S) {
        let is_short = self.reason == ReasonCode::Success && self.properties.is_none();
        if version == Version::V4 || is_short {
            return;
        }
        out.u8(self.reason.for_wire(PacketType::Disconnect));
        // The form without properties (3.14.2.2.1) would be a byte shorter, but clients are in use that can't read it.
        properties::write(version, self.properties.as_deref(), out);
    }
}
