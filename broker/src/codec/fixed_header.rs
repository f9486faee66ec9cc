//! The fixed header: packet type, flags and remaining length (MQTT 2.1).

use super::{DecodeError, Qos, Version, varint, wire_enum::wire_enum};

wire_enum! {
    /// The type of a packet (MQTT 2.1.2).
    pub enum PacketType, "packet type 0 is reserved" {
        /// Client to server: opens the session.
        Connect = 1,
        /// Server to client: answers CONNECT.
        ConnAck = 2,
        /// Either way: an application message.
        Publish = 3,
        /// Either way: ends QoS 1.
        PubAck = 4,
        /// Either way: QoS 2, message received.
        PubRec = 5,
        /// Either way: QoS 2, packet id may be released.
        PubRel = 6,
        /// Either way: ends QoS 2.
        PubComp = 7,
        /// Client to server: asks for messages.
        Subscribe = 8,
        /// Server to client: answers SUBSCRIBE.
        SubAck = 9,
        /// Client to server: ends subscriptions.
        Unsubscribe = 10,
        /// Server to client: answers UNSUBSCRIBE.
        UnsubAck = 11,
        /// Client to server: keeps the connection alive.
        PingReq = 12,
        /// Server to client: answers PINGREQ.
        PingResp = 13,
        /// Client to server, in MQTT 5 either way: the connection ends.
        Disconnect = 14,
        /// Either way, MQTT 5 only: a step of enhanced authentication.
        Auth = 15,
    }
}

impl PacketType {
    /// The flags that a packet of this type carries in the low half of its first byte; `None` for
    /// PUBLISH, whose flags have meanings of their own.
    fn fixed_flags(self) -> Option<u8> {
        match self {
            Self::Publish => None,
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => Some(0b0010),
            _ => Some(0),
        }
    }

    /// The first byte of a packet of this type, for PUBLISH without its flags.
    pub(super) fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.fixed_flags().unwrap_or(0)
    }
}

/// A fixed header that has fully arrived.
#[derive(Clone, Copy)]
pub(super) struct FixedHeader {
    /// The type of the packet.
    pub(super) packet_type: PacketType,
    /// The low half of the first byte.
    pub(super) flags: u8,
    /// How many bytes the header takes.
    pub(super) header_len: usize,
    /// How many bytes follow the header.
    pub(super) body_len: usize,
}

impl FixedHeader {
    /// Looks at the header in front of `bytes`; `None` if its end has not arrived yet.
    ///
    /// # Errors
    /// Malformed if type and flags do not go together or the length is not well-formed; the first
    /// byte is judged as soon as it is there.
    pub(super) fn peek(version: Version, bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        let (packet_type, flags) = check_first_byte(version, *first)?;
        let header = varint::read(rest)?.map(|(body_len, varint_len)| Self {
            packet_type,
            flags,
            header_len: 1 + varint_len,
            body_len: body_len as usize,
        });
        Ok(header)
    }

    /// The size of the whole packet in bytes.
    pub(super) fn packet_len(self) -> usize {
        self.header_len + self.body_len
    }
}

fn check_first_byte(version: Version, first: u8) -> Result<(PacketType, u8), DecodeError> {
    let packet_type = PacketType::try_from(first >> 4)?;
    let flags = first & 0x0F;
    if version == Version::V4 && packet_type == PacketType::Auth {
        return Err(DecodeError::Malformed("packet type 15 is reserved"));
    }
    match packet_type.fixed_flags() {
        // [MQTT-3.3.1-4] QoS 3 is malformed.
        None => drop(Qos::try_from(flags >> 1 & 0b11)?),
        // MQTT 5: [MQTT-2.1.3-1], MQTT 3.1.1: [MQTT-2.2.2-2].
        Some(fixed) if fixed != flags => {
            return Err(DecodeError::Malformed("reserved flags of the fixed header"));
        }
        Some(_) => {}
    }
    Ok((packet_type, flags))
}
