//! Listening, serving and stopping.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::problem::Problem;
use super::write_limit::WriteLimit;
use crate::code::Code;

/// How long a connection may take to send the whole head of a request, from its opening or from the last answer: so
/// long may it be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request in bytes. Anybody can make the server hold that much per connection.
const HEAD_MAX: usize = 32 * 1024;
/// How long a client may refuse to take a byte of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait after accept failed, mostly for want of file descriptors: less would be a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
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

/// Serves until `stop` and then until the requests under way are answered, for as long as the caller waits. Beyond
/// `connections_max` a connection is closed as soon as it comes.
///
/// # Errors
/// [`io::Error`] when a listener's task panics.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    connections_max: u32,
    stop: CancellationToken,
) -> io::Result<()> {
    let slots = Semaphore::new(usize::try_from(connections_max).unwrap_or(usize::MAX));
    let server = Server {
        router,
        slots: Arc::new(slots),
        connections: TaskTracker::new(),
        stop,
    };
    let mut doors = tokio::task::JoinSet::new();
    for listener in listeners {
        doors.spawn(server.clone().accept(listener));
    }
    while let Some(door) = doors.join_next().await {
        door.map_err(io::Error::other)?;
    }
    server.stop.cancelled().await;
    server.connections.close();
    server.connections.wait().await;
    Ok(())
}

/// What all listeners share.
#[derive(Clone)]
struct Server {
    router: Router,
    /// One for each connection that may still come.
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        // Told once per crowd, or the log would be part of the flood.
        let mut is_full = false;
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "accepting an HTTP connection failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                if !is_full {
                    tracing::warn!("HTTP connections are refused: http.max_connections is reached");
                }
                is_full = true;
                continue;
            };
            is_full = false;
            let (router, stop) = (self.router.clone(), self.stop.clone());
            self.connections.spawn(async move {
                serve_connection(socket, router, stop).await;
                drop(slot);
            });
        }
    }
}

async fn serve_connection(socket: TcpStream, router: Router, stop: CancellationToken) {
    // Answers are small and waited for: Nagle's algorithm would hold them back.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let has_asked = AtomicBool::new(false);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(
            TokioIo::new(WriteLimit::new(socket, WRITE_TIMEOUT)),
            service,
        )
        .with_upgrades();
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            // To hyper, a connection is not idle before its first request.
            if !has_asked.load(Ordering::Relaxed) {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %crate::store::chain(&error), "an HTTP connection ended");
    }
}

/// Gives up a request after [`REQUEST_TIMEOUT`].
pub(super) async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::Unavailable, "the request took too long").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn start(connections_max: u32) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let slow = async || {
            tokio::time::sleep(Duration::from_millis(200)).await;
            "hello"
        };
        let router = Router::new().route("/", get(slow));
        let listeners = bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let address = listeners[0].local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = serve(listeners, router, connections_max, stop.clone());
        let serving = tokio::spawn(async { serving.await.unwrap() });
        (address, stop, serving)
    }

    /// Everything until the server closes.
    async fn rest(socket: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        // A reset is as good an end as any.
        let _ = socket.read_to_end(&mut bytes).await;
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed() {
        let (address, _stop, _serving) = start(1).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        assert_eq!(rest(&mut second).await, "");
        let mut answer = [0; 15];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        drop(first);
        for _ in 0..100 {
            let mut third = TcpStream::connect(address).await.unwrap();
            let _ = third.write_all(b"nonsense\r\n\r\n").await;
            if rest(&mut third).await.starts_with("HTTP/1.1 400") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the place was not given back");
    }

    #[tokio::test]
    async fn without_addresses_it_waits_to_be_stopped() {
        let stop = CancellationToken::new();
        let serving = serve(Vec::new(), Router::new(), 1, stop.clone());
        let mut serving = pin!(serving);
        let early = tokio::time::timeout(Duration::from_millis(50), serving.as_mut()).await;
        assert!(early.is_err());
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn stopping_waits_for_answers_and_for_nothing_else() {
        let (address, stop, serving) = start(10).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut halting = TcpStream::connect(address).await.unwrap();
        halting.write_all(&REQUEST[..9]).await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(REQUEST).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
        assert!(rest(&mut asking).await.ends_with("hello"));
        assert_eq!(rest(&mut silent).await, "");
        assert_eq!(rest(&mut halting).await, "");
        let stopped = tokio::time::timeout(Duration::from_secs(5), serving).await;
        stopped.unwrap().unwrap();
    }
}
