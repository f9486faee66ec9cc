//! A bridge's link, which outlives its connections for a while.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::handshake::Asked;
use super::service::{Connection, Ended};
use crate::dispatch;
use crate::edge::Edge;
use crate::link::remote::{Carrier, RETURN_WITHIN, Remote};
use crate::link::{EdgeLink, LinkClosed};
use crate::uplinks::Uplinks;

/// How often a bridge that leaves is looked after, and how long it may take.
const LEAVING_INTERVAL: Duration = Duration::from_millis(20);
const LEAVING_MAX: Duration = Duration::from_secs(30);

/// What others know of a link.
pub(super) struct Known {
    /// What CONNACK has said.
    pub(super) id: String,
    pub(super) boot: String,
    pub(super) shares: bool,
    pub(super) is_connected: Arc<AtomicBool>,
    /// Takes the next connection.
    pub(super) connections: mpsc::Sender<Connection>,
    /// Ends it; cancelled where it has ended.
    pub(super) end: CancellationToken,
}

/// See the module's documentation.
pub(super) struct Link {
    id: String,
    edge: Arc<Edge>,
    is_connected: Arc<AtomicBool>,
    connections: mpsc::Receiver<Connection>,
    end: CancellationToken,
    /// The edge stops.
    stop: CancellationToken,
}

/// Why a link ends.
#[derive(Debug)]
enum Over {
    /// The bridge did not come back, or said nothing any more.
    Lost,
    /// It has said goodbye, or had nobody any more after it had asked for that.
    Goodbye,
    /// It has begun anew, or gives way to another one.
    Replaced,
    /// What it sends can't be used.
    Broken(LinkClosed),
    /// The edge stops.
    Stopped,
}

impl Link {
    pub(super) fn new(edge: Arc<Edge>, asked: &Asked, stop: CancellationToken) -> (Self, Known) {
        let (connections, next) = mpsc::channel(1);
        let link = Link {
            id: new_id(),
            edge,
            is_connected: Arc::new(AtomicBool::new(true)),
            connections: next,
            end: CancellationToken::new(),
            stop,
        };
        let known = Known {
            id: link.id.clone(),
            boot: asked.boot.clone(),
            shares: asked.shares,
            is_connected: link.is_connected.clone(),
            connections,
            end: link.end.clone(),
        };
        (link, known)
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// It never began.
    pub(super) fn end(self) {
        self.end.cancel();
    }

    /// Moves frames over one connection after the other, until there is none for too long.
    pub(super) async fn run(mut self, first: Connection) {
        let (remote, link, carrier) = Remote::edge();
        let EdgeLink { sender, receiver } = link;
        let flow = sender.flow().clone();
        let bridge = self.edge.bridges.one_more(flow.clone());
        self.edge.bridges.come(bridge.clone(), &self.edge.registry);
        let (edge, end) = (self.edge.clone(), self.end.clone());
        // Tasks of their own: both have work at the same time.
        let mut pumps = JoinSet::new();
        pumps.spawn(bridge.clone().pump(sender));
        pumps.spawn(dispatch::run(edge.clone(), bridge.clone(), flow, receiver));
        let over = tokio::select! {
            over = self.carry(&remote, first, carrier) => over,
            over = left(&edge, &bridge) => over,
            () = end.cancelled() => Over::Replaced,
            ended = pumps.join_next() => match ended {
                Some(Ok(Err(error))) => Over::Broken(error),
                Some(Ok(Ok(never))) => match never {},
                Some(Err(_)) | None => Over::Broken(LinkClosed::Ended),
            },
        };
        self.end.cancel();
        // Nothing that it sends is applied any more.
        pumps.shutdown().await;
        edge.lose(&bridge);
        let id = &*self.id;
        match over {
            Over::Lost => warn!(bridge.id = id, "a bridge is lost"),
            Over::Goodbye => info!(bridge.id = id, "a bridge has left"),
            Over::Replaced => info!(bridge.id = id, "a bridge is replaced"),
            Over::Broken(error) => error!(bridge.id = id, %error, "the link to a bridge is broken"),
            Over::Stopped => {}
        }
    }

    async fn carry(&mut self, remote: &Remote, first: Connection, carrier: Carrier) -> Over {
        let (mut connection, mut carrier) = (first, carrier);
        loop {
            self.is_connected.store(true, Ordering::Release);
            let frames = carrier.incoming.clone();
            let ended = tokio::select! {
                ended = connection.carry(carrier, &self.stop) => ended,
                // The bridge knows better that the last one is of no use.
                Some(next) = self.connections.recv() => {
                    (connection, carrier) = (next, remote.reconnect());
                    continue;
                }
            };
            self.is_connected.store(false, Ordering::Release);
            match ended {
                _ if self.stop.is_cancelled() => return Over::Stopped,
                Ended::Goodbye => {
                    drop(timeout(RETURN_WITHIN, taken(&frames)).await);
                    return Over::Goodbye;
                }
                Ended::Silent => return Over::Lost,
                Ended::Lost => {}
            }
            match timeout(RETURN_WITHIN, self.connections.recv()).await {
                Ok(Some(next)) => (connection, carrier) = (next, remote.reconnect()),
                Ok(None) | Err(_) => return Over::Lost,
            }
        }
    }
}

/// Returns when all that has come is being applied.
async fn taken(frames: &mpsc::Sender<Bytes>) {
    let mut looks = interval(LEAVING_INTERVAL);
    while frames.capacity() < frames.max_capacity() {
        looks.tick().await;
    }
}

/// Returns when a bridge that has asked to leave has nobody any more.
async fn left(edge: &Edge, bridge: &Uplinks) -> Over {
    bridge.leaves().await;
    let mut looks = interval(LEAVING_INTERVAL);
    let leaving = async {
        loop {
            // It says how far it is only now and then, unless it is asked.
            bridge.flushed().await;
            if edge.bridges.has_left(bridge, &edge.registry) {
                break;
            }
            looks.tick().await;
        }
    };
    if timeout(LEAVING_MAX, leaving).await.is_err() {
        warn!("a bridge that leaves still has sessions; others take them over");
    }
    // What it is being told arrives.
    sleep(LEAVING_INTERVAL).await;
    Over::Goodbye
}

/// As unpredictable as a name needs to be that is only told to who knows the secret.
fn new_id() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}
