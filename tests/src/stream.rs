//! What carries bytes both ways.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

/// TCP, TLS or the inside of a WebSocket.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How a TCP connection is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dial {
    /// The client's address, one of the loopback; `None`: any.
    pub from: Option<IpAddr>,
    /// With a receive buffer that does not grow: what is not read stays with the server.
    pub is_narrow: bool,
}

/// What a narrow connection holds unread: little, and enough for the loopback's large segments.
const NARROW_BYTES: u32 = 128 * 1024;

impl Dial {
    /// Opens it.
    pub async fn open(self, to: SocketAddr) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.is_narrow {
            socket.set_recv_buffer_size(NARROW_BYTES)?;
        }
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
