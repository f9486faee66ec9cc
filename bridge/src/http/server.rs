//! Listening, serving and stopping.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::code::Code;

/// How long a request may take from its headers to its answer; a body that drips in more slowly is given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("can't listen for HTTP on {address}")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Listens on all addresses; what the port really is stands in `local_addr`.
///
/// # Errors
/// [`BindError`] for the first address that can't be listened on.
pub async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        let bound = TcpListener::bind(address).await;
        listeners.push(bound.map_err(|source| BindError { address, source })?);
    }
    Ok(listeners)
}

/// Serves until `stop` and then until the requests under way are answered, for as long as the caller waits.
///
/// # Errors
/// [`io::Error`] when a listener fails.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut doors = JoinSet::new();
    for listener in listeners {
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "can't switch off Nagle's algorithm");
            }
        });
        let stopped = stop.clone().cancelled_owned();
        let door = axum::serve(listener, router.clone()).with_graceful_shutdown(stopped);
        doors.spawn(door.into_future());
    }
    while let Some(door) = doors.join_next().await {
        door.map_err(io::Error::other)??;
    }
    Ok(())
}

/// Gives up a request after [`REQUEST_TIMEOUT`].
pub(super) async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::Unavailable, "the request took too long").into_response(),
    }
}
