//! The wire format of MQTT 3.1.1 and MQTT 5.0, without any I/O.
//!
//! Bytes go in by [`decode_connect`] (the first packet of a connection, which names the version)
//! and [`decode`] (all later ones); bytes come out by [`Packet::encode`] or, for the two packets
//! that dominate a broker's traffic, [`encode_publish`] and [`encode_ack`].
//!
//! What the rest of the crate may rely on:
//! - A decoded packet obeys every rule of the specification that can be judged from the packet
//!   alone. Rules that need the session (packet ids in use, topic aliases, who may send what)
//!   and the shape of topic filters are judged elsewhere.
//! - Nothing is allocated on the strength of a length that a peer merely announced.
//! - Topics, strings and payloads are slices of the read buffer. Holding one keeps that whole
//!   buffer alive; copy what is kept for long.
//! - After a [`DecodeError`] the stream has no known packet boundary: close the connection.
//!
//! Reading order: [`Packet`], `fixed_header`, `reader`, `writer`, `properties`, then one file per
//! packet.

use bytes::{Buf, Bytes, BytesMut};

mod ack;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod error;
mod fixed_header;
mod packet;
mod properties;
mod publish;
mod qos;
mod reader;
mod reason;
mod suback;
mod subscribe;
mod varint;
mod will;
mod wire_enum;
mod writer;

#[cfg(test)]
mod tests;

pub use ack::{Ack, AckKind, AckProperties, encode_ack};
pub use auth::{Auth, AuthProperties};
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, connect_version};
pub use disconnect::{Disconnect, DisconnectProperties};
pub use error::DecodeError;
pub use fixed_header::PacketType;
pub use packet::Packet;
pub use properties::UserProperty;
pub use publish::{Publish, PublishHead, PublishProperties, encode_publish, publish_size};
pub use qos::Qos;
pub use reason::ReasonCode;
pub use suback::{SubAck, UnsubAck};
pub use subscribe::{RetainHandling, Subscribe, SubscribeFilter, Unsubscribe};
pub use varint::VARINT_MAX;
pub use will::{Will, WillProperties};

use fixed_header::FixedHeader;
use reader::Reader;

/// The protocol version that a connection speaks; fixed by its CONNECT packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V4,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Takes the first packet of a connection, which has to be CONNECT, from the front of `buf`.
///
/// `max_packet_size` bounds the whole packet in bytes, fixed header included. `Ok(None)` means
/// that more bytes are needed; `buf` is then untouched.
///
/// # Errors
/// [`DecodeError::NotConnect`] from the first byte on if this is another packet [MQTT-3.1.0-1],
/// [`DecodeError::UnsupportedVersion`] for anything but 3.1.1 and 5.0, otherwise as [`decode`].
/// An error does not tell the version to answer in; ask [`connect_version`] beforehand.
pub fn decode_connect(
    buf: &mut BytesMut,
    max_packet_size: usize,
) -> Result<Option<Connect>, DecodeError> {
    match buf.first() {
        None => return Ok(None),
        Some(first) if first >> 4 != PacketType::Connect as u8 => {
            return Err(DecodeError::NotConnect);
        }
        Some(_) => {}
    }
    // The fixed header of CONNECT is the same in both versions.
    let Some((_, body)) = split_packet(Version::V5, buf, max_packet_size)? else {
        return Ok(None);
    };
    Connect::read(Reader::new(body)).map(Some)
}

/// Takes the next packet of a connection from the front of `buf`.
///
/// `max_packet_size` bounds the whole packet in bytes, fixed header included. `Ok(None)` means
/// that more bytes are needed; `buf` is then untouched.
///
/// A second CONNECT is decoded like any packet, so that the session can refuse it by name
/// [MQTT-3.1.0-2]; its own `version` field says which version it asks for.
///
/// # Errors
/// [`DecodeError`], as early as the received bytes allow: wrong flags and a packet over the limit
/// are refused before the body has arrived. The connection has to be closed then.
pub fn decode(
    version: Version,
    buf: &mut BytesMut,
    max_packet_size: usize,
) -> Result<Option<Packet>, DecodeError> {
    let Some((header, body)) = split_packet(version, buf, max_packet_size)? else {
        return Ok(None);
    };
    Packet::read(version, header, Reader::new(body)).map(Some)
}

/// The types and sizes of the packets that are written in `bytes`, fixed headers included.
pub fn packets_in(mut bytes: &[u8]) -> impl Iterator<Item = (PacketType, usize)> {
    std::iter::from_fn(move || {
        // The version decides only which types there are.
        let header = FixedHeader::peek(Version::V5, bytes).ok().flatten()?;
        bytes = bytes.get(header.packet_len()..)?;
        Some((header.packet_type, header.packet_len()))
    })
}

/// Splits one complete packet off `buf` and returns its header and its body.
fn split_packet(
    version: Version,
    buf: &mut BytesMut,
    max_packet_size: usize,
) -> Result<Option<(FixedHeader, Bytes)>, DecodeError> {
    let Some(header) = FixedHeader::peek(version, buf)? else {
        return Ok(None);
    };
    if header.packet_len() > max_packet_size {
        return Err(DecodeError::TooLarge);
    }
    if buf.len() < header.packet_len() {
        return Ok(None);
    }
    let mut packet = buf.split_to(header.packet_len());
    packet.advance(header.header_len);
    Ok(Some((header, packet.freeze())))
}
