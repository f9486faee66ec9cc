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
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::asked::Asking;
use crate::bridges::{Bridges, keep_balance};
use crate::closed::Closed;
use crate::connection;
use crate::dispatch;
use crate::edge::Edge;
use crate::identity::Authenticate;
use crate::joining::Joining;
use crate::link::{BridgeLink, LinkClosed, start_router};
use crate::listener;
use crate::net::{Entrance, Pass, Tls};
use crate::options::Options;
use crate::peer::Peer;
use crate::plain::policy::Rules;
use crate::stats::Snapshot;

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
    /// The links to bridges in other processes, and who listens for more of them.
    links: TaskTracker,
    stop: CancellationToken,
    /// After the clients.
    stop_links: CancellationToken,
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
        self.edge
            .kick_where(uid, |who| login.is_none() || who.login.as_deref() == login)
    }

    /// Ends the session of one of a user's devices; tells whether there was one.
    pub fn kick_device(&self, uid: &Uid, device: &str) -> bool {
        self.edge.kick_where(uid, |who| who.device == device)
    }

    /// What keeps the edge from working, if anything does.
    #[must_use]
    pub fn ailment(&self) -> Option<&'static str> {
        let router = self.edge.router_health.as_ref();
        let is_ill = router.is_some_and(|router| !router.is_healthy());
        is_ill.then_some("the router does not answer")
    }

    /// Whether a bridge has joined, and has told what is stored for the edge.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.edge.bridges.count() > 0
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
        let (bridges, uplinks) = Bridges::only(flow.clone());
        let bridges = Arc::new(bridges);
        let health = Some(watch.health());
        let edge = Edge::new(options, rules, bridges, health, |_| authenticate);
        let mut broker = Broker::with_edge(edge);
        broker.pumps.spawn(async { Ok(watch.run().await) });
        broker.pumps.spawn(uplinks.clone().pump(link.sender));
        let dispatch = dispatch::run(broker.edge.clone(), uplinks, flow, link.receiver);
        broker.pumps.spawn(dispatch);
        Ok((broker, bridge))
    }

    /// Starts an edge whose bridges are other processes: they join at [`Broker::listen_for_bridges`], and know who clients
    /// are. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start_apart(options: Options, rules: Rules) -> Self {
        let bridges = Arc::new(Bridges::new());
        let edge = Edge::new(options, rules, bridges.clone(), None, |asked| {
            Arc::new(Asking { bridges, asked })
        });
        let mut broker = Broker::with_edge(edge);
        broker.pumps.spawn(keep_balance(broker.edge.clone()));
        broker
    }

    fn with_edge(edge: Edge) -> Self {
        let edge = Arc::new(edge);
        let mut pumps = JoinSet::new();
        pumps.spawn(edge.clone().keep_house());
        if let Some(interval) = edge.options.sys_interval {
            pumps.spawn(edge.clone().announce(interval));
        }
        Broker {
            edge,
            connections: TaskTracker::new(),
            pumps,
            links: TaskTracker::new(),
            stop: CancellationToken::new(),
            stop_links: CancellationToken::new(),
        }
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

    /// Waits until a bridge has sent the grants and retained messages that it has stored. Clients that come before
    /// that would not find what is theirs.
    ///
    /// # Errors
    /// As [`Broker::failed`], when that comes first.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let ready = self.edge.ready.clone();
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

    /// Listens for bridges that know the secret, over TLS if there is one; returns the address, as [`Broker::listen`].
    ///
    /// # Errors
    /// [`Error::Listen`] when the address is taken or not ours.
    pub async fn listen_for_bridges(
        &self,
        address: SocketAddr,
        tls: Option<Tls>,
        secret: &str,
    ) -> Result<SocketAddr, Error> {
        let on_error = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(on_error)?;
        let local = listener.local_addr().map_err(on_error)?;
        let joining = Joining::new(
            self.edge.clone(),
            secret,
            self.links.clone(),
            self.stop_links.clone(),
        );
        self.links.spawn(joining.run(listener, tls));
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
        let begun = Instant::now();
        // Each step has its time, and what is left of all of it.
        let (long, short) = (limit / 2, limit / 4);
        let in_time = |step: Duration, all: Duration| (Instant::now() + step).min(begun + all);
        self.stop.cancel();
        self.connections.close();
        self.edge.registry.drain_all(Closed::ServerShutdown);
        // The last ones are told without waiting for their answers: they have no PUBACK, and will send again.
        let answering = timeout_at(in_time(long, long), self.connections.wait());
        if answering.await.is_err() {
            self.edge.registry.close_all(Closed::ServerShutdown);
            let closing = timeout_at(in_time(short, long + short), self.connections.wait());
            if closing.await.is_err() {
                tracing::warn!("some connections did not close in time");
            }
        }
        // Sessions end with the process. Their wills, and who has left, are among what the bridge has to hear.
        self.edge.end_all_parked();
        let nearly_all = limit - limit / 8;
        let hearing = timeout_at(in_time(short, nearly_all), self.edge.bridges.flushed());
        if hearing.await.is_err() {
            tracing::warn!("the bridge did not hear everything in time");
        }
        self.stop_links.cancel();
        self.links.close();
        let parting = timeout_at(in_time(short, limit), self.links.wait());
        if parting.await.is_err() {
            tracing::warn!("some bridges could not be told");
        }
    }
}
