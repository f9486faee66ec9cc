//! One socket: reads packets into the session, writes what the session has to say.
//!
//! A client before CONNECT is only a socket and a time limit; [`identify`] turns it into a session.

use std::future::{Future as _, poll_fn};
use std::io;
use std::num::{NonZeroU16, NonZeroU32};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BytesMut};
use schema::Topic;
use schema::link::FromEdge;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::broker::Edge;
use crate::closed::Closed;
use crate::codec::{
    ConnAck, ConnAckProperties, Connect, Disconnect, Packet, ReasonCode, Version, connect_version,
    decode, decode_connect,
};
use crate::identity::{Credentials, Identity, Refusal};
use crate::outbox::Outbox;
use crate::peer::Peer;
use crate::registry::{Handle, Newcomer, Registry};
use crate::session::Session;

/// Bytes read at once. The buffer is on the stack while reading, so that an idle connection has none.
const READ_BYTES: usize = 8 * 1024;
/// Longest client id, in characters.
const CLIENT_ID_MAX: usize = 64;
/// How long the last packet may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);
/// A deadline that is never reached, for keep-alive 0.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Serves a client from its first byte to its last. By `deadline` it has to be known who it is.
pub(crate) async fn serve<S>(
    mut socket: S,
    peer: Peer,
    deadline: Instant,
    edge: &Edge,
    stop: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = BytesMut::new();
    let identified = tokio::select! {
        () = stop.cancelled() => return,
        identified = timeout_at(deadline, identify(&mut socket, &peer, &mut input, edge)) => identified,
    };
    if let Ok(Some(identified)) = identified {
        let connection = {
            let identity = identified.identity.clone();
            let connection = Connection::new(socket, input, edge, identified);
            if edge.authenticate.is_revoked(&identity) {
                let outbox = &connection.handle.outbox;
                outbox.close(Closed::Kicked);
            }
            connection
        };
        // On the heap, once it is known to be a client: the task of one that never says CONNECT stays small.
        if stop.is_cancelled() {
            // It came in after all others were told.
            connection.handle.outbox.close(Closed::ServerShutdown);
        }
        Box::pin(connection.run(edge)).await;
    }
}

/// A client that may come in, and what CONNACK will say. What the server grants is written into `connect`.
struct Identified {
    connect: Box<Connect>,
    identity: Identity,
    connack: ConnAck,
}

/// Reads CONNECT and checks who it is; answers a refusal itself.
async fn identify<S>(
    socket: &mut S,
    peer: &Peer,
    input: &mut BytesMut,
    edge: &Edge,
) -> Option<Identified>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut version = None;
    let connect = loop {
        version = version.or_else(|| connect_version(input));
        match decode_connect(input, edge.options.max_packet_size) {
            Ok(Some(connect)) => break connect,
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "no CONNECT");
                // What isn't MQTT at all gets no answer.
                if input.first().is_some_and(|byte| byte >> 4 == 1) || version.is_some() {
                    refuse(socket, version.unwrap_or(Version::V4), error.reason()).await;
                }
                return None;
            }
        }
        if !matches!(read(socket, input).await, Ok(1..)) {
            return None;
        }
    };
    if let Some(reason) = peer.refusal {
        debug!(?reason, "connection refused");
        refuse(socket, connect.version, reason).await;
        return None;
    }
    let mut connect = Box::new(connect);
    let outcome = match check_connect(&connect) {
        Ok(()) => authenticate(&connect, peer, edge).await,
        Err(reason) => Err(reason),
    };
    let outcome = outcome.and_then(|identity| check_will(&connect, &identity).map(|()| identity));
    match outcome {
        Ok(identity) => {
            let connack = grant(&mut connect, edge);
            Some(Identified {
                connect,
                identity,
                connack,
            })
        }
        Err(reason) => {
            debug!(?reason, "connection refused");
            refuse(socket, connect.version, reason).await;
            None
        }
    }
}

fn check_connect(connect: &Connect) -> Result<(), ReasonCode> {
    let is_printable = |c: char| !c.is_control();
    if connect.client_id.chars().count() > CLIENT_ID_MAX
        || !connect.client_id.chars().all(is_printable)
    {
        return Err(ReasonCode::ClientIdentifierNotValid);
    }
    // [MQTT-3.1.3-8] In 3.1.1 an empty client id needs a clean session.
    if connect.client_id.is_empty() && connect.version == Version::V4 && !connect.clean_start {
        return Err(ReasonCode::ClientIdentifierNotValid);
    }
    let properties = connect.properties.as_deref();
    if properties.is_some_and(|set| set.authentication_method.is_some()) {
        // [MQTT-4.12.0-1]
        return Err(ReasonCode::BadAuthenticationMethod);
    }
    // [MQTT-3.2.2-13] CONNACK would have said that retain is not available.
    if connect.version == Version::V5 && connect.will.as_ref().is_some_and(|will| will.retain) {
        return Err(ReasonCode::RetainNotSupported);
    }
    Ok(())
}

/// A will is a publish that comes later: it may go where its user may publish.
fn check_will(connect: &Connect, identity: &Identity) -> Result<(), ReasonCode> {
    match connect.will.as_ref().map(|will| Topic::parse(&will.topic)) {
        None => Ok(()),
        Some(Topic::Up(_, uid)) if uid == identity.uid => Ok(()),
        Some(_) => Err(ReasonCode::NotAuthorized),
    }
}

async fn authenticate(connect: &Connect, peer: &Peer, edge: &Edge) -> Result<Identity, ReasonCode> {
    let credentials = Credentials {
        username: connect.username.as_deref(),
        password: connect.password.as_deref(),
        certified: peer.certified.as_ref(),
        address: peer.address,
    };
    let outcome = edge.authenticate.authenticate(credentials).await;
    outcome.map_err(|refusal| match refusal {
        Refusal::BadCredentials => ReasonCode::BadUserNameOrPassword,
        Refusal::TooManyFailures => ReasonCode::QuotaExceeded,
        Refusal::Unavailable => ReasonCode::ServerUnavailable,
    })
}

/// Decides what the session gets of what it asked for, and says so.
fn grant(connect: &mut Connect, edge: &Edge) -> ConnAck {
    let options = &edge.options;
    let mut properties = ConnAckProperties {
        // Sessions end with their connection: what was missed is kept for the device in the database.
        session_expiry_interval: connect
            .properties
            .as_ref()
            .and_then(|set| set.session_expiry_interval)
            .filter(|asked| *asked > 0)
            .map(|_| 0),
        receive_maximum: NonZeroU16::new(options.receive_maximum),
        maximum_packet_size: u32::try_from(options.max_packet_size)
            .ok()
            .and_then(NonZeroU32::new),
        retain_available: Some(false),
        wildcard_subscription_available: Some(false),
        shared_subscription_available: Some(false),
        ..Default::default()
    };
    let keep_alive_max = options.keep_alive_max_secs;
    if keep_alive_max > 0 && (connect.keep_alive == 0 || connect.keep_alive > keep_alive_max) {
        connect.keep_alive = keep_alive_max;
        properties.server_keep_alive = Some(keep_alive_max);
    }
    if connect.client_id.is_empty() {
        connect.client_id = edge.registry.new_client_id().into();
        properties.assigned_client_identifier = Some(connect.client_id.clone());
    }
    ConnAck {
        session_present: false,
        reason: ReasonCode::Success,
        properties: Some(Box::new(properties)),
    }
}

async fn refuse<S: AsyncWrite + Unpin>(socket: &mut S, version: Version, reason: ReasonCode) {
    let mut out = BytesMut::new();
    let connack = ConnAck {
        reason,
        ..Default::default()
    };
    Packet::ConnAck(Box::new(connack)).encode(version, &mut out);
    say_farewell(socket, &out).await;
}

/// Writes the last bytes and closes; whether the client takes them no longer matters.
async fn say_farewell<S: AsyncWrite + Unpin>(socket: &mut S, out: &[u8]) {
    let write = async {
        socket.write_all(out).await?;
        socket.shutdown().await
    };
    if !matches!(timeout(FAREWELL, write).await, Ok(Ok(()))) {
        debug!("the client did not wait for the last packet");
    }
}

/// Appends what the socket has to `buffer`; 0 means that the client is gone.
async fn read<S: AsyncRead + Unpin>(socket: &mut S, buffer: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|context| {
        let mut bytes = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        let mut chunk = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *socket).poll_read(context, &mut chunk))?;
        buffer.extend_from_slice(chunk.filled());
        Ok(chunk.filled().len()).into()
    })
    .await
}

/// A session's place in the registry, given up however its task ends.
struct Registered {
    registry: Arc<Registry>,
    handle: Arc<Handle>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.remove(&self.handle);
    }
}

/// A client with a session.
struct Connection<S> {
    socket: S,
    version: Version,
    input: BytesMut,
    out: BytesMut,
    /// For the bridge; emptied after every step.
    items: Vec<FromEdge>,
    session: Session,
    handle: Arc<Handle>,
    registered: Registered,
    /// One and a half times the granted keep-alive [MQTT-3.1.2-24]; zero: none.
    silence_max: Duration,
    last_heard: Instant,
    expires_at: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(socket: S, input: BytesMut, edge: &Edge, identified: Identified) -> Self {
        let Identified {
            mut connect,
            identity,
            connack,
        } = identified;
        let properties = connack.properties.as_deref();
        let newcomer = Newcomer {
            uid: identity.uid,
            // A slice would keep the whole CONNECT alive.
            device: String::from(&*connect.client_id).into(),
            is_nameless: properties.is_some_and(|set| set.assigned_client_identifier.is_some()),
            login: identity.login,
        };
        let outbox = Outbox::new(edge.options.session_queue);
        let handle = edge.registry.add(newcomer, outbox);
        let mut out = BytesMut::new();
        Packet::ConnAck(Box::new(connack)).encode(connect.version, &mut out);
        let left = |time: SystemTime| time.duration_since(SystemTime::now()).unwrap_or_default();
        Connection {
            socket,
            version: connect.version,
            input,
            out,
            items: Vec::new(),
            silence_max: Duration::from_millis(u64::from(connect.keep_alive) * 1500),
            last_heard: Instant::now(),
            expires_at: identity.expires_at.map(|time| Instant::now() + left(time)),
            session: Session::new(handle.clone(), &mut connect, &edge.options),
            registered: Registered {
                registry: edge.registry.clone(),
                handle: handle.clone(),
            },
            handle,
        }
    }

    async fn run(mut self, edge: &Edge) {
        let mut timer = Box::pin(sleep_until(self.deadline()));
        let reason = loop {
            if let Err(reason) = self.step(edge, timer.as_mut()).await {
                break reason;
            }
        };
        debug!(session = self.handle.id, %reason, "session ended");
        drop(self.registered);
        self.session.close(reason, &mut self.items);
        edge.uplinks.push(&mut self.items);
        if let (Version::V5, Some(reason)) = (self.version, reason.reason()) {
            Packet::Disconnect(Disconnect::new(reason)).encode(self.version, &mut self.out);
        }
        say_farewell(&mut self.socket, &self.out).await;
    }

    /// Moves whatever can move without waiting; then writes, or else waits for something to happen.
    async fn step(&mut self, edge: &Edge, mut timer: Pin<&mut Sleep>) -> Result<(), Closed> {
        // First, so that nothing is done any more for a session that has ended.
        if let Some(reason) = self.handle.outbox.closed() {
            return Err(reason);
        }
        let is_open = self.take_packets(edge)?;
        // After the packets, since a PUBACK makes room for the next delivery.
        self.session.on_outbox(&mut self.out, &mut self.items)?;
        self.session.flush_acks(&mut self.items);
        edge.uplinks.push(&mut self.items);
        if !self.out.is_empty() {
            self.write(edge.options.write_timeout).await?;
            if is_open {
                self.listen().await?;
            }
            return self.check_deadline(is_open);
        }
        if !is_open && self.has_room(edge) {
            return Ok(());
        }
        tokio::select! {
            () = self.handle.outbox.filled() => Ok(()),
            outcome = read(&mut self.socket, &mut self.input), if is_open => match outcome {
                Ok(1..) => {
                    self.last_heard = Instant::now();
                    Ok(())
                }
                Ok(0) | Err(_) => Err(Closed::Lost),
            },
            () = edge.uplinks.room(), if !is_open && self.session.has_room() => Ok(()),
            () = timer.as_mut() => {
                if is_open {
                    self.listen().await?;
                }
                self.check_deadline(is_open)?;
                timer.reset(self.deadline());
                Ok(())
            }
        }
    }

    /// Hands complete packets to the session while it, and the way to the bridge, have room; tells whether they still
    /// do. What is not taken stays in `input`, then in the socket, then with the client.
    fn take_packets(&mut self, edge: &Edge) -> Result<bool, Closed> {
        while self.has_room(edge) {
            let packet = decode(self.version, &mut self.input, edge.options.max_packet_size)?;
            let Some(packet) = packet else {
                if self.input.is_empty() {
                    // An idle connection holds no buffer.
                    self.input = BytesMut::new();
                }
                return Ok(true);
            };
            self.session
                .on_packet(packet, &mut self.out, &mut self.items)?;
        }
        Ok(false)
    }

    fn has_room(&self, edge: &Edge) -> bool {
        self.session.has_room() && edge.uplinks.has_room()
    }

    /// Writes `out`. Each time the client takes some of it, it has the full time limit for the rest.
    async fn write(&mut self, limit: Duration) -> Result<(), Closed> {
        while !self.out.is_empty() {
            match timeout(limit, self.socket.write(&self.out)).await {
                Ok(Ok(written @ 1..)) => self.out.advance(written),
                Ok(Ok(0) | Err(_)) => return Err(Closed::Lost),
                Err(_) => return Err(Closed::NotReading),
            }
            if let Some(reason) = self.handle.outbox.closed() {
                return Err(reason);
            }
        }
        self.out = BytesMut::new();
        // TLS and WebSocket take a little more than the socket does, and forget it unless they are asked.
        match timeout(limit, self.socket.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Closed::Lost),
            Err(_) => Err(Closed::NotReading),
        }
    }

    /// Takes what has arrived without waiting for more. A session that always has something to write hears its client
    /// only here.
    async fn listen(&mut self) -> Result<(), Closed> {
        let (socket, input) = (&mut self.socket, &mut self.input);
        let mut reading = pin!(read(socket, input));
        let outcome = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await;
        match outcome {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(1..)) => {
                self.last_heard = Instant::now();
                Ok(())
            }
            Poll::Ready(Ok(0) | Err(_)) => Err(Closed::Lost),
        }
    }

    fn deadline(&self) -> Instant {
        let silence = if self.silence_max.is_zero() {
            NEVER
        } else {
            self.silence_max
        };
        let silent_until = self.last_heard + silence;
        self.expires_at
            .map_or(silent_until, |expiry| expiry.min(silent_until))
    }

    /// The timer is moved only when it fires: packets come far more often.
    fn check_deadline(&mut self, is_open: bool) -> Result<(), Closed> {
        let now = Instant::now();
        if !is_open {
            // Nothing was heard because nothing was read.
            self.last_heard = now;
        }
        if self.expires_at.is_some_and(|expiry| expiry <= now) {
            return Err(Closed::TokenExpired);
        }
        if self.deadline() <= now {
            return Err(Closed::KeepAliveTimeout);
        }
        Ok(())
    }
}
