//! CONNACK: the server's answer to CONNECT (MQTT 3.2).

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    DecodeError, PacketType, Qos, ReasonCode, UserProperty, Version,
    properties::{self, properties},
    reader::Reader,
    writer::Sink,
};

/// The server's answer to CONNECT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server kept a session for the client; written as false with a failure.
    pub session_present: bool,
    /// The outcome. MQTT 3.1.1 has six return codes for it: a reason that it lacks is written as
    /// "server unavailable", and one that it has reads as the closest reason.
    pub reason: ReasonCode,
    /// MQTT 5: `None` stands for an empty set.
    pub properties: Option<Box<ConnAckProperties>>,
}

properties! {
    /// The properties of CONNACK (3.2.2.3).
    pub struct ConnAckProperties {
        /// Overrides what the client asked for, in seconds.
        session_expiry_interval: Option<u32> = SessionExpiryInterval,
        /// How many QoS 1 and 2 messages may be in flight to the server; absent 65,535.
        receive_maximum: Option<NonZeroU16> = ReceiveMaximum,
        /// The highest QoS that the server supports. Absent means QoS 2, and QoS 2 is left out.
        maximum_qos: Option<Qos> = MaximumQos,
        /// Whether the server keeps retained messages; absent yes.
        retain_available: Option<bool> = RetainAvailable,
        /// The longest packet that the server takes, in bytes; absent without limit.
        maximum_packet_size: Option<NonZeroU32> = MaximumPacketSize,
        /// The name that the server gave to a client that came without.
        assigned_client_identifier: Option<ByteString> = AssignedClientIdentifier,
        /// The highest topic alias that the server takes; absent none.
        topic_alias_maximum: Option<u16> = TopicAliasMaximum,
        /// A text for people.
        reason_string: Option<ByteString> = ReasonString,
        /// More about the outcome.
        user_properties: Vec<UserProperty> = UserProperty,
        /// Whether the server has wildcard subscriptions; absent yes.
        wildcard_subscription_available: Option<bool> = WildcardSubscriptionAvailable,
        /// Whether the server has subscription identifiers; absent yes.
        subscription_identifiers_available: Option<bool> = SubscriptionIdentifierAvailable,
        /// Whether the server has shared subscriptions; absent yes.
        shared_subscription_available: Option<bool> = SharedSubscriptionAvailable,
        /// Overrides what the client asked for, in seconds.
        server_keep_alive: Option<u16> = ServerKeepAlive,
        /// What the client should build response topics from.
        response_information: Option<ByteString> = ResponseInformation,
        /// Another server to use.
        server_reference: Option<ByteString> = ServerReference,
        /// Which enhanced authentication was used.
        authentication_method: Option<ByteString> = AuthenticationMethod,
        /// The method's last step.
        authentication_data: Option<Bytes> = AuthenticationData,
    }
}

impl ConnAck {
    pub(super) fn read(version: Version, mut reader: Reader) -> Result<Self, DecodeError> {
        let session_present = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Malformed("reserved flags of CONNACK")), // [MQTT-3.2.2-1]
        };
        let reason = match version {
            Version::V4 => reason_of(reader.u8()?)?,
            Version::V5 => ReasonCode::read(PacketType::ConnAck, &mut reader)?,
        };
        if session_present && reason != ReasonCode::Success {
            return Err(DecodeError::Protocol("session present after a failure")); // [MQTT-3.2.2-6]
        }
        let properties = properties::read(version, &mut reader)?;
        reader.finish()?;
        Ok(Self {
            session_present,
            reason,
            properties,
        })
    }

    pub(super) fn write<S: Sink>(&self, version: Version, out: &mut S) {
        // [MQTT-3.2.2-6] A failure has no session.
        out.u8(u8::from(
            self.session_present && self.reason == ReasonCode::Success,
        ));
        out.u8(match version {
            Version::V4 => return_code(self.reason),
            Version::V5 => self.reason.for_wire(PacketType::ConnAck),
        });
        properties::write(version, self.properties.as_deref(), out);
    }
}

/// The return code of MQTT 3.1.1 for a reason (table 3.1).
///
/// What has no counterpart becomes 3, "server unavailable": the one refusal that blames neither
/// the client's name, nor its credentials, nor its version.
fn return_code(reason: ReasonCode) -> u8 {
    use ReasonCode::*;
    match reason {
        Success => 0,
        UnsupportedProtocolVersion => 1,
        ClientIdentifierNotValid => 2,
        BadUserNameOrPassword | BadAuthenticationMethod => 4,
        NotAuthorized | Banned => 5,
        ServerUnavailable
        | ServerBusy
        | ServerShuttingDown
        | UseAnotherServer
        | ServerMoved
        | QuotaExceeded
        | ConnectionRateExceeded => 3,
        // Failures that MQTT 3.1.1 has no code for.
        UnspecifiedError
        | MalformedPacket
        | ProtocolError
        | ImplementationSpecificError
        | TopicNameInvalid
        | PacketTooLarge
        | PayloadFormatInvalid
        | RetainNotSupported
        | QosNotSupported => 3,
        // No reasons for CONNACK; a bug of the caller must not let the client in.
        GrantedQos1
        | GrantedQos2
        | DisconnectWithWill
        | NoMatchingSubscribers
        | NoSubscriptionExisted
        | ContinueAuthentication
        | Reauthenticate
        | KeepAliveTimeout
        | SessionTakenOver
        | TopicFilterInvalid
        | PacketIdentifierInUse
        | PacketIdentifierNotFound
        | ReceiveMaximumExceeded
        | TopicAliasInvalid
        | MessageRateTooHigh
        | AdministrativeAction
        | SharedSubscriptionsNotSupported
        | MaximumConnectTime
        | SubscriptionIdentifiersNotSupported
        | WildcardSubscriptionsNotSupported => 3,
    }
}

/// The reason for a return code of MQTT 3.1.1 (table 3.1).
fn reason_of(return_code: u8) -> Result<ReasonCode, DecodeError> {
    match return_code {
        0 => Ok(ReasonCode::Success),
        1 => Ok(ReasonCode::UnsupportedProtocolVersion),
        2 => Ok(ReasonCode::ClientIdentifierNotValid),
        3 => Ok(ReasonCode::ServerUnavailable),
        4 => Ok(ReasonCode::BadUserNameOrPassword),
        5 => Ok(ReasonCode::NotAuthorized),
        _ => Err(DecodeError::Malformed("unknown return code")),
    }
}
