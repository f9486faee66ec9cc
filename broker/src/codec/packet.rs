//! Any packet, and the way from its type to its file.

use bytes::BytesMut;

use super::{
    Ack, Auth, ConnAck, Connect, DecodeError, Disconnect, PacketType, Publish, SubAck, Subscribe,
    UnsubAck, Unsubscribe, Version,
    fixed_header::FixedHeader,
    reader::Reader,
    writer::{self, Encode, Sink},
};

/// A packet of either version, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT (3.1).
    Connect(Box<Connect>),
    /// CONNACK (3.2).
    ConnAck(Box<ConnAck>),
    /// PUBLISH (3.3).
    Publish(Publish),
    /// PUBACK (3.4).
    PubAck(Ack),
    /// PUBREC (3.5).
    PubRec(Ack),
    /// PUBREL (3.6).
    PubRel(Ack),
    /// PUBCOMP (3.7).
    PubComp(Ack),
    /// SUBSCRIBE (3.8).
    Subscribe(Subscribe),
    /// SUBACK (3.9).
    SubAck(SubAck),
    /// UNSUBSCRIBE (3.10).
    Unsubscribe(Unsubscribe),
    /// UNSUBACK (3.11).
    UnsubAck(UnsubAck),
    /// PINGREQ (3.12).
    PingReq,
    /// PINGRESP (3.13).
    PingResp,
    /// DISCONNECT (3.14).
    Disconnect(Disconnect),
    /// AUTH (3.15), MQTT 5 only.
    Auth(Auth),
}

impl Packet {
    /// The type of the packet.
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// Appends the packet to `out`. CONNECT is written in its own version instead of `version`.
    ///
    /// What a version cannot express is left out: MQTT 3.1.1 has no properties, and reasons only
    /// in CONNACK and SUBACK. Strings inside properties are cut at the last character that ends
    /// within 65,535 bytes.
    ///
    /// # Panics
    /// In debug builds only, for the caller's bugs: a topic, filter or client id over 65,535
    /// bytes, a packet over [`VARINT_MAX`](super::VARINT_MAX) bytes, a reason code of another
    /// packet type, QoS and packet id that do not go together, no filters, AUTH in MQTT 3.1.1.
    /// Release builds write a well-formed packet, or none if that cannot be.
    pub fn encode(&self, version: Version, out: &mut BytesMut) {
        let is_expressible = version == Version::V5 || !matches!(self, Self::Auth(_));
        debug_assert!(is_expressible, "mqtt 3.1.1 has no AUTH");
        if is_expressible {
            writer::encode(self, version, &[], out);
        }
    }

    /// The size in bytes that [`encode`](Self::encode) gives the packet, fixed header included;
    /// to be held against the receiver's Maximum Packet Size.
    pub fn size(&self, version: Version) -> usize {
        writer::size(self, version, 0)
    }

    /// Reads the body of the packet that `header` announces.
    pub(super) fn read(
        version: Version,
        header: FixedHeader,
        reader: Reader,
    ) -> Result<Self, DecodeError> {
        let ack = |reader| Ack::read(header.packet_type, version, reader);
        Ok(match header.packet_type {
            PacketType::Connect => Self::Connect(Box::new(Connect::read(reader)?)),
            PacketType::ConnAck => Self::ConnAck(Box::new(ConnAck::read(version, reader)?)),
            PacketType::Publish => Self::Publish(Publish::read(version, header.flags, reader)?),
            PacketType::PubAck => Self::PubAck(ack(reader)?),
            PacketType::PubRec => Self::PubRec(ack(reader)?),
            PacketType::PubRel => Self::PubRel(ack(reader)?),
            PacketType::PubComp => Self::PubComp(ack(reader)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::read(version, reader)?),
            PacketType::SubAck => Self::SubAck(SubAck::read(version, reader)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::read(version, reader)?),
            PacketType::UnsubAck => Self::UnsubAck(UnsubAck::read(version, reader)?),
            PacketType::PingReq => reader.finish().map(|()| Self::PingReq)?,
            PacketType::PingResp => reader.finish().map(|()| Self::PingResp)?,
            PacketType::Disconnect => Self::Disconnect(Disconnect::read(version, reader)?),
            PacketType::Auth => Self::Auth(Auth::read(version, reader)?),
        })
    }
}

impl Encode for Packet {
    fn first_byte(&self) -> u8 {
        match self {
            Self::Publish(publish) => publish.head().first_byte(),
            other => other.packet_type().first_byte(),
        }
    }

    fn write_body<S: Sink>(&self, version: Version, out: &mut S) {
        match self {
            Self::Connect(connect) => connect.write(out),
            Self::ConnAck(connack) => connack.write(version, out),
            Self::Publish(publish) => {
                publish.head().write_body(version, out);
                out.raw(&publish.payload);
            }
            Self::PubAck(ack) | Self::PubRec(ack) | Self::PubRel(ack) | Self::PubComp(ack) => {
                ack.write(self.packet_type(), version, out);
            }
            Self::Subscribe(subscribe) => subscribe.write(version, out),
            Self::SubAck(suback) => suback.write(version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.write(version, out),
            Self::UnsubAck(unsuback) => unsuback.write(version, out),
            Self::PingReq | Self::PingResp => {}
            Self::Disconnect(disconnect) => disconnect.write(version, out),
            Self::Auth(auth) => auth.write(version, out),
        }
    }
}
