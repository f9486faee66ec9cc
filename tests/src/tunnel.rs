//! A TCP port that leads to the server through TLS or WebSocket: so each client of the harness can use them, MQTT and
//! HTTP alike, without knowing how.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::stream::Stream;
use crate::tls::{Certified, Trust};
use crate::websocket;

/// What is around the bytes.
#[derive(Clone)]
pub enum Through {
    /// MQTT over TLS, with a client certificate or without.
    Tls(Option<Arc<Certified>>),
    /// HTTP over TLS.
    Https,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
}

/// An open tunnel; it ends when dropped.
pub struct Tunnel {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Tunnel {
    /// Opens one to the server's `address`.
    pub(crate) async fn open(
        address: SocketAddr,
        through: Through,
        trust: Option<Trust>,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let entrance = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (through, trust) = (through.clone(), trust.clone());
                tokio::spawn(async move {
                    if let Err(error) = carry(client, address, through, trust).await {
                        eprintln!("through the tunnel to {address}: {error:#}");
                    }
                });
            }
        });
        Ok(Tunnel {
            address: entrance,
            task,
        })
    }

    /// The entrance.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one connection's bytes until both sides have ended.
async fn carry(
    mut client: TcpStream,
    address: SocketAddr,
    through: Through,
    trust: Option<Trust>,
) -> Result<()> {
    client.set_nodelay(true)?;
    let identity = match &through {
        Through::Tls(identity) => identity.clone(),
        _ => None,
    };
    let below: Box<dyn Stream> = match through {
        Through::Ws => Box::new(TcpStream::connect(address).await?),
        _ => {
            let trust = trust.context("this server has no TLS")?;
            Box::new(trust.connect(address, identity.as_deref()).await?)
        }
    };
    let mut server: Box<dyn Stream> = match through {
        Through::Tls(_) | Through::Https => below,
        Through::Ws | Through::Wss => {
            let socket = websocket::open(below, address).await?;
            Box::new(websocket::as_stream(socket))
        }
    };
    // How it ends is for the client to see.
    let _ = copy_bidirectional(&mut client, &mut server).await;
    Ok(())
}
