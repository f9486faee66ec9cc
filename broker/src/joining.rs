//! Bridges that are other processes: they join as MQTT 5 clients, at a port of their own, so that their secret can't be tried
//! where everybody comes in.
//!
//! Reading order: [`Joining`] (who may join), `lobby` (who is not known yet), `handshake` (the first packet), `service` (a
//! connection's packets), `link` (what outlives connections).

mod handshake;
mod link;
mod lobby;
mod service;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use self::handshake::{Asked, Secret};
use self::link::{Known, Link};
use self::lobby::{Lobby, Place};
use self::service::Connection;
use crate::codec::ReasonCode;
use crate::edge::Edge;
use crate::net::{Crowd, Tls, in_time};

/// How long a connection may take until it is known whose it is.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a wrong secret is answered later, so that trying many takes long.
const WRONG_SECRET_DELAY: Duration = Duration::from_secs(1);
/// How long to wait after accept failed, mostly for want of file descriptors: less would be a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// See the module's documentation.
pub(crate) struct Joining(Arc<Inner>);

struct Inner {
    edge: Arc<Edge>,
    secret: Secret,
    known: Mutex<Vec<Known>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    lobby: Arc<Lobby>,
    strangers: Crowd,
}

impl Joining {
    pub(crate) fn new(
        edge: Arc<Edge>,
        secret: &str,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Joining(Arc::new(Inner {
            edge,
            secret: Secret::new(secret),
            known: Mutex::default(),
            tasks,
            stop,
            lobby: Arc::default(),
            strangers: Crowd::default(),
        }))
    }

    /// Accepts connections until it is to stop.
    pub(crate) async fn run(self, listener: TcpListener, tls: Option<Tls>) {
        let Joining(inner) = self;
        loop {
            let accepted = tokio::select! {
                () = inner.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (socket, place) = match accepted {
                Ok((socket, address)) => (socket, inner.lobby.enter(address.ip())),
                Err(error) => {
                    warn!(%error, "accepting a bridge's connection failed");
                    sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let (inner, tls) = (inner.clone(), tls.clone());
            inner.tasks.clone().spawn(inner.receive(socket, tls, place));
        }
    }
}

impl Inner {
    /// Finds out who it is, and hands it over to its link.
    async fn receive(self: Arc<Self>, socket: TcpStream, tls: Option<Tls>, place: Place) {
        // Frames are waited for: Nagle's algorithm would hold them back.
        if let Err(error) = socket.set_nodelay(true) {
            warn!(%error, "TCP_NODELAY could not be set");
        }
        let deadline = Instant::now() + JOIN_TIMEOUT;
        match tls {
            None => self.greet(socket, deadline, place).await,
            Some(tls) => {
                let opening = in_time(tls.accept(socket), deadline, &self.stop);
                if let Some(Some(stream)) = place.keep(opening).await {
                    self.greet(stream, deadline, place).await;
                }
            }
        }
    }

    async fn greet<S>(self: Arc<Self>, mut stream: S, deadline: Instant, place: Place)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let hearing = timeout_at(deadline, handshake::hear(&mut stream, &self.secret));
        let heard = tokio::select! {
            () = self.stop.cancelled() => return,
            heard = place.keep(hearing) => heard,
        };
        let (asked, rest) = match heard {
            Some(Ok(Some(Ok(heard)))) => heard,
            Some(Ok(Some(Err(reason)))) => {
                if let Some(count) = self.strangers.tell() {
                    error!(
                        count,
                        "somebody tried to join as a bridge without knowing link.secret"
                    );
                }
                // Whoever has to make room is told nothing: it would come sooner.
                if place.keep(sleep(WRONG_SECRET_DELAY)).await.is_some() {
                    handshake::refuse(&mut stream, reason).await;
                }
                return;
            }
            Some(Ok(None) | Err(_)) => return debug!("a connection is no bridge's"),
            None => return debug!("too many connections that may be bridges'"),
        };
        drop(place);
        let connection = Connection::new(Box::new(stream), rest);
        self.admit(asked, connection).await;
    }

    async fn admit(self: Arc<Self>, asked: Asked, mut connection: Connection) {
        enum Admitted {
            Back(tokio::sync::mpsc::Sender<Connection>),
            New(Link),
            Refused(&'static str),
        }
        let admitted = {
            let mut known = self.known.lock();
            known.retain(|known| !known.end.is_cancelled());
            let is_same = |known: &&Known| known.id == asked.id && known.boot == asked.boot;
            if let Some(known) = known.iter().find(is_same) {
                Admitted::Back(known.connections.clone())
            } else if let Some(obstacle) = obstacle(&known, &asked) {
                Admitted::Refused(obstacle)
            } else {
                // What it does not remember itself, or can't share, ends for it.
                for old in known.iter() {
                    let gives_way = !old.is_connected.load(Ordering::Acquire);
                    let alone = !(old.shares && asked.shares);
                    if old.boot == asked.boot || (gives_way && alone) {
                        old.end.cancel();
                    }
                }
                let (link, new) = Link::new(self.edge.clone(), &asked, self.stop.clone());
                known.push(new);
                Admitted::New(link)
            }
        };
        match admitted {
            Admitted::Back(connections) => {
                if connection.welcome_back().await {
                    // Its link may be ending just now; then it comes again.
                    drop(connections.send(connection).await);
                }
            }
            Admitted::New(link) => {
                info!(bridge.id = link.id(), "a bridge has joined");
                if connection.welcome(link.id()).await {
                    self.tasks.spawn(link.run(connection));
                } else {
                    link.end();
                }
            }
            Admitted::Refused(obstacle) => {
                warn!(obstacle, "a bridge may not join");
                connection.refuse(ReasonCode::QuotaExceeded).await;
            }
        }
    }
}

/// Why a bridge can't join beside those that are there.
fn obstacle(known: &[Known], asked: &Asked) -> Option<&'static str> {
    let others = known.iter().filter(|known| known.boot != asked.boot);
    let mut others = others.filter(|known| known.is_connected.load(Ordering::Acquire));
    if !asked.shares && others.next().is_some() {
        return Some(
            "another bridge is joined, and this one has no redis.url to share the work with it",
        );
    }
    others
        .any(|known| !known.shares)
        .then_some("the bridge that is joined has no redis.url to share its work")
}
