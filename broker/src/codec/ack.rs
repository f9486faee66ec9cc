//! PUBACK, PUBREC, PUBREL and PUBCOMP: the steps of QoS 1 and 2 (MQTT 3.4 to 3.7). All four have
//! the same form.

use std::num::NonZeroU16;

use bytes::BytesMut;
use bytestring::ByteString;

use super::{
    DecodeError, PacketType, ReasonCode, UserProperty, Version,
    properties::{self, properties},
    reader::Reader,
    writer::{self, Encode, Sink},
};

/// The content of PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The message that is meant.
    pub packet_id: NonZeroU16,
    /// The outcome. MQTT 3.1.1 cannot say it and always reads as [`ReasonCode::Success`].
    pub reason: ReasonCode,
    /// MQTT 5: `None` stands for an empty set.
    pub properties: Option<Box<AckProperties>>,
}

properties! {
    /// The properties of all acknowledgements: PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
    pub struct AckProperties {
        /// A text for people.
        reason_string: Option<ByteString> = ReasonString,
        /// More about the outcome.
        user_properties: Vec<UserProperty> = UserProperty,
    }
}

/// Which of the four packets [`encode_ack`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    /// PUBACK.
    PubAck,
    /// PUBREC.
    PubRec,
    /// PUBREL.
    PubRel,
    /// PUBCOMP.
    PubComp,
}

/// Appends an acknowledgement without properties to `out`, in the shortest form: four bytes, with
/// a reason other than success five. MQTT 3.1.1 cannot say the reason.
pub fn encode_ack(
    kind: AckKind,
    version: Version,
    out: &mut BytesMut,
    packet_id: NonZeroU16,
    reason: ReasonCode,
) {
    let packet_type = match kind {
        AckKind::PubAck => PacketType::PubAck,
        AckKind::PubRec => PacketType::PubRec,
        AckKind::PubRel => PacketType::PubRel,
        AckKind::PubComp => PacketType::PubComp,
    };
    let ack = Ack {
        packet_id,
        reason,
        properties: None,
    };
    writer::encode(&BareAck { packet_type, ack }, version, &[], out);
}

impl Ack {
    /// A success without properties.
    pub fn success(packet_id: NonZeroU16) -> Self {
        Self {
            packet_id,
            reason: ReasonCode::Success,
            properties: None,
        }
    }

    pub(super) fn read(
        packet_type: PacketType,
        version: Version,
        mut reader: Reader,
    ) -> Result<Self, DecodeError> {
        let mut ack = Self::success(reader.packet_id()?);
        // MQTT 5 may leave out the properties, or the properties and a success (3.4.2.1).
        if version == Version::V5 && !reader.is_empty() {
            ack.reason = ReasonCode::read(packet_type, &mut reader)?;
        }
        if version == Version::V5 && !reader.is_empty() {
            ack.properties = properties::read(version, &mut reader)?;
        }
        reader.finish()?;
        Ok(ack)
    }

    pub(super) fn write<S: Sink>(&self, packet_type: PacketType, version: Version, out: &mut S) {
        out.u16(self.packet_id.get());
        let is_short = self.reason == ReasonCode::Success && self.properties.is_none();
        if version == Version::V4 || is_short {
            return;
        }
        out.u8(self.reason.for_wire(packet_type));
        if self.properties.is_some() {
            properties::write(version, self.properties.as_deref(), out);
        }
    }
}

/// An acknowledgement that knows its type.
struct BareAck {
    packet_type: PacketType,
    ack: Ack,
}

impl Encode for BareAck {
    fn first_byte(&self) -> u8 {
        self.packet_type.first_byte()
    }

    fn write_body<S: Sink>(&self, version: Version, out: &mut S) {
        self.ack.write(self.packet_type, version, out);
    }
}
