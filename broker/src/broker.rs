//! The whole edge: router, pumps, listeners, sessions.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use schema::Uid;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::closed::Closed;
use crate::dispatch;
use crate::identity::Authenticate;
use crate::link::{BridgeLink, LinkClosed, RouterHealth, start_router};
use crate::listener;
use crate::options::Options;
use crate::registry::Registry;
use crate::stats::{Snapshot, Stats};
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
    pub(crate) stats: Arc<Stats>,
    /// One for each connection that may still come.
    pub(crate) slots: Arc<Semaphore>,
}

/// A running edge.
pub struct Broker {
    edge: Arc<Edge>,
    connections: TaskTracker,
    pumps: JoinSet<Result<Infallible, LinkClosed>>,
    router_health: RouterHealth,
    stop: CancellationToken,
}

/// Ends sessions from outside, and tells how the edge is. Cheap to clone.
#[derive(Clone)]
pub struct BrokerHandle {
    registry: Arc<Registry>,
    uplinks: Arc<Uplinks>,
    stats: Arc<Stats>,
    router_health: RouterHealth,
}

impl BrokerHandle {
    /// Ends a user's sessions: those that a login's tokens opened, or all.
    pub fn kick(&self, uid: &Uid, login: Option<&str>) {
        self.registry.kick(uid, login);
    }

    /// Tells whether the router works.
    #[must_use]
    pub fn router_health(&self) -> &RouterHealth {
        &self.router_health
    }

    /// How the edge is now, and what it has counted.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            sessions_connected: self.registry.read().count() as u64,
            uplink_queue_bytes: self.uplinks.queued_bytes() as u64,
            frames_ahead: self.uplinks.frames_ahead(),
            is_router_healthy: self.router_health.is_healthy(),
            router_restarts: self.router_health.restarts(),
            ..self.stats.snapshot()
        }
    }
}

impl Broker {
    /// Starts the router, its watch, and what moves frames; listens nowhere yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Link`] when the router can't be started.
    pub fn start(
        options: Options,
        authenticate: Arc<dyn Authenticate>,
    ) -> Result<(Self, BridgeLink), Error> {
        let (link, bridge, watch) = start_router()?;
        let router_health = watch.health();
        let flow = link.sender.flow().clone();
        let registry = Arc::new(Registry::default());
        let uplinks = Arc::new(Uplinks::new(flow.clone()));
        let mut pumps = JoinSet::new();
        pumps.spawn(async { Ok(watch.run().await) });
        pumps.spawn(uplinks.clone().pump(link.sender));
        pumps.spawn(dispatch::run(registry.clone(), flow, link.receiver));
        let broker = Broker {
            edge: Arc::new(Edge {
                slots: Arc::new(Semaphore::new(options.max_connections)),
                options,
                authenticate,
                registry,
                uplinks,
                stats: Arc::default(),
            }),
            connections: TaskTracker::new(),
            pumps,
            router_health,
            stop: CancellationToken::new(),
        };
        Ok((broker, bridge))
    }

    /// A handle to the sessions.
    #[must_use]
    pub fn handle(&self) -> BrokerHandle {
        BrokerHandle {
            registry: self.edge.registry.clone(),
            uplinks: self.edge.uplinks.clone(),
            stats: self.edge.stats.clone(),
            router_health: self.router_health.clone(),
        }
    }

    /// Listens for plain MQTT; returns the address, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// [`Error::Listen`] when the address is taken or not ours.
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, Error> {
        let on_error = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(on_error)?;
        let local = listener.local_addr().map_err(on_error)?;
        self.connections.spawn(listener::run(
            listener,
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
