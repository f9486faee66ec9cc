//! Why bytes could not be decoded.

use super::ReasonCode;

/// Why a packet was refused. The text is for our log; a peer is told [`DecodeError::reason`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not form a packet of this version.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The bytes form a packet, but one that the protocol forbids.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The packet is longer than the receiver's maximum packet size.
    #[error("packet exceeds the maximum packet size")]
    TooLarge,
    /// CONNECT asks for a version other than 3.1.1 and 5.0.
    #[error("unsupported protocol version")]
    UnsupportedVersion,
    /// The first packet of a connection is not CONNECT.
    #[error("first packet is not CONNECT")]
    NotConnect,
    /// A topic name contains a wildcard.
    #[error("topic name contains a wildcard")]
    TopicNameInvalid,
}

impl DecodeError {
    /// The code to send in CONNACK or DISCONNECT to a peer that speaks MQTT 5.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Malformed(_) => ReasonCode::MalformedPacket,
            Self::Protocol(_) | Self::NotConnect => ReasonCode::ProtocolError,
            Self::TooLarge => ReasonCode::PacketTooLarge,
            Self::UnsupportedVersion => ReasonCode::UnsupportedProtocolVersion,
            Self::TopicNameInvalid => ReasonCode::TopicNameInvalid,
        }
    }
}
