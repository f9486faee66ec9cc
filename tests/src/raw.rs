//! A socket for literal bytes: what a faulty or hostile client sends.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::link::Version;
use crate::wait::PATIENCE;

/// A TCP connection on which the test writes the packets itself.
pub struct Raw {
    socket: TcpStream,
}

/// A CONNECT in its parts.
#[derive(Clone, Debug)]
pub struct Connect<'a> {
    pub version: Version,
    pub client_id: &'a str,
    pub uid: &'a str,
    pub password: &'a str,
    pub clean: bool,
    pub keep_alive_secs: u16,
    /// Topic of a last will.
    pub will: Option<&'a str>,
}

/// First byte of the packets that the tests look for.
pub const CONNACK: u8 = 0x20;
pub const PUBLISH_QOS_0: u8 = 0x30;
pub const PUBREC: u8 = 0x50;
pub const PUBCOMP: u8 = 0x70;
pub const SUBACK: u8 = 0x90;
pub const PINGRESP: u8 = 0xD0;
pub const PINGREQ_PACKET: &[u8] = &[0xC0, 0x00];
pub const DISCONNECT_PACKET: &[u8] = &[0xE0, 0x00];
/// What a narrow socket holds unread: little, and enough for the loopback's large segments.
pub(crate) const NARROW_BYTES: u32 = 128 * 1024;

// === impl Raw ===

impl Raw {
    /// Opens a socket and says nothing yet.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Raw { socket })
    }

    /// Opens a socket whose buffer does not grow: what is not read stays with the server.
    pub async fn narrow(address: SocketAddr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(NARROW_BYTES)?;
        let socket = socket.connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Raw { socket })
    }

    /// Opens a socket and is let in.
    pub async fn connect(address: SocketAddr, connect: &Connect<'_>) -> Result<Self> {
        Self::open(address).await?.come_in(connect).await
    }

    /// Is let in on an open socket.
    pub async fn come_in(mut self, connect: &Connect<'_>) -> Result<Self> {
        self.send(&connect.packet()).await?;
        let connack = self.expect(CONNACK).await?;
        ensure!(connack.get(1) == Some(&0), "CONNACK {connack:02x?}");
        Ok(self)
    }

    /// Subscribes, and waits for the SUBACK.
    pub async fn subscribe(&mut self, version: Version, filter: &str, qos: u8) -> Result<()> {
        self.send(&subscribe(version, filter, qos)).await?;
        let suback = self.expect(SUBACK).await?;
        ensure!(suback.last() == Some(&qos), "SUBACK {suback:02x?}");
        Ok(())
    }

    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.socket.write_all(bytes).await?;
        Ok(())
    }

    /// Writes bytes that the peer need not wait for before it closes.
    pub async fn send_to_the_deaf(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes).await;
    }

    /// Reads packets until one of this type comes; returns what follows its header.
    pub async fn expect(&mut self, first_byte: u8) -> Result<Vec<u8>> {
        let reading = async {
            loop {
                match self.read_packet().await? {
                    Some((first, body)) if first == first_byte => return Ok(body),
                    Some(_) => {}
                    None => bail!("the server closed"),
                }
            }
        };
        timeout(PATIENCE, reading)
            .await
            .unwrap_or_else(|_| bail!("nothing within {PATIENCE:?}"))
            .with_context(|| format!("waiting for a packet {first_byte:#04x}"))
    }

    /// Whether the connection answers a PINGREQ (`true`) or is closed (`false`).
    pub async fn is_alive(&mut self) -> Result<bool> {
        self.send_to_the_deaf(PINGREQ_PACKET).await;
        self.answers_before_it_closes().await
    }

    /// Waits until the server closes.
    pub async fn closed(&mut self) -> Result<()> {
        let answered = self.answers_before_it_closes().await?;
        ensure!(!answered, "a PINGRESP instead of the end");
        Ok(())
    }

    async fn answers_before_it_closes(&mut self) -> Result<bool> {
        let reading = async {
            loop {
                match self.read_packet().await {
                    Ok(Some((PINGRESP, _))) => return true,
                    Ok(Some(_)) => {}
                    // A reset is an end, too.
                    Ok(None) | Err(_) => return false,
                }
            }
        };
        timeout(PATIENCE, reading)
            .await
            .with_context(|| format!("neither closed nor answered within {PATIENCE:?}"))
    }

    /// One packet: first byte and what follows the length; `None` at the end.
    pub async fn read_packet(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        read_packet(&mut self.socket).await
    }
}

/// Reads one packet: first byte and what follows the length; `None` at the end.
pub async fn read_packet<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<(u8, Vec<u8>)>> {
    let mut first = [0];
    if stream.read(&mut first).await? == 0 {
        return Ok(None);
    }
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((first[0], body)))
}

// === impl Connect ===

impl Connect<'_> {
    /// The bytes of the CONNECT.
    pub fn packet(&self) -> Vec<u8> {
        let (level, properties): (u8, &[u8]) = match self.version {
            Version::V4 => (4, &[]),
            Version::V5 => (5, &[0]),
        };
        let clean = u8::from(self.clean) << 1;
        // Username and password; a will at QoS 1.
        let flags = 0b1100_0000 | clean | self.will.map_or(0, |_| 0b0000_1100);

        let mut body = text("MQTT");
        body.extend([level, flags]);
        body.extend(self.keep_alive_secs.to_be_bytes());
        body.extend(properties);
        body.extend(text(self.client_id));
        if let Some(topic) = self.will {
            body.extend(properties);
            body.extend(text(topic));
            body.extend(text("gone"));
        }
        body.extend(text(self.uid));
        body.extend(text(self.password));
        packet(0x10, &body)
    }
}

/// A packet of this first byte with its length written before `body`.
pub fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    [&[first_byte], &varint(body.len())[..], body].concat()
}

/// A length as MQTT writes it: seven bits per byte, the lowest first.
pub fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        bytes.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return bytes;
        }
    }
}

/// A string as MQTT writes it: two bytes of length, then its bytes.
pub fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("an MQTT string has up to 65535 bytes");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// A SUBSCRIBE to one filter, under packet id 1.
pub fn subscribe(version: Version, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(text(filter));
    body.push(qos);
    packet(0x82, &body)
}

/// A PUBLISH; `first_byte` holds QoS and DUP, `id` is left out at QoS 0.
pub fn publish(
    version: Version,
    first_byte: u8,
    topic: &str,
    id: Option<u16>,
    payload: &str,
) -> Vec<u8> {
    let mut body = text(topic);
    body.extend(id.into_iter().flat_map(u16::to_be_bytes));
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(payload.as_bytes());
    packet(first_byte, &body)
}
