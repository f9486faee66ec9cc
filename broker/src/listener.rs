//! The accept loop: it accepts, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::broker::Edge;
use crate::connection;
use crate::peer::{Door, Peer};

/// How long to wait after accept failed, mostly for want of file descriptors: less would be a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Accepts connections until `stop`; each lives in a task of its own.
pub(crate) async fn run(
    listener: TcpListener,
    edge: Arc<Edge>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut is_full = false;
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
        let Ok(slot) = edge.slots.clone().try_acquire_owned() else {
            // Once for a crowd: the log must not grow with it.
            if !std::mem::replace(&mut is_full, true) {
                let max = edge.options.max_connections;
                warn!(max, "connections are refused: too many");
            }
            continue;
        };
        is_full = false;
        // Acknowledgements are small and waited for: Nagle's algorithm would hold them back.
        if let Err(error) = socket.set_nodelay(true) {
            warn!(%error, "TCP_NODELAY could not be set");
        }
        let peer = Peer {
            address: address.ip(),
            door: Door::Mqtt,
            certified: None,
            refusal: None,
        };
        let (edge, stop) = (edge.clone(), stop.clone());
        tasks.spawn(async move {
            connection::serve(socket, peer, &edge, &stop).await;
            drop(slot);
        });
    }
}
