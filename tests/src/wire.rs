//! The packets of MQTT 3.1.1 and 5 as a client writes and reads them, by hand: a test must not believe what the server's
//! own codec believes.

use anyhow::{Context, Result, bail, ensure};

use crate::link::Version;
use crate::raw::{packet, text, varint};

/// A property of MQTT 5: its identifier (2.2.2.2) and its value. Texts are data, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    Byte(u8, u8),
    Two(u8, u16),
    Four(u8, u32),
    Varint(u8, u32),
    Data(u8, Vec<u8>),
    User(String, String),
}

/// The identifiers of properties.
pub mod id {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const WILL_DELAY: u8 = 0x18;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const USER: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
}

/// A set of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(pub Vec<Property>);

/// A PUBLISH, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    /// 0 at QoS 0.
    pub packet_id: u16,
    pub properties: Properties,
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    Ack(Ack),
    SubAck { packet_id: u16, codes: Vec<u8> },
    UnsubAck { packet_id: u16, codes: Vec<u8> },
    PingResp,
    Disconnect { reason: u8, properties: Properties },
}

/// How the CONNECT was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAck {
    pub session_present: bool,
    pub reason: u8,
    pub properties: Properties,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub kind: AckKind,
    pub packet_id: u16,
    /// 0 in MQTT 3.1.1.
    pub reason: u8,
}

/// Which of them; the values are their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AckKind {
    PubAck = 0x40,
    PubRec = 0x50,
    PubRel = 0x62,
    PubComp = 0x70,
}

/// A CONNECT.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    pub clean: bool,
    pub keep_alive_secs: u16,
    /// Its delay and other properties are those of the publish.
    pub will: Option<Publish>,
    pub properties: Properties,
}

// === impl Property ===

impl Property {
    /// One whose value is text.
    pub fn text(id: u8, text: &str) -> Self {
        Property::Data(id, text.into())
    }

    /// A user property.
    pub fn user(name: &str, value: &str) -> Self {
        Property::User(name.into(), value.into())
    }

    fn id(&self) -> u8 {
        match self {
            Property::Byte(id, _)
            | Property::Two(id, _)
            | Property::Four(id, _)
            | Property::Varint(id, _)
            | Property::Data(id, _) => *id,
            Property::User(..) => id::USER,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.id());
        match self {
            Property::Byte(_, value) => out.push(*value),
            Property::Two(_, value) => out.extend(value.to_be_bytes()),
            Property::Four(_, value) => out.extend(value.to_be_bytes()),
            Property::Varint(_, value) => out.extend(varint(*value as usize)),
            Property::Data(_, bytes) => {
                out.extend((bytes.len() as u16).to_be_bytes());
                out.extend(bytes);
            }
            Property::User(name, value) => {
                out.extend(text(name));
                out.extend(text(value));
            }
        }
    }

    fn read(body: &mut Reader) -> Result<Self> {
        let id = body.byte()?;
        Ok(match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2A => Property::Byte(id, body.byte()?),
            0x13 | 0x21..=0x23 => Property::Two(id, body.two()?),
            0x02 | 0x11 | 0x18 | 0x27 => Property::Four(id, body.four()?),
            0x0B => Property::Varint(id, body.varint()?),
            0x26 => Property::User(body.text()?, body.text()?),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => {
                Property::Data(id, body.data()?)
            }
            other => bail!("there is no property {other:#04x}"),
        })
    }
}

// === impl Properties ===

impl Properties {
    /// The first with this identifier.
    pub fn get(&self, id: u8) -> Option<&Property> {
        self.0.iter().find(|property| property.id() == id)
    }

    /// The value of a number.
    pub fn number(&self, id: u8) -> Option<u32> {
        match self.get(id)? {
            Property::Byte(_, value) => Some((*value).into()),
            Property::Two(_, value) => Some((*value).into()),
            Property::Four(_, value) | Property::Varint(_, value) => Some(*value),
            Property::Data(..) | Property::User(..) => None,
        }
    }

    /// The value of a text.
    pub fn text(&self, id: u8) -> Option<&str> {
        match self.get(id)? {
            Property::Data(_, bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The subscription identifiers, the lowest first.
    pub fn subscription_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.0.iter().filter_map(Self::subscription_id).collect();
        ids.sort_unstable();
        ids
    }

    fn subscription_id(property: &Property) -> Option<u32> {
        match property {
            Property::Varint(id::SUBSCRIPTION_ID, value) => Some(*value),
            _ => None,
        }
    }

    /// With their length before them; nothing at all in MQTT 3.1.1.
    fn write(&self, version: Version, out: &mut Vec<u8>) {
        if version == Version::V4 {
            return;
        }
        let mut bytes = Vec::new();
        self.0
            .iter()
            .for_each(|property| property.write(&mut bytes));
        out.extend(varint(bytes.len()));
        out.extend(bytes);
    }

    fn read(version: Version, body: &mut Reader) -> Result<Self> {
        let mut properties = Properties::default();
        if version == Version::V4 {
            return Ok(properties);
        }
        let length = body.varint()? as usize;
        let mut own = Reader(body.bytes(length)?);
        while !own.0.is_empty() {
            properties.0.push(Property::read(&mut own)?);
        }
        Ok(properties)
    }
}

// === writing ===

impl Connect {
    pub fn packet(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        flags |= u8::from(self.username.is_some()) << 7;
        flags |= u8::from(self.password.is_some()) << 6;
        if let Some(will) = &self.will {
            flags |= 0b100 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        let mut body = text("MQTT");
        body.push(match self.version {
            Version::V4 => 4,
            Version::V5 => 5,
        });
        body.push(flags);
        body.extend(self.keep_alive_secs.to_be_bytes());
        self.properties.write(self.version, &mut body);
        body.extend(text(&self.client_id));
        if let Some(will) = &self.will {
            will.properties.write(self.version, &mut body);
            body.extend(text(&will.topic));
            body.extend((will.payload.len() as u16).to_be_bytes());
            body.extend(&will.payload);
        }
        if let Some(username) = &self.username {
            body.extend(text(username));
        }
        if let Some(password) = &self.password {
            body.extend((password.len() as u16).to_be_bytes());
            body.extend(password);
        }
        packet(0x10, &body)
    }
}

impl Publish {
    /// One at this QoS, without properties.
    pub fn new(topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> Self {
        Publish {
            topic: topic.into(),
            payload: payload.as_ref().into(),
            qos,
            ..Publish::default()
        }
    }

    /// The same to be retained.
    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// The same with one more property.
    pub fn with(mut self, property: Property) -> Self {
        self.properties.0.push(property);
        self
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn packet(&self, version: Version) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = text(&self.topic);
        if self.qos > 0 {
            body.extend(self.packet_id.to_be_bytes());
        }
        self.properties.write(version, &mut body);
        body.extend(&self.payload);
        packet(first, &body)
    }
}

impl Ack {
    /// The same in both versions: without a reason, which means success.
    pub fn packet(&self) -> Vec<u8> {
        packet(self.kind as u8, &self.packet_id.to_be_bytes())
    }
}

/// A SUBSCRIBE of filters with their options (QoS; in MQTT 5 more, 3.8.3.1).
pub fn subscribe(
    version: Version,
    packet_id: u16,
    filters: &[(&str, u8)],
    properties: &Properties,
) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    properties.write(version, &mut body);
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// An UNSUBSCRIBE.
pub fn unsubscribe(version: Version, packet_id: u16, filter: &str) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    Properties::default().write(version, &mut body);
    body.extend(text(filter));
    packet(0xA2, &body)
}

/// A DISCONNECT; reason and properties are for MQTT 5.
pub fn disconnect(version: Version, reason: u8, properties: &Properties) -> Vec<u8> {
    let mut body = Vec::new();
    if version == Version::V5 {
        body.push(reason);
        properties.write(version, &mut body);
    }
    packet(0xE0, &body)
}

// === reading ===

impl Packet {
    /// Reads what stands behind the first byte and the length.
    pub fn read(version: Version, first: u8, body: &[u8]) -> Result<Self> {
        let mut body = Reader(body);
        let packet = Self::read_body(version, first, &mut body)
            .with_context(|| format!("a packet {first:#04x}"))?;
        ensure!(
            body.0.is_empty(),
            "{} bytes too many in {packet:?}",
            body.0.len()
        );
        Ok(packet)
    }

    fn read_body(version: Version, first: u8, body: &mut Reader) -> Result<Self> {
        Ok(match first {
            0x20 => {
                let flags = body.byte()?;
                ensure!(flags <= 1, "flags {flags:#04x}");
                Packet::ConnAck(ConnAck {
                    session_present: flags == 1,
                    reason: body.byte()?,
                    properties: Properties::read(version, body)?,
                })
            }
            0x30..=0x3F => Packet::Publish(Self::read_publish(version, first, body)?),
            0x40 => Self::read_ack(version, AckKind::PubAck, body)?,
            0x50 => Self::read_ack(version, AckKind::PubRec, body)?,
            0x62 => Self::read_ack(version, AckKind::PubRel, body)?,
            0x70 => Self::read_ack(version, AckKind::PubComp, body)?,
            0x90 => {
                let packet_id = body.two()?;
                Properties::read(version, body)?;
                let codes = body.rest();
                Packet::SubAck { packet_id, codes }
            }
            0xB0 => {
                let packet_id = body.two()?;
                Properties::read(version, body)?;
                let codes = body.rest();
                Packet::UnsubAck { packet_id, codes }
            }
            0xD0 => Packet::PingResp,
            0xE0 => {
                ensure!(version == Version::V5, "a DISCONNECT in MQTT 3.1.1");
                let reason = body.byte_or_0();
                let properties = match body.0 {
                    [] => Properties::default(),
                    _ => Properties::read(version, body)?,
                };
                Packet::Disconnect { reason, properties }
            }
            _ => bail!("nothing that a server sends"),
        })
    }

    fn read_publish(version: Version, first: u8, body: &mut Reader) -> Result<Publish> {
        let qos = first >> 1 & 3;
        ensure!(qos < 3, "QoS 3");
        Ok(Publish {
            dup: first & 8 != 0,
            qos,
            retain: first & 1 != 0,
            topic: body.text()?,
            packet_id: if qos > 0 { body.two()? } else { 0 },
            properties: Properties::read(version, body)?,
            payload: body.rest(),
        })
    }

    fn read_ack(version: Version, kind: AckKind, body: &mut Reader) -> Result<Self> {
        let packet_id = body.two()?;
        let reason = body.byte_or_0();
        if !body.0.is_empty() {
            Properties::read(version, body)?;
        }
        Ok(Packet::Ack(Ack {
            kind,
            packet_id,
            reason,
        }))
    }
}

/// What is still to be read of a packet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).context("cut off")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    /// A reason code may be left out when it is success.
    fn byte_or_0(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    fn two(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.bytes(2)?.try_into()?))
    }

    fn four(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.bytes(4)?.try_into()?))
    }

    fn varint(&mut self) -> Result<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a length of five bytes")
    }

    fn data(&mut self) -> Result<Vec<u8>> {
        let length = self.two()?;
        Ok(self.bytes(length.into())?.to_vec())
    }

    fn text(&mut self) -> Result<String> {
        Ok(String::from_utf8(self.data()?)?)
    }
}
