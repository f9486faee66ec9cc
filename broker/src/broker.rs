//! The whole edge: router, pumps, listeners, sessions.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use schema::Uid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::closed::Closed;
use crate::connection;
use crate::dispatch;
use crate::identity::Authenticate;
use crate::link::{BridgeLink, LinkClosed, start_router};
use crate::listener::{self, Slots};
use crate::net::{Entrance, Pass, Tls};
use crate::options::Options;
use crate::peer::Peer;
use crate::registry::Registry;
use crate::uplinks::Uplinks;

/// Why the edge can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The way to the bridge is gone.
    #[error("the link between edge and bridge broke")]
    Link(#[from] LinkClosed),
    /// A task of ours panicked.
    #[error("a task of the edge panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// What all connections share.
pub(crate) struct Edge {
    pub(crate) options: Options,
    pub(crate) authenticate: Arc<dyn Authenticate>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) uplinks: Arc<Uplinks>,
    /// Limits per address.
    pub(crate) entrance: Entrance,
    /// Limit of all connections together.
    pub(crate) slots: Slots,
}

/// A running edge.
pub struct Broker {
    edge: Arc<Edge>,
    connections: TaskTracker,
    pumps: JoinSet<Result<Infallible, LinkClosed>>,
    stop: CancellationToken,
}

/// Ends sessions from outside, and brings connections that came in by another door. Cheap to clone.
#[derive(Clone)]
pub struct BrokerHandle {
    edge: Arc<Edge>,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl BrokerHandle {
    /// Ends a user's sessions: those that a login's tokens opened, or all.
    pub fn kick(&self, uid: &Uid, login: Option<&str>) {
        self.edge.registry.kick(uid, login);
    }

    /// What other doors let in by, so that an address has the same limits everywhere.
    #[must_use]
    pub fn entrance(&self) -> Entrance {
        self.edge.entrance.clone()
    }

    /// The longest packet that a client may send, in bytes.
    #[must_use]
    pub fn max_packet_size(&self) -> usize {
        self.edge.options.max_packet_size
    }

    /// Serves a client that came in by another door, to its end. It counts as one of [`Options::max_connections`], and
    /// [`Broker::stop`] waits for it.
    pub async fn serve<S>(&self, stream: S, peer: Peer, pass: Pass)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(slot) = self.edge.slots.take() else {
            return;
        };
        let refusal = peer.refusal.or(slot.refusal);
        let peer = Peer { refusal, ..peer };
        let serving = connection::serve(stream, peer, slot.deadline, &self.edge, &self.stop);
        self.connections.track_future(serving).await;
        drop((slot, pass));
    }
}

impl Broker {
    /// Starts the router and what moves frames; listens nowhere yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Link`] when the router can't be started.
    pub fn start(
        options: Options,
        authenticate: Arc<dyn Authenticate>,
    ) -> Result<(Self, BridgeLink), Error> {
        let (link, bridge) = start_router()?;
        let flow = link.sender.flow().clone();
        let registry = Arc::new(Registry::default());
        let uplinks = Arc::new(Uplinks::new(flow.clone()));
        let mut pumps = JoinSet::new();
        pumps.spawn(uplinks.clone().pump(link.sender));
        pumps.spawn(dispatch::run(registry.clone(), flow, link.receiver));
        let broker = Broker {
            edge: Arc::new(Edge {
                entrance: Entrance::new(&options.network),
                slots: Slots::new(&options),
                options,
                authenticate,
                registry,
                uplinks,
            }),
            connections: TaskTracker::new(),
            pumps,
            stop: CancellationToken::new(),
        };
        Ok((broker, bridge))
    }

    /// A handle to the sessions.
    #[must_use]
    pub fn handle(&self) -> BrokerHandle {
        BrokerHandle {
            edge: self.edge.clone(),
            connections: self.connections.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Listens for MQTT, over TLS if there is one; returns the address, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// [`Error::Listen`] when the address is taken or not ours.
    pub async fn listen(&self, address: SocketAddr, tls: Option<Tls>) -> Result<SocketAddr, Error> {
        let on_error = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(on_error)?;
        let local = listener.local_addr().map_err(on_error)?;
        self.connections.spawn(listener::run(
            listener,
            tls,
            self.edge.clone(),
            self.connections.clone(),
            self.stop.clone(),
        ));
        Ok(local)
    }

    /// Returns when the edge can't go on.
    pub async fn failed(&mut self) -> Error {
        match self.pumps.join_next().await {
            Some(Ok(Err(error))) => Error::Link(error),
            Some(Err(error)) => Error::Panicked(error),
            Some(Ok(Ok(never))) => match never {},
            None => std::future::pending().await,
        }
    }

    /// Stops accepting, tells the clients, and waits until their connections are closed, but no longer than `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.stop.cancel();
        self.edge.registry.close_all(Closed::ServerShutdown);
        self.connections.close();
        if tokio::time::timeout(limit, self.connections.wait())
            .await
            .is_err()
        {
            tracing::warn!("some connections did not close in time");
        }
    }
}
