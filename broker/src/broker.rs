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
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::closed::Closed;
use crate::connection;
use crate::dispatch;
use crate::edge::Edge;
use crate::identity::Authenticate;
use crate::link::{BridgeLink, LinkClosed, RouterHealth, start_router};
use crate::listener::{self, Slots};
use crate::moving::Moving;
use crate::net::{Entrance, Pass, Tls};
use crate::options::Options;
use crate::parking::Parking;
use crate::peer::Peer;
use crate::plain::exchange::Exchange;
use crate::plain::policy::Rules;
use crate::registry::{Newcomer, Registry};
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

/// A running edge.
pub struct Broker {
    edge: Arc<Edge>,
    connections: TaskTracker,
    pumps: JoinSet<Result<Infallible, LinkClosed>>,
    /// Cancelled once the bridge has sent what it has stored.
    ready: CancellationToken,
    stop: CancellationToken,
}

/// Ends sessions from outside, brings connections that came in by another door, and tells how the edge is. Cheap to
/// clone.
#[derive(Clone)]
pub struct BrokerHandle {
    edge: Arc<Edge>,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl BrokerHandle {
    /// Ends a user's sessions, with or without a connection: those that a login's tokens opened, or all. Tells whether
    /// there were any.
    pub fn kick(&self, uid: &Uid, login: Option<&str>) -> bool {
        self.kick_where(uid, |who| login.is_none() || who.login.as_deref() == login)
    }

    /// Ends the session of one of a user's devices; tells whether there was one.
    pub fn kick_device(&self, uid: &Uid, device: &str) -> bool {
        self.kick_where(uid, |who| who.device == device)
    }

    fn kick_where(&self, uid: &Uid, is_meant: impl Fn(&Newcomer) -> bool) -> bool {
        let was_connected = self.edge.registry.kick(uid, &is_meant);
        let parked = self.edge.parking.take_where(uid, &is_meant);
        let was_parked = !parked.is_empty();
        for parked in parked {
            self.edge.throw_out(parked);
        }
        was_connected || was_parked
    }

    /// Tells whether the router works.
    #[must_use]
    pub fn router_health(&self) -> &RouterHealth {
        &self.edge.router_health
    }

    /// Whether sessions are asked to go elsewhere, and nobody is let in.
    #[must_use]
    pub fn is_moving_off(&self) -> bool {
        self.edge.moving.has_begun()
    }

    /// How the edge is now, and what it has counted.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.edge.snapshot()
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
            return self.edge.stats.turned_away();
        };
        let refusal = peer.refusal.or(slot.refusal);
        let peer = Peer { refusal, ..peer };
        let serving = connection::serve(stream, peer, slot.deadline, &self.edge, &self.stop);
        self.connections.track_future(serving).await;
        drop((slot, pass));
    }
}

impl Broker {
    /// Starts the router, its watch, and what moves frames; listens nowhere yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Link`] when the router can't be started.
    pub fn start(
        options: Options,
        rules: Rules,
        authenticate: Arc<dyn Authenticate>,
    ) -> Result<(Self, BridgeLink), Error> {
        let (link, bridge, watch) = start_router()?;
        let flow = link.sender.flow().clone();
        let uplinks = Arc::new(Uplinks::new(flow.clone()));
        let stats = Arc::new(Stats::default());
        let edge = Arc::new(Edge {
            registry: Arc::new(Registry::new(uplinks.clone())),
            uplinks: uplinks.clone(),
            exchange: Arc::new(Exchange::new(
                &options,
                rules,
                uplinks.clone(),
                stats.clone(),
            )),
            stats,
            parking: Parking::new(options.sessions_max, options.sessions_per_user_max),
            entrance: Entrance::new(&options.network),
            slots: Slots::new(&options),
            router_health: watch.health(),
            moving: Moving::new(&options.elsewhere),
            options,
            authenticate,
        });
        let ready = CancellationToken::new();
        let mut pumps = JoinSet::new();
        pumps.spawn(async { Ok(watch.run().await) });
        pumps.spawn(uplinks.pump(link.sender));
        pumps.spawn(dispatch::run(
            edge.clone(),
            flow,
            link.receiver,
            ready.clone(),
        ));
        pumps.spawn(edge.clone().keep_house());
        if let Some(interval) = edge.options.sys_interval {
            pumps.spawn(edge.clone().announce(interval));
        }
        let broker = Broker {
            edge,
            connections: TaskTracker::new(),
            pumps,
            ready,
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

    /// Waits until the bridge has sent the grants and retained messages that it has stored. Clients that come before
    /// that would not find what is theirs.
    ///
    /// # Errors
    /// As [`Broker::failed`], when that comes first.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let ready = self.ready.clone();
        tokio::select! {
            () = ready.cancelled() => Ok(()),
            error = self.failed() => Err(error),
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

    /// Lets nobody in any more, and asks all sessions to go elsewhere, spread evenly over that time. All else goes on as before.
    pub async fn move_off(&self, over: Duration) {
        self.edge.moving.run(&self.edge.registry, over).await;
    }

    /// Stops accepting and reading, lets the clients have the answers to what they have sent, tells them, waits until their
    /// connections are closed and the bridge has heard of it all, but no longer than `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.stop.cancel();
        self.connections.close();
        self.edge.registry.drain_all(Closed::ServerShutdown);
        // The last ones are told without waiting for their answers: they have no PUBACK, and will send again.
        let (answering, closing) = (limit / 2, limit / 4);
        if timeout(answering, self.connections.wait()).await.is_err() {
            self.edge.registry.close_all(Closed::ServerShutdown);
            if timeout(closing, self.connections.wait()).await.is_err() {
                tracing::warn!("some connections did not close in time");
            }
        }
        // Sessions end with the process. Their wills, and who has left, are among what the bridge has to hear.
        self.edge.end_all_parked();
        if timeout(closing, self.edge.uplinks.flushed()).await.is_err() {
            tracing::warn!("the bridge did not hear everything in time");
        }
    }
}
