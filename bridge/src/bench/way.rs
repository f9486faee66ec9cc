//! How clients get to the server: over TCP, or through memory to a server in this process.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use broker::{BrokerHandle, Door, Peer};
use tokio::io::{AsyncRead, AsyncWrite, duplex};
use tokio::net::{TcpSocket, TcpStream};

use super::limits;

/// What may be under way through memory, in each direction. There are as many as clients.
const MEMORY_BYTES: usize = 8 * 1024;

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub(super) enum Way {
    /// To one of these `host:port`, in turn.
    Tcp(Vec<String>),
    /// To a server in this process: all of it but the sockets, of which a process has only so many.
    Memory(BrokerHandle),
}

impl Way {
    /// Opens the `index`th stream.
    pub(super) async fn open(&self, index: u32) -> anyhow::Result<Box<dyn Stream>> {
        match self {
            Way::Tcp(addresses) => {
                let address = &addresses[index as usize % addresses.len()];
                Ok(Box::new(open_tcp(address, index).await?))
            }
            Way::Memory(sessions) => open_memory(sessions.clone()).await,
        }
    }
}

/// On this machine from many addresses, so that no one of them runs out of ports; otherwise from where the system likes.
async fn open_tcp(address: &str, index: u32) -> io::Result<TcpStream> {
    let stream = match address.parse::<SocketAddr>() {
        Ok(server) if server.ip() == Ipv4Addr::LOCALHOST => {
            let socket = TcpSocket::new_v4()?;
            socket.bind((limits::source(index), 0).into())?;
            socket.connect(server).await?
        }
        _ => TcpStream::connect(address).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn open_memory(sessions: BrokerHandle) -> anyhow::Result<Box<dyn Stream>> {
    let (near, far) = duplex(MEMORY_BYTES);
    let (entrance, mut nothing) = (sessions.entrance(), tokio::io::empty());
    let visitor = entrance.admit(&mut nothing, Ipv4Addr::LOCALHOST.into());
    let visitor = visitor.await?;
    let pass = visitor.pass?;
    let peer = Peer {
        address: visitor.address,
        door: Door::Mqtt,
        certified: None,
        refusal: None,
    };
    tokio::spawn(async move { sessions.serve(far, peer, pass).await });
    Ok(Box::new(near))
}
