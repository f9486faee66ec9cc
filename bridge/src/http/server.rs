//! Listening, serving and stopping.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use broker::net::{Crowd, Entrance, Pass, Tls, Visitor, in_time};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Remote;
use super::problem::Problem;
use super::write_limit::WriteLimit;
use crate::code::Code;

/// How long a connection may take for its PROXY header and the TLS handshake.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
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

/// A listener.
pub struct Port {
    listener: TcpListener,
    tls: Option<Tls>,
}

/// Listens on all addresses, for HTTPS if there is a certificate.
///
/// # Errors
/// [`BindError`] for the first address that can't be listened on.
pub async fn bind(addresses: &[SocketAddr], tls: Option<&Tls>) -> Result<Vec<Port>, BindError> {
    let mut ports = Vec::new();
    for &address in addresses {
        let bound = TcpListener::bind(address).await;
        ports.push(Port {
            listener: bound.map_err(|source| BindError { address, source })?,
            tls: tls.cloned(),
        });
    }
    Ok(ports)
}

impl Port {
    /// With the port that the system chose for port 0.
    ///
    /// # Errors
    /// [`io::Error`] when the system does not know.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Serves until `stop` and then until the requests under way are answered, for as long as the caller waits. Beyond
/// `connections_max`, or where `entrance` says no, a connection is closed as soon as it comes.
///
/// # Errors
/// [`io::Error`] when a listener's task panics.
pub async fn serve(
    ports: Vec<Port>,
    router: Router,
    entrance: Entrance,
    connections_max: u32,
    stop: CancellationToken,
) -> io::Result<()> {
    let slots = Semaphore::new(usize::try_from(connections_max).unwrap_or(usize::MAX));
    let server = Server {
        router,
        entrance,
        slots: Arc::new(slots),
        refused: Arc::default(),
        connections: TaskTracker::new(),
        stop,
    };
    let mut doors = tokio::task::JoinSet::new();
    for port in ports {
        doors.spawn(server.clone().accept(port));
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
    entrance: Entrance,
    /// One for each connection that may still come.
    slots: Arc<Semaphore>,
    refused: Arc<Crowd>,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    async fn accept(self, port: Port) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = port.listener.accept() => accepted,
            };
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting an HTTP connection failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                if let Some(count) = self.refused.tell() {
                    tracing::warn!(
                        count,
                        "HTTP connections are refused: http.max_connections is reached"
                    );
                }
                continue;
            };
            let (server, tls) = (self.clone(), port.tls.clone());
            self.connections.spawn(async move {
                server.receive(socket, address.ip(), tls).await;
                drop(slot);
            });
        }
    }

    /// Finds out who it is, and answers them.
    async fn receive(&self, mut socket: TcpStream, address: IpAddr, tls: Option<Tls>) {
        // Answers are small and waited for: Nagle's algorithm would hold them back.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let deadline = Instant::now() + OPENING_TIMEOUT;
        let admitting = self.entrance.admit(&mut socket, address);
        let Some(Visitor {
            address,
            pass: Ok(pass),
        }) = in_time(admitting, deadline, &self.stop).await
        else {
            return;
        };
        let remote = Remote {
            address,
            is_tls: tls.is_some(),
        };
        // Below TLS, whose own buffers would hide that the peer takes nothing.
        let socket = WriteLimit::new(socket, WRITE_TIMEOUT);
        let Some(tls) = tls else {
            return self.answer(socket, remote, pass).await;
        };
        // On the heap, for what TLS needs is more than a plain connection's task should have to have room for.
        let greeting = Box::pin(in_time(tls.accept(socket), deadline, &self.stop));
        if let Some(stream) = greeting.await {
            Box::pin(self.answer(stream, remote, pass)).await;
        }
    }

    /// Answers requests until the connection ends, or becomes a WebSocket's.
    async fn answer<S>(&self, stream: S, remote: Remote, pass: Pass)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let has_asked = AtomicBool::new(false);
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(remote);
            // A WebSocket keeps its address's place when the connection is no longer ours.
            request.extensions_mut().insert(pass.clone());
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let outcome = tokio::select! {
            outcome = connection.as_mut() => outcome,
            () = self.stop.cancelled() => {
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
}

/// Gives up a request after [`REQUEST_TIMEOUT`].
pub(super) async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::Unavailable, "the request took too long").into_response(),
    }
}

#[cfg(test)]
pub(super) mod tests;
