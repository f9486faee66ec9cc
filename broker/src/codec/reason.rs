//! Reason codes of MQTT 5 (2.4). MQTT 3.1.1 is spoken in terms of them as well; the packets that
//! carry codes of its own translate (`connack`, `suback`).

use super::{DecodeError, PacketType, reader::Reader, wire_enum::wire_enum};

wire_enum! {
    /// The outcome of an operation. Codes from 0x80 on are failures.
    #[derive(PartialOrd, Ord, Default)]
    pub enum ReasonCode, "unknown reason code" {
        /// Success; in DISCONNECT "normal disconnection", in SUBACK "granted QoS 0".
        #[default]
        Success = 0x00,
        /// The subscription is accepted, with QoS 1 at most.
        GrantedQos1 = 0x01,
        /// The subscription is accepted, with QoS 2 at most.
        GrantedQos2 = 0x02,
        /// The client leaves and wants its will published.
        DisconnectWithWill = 0x04,
        /// The message is accepted, but nobody subscribes to it.
        NoMatchingSubscribers = 0x10,
        /// There was no such subscription to end.
        NoSubscriptionExisted = 0x11,
        /// Go on with the next step of authentication.
        ContinueAuthentication = 0x18,
        /// The client starts authentication anew.
        Reauthenticate = 0x19,
        /// The sender does not say why.
        UnspecifiedError = 0x80,
        /// A packet could not be parsed.
        MalformedPacket = 0x81,
        /// A packet is out of order or contradicts itself.
        ProtocolError = 0x82,
        /// Valid, but not accepted by this implementation.
        ImplementationSpecificError = 0x83,
        /// The server does not speak this version.
        UnsupportedProtocolVersion = 0x84,
        /// The client identifier is valid but not allowed.
        ClientIdentifierNotValid = 0x85,
        /// User name or password are not accepted.
        BadUserNameOrPassword = 0x86,
        /// Not allowed to do this.
        NotAuthorized = 0x87,
        /// The server is not available.
        ServerUnavailable = 0x88,
        /// The server is busy; try again later.
        ServerBusy = 0x89,
        /// This client is banned.
        Banned = 0x8A,
        /// The server is shutting down.
        ServerShuttingDown = 0x8B,
        /// The authentication method is not supported or not the one in use.
        BadAuthenticationMethod = 0x8C,
        /// Nothing was received for 1.5 times the keep-alive.
        KeepAliveTimeout = 0x8D,
        /// Another connection uses the same client identifier.
        SessionTakenOver = 0x8E,
        /// The topic filter is not accepted.
        TopicFilterInvalid = 0x8F,
        /// The topic name is not accepted.
        TopicNameInvalid = 0x90,
        /// The packet identifier is in use.
        PacketIdentifierInUse = 0x91,
        /// The packet identifier is not known.
        PacketIdentifierNotFound = 0x92,
        /// More messages in flight than the receive maximum.
        ReceiveMaximumExceeded = 0x93,
        /// The topic alias is out of range or unknown.
        TopicAliasInvalid = 0x94,
        /// The packet exceeds the maximum packet size.
        PacketTooLarge = 0x95,
        /// Messages come too fast.
        MessageRateTooHigh = 0x96,
        /// A quota is used up.
        QuotaExceeded = 0x97,
        /// An administrator closed the connection.
        AdministrativeAction = 0x98,
        /// The payload is not what its format indicator says.
        PayloadFormatInvalid = 0x99,
        /// The server does not keep retained messages.
        RetainNotSupported = 0x9A,
        /// The QoS is over the server's maximum.
        QosNotSupported = 0x9B,
        /// Use another server for now.
        UseAnotherServer = 0x9C,
        /// Use another server from now on.
        ServerMoved = 0x9D,
        /// The server has no shared subscriptions.
        SharedSubscriptionsNotSupported = 0x9E,
        /// Connections come too fast.
        ConnectionRateExceeded = 0x9F,
        /// The connection has lasted as long as it may.
        MaximumConnectTime = 0xA0,
        /// The server has no subscription identifiers.
        SubscriptionIdentifiersNotSupported = 0xA1,
        /// The server has no wildcard subscriptions.
        WildcardSubscriptionsNotSupported = 0xA2,
    }
}

impl ReasonCode {
    /// Whether the code reports a failure.
    pub fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Whether MQTT 5 lets a packet of this type carry the code (tables 3-1, 3-4 to 3-10, 3-13).
    pub fn is_allowed_in(self, packet: PacketType) -> bool {
        use ReasonCode::*;
        match packet {
            PacketType::ConnAck => {
                self == Success
                    || (UnspecifiedError..=Banned).contains(&self)
                    || (UseAnotherServer..=ServerMoved).contains(&self)
                    || matches!(
                        self,
                        BadAuthenticationMethod | TopicNameInvalid | PacketTooLarge
                    )
                    || matches!(
                        self,
                        QuotaExceeded | PayloadFormatInvalid | RetainNotSupported
                    )
                    || matches!(self, QosNotSupported | ConnectionRateExceeded)
            }
            PacketType::PubAck | PacketType::PubRec => {
                matches!(self, Success | NoMatchingSubscribers | UnspecifiedError)
                    || matches!(self, ImplementationSpecificError | NotAuthorized)
                    || matches!(self, TopicNameInvalid | PacketIdentifierInUse)
                    || matches!(self, QuotaExceeded | PayloadFormatInvalid)
            }
            PacketType::PubRel | PacketType::PubComp => {
                matches!(self, Success | PacketIdentifierNotFound)
            }
            PacketType::SubAck => {
                matches!(self, Success | GrantedQos1 | GrantedQos2 | UnspecifiedError)
                    || matches!(self, ImplementationSpecificError | NotAuthorized)
                    || matches!(
                        self,
                        TopicFilterInvalid | PacketIdentifierInUse | QuotaExceeded
                    )
                    || matches!(self, SharedSubscriptionsNotSupported)
                    || matches!(self, SubscriptionIdentifiersNotSupported)
                    || matches!(self, WildcardSubscriptionsNotSupported)
            }
            PacketType::UnsubAck => {
                matches!(self, Success | NoSubscriptionExisted | UnspecifiedError)
                    || matches!(self, ImplementationSpecificError | NotAuthorized)
                    || matches!(self, TopicFilterInvalid | PacketIdentifierInUse)
            }
            PacketType::Disconnect => {
                matches!(
                    self,
                    Success | DisconnectWithWill | NotAuthorized | ServerBusy
                ) || (UnspecifiedError..=ImplementationSpecificError).contains(&self)
                    || (ServerShuttingDown..=TopicNameInvalid).contains(&self)
                    || self >= ReceiveMaximumExceeded
            }
            PacketType::Auth => {
                matches!(self, Success | ContinueAuthentication | Reauthenticate)
            }
            PacketType::Connect
            | PacketType::Publish
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::PingReq
            | PacketType::PingResp => false,
        }
    }

    /// Reads the code of a packet of this type.
    pub(super) fn read(packet: PacketType, reader: &mut Reader) -> Result<Self, DecodeError> {
        let code = Self::try_from(reader.u8()?)?;
        if code.is_allowed_in(packet) {
            Ok(code)
        } else {
            Err(DecodeError::Protocol(
                "reason code does not belong to this packet",
            ))
        }
    }

    /// The code as a byte for a packet of this type; another packet's code is a caller's bug.
    pub(super) fn for_wire(self, packet: PacketType) -> u8 {
        debug_assert!(
            self.is_allowed_in(packet),
            "{self:?} does not belong to {packet:?}"
        );
        self as u8
    }
}
