//! One socket: reads packets into the session, writes what the session has to say.
//!
//! A client before CONNECT is only a socket and a time limit; [`identify`] tells who it is.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BytesMut};
use schema::link::FromEdge;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::closed::Closed;
use crate::codec::{
    ConnAck, Disconnect, DisconnectProperties, Packet, PacketType, ReasonCode, Version, decode,
};
use crate::edge::Edge;
use crate::outbox::Outbox;
use crate::peer::Peer;
use crate::registry::{Handle, Registry};
use crate::session::Session;
use crate::throttle::Throttle;

mod identify;

use identify::{Identified, identify};

/// Bytes read at once. The buffer is on the stack while reading, so that an idle connection has none.
const READ_BYTES: usize = 8 * 1024;
/// Publishes, and what costs as much, that are taken before their rate is looked at.
const PUBLISHES_PAID_AT_ONCE: u32 = 16;
/// How long the last packet may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes that a client may still send after its last packet was answered.
const HEAR_OUT_MAX: usize = 1024 * 1024;
/// A deadline that is never reached, for keep-alive 0.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Serves a client from its first byte to its last. Who it is has to be known at `deadline`.
///
/// Each phase has a place on the heap for as long as it lasts: an idle connection holds no more than idling needs.
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
    let identified = {
        let identifying = identify(&mut socket, peer, &mut input, edge);
        let identifying = Box::pin(timeout_at(deadline, identifying));
        tokio::select! {
            () = stop.cancelled() => return,
            identified = identifying => identified,
        }
    };
    let Ok(Some(identified)) = identified else {
        return;
    };
    let opening = Connection::open(socket, input, edge, stop, identified);
    let mut connection = Box::pin(opening).await;
    let reason = Box::pin(connection.run(edge)).await;
    Box::pin(connection.end(reason, edge)).await;
}

/// Reads what the client still sends, and throws it away: closing a socket with something unread would take the last
/// packet back from the client.
async fn hear_out<S: AsyncRead + Unpin>(socket: &mut S) {
    let hear = async {
        let mut buffer = BytesMut::new();
        let mut heard = 0;
        while heard < HEAR_OUT_MAX
            && let Ok(read @ 1..) = read(socket, &mut buffer).await
        {
            heard += read;
            buffer.clear();
        }
    };
    // Whether the client closes or not, it has had its time.
    let _ = timeout(FAREWELL, hear).await;
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

/// Writes some of `out`, or where nothing is left makes sure that it leaves: TLS and WebSocket take a little more than the
/// socket does, and forget it unless they are asked. Tells whether that is done.
async fn push<S: AsyncWrite + Unpin>(socket: &mut S, out: &mut BytesMut) -> io::Result<bool> {
    if out.is_empty() {
        socket.flush().await?;
        return Ok(true);
    }
    let written = socket.write(out).await?;
    out.advance(written);
    match written {
        0 => Err(io::ErrorKind::WriteZero.into()),
        _ => Ok(false),
    }
}

/// A session's place in the registry, given up however its task ends.
struct Registered {
    registry: Arc<Registry>,
    handle: Arc<Handle>,
    reason: Closed,
}

impl Registered {
    /// What outlives the session is in its place.
    fn leave(mut self, reason: Closed) {
        self.reason = reason;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.remove(&self.handle, self.reason);
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
    throttle: Throttle,
    /// One and a half times the granted keep-alive [MQTT-3.1.2-24]; zero: none.
    silence_max: Duration,
    last_heard: Instant,
    expires_at: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Puts the client into the registry, takes up what an earlier session has left, and prepares CONNACK.
    async fn open(
        socket: S,
        input: BytesMut,
        edge: &Edge,
        stop: &CancellationToken,
        identified: Box<Identified>,
    ) -> Box<Self> {
        let Identified {
            who,
            mut connect,
            identity,
            connack,
        } = *identified;
        let outbox = Outbox::new(edge.options.session_queue, who.is_nameless);
        let (handle, earlier) = edge.registry.add(who, outbox);
        let registered = Registered {
            registry: edge.registry.clone(),
            handle: handle.clone(),
            reason: Closed::Lost,
        };
        if let Some(earlier) = earlier {
            // It lets go as soon as its task runs: nothing that it waits for is waited for when it has to close.
            earlier.departed().await;
        }
        // No waiting from here on, so that what is taken is not lost on the way.
        let lasting = edge.take_up(&handle, connect.clean_start);
        let mut out = BytesMut::new();
        let connack = ConnAck {
            session_present: lasting.is_some(),
            reason: ReasonCode::Success,
            properties: Some(Box::new(connack)),
        };
        let connack = Packet::ConnAck(Box::new(connack));
        connack.encode(connect.version, &mut out);
        edge.stats.opened(handle.door);
        let left = |time: SystemTime| time.duration_since(SystemTime::now()).unwrap_or_default();
        let mut session = Session::new(
            handle.clone(),
            edge.exchange.clone(),
            &mut connect,
            &edge.options,
            lasting.unwrap_or_default(),
        );
        let mut items = Vec::new();
        session.resume(&mut items);
        // Whoever is thrown out, or told that the server stops, from now on can be found.
        if edge.authenticate.is_revoked(&identity) {
            handle.outbox.close(Closed::Kicked);
        }
        if let Some(reason) = edge.moving.refusal() {
            handle.outbox.drain(Closed::Moved(reason));
        }
        if stop.is_cancelled() {
            handle.outbox.close(Closed::ServerShutdown);
        }
        Box::new(Connection {
            socket,
            version: connect.version,
            input,
            out,
            items,
            silence_max: Duration::from_millis(u64::from(connect.keep_alive) * 1500),
            last_heard: Instant::now(),
            expires_at: identity.expires_at.map(|time| Instant::now() + left(time)),
            throttle: Throttle::new(edge.options.rate),
            session,
            registered,
            handle,
        })
    }

    /// Runs until the session has a reason to end.
    async fn run(&mut self, edge: &Edge) -> Closed {
        let mut timer = Box::pin(sleep_until(self.deadline()));
        loop {
            if let Err(reason) = self.step(edge, timer.as_mut()).await {
                return reason;
            }
        }
    }

    /// Leaves everything in order, and says goodbye.
    async fn end(mut self, reason: Closed, edge: &Edge) {
        debug!(session = self.handle.id, %reason, "session ended");
        if let Some(parked) = self.session.close(reason, &mut self.items) {
            edge.park(parked);
            // Thrown out, or taken over elsewhere, while it was leaving by itself.
            let (uid, device) = (&self.handle.uid, &self.handle.device);
            match self.handle.outbox.check() {
                Err(Closed::Kicked) => {
                    if let Some(parked) = edge.parking.take(uid, device) {
                        edge.throw_out(parked);
                    }
                }
                Err(Closed::TakenElsewhere { is_clean }) => {
                    let is_itself = |handle: &Handle| handle.id == self.handle.id;
                    edge.leave_to_others(uid.as_str(), device, is_clean, is_itself);
                }
                _ => {}
            }
        }
        edge.bridges.tell(&self.handle, &mut self.items);
        self.registered.leave(reason);
        edge.stats.closed(self.handle.door, reason);
        if let (Version::V5, Some(reason)) = (self.version, reason.reason()) {
            let mut goodbye = BytesMut::new();
            let server_reference = edge.moving.reference(reason);
            let properties = server_reference.map(|reference| {
                Box::new(DisconnectProperties {
                    server_reference: Some(reference),
                    ..Default::default()
                })
            });
            let disconnect = Packet::Disconnect(Disconnect { reason, properties });
            disconnect.encode(self.version, &mut goodbye);
            edge.stats.sent(&goodbye);
            self.out.unsplit(goodbye);
        }
        say_farewell(&mut self.socket, &self.out).await;
        if reason.reason().is_some() && reason != Closed::ServerShutdown {
            hear_out(&mut self.socket).await;
        }
    }

    /// Moves whatever can move without waiting; then writes, or else waits for something to happen.
    async fn step(&mut self, edge: &Edge, mut timer: Pin<&mut Sleep>) -> Result<(), Closed> {
        // First, so that nothing is done any more for a session that has ended.
        let leaving = self.handle.outbox.check()?;
        let is_draining = leaving.is_some();
        let is_open =
            !is_draining && self.throttle.settle(&edge.stats)? && self.take_packets(edge)?;
        // After the packets, since a PUBACK makes room for the next delivery.
        self.session.on_outbox(&mut self.out, &mut self.items)?;
        self.session.flush_acks(&mut self.items);
        edge.bridges.tell(&self.handle, &mut self.items);
        if !self.out.is_empty() {
            edge.stats.sent(&self.out);
            self.write(edge.options.write_timeout).await?;
            if is_open {
                self.listen().await?;
            }
            return self.check_deadline(is_open);
        }
        if let Some(reason) = leaving
            && self.session.is_settled()
        {
            return Err(reason);
        }
        let slowed_until = self.throttle.until().filter(|_| !is_draining);
        let is_blocked = !is_open && slowed_until.is_none() && !is_draining;
        if is_blocked && self.has_room(edge) {
            return Ok(());
        }
        tokio::select! {
            () = self.handle.outbox.filled() => Ok(()),
            outcome = read(&mut self.socket, &mut self.input), if is_open => self.heard(&outcome),
            () = self.handle.bridge.room(), if is_blocked && self.session.has_room() => Ok(()),
            () = sleep_until(slowed_until.unwrap_or_else(Instant::now)), if slowed_until.is_some() => Ok(()),
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

    fn heard(&mut self, outcome: &io::Result<usize>) -> Result<(), Closed> {
        match outcome {
            Ok(bytes @ 1..) => {
                self.last_heard = Instant::now();
                self.throttle.charge_bytes(*bytes);
                Ok(())
            }
            Ok(0) | Err(_) => Err(Closed::Lost),
        }
    }

    /// Hands complete packets to the session while it, and the way to the bridge, have room; tells whether they still
    /// do. What is not taken stays in `input`, then in the socket, then with the client.
    fn take_packets(&mut self, edge: &Edge) -> Result<bool, Closed> {
        let mut publishes = 0;
        let is_open = loop {
            if !self.has_room(edge) {
                break false;
            }
            if publishes >= PUBLISHES_PAID_AT_ONCE {
                self.throttle
                    .charge_publishes(std::mem::take(&mut publishes));
                if !self.throttle.settle(&edge.stats)? {
                    return Ok(false);
                }
            }
            let length = self.input.len();
            let packet = decode(self.version, &mut self.input, edge.options.max_packet_size)?;
            let Some(packet) = packet else {
                if self.input.is_empty() {
                    // An idle connection holds no buffer.
                    self.input = BytesMut::new();
                }
                break true;
            };
            let kind = packet.packet_type();
            edge.stats.received(kind, length - self.input.len());
            publishes += u32::from(kind == PacketType::Publish);
            self.session
                .on_packet(packet, &mut self.out, &mut self.items)?;
            publishes += self.session.take_cost();
        };
        if publishes > 0 {
            self.throttle.charge_publishes(publishes);
        }
        Ok(is_open)
    }

    fn has_room(&self, edge: &Edge) -> bool {
        self.session.has_room() && edge.bridges.has_room(&self.handle)
    }

    /// Writes `out`. Each time the client takes some of it, it has the full time limit for the rest.
    async fn write(&mut self, limit: Duration) -> Result<(), Closed> {
        let mut deadline = Instant::now() + limit;
        loop {
            tokio::select! {
                pushed = timeout_at(deadline, push(&mut self.socket, &mut self.out)) => match pushed {
                    Ok(Ok(true)) => break,
                    Ok(Ok(false)) => deadline = Instant::now() + limit,
                    Ok(Err(_)) => return Err(Closed::Lost),
                    Err(_) => return Err(Closed::NotReading),
                },
                // Whatever else it was is looked at in the next step.
                () = self.handle.outbox.filled() => {}
            }
            self.handle.outbox.check()?;
        }
        self.out = BytesMut::new();
        Ok(())
    }

    /// Takes what has arrived without waiting for more. A session that always has something to write hears its client
    /// only here.
    async fn listen(&mut self) -> Result<(), Closed> {
        let outcome = {
            let mut reading = pin!(read(&mut self.socket, &mut self.input));
            poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await
        };
        match outcome {
            Poll::Pending => Ok(()),
            Poll::Ready(outcome) => self.heard(&outcome),
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
