//! SUBACK and UNSUBACK: the server's answers, one per filter (MQTT 3.9, 3.11).

use std::num::NonZeroU16;

use super::{
    AckProperties, DecodeError, PacketType, ReasonCode, Version, properties, reader::Reader,
    writer::Sink,
};

/// The failure code of SUBACK in MQTT 3.1.1 (3.9.3).
const FAILURE: u8 = 0x80;

/// The answer to SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// The packet id of the SUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// The granted QoS or the failure of each filter, in order. MQTT 3.1.1 knows one failure,
    /// which reads as [`ReasonCode::UnspecifiedError`].
    pub reasons: Vec<ReasonCode>,
    /// MQTT 5: `None` stands for an empty set.
    pub properties: Option<Box<AckProperties>>,
}

/// The answer to UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// The packet id of the UNSUBSCRIBE.
    pub packet_id: NonZeroU16,
    /// The outcome for each filter, in order; nothing in MQTT 3.1.1.
    pub reasons: Vec<ReasonCode>,
    /// MQTT 5: `None` stands for an empty set.
    pub properties: Option<Box<AckProperties>>,
}

impl SubAck {
    pub(super) fn read(version: Version, mut reader: Reader) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = properties::read(version, &mut reader)?;
        let reasons = read_reasons(reader, |reader| match version {
            Version::V4 => read_return_code(reader),
            Version::V5 => ReasonCode::read(PacketType::SubAck, reader),
        })?;
        Ok(Self {
            packet_id,
            reasons,
            properties,
        })
    }

    pub(super) fn write<S: Sink>(&self, version: Version, out: &mut S) {
        out.u16(self.packet_id.get());
        properties::write(version, self.properties.as_deref(), out);
        for reason in &self.reasons {
            let code = reason.for_wire(PacketType::SubAck);
            let is_granted = code <= ReasonCode::GrantedQos2 as u8;
            // [MQTT-3.9.3-2] MQTT 3.1.1 has a single code for all failures.
            out.u8(if version == Version::V5 || is_granted {
                code
            } else {
                FAILURE
            });
        }
    }
}

impl UnsubAck {
    pub(super) fn read(version: Version, mut reader: Reader) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = properties::read(version, &mut reader)?;
        let reasons = match version {
            Version::V4 => reader.finish().map(|()| Vec::new())?,
            Version::V5 => read_reasons(reader, |reader| {
                ReasonCode::read(PacketType::UnsubAck, reader)
            })?,
        };
        Ok(Self {
            packet_id,
            reasons,
            properties,
        })
    }

    pub(super) fn write<S: Sink>(&self, version: Version, out: &mut S) {
        out.u16(self.packet_id.get());
        if version == Version::V4 {
            return;
        }
        properties::write(version, self.properties.as_deref(), out);
        for reason in &self.reasons {
            out.u8(reason.for_wire(PacketType::UnsubAck));
        }
    }
}

/// Reads reasons until the packet ends; there is one per filter, hence at least one.
fn read_reasons(
    mut reader: Reader,
    read: impl Fn(&mut Reader) -> Result<ReasonCode, DecodeError>,
) -> Result<Vec<ReasonCode>, DecodeError> {
    let mut reasons = Vec::new();
    while !reader.is_empty() {
        reasons.push(read(&mut reader)?);
    }
    if reasons.is_empty() {
        return Err(DecodeError::Protocol("no reason codes"));
    }
    Ok(reasons)
}

/// Reads a return code of MQTT 3.1.1.
fn read_return_code(reader: &mut Reader) -> Result<ReasonCode, DecodeError> {
    match reader.u8()? {
        0 => Ok(ReasonCode::Success),
        1 => Ok(ReasonCode::GrantedQos1),
        2 => Ok(ReasonCode::GrantedQos2),
        FAILURE => Ok(ReasonCode::UnspecifiedError),
        _ => Err(DecodeError::Malformed("unknown return code")), // [MQTT-3.9.3-2]
    }
}
