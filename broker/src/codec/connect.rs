//! CONNECT: a client asks for a session (MQTT 3.1).

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    DecodeError, PacketType, Qos, UserProperty, Version, Will,
    fixed_header::FixedHeader,
    properties::{self, properties},
    reader::Reader,
    writer::Sink,
};

/// The protocol name with its length.
const NAME: &[u8] = b"\x00\x04MQTT";

/// The first packet of a connection. Its `Debug` form leaves out everything secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// What the client speaks, and how this packet is written.
    pub version: Version,
    /// Empty if the server is to choose one.
    pub client_id: ByteString,
    /// In seconds, 0 for none: the longest silence that the client intends.
    pub keep_alive: u16,
    /// Whether to drop a former session; "clean session" in MQTT 3.1.1.
    pub clean_start: bool,
    /// Absent and empty are different things.
    pub username: Option<ByteString>,
    /// Any bytes. MQTT 3.1.1 has none without a user name; it is then left out on encode.
    pub password: Option<Bytes>,
    /// What to publish when the client is lost.
    pub will: Option<Will>,
    /// MQTT 5: `None` stands for an empty set.
    pub properties: Option<Box<ConnectProperties>>,
}

properties! {
    /// The properties of CONNECT (3.1.2.11).
    pub struct ConnectProperties {
        /// How long the session outlives the connection, in seconds; `u32::MAX` for ever, absent
        /// not at all.
        session_expiry_interval: Option<u32> = SessionExpiryInterval,
        /// How many QoS 1 and 2 messages may be in flight to the client; absent 65,535.
        receive_maximum: Option<NonZeroU16> = ReceiveMaximum,
        /// The longest packet that the client takes, in bytes; absent without limit.
        maximum_packet_size: Option<NonZeroU32> = MaximumPacketSize,
        /// The highest topic alias that the client takes; absent none.
        topic_alias_maximum: Option<u16> = TopicAliasMaximum,
        /// Whether the client wants response information in CONNACK; absent no.
        request_response_information: Option<bool> = RequestResponseInformation,
        /// Whether reason strings and user properties may explain failures; absent yes.
        request_problem_information: Option<bool> = RequestProblemInformation,
        /// Meant for the server.
        user_properties: Vec<UserProperty> = UserProperty,
        /// Which enhanced authentication the client starts.
        authentication_method: Option<ByteString> = AuthenticationMethod,
        /// The method's first step. Only with a method.
        authentication_data: Option<Bytes> = AuthenticationData,
    }
}

/// Looks which version the CONNECT in front of `buf` asks for, so that even one that does not
/// decode can be answered in its own; `None` if that has not arrived or is no known version.
pub fn connect_version(buf: &[u8]) -> Option<Version> {
    let header = FixedHeader::peek(Version::V5, buf).ok().flatten()?;
    if header.packet_type != PacketType::Connect {
        return None;
    }
    match buf.get(header.header_len..)?.strip_prefix(NAME)?.first()? {
        4 => Some(Version::V4),
        5 => Some(Version::V5),
        _ => None,
    }
}

/// The flags of CONNECT, as bits (3.1.2.3).
mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_START: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_QOS_SHIFT: u8 = 3;
    pub(super) const WILL_QOS: u8 = 0x18;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USERNAME: u8 = 0x80;
}

impl Connect {
    pub(super) fn read(mut reader: Reader) -> Result<Self, DecodeError> {
        let version = read_version(&mut reader)?;
        let flags = reader.u8()?;
        check_flags(version, flags)?;
        let is_set = |bit| flags & bit != 0;
        let keep_alive = reader.u16()?;
        let properties = properties::read::<ConnectProperties>(version, &mut reader)?;
        properties.as_deref().map_or(Ok(()), check_authentication)?;
        let client_id = reader.string()?;
        let will = if is_set(flag::WILL) {
            let qos = Qos::try_from((flags & flag::WILL_QOS) >> flag::WILL_QOS_SHIFT)?;
            Some(Will::read(
                version,
                qos,
                is_set(flag::WILL_RETAIN),
                &mut reader,
            )?)
        } else {
            None
        };
        let username = is_set(flag::USERNAME)
            .then(|| reader.string())
            .transpose()?;
        let password = is_set(flag::PASSWORD)
            .then(|| reader.binary())
            .transpose()?;
        reader.finish()?;
        Ok(Self {
            version,
            client_id,
            keep_alive,
            clean_start: is_set(flag::CLEAN_START),
            username,
            password,
            will,
            properties,
        })
    }

    pub(super) fn write<S: Sink>(&self, out: &mut S) {
        out.raw(NAME);
        out.u8(match self.version {
            Version::V4 => 4,
            Version::V5 => 5,
        });
        out.u8(self.flags());
        out.u16(self.keep_alive);
        properties::write(self.version, self.properties.as_deref(), out);
        out.name(&self.client_id);
        if let Some(will) = &self.will {
            will.write(self.version, out);
        }
        if let Some(username) = &self.username {
            out.name(username);
        }
        if let Some(password) = self.expressible_password() {
            out.binary(password);
        }
    }

    fn flags(&self) -> u8 {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let will = self.will.as_ref().map_or(0, |will| {
            flag::WILL
                | (will.qos as u8) << flag::WILL_QOS_SHIFT
                | bit(will.retain, flag::WILL_RETAIN)
        });
        will | bit(self.clean_start, flag::CLEAN_START)
            | bit(self.username.is_some(), flag::USERNAME)
            | bit(self.expressible_password().is_some(), flag::PASSWORD)
    }

    /// [MQTT-3.1.2-22] MQTT 3.1.1 has no password without a user name.
    fn expressible_password(&self) -> Option<&Bytes> {
        let has_place = self.version == Version::V5 || self.username.is_some();
        self.password.as_ref().filter(|_| has_place)
    }
}

/// Reads protocol name and level (3.1.2.1, 3.1.2.2).
fn read_version(reader: &mut Reader) -> Result<Version, DecodeError> {
    let name = reader.binary()?;
    // MQTT 3.1 calls itself MQIsdp, level 3.
    if name != NAME[2..] && name != b"MQIsdp"[..] {
        return Err(DecodeError::Malformed("protocol name"));
    }
    match (name.len(), reader.u8()?) {
        (4, 4) => Ok(Version::V4),
        (4, 5) => Ok(Version::V5),
        _ => Err(DecodeError::UnsupportedVersion), // [MQTT-3.1.2-2]
    }
}

fn check_flags(version: Version, flags: u8) -> Result<(), DecodeError> {
    let is_set = |bits| flags & bits != 0;
    if is_set(flag::RESERVED) {
        return Err(DecodeError::Malformed("reserved flag of CONNECT")); // [MQTT-3.1.2-3]
    }
    // [MQTT-3.1.2-11] and [MQTT-3.1.2-13]
    if !is_set(flag::WILL) && is_set(flag::WILL_QOS | flag::WILL_RETAIN) {
        return Err(DecodeError::Malformed("will flags without a will"));
    }
    // [MQTT-3.1.2-22] of MQTT 3.1.1; MQTT 5 allows it.
    if version == Version::V4 && is_set(flag::PASSWORD) && !is_set(flag::USERNAME) {
        return Err(DecodeError::Malformed("password without user name"));
    }
    Ok(())
}

/// 3.1.2.11.10: Data without a method is a protocol error.
fn check_authentication(properties: &ConnectProperties) -> Result<(), DecodeError> {
    let has_method = properties.authentication_method.is_some();
    if properties.authentication_data.is_some() && !has_method {
        return Err(DecodeError::Protocol(
            "authentication data without a method",
        ));
    }
    Ok(())
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("keep_alive", &self.keep_alive)
            .field("clean_start", &self.clean_start)
            .field("has_username", &self.username.is_some())
            .field("has_password", &self.password.is_some())
            .field("has_will", &self.will.is_some())
            .finish_non_exhaustive()
    }
}
