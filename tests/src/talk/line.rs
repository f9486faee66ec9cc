//! The bytes of one connection: packets as they come, and what is to be written.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::link::Version;
use crate::wire::Packet;

/// How long the server may take to take what is written.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to accept a connection.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Line {
    stream: TcpStream,
    version: Version,
    inbox: BytesMut,
    out: Vec<u8>,
}

impl Line {
    pub async fn open(address: SocketAddr, version: Version) -> Result<Self> {
        let stream = timeout(OPEN_WITHIN, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Line {
            stream,
            version,
            inbox: BytesMut::new(),
            out: Vec::new(),
        })
    }

    /// To be written by [`Line::flush`].
    pub fn say(&mut self, packet: &[u8]) {
        self.out.extend_from_slice(packet);
    }

    pub async fn flush(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            timeout(WRITE_WITHIN, self.stream.write_all(&self.out)).await??;
            self.out.clear();
        }
        Ok(())
    }

    /// The next packet. Nothing is lost when this is given up half-way.
    pub async fn next(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.take()? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                bail!("closed by the server");
            }
        }
    }

    /// A packet that is here already.
    pub fn take(&mut self) -> Result<Option<Packet>> {
        let Some((head, length)) = header(&self.inbox)? else {
            return Ok(None);
        };
        if self.inbox.len() < head + length {
            return Ok(None);
        }
        let first = self.inbox[0];
        self.inbox.advance(head);
        let body = self.inbox.split_to(length);
        Packet::read(self.version, first, &body).map(Some)
    }
}

/// The bytes of the first byte and the length, and the length; `None`: they are not all here.
fn header(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut length = 0;
    for place in 1..=4 {
        let Some(byte) = bytes.get(place) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7F) << (7 * (place - 1));
        if byte & 0x80 == 0 {
            return Ok(Some((place + 1, length)));
        }
    }
    None.context("a length of five bytes")
}
