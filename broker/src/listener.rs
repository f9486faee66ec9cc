//! The accept loop, which accepts and nothing else; and the way of a connection from there to its client's first packet.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::codec::ReasonCode;
use crate::connection;
use crate::edge::Edge;
use crate::net::{Crowd, Tls, Visitor, certified, in_time};
use crate::options::Options;
use crate::peer::{Door, Peer};

/// How long to wait after accept failed, mostly for want of file descriptors: less would be a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Clients that are told why they can't come in, per second and at once. When a crowd comes, the rest is not told: an
/// answer costs a handshake, and a limit should cost nothing.
const REFUSALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(64).unwrap();
/// How long such a client has for its CONNECT.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// After how much silence the system asks whether the other end is still there, and how often it asks.
const PROBE_AFTER: Duration = Duration::from_secs(300);
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// Accepts connections until `stop`; each lives in a task of its own.
pub(crate) async fn run(
    listener: TcpListener,
    tls: Option<Tls>,
    edge: Arc<Edge>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Some(slot) = edge.slots.take() else {
            edge.stats.turned_away();
            continue;
        };
        let (tls, edge, stop) = (tls.clone(), edge.clone(), stop.clone());
        tasks.spawn(async move { receive(socket, address.ip(), tls, slot, &edge, &stop).await });
    }
}

/// Finds out who it is, and serves them.
async fn receive(
    mut socket: TcpStream,
    address: IpAddr,
    tls: Option<Tls>,
    mut slot: Slot,
    edge: &Edge,
    stop: &CancellationToken,
) {
    // Acknowledgements are small and waited for: Nagle's algorithm would hold them back.
    if let Err(error) = socket.set_nodelay(true) {
        warn!(%error, "TCP_NODELAY could not be set");
    }
    // Whoever vanishes without keep-alive would hold its slot for ever.
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL);
    if let Err(error) = SockRef::from(&socket).set_tcp_keepalive(&probes) {
        warn!(%error, "TCP keep-alive could not be set");
    }
    let admitting = edge.entrance.admit(&mut socket, address);
    let admitted = Box::pin(in_time(admitting, slot.deadline, stop)).await;
    let Some(Visitor { address, pass }) = admitted else {
        return;
    };
    if let Err(turned) = &pass {
        // Others may need the slot more.
        drop(slot.permit.take());
        match edge.slots.take_for_refusal(turned.reason()) {
            Some(short) => slot = short,
            None => return edge.stats.turned_away(),
        }
    }
    let mut peer = Peer {
        address,
        door: Door::Mqtt,
        certified: None,
        refusal: slot.refusal,
    };
    let Some(tls) = tls else {
        return connection::serve(socket, peer, slot.deadline, edge, stop).await;
    };
    peer.door = Door::Mqtts;
    // On the heap, for what TLS needs is more than a plain connection's task should have to have room for.
    let greeted = Box::pin(in_time(tls.accept(socket), slot.deadline, stop)).await;
    let Some(stream) = greeted else {
        return;
    };
    match certified(&stream) {
        Ok(uid) => peer.certified = uid,
        Err(error) => {
            debug!(%error, "connection refused");
            peer.refusal.get_or_insert(ReasonCode::NotAuthorized);
        }
    }
    Box::pin(connection::serve(stream, peer, slot.deadline, edge, stop)).await;
}

/// Room for connections.
pub(crate) struct Slots {
    /// One for each connection that may still come.
    free: Arc<Semaphore>,
    /// Who else is at least told why not.
    refusals: DefaultDirectRateLimiter,
    max: usize,
    connect_timeout: Duration,
    refused: Crowd,
}

/// Room for one connection.
pub(crate) struct Slot {
    /// `None` with a refusal, which lasts for a moment.
    permit: Option<OwnedSemaphorePermit>,
    /// Why the connection will only be told that it can't stay.
    pub(crate) refusal: Option<ReasonCode>,
    /// When the client has to be known.
    pub(crate) deadline: Instant,
}

impl Slots {
    pub(crate) fn new(options: &Options) -> Self {
        Slots {
            free: Arc::new(Semaphore::new(options.max_connections)),
            refusals: RateLimiter::direct(Quota::per_second(REFUSALS_PER_SECOND)),
            max: options.max_connections,
            connect_timeout: options.connect_timeout,
            refused: Crowd::default(),
        }
    }

    /// Room for one more connection, or for telling it that there is none. `None`: not even that.
    pub(crate) fn take(&self) -> Option<Slot> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Some(Slot {
                permit: Some(permit),
                refusal: None,
                deadline: Instant::now() + self.connect_timeout,
            });
        }
        if let Some(count) = self.refused.tell() {
            warn!(max = self.max, count, "connections are refused: too many");
        }
        self.take_for_refusal(ReasonCode::QuotaExceeded)
    }

    fn take_for_refusal(&self, reason: ReasonCode) -> Option<Slot> {
        self.refusals.check().ok()?;
        Some(Slot {
            permit: None,
            refusal: Some(reason),
            deadline: Instant::now() + REFUSAL_TIMEOUT.min(self.connect_timeout),
        })
    }
}

#[cfg(test)]
mod tests;
