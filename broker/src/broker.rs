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
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::closed::Closed;
use crate::codec::Will;
use crate::dispatch;
use crate::identity::Authenticate;
use crate::link::{BridgeLink, LinkClosed, RouterHealth, start_router};
use crate::listener;
use crate::options::Options;
use crate::parking::{Parked, Parking};
use crate::plain::exchange::Exchange;
use crate::plain::policy::Rules;
use crate::registry::{Handle, Newcomer, Registry};
use crate::session::Lasting;
use crate::stats::{Snapshot, Stats};
use crate::sys::sys_messages;
use crate::uplinks::Uplinks;
use crate::will;

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
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) parking: Parking,
    pub(crate) stats: Arc<Stats>,
    /// One for each connection that may still come.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) router_health: RouterHealth,
}

impl Edge {
    /// What an earlier session of the client has left, unless the client wants to begin anew.
    pub(crate) fn take_up(&self, handle: &Handle, is_clean: bool) -> Option<Lasting> {
        let parked = self.parking.take(&handle.uid, &handle.device)?;
        if is_clean || parked.lasting.is_lost() {
            self.end(parked);
            return None;
        }
        // [MQTT-3.1.3-9] A will that waits for the client's return is not published.
        Some(parked.lasting)
    }

    /// Keeps a session for its client's return.
    pub(crate) fn park(&self, parked: Parked) {
        for evicted in self.parking.park(parked) {
            self.end(evicted);
        }
    }

    /// Ends a session that has no connection. Its will is due then, if it was not before (MQTT 5, 3.1.3.2.2).
    fn end(&self, parked: Parked) {
        if let Some((will, _)) = parked.will {
            self.publish_will(&parked.handle, will);
        }
        parked.lasting.end(&self.exchange);
    }

    fn publish_will(&self, handle: &Handle, will: Will) {
        let mut items = Vec::new();
        will::publish(&self.exchange, handle, will, &mut items);
        self.uplinks.push(&mut items);
    }

    /// Does what is due for sessions without a connection and for retained messages.
    async fn keep_house(self: Arc<Self>) -> Result<Infallible, LinkClosed> {
        loop {
            let round = Instant::now() + HOUSEKEEPING_INTERVAL;
            let next = self.parking.next_due().map_or(round, |due| due.min(round));
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.parking.changed() => {}
            }
            let (wills, ended) = self.parking.take_due(Instant::now());
            for (handle, will) in wills {
                self.publish_will(&handle, will);
            }
            let lost = self.exchange.take_lost();
            for parked in ended.into_iter().chain(self.parking.take_lost(&lost)) {
                self.end(parked);
            }
            self.exchange.purge();
        }
    }
}

impl Edge {
    /// Publishes `$SYS/#`.
    async fn announce(self: Arc<Self>, interval: Duration) -> Result<Infallible, LinkClosed> {
        loop {
            for (topic, value) in sys_messages(&self.snapshot()) {
                self.exchange.announce(topic, value);
            }
            sleep(interval).await;
        }
    }

    fn snapshot(&self) -> Snapshot {
        let (retained_messages, retained_bytes) = self.exchange.retained_size();
        Snapshot {
            sessions_connected: self.registry.read().count() as u64,
            sessions_parked: self.parking.count() as u64,
            subscriptions: self.exchange.subscription_count() as u64,
            retained_messages: retained_messages as u64,
            retained_bytes: retained_bytes as u64,
            uplink_queue_bytes: self.uplinks.queued_bytes() as u64,
            frames_ahead: self.uplinks.frames_ahead(),
            is_router_healthy: self.router_health.is_healthy(),
            router_restarts: self.router_health.restarts(),
            ..self.stats.snapshot()
        }
    }
}

/// How often expired messages, and sessions that have been lost, are looked for.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// A running edge.
pub struct Broker {
    edge: Arc<Edge>,
    connections: TaskTracker,
    pumps: JoinSet<Result<Infallible, LinkClosed>>,
    /// Cancelled once the bridge has sent what it has stored.
    ready: CancellationToken,
    stop: CancellationToken,
}

/// Ends sessions from outside, and tells how the edge is. Cheap to clone.
#[derive(Clone)]
pub struct BrokerHandle {
    edge: Arc<Edge>,
}

impl BrokerHandle {
    /// Ends a user's sessions, with or without a connection: those that a login's tokens opened, or all.
    pub fn kick(&self, uid: &Uid, login: Option<&str>) {
        self.kick_where(uid, |who| login.is_none() || who.login.as_deref() == login);
    }

    /// Ends the session of one of a user's devices.
    pub fn kick_device(&self, uid: &Uid, device: &str) {
        self.kick_where(uid, |who| who.device == device);
    }

    fn kick_where(&self, uid: &Uid, is_meant: impl Fn(&Newcomer) -> bool) {
        self.edge.registry.kick(uid, &is_meant);
        for parked in self.edge.parking.take_where(uid, &is_meant) {
            // Whoever is shown the door leaves no will.
            parked.lasting.end(&self.edge.exchange);
        }
    }

    /// Tells whether the router works.
    #[must_use]
    pub fn router_health(&self) -> &RouterHealth {
        &self.edge.router_health
    }

    /// How the edge is now, and what it has counted.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.edge.snapshot()
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
            exchange: Arc::new(Exchange::new(&options, rules, stats.clone())),
            stats,
            parking: Parking::new(options.sessions_max, options.sessions_per_user_max),
            slots: Arc::new(Semaphore::new(options.max_connections)),
            router_health: watch.health(),
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
        }
    }

    /// Waits until the bridge has sent the grants and retained messages that it has stored. Clients that come before
    /// that would not find what is theirs.
    pub async fn ready(&self) {
        self.ready.cancelled().await;
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

    /// Stops accepting and reading, lets the clients have the answers to what they have sent, tells them, and waits until
    /// their connections are closed, but no longer than `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.stop.cancel();
        self.connections.close();
        self.edge.registry.drain_all();
        // The last ones are told without waiting for their answers: they have no PUBACK, and will send again.
        let (answering, closing) = (limit * 3 / 4, limit / 4);
        if timeout(answering, self.connections.wait()).await.is_ok() {
            return;
        }
        self.edge.registry.close_all(Closed::ServerShutdown);
        if timeout(closing, self.connections.wait()).await.is_err() {
            tracing::warn!("some connections did not close in time");
        }
    }
}
