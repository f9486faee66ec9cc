//! AUTH: a step of enhanced authentication, MQTT 5 only (3.15).

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    DecodeError, PacketType, ReasonCode, UserProperty, Version,
    properties::{self, properties},
    reader::Reader,
    writer::Sink,
};

/// A step of enhanced authentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// What the step is.
    pub reason: ReasonCode,
    /// `None` stands for an empty set. Whether the method may be missing is for the session to
    /// say: 3.15.2.2.2 demands it, 3.15.2.1 has a form without.
    pub properties: Option<Box<AuthProperties>>,
}

properties! {
    /// The properties of AUTH (3.15.2.2).
    pub struct AuthProperties {
        /// The method that CONNECT named.
        method: Option<ByteString> = AuthenticationMethod,
        /// The content of the step.
        data: Option<Bytes> = AuthenticationData,
        /// A text for people.
        reason_string: Option<ByteString> = ReasonString,
        /// More about the step.
        user_properties: Vec<UserProperty> = UserProperty,
    }
}

impl Auth {
    pub(super) fn read(version: Version, mut reader: Reader) -> Result<Self, DecodeError> {
        // A success without properties may be empty (3.15.2.1). Unlike in DISCONNECT the
        // properties cannot be left out alone.
        if reader.is_empty() {
            return Ok(Self::default());
        }
        let reason = ReasonCode::read(PacketType::Auth, &mut reader)?;
        let properties = properties::read(version, &mut reader)?;
        reader.finish()?;
        Ok(Self { reason, properties })
    }

    pub(super) fn write<S: Sink>(&self, version: Version, out: &mut S) {
        if self.reason == ReasonCode::Success && self.properties.is_none() {
            return;
        }
        out.u8(self.reason.for_wire(PacketType::Auth));
        properties::write(version, self.properties.as_deref(), out);
    }
}
