//! A client's end of an MQTT 3.1.1 connection: bytes in, bytes out, as many at a time as there are.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::num::NonZeroU16;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use broker::codec::{
    AckKind, Connect, DecodeError, Disconnect, Packet, Qos, ReasonCode, RetainHandling, Subscribe,
    SubscribeFilter, Version, decode, encode_ack,
};
use bytes::{Buf as _, BytesMut};
use futures_util::FutureExt as _;
use schema::{Format, Topic};
use tokio::io::AsyncReadExt as _;
use tokio::task::{JoinSet, unconstrained};

use super::accounts::Account;
use super::incoming::{self, Incoming, PACKET_MAX};
use super::progress::Progress;
use super::way::{Stream, Way};

/// The client id; a user has only this device.
const DEVICE: &str = "bench";
/// Bytes that are read before they are looked at.
const READ_MAX: usize = 64 * 1024;
/// Room for a first read; most find little.
const READ_MIN: usize = 4 * 1024;
/// Connections that are opened at the same time.
const OPENING_MAX: usize = 32;
/// How long the server may take to let a client in.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to close after a DISCONNECT.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server sent what is not MQTT: {0}")]
    Protocol(#[from] DecodeError),
    #[error("a new connection failed: {0:#}")]
    NotReopened(anyhow::Error),
}

/// How a client presents itself, and what it subscribes to.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    client_id: String,
    /// The name and the token of a user; none: the server asks nobody who it is.
    user: Option<(String, String)>,
    filters: Vec<(String, Qos)>,
}

impl Entry {
    /// Of a user of Tidings.
    pub(super) fn of_user(account: &Account, filters: Vec<(String, Qos)>) -> Entry {
        Entry {
            client_id: DEVICE.to_owned(),
            user: Some((account.uid.to_string(), account.token.clone())),
            filters,
        }
    }

    /// Of a user who wants what a chat client wants.
    pub(super) fn of_chat(account: &Account, format: Format) -> Entry {
        let down = Topic::down(format, &account.uid);
        Self::of_user(account, vec![(down, Qos::AtLeastOnce)])
    }

    /// Of such users.
    pub(super) fn of_chats(accounts: &[Account], format: Format) -> Vec<Entry> {
        let accounts = accounts.iter();
        accounts
            .map(|account| Self::of_chat(account, format))
            .collect()
    }

    /// Of someone whom the server does not know.
    pub(super) fn of_stranger(client_id: String, filters: Vec<(String, Qos)>) -> Entry {
        Entry {
            client_id,
            user: None,
            filters,
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(uid, _)| uid);
        f.write_str(user.unwrap_or(&self.client_id))
    }
}

/// See the module's documentation.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    inbox: BytesMut,
    /// What [`flush`](Self::flush) is to write.
    pub(super) out: BytesMut,
}

impl Connection {
    /// Connects as the `index`th of all, and subscribes.
    pub(super) async fn open(way: &Way, index: u32, entry: &Entry) -> anyhow::Result<Connection> {
        in_time(async {
            let mut connection = Connection {
                stream: way.open(index).await?,
                inbox: BytesMut::new(),
                out: BytesMut::new(),
            };
            connection.say_connect(entry).await?;
            if !entry.filters.is_empty() {
                connection.subscribe(entry).await?;
            }
            Ok(connection)
        })
        .await
    }

    /// Connects with the access token only.
    pub(super) async fn log_in(
        way: &Way,
        index: u32,
        account: &Account,
    ) -> anyhow::Result<Connection> {
        Self::open(way, index, &Entry::of_user(account, Vec::new())).await
    }

    async fn say_connect(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let (username, password) = entry.user.clone().unzip();
        let connect = Connect {
            version: Version::V4,
            client_id: entry.client_id.as_str().into(),
            // None: the run itself tells soon enough whether the server is there. There are brokers that want one.
            keep_alive: if entry.user.is_some() { 0 } else { u16::MAX },
            clean_start: true,
            username: username.map(Into::into),
            password: password.map(Into::into),
            will: None,
            properties: None,
        };
        match self.ask(Packet::Connect(Box::new(connect))).await? {
            Packet::ConnAck(connack) => {
                ensure!(
                    connack.reason == ReasonCode::Success,
                    "{:?}",
                    connack.reason
                );
                Ok(())
            }
            other => bail!("{:?} instead of CONNACK", other.packet_type()),
        }
    }

    /// For one that has only logged in.
    pub(super) async fn subscribe(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let filter = |(filter, qos): &(String, Qos)| SubscribeFilter {
            filter: filter.as_str().into(),
            qos: *qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::default(),
        };
        let subscribe = Subscribe {
            packet_id: NonZeroU16::MIN,
            filters: entry.filters.iter().map(filter).collect(),
            subscription_identifier: None,
            user_properties: Vec::new(),
        };
        match self.ask(Packet::Subscribe(subscribe)).await? {
            Packet::SubAck(suback) => {
                let reasons = suback.reasons;
                let is_granted = |((_, qos), reason): (&(String, Qos), &ReasonCode)| match qos {
                    Qos::AtMostOnce => *reason == ReasonCode::Success,
                    _ => *reason == ReasonCode::GrantedQos1,
                };
                let is_right = entry.filters.iter().zip(&reasons).all(is_granted);
                ensure!(is_right, "SUBACK {reasons:?}");
                Ok(())
            }
            other => bail!("{:?} instead of SUBACK", other.packet_type()),
        }
    }

    async fn ask(&mut self, packet: Packet) -> Result<Packet, Broken> {
        packet.encode(Version::V4, &mut self.out);
        loop {
            if let Some(answer) = self.next()? {
                return Ok(answer);
            }
            self.flush()?;
            self.exchange().await?;
        }
    }

    /// Says DISCONNECT, and waits until the server has closed: then it is the one that has to remember the port.
    pub(super) async fn close(mut self) {
        self.say_goodbye();
        let closing = async { while self.exchange().await.is_ok() {} };
        // Then it is closed from here.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }

    /// Appends a DISCONNECT to what is to be written.
    pub(super) fn say_goodbye(&mut self) {
        let goodbye = Disconnect {
            reason: ReasonCode::Success,
            properties: None,
        };
        Packet::Disconnect(goodbye).encode(Version::V4, &mut self.out);
    }

    /// Closes it without a word, and without waiting.
    pub(super) fn disconnect(&mut self) {
        self.stream = Box::new(tokio::io::empty());
    }

    /// Whether the server has not closed, and said nothing.
    pub(super) fn is_open(&mut self) -> bool {
        // Many are asked without a pause: tokio would say "later" for the sake of others.
        let read = unconstrained(self.stream.read_u8());
        read.now_or_never().is_none()
    }

    /// The next packet of what has been read.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, Broken> {
        Ok(decode(Version::V4, &mut self.inbox, PACKET_MAX)?)
    }

    /// Hands what has been read to `take`, packet by packet, along with where to write.
    pub(super) fn take_packets(
        &mut self,
        mut take: impl FnMut(Incoming<'_>, &mut BytesMut),
    ) -> Result<(), Broken> {
        let mut rest = &self.inbox[..];
        while let Some(packet) = incoming::next(&mut rest)? {
            take(packet, &mut self.out);
        }
        let taken = self.inbox.len() - rest.len();
        self.inbox.advance(taken);
        Ok(())
    }

    /// Writes as much as the stream takes now.
    pub(super) fn flush(&mut self) -> Result<(), Broken> {
        let flushed = poll_fn(|context| self.poll_flush(context)).now_or_never();
        flushed.unwrap_or(Ok(()))
    }

    /// Waits until there is something to read, and reads what is there; goes on writing meanwhile. May be dropped at
    /// any time: what was read or written before has happened, the rest has not.
    pub(super) async fn exchange(&mut self) -> Result<(), Broken> {
        poll_fn(|context| {
            if let Poll::Ready(Err(error)) = self.poll_flush(context) {
                return Poll::Ready(Err(error));
            }
            self.poll_read(context)
        })
        .await
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.out.is_empty() {
            match Pin::new(&mut *self.stream).poll_write(context, &self.out) {
                Poll::Ready(Ok(written @ 1..)) => self.out.advance(written),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Broken::Closed)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let before = self.inbox.len();
        while self.inbox.len() < before + READ_MAX {
            self.inbox.reserve(READ_MIN);
            let room = self.inbox.capacity() - self.inbox.len();
            match pin!(self.stream.read_buf(&mut self.inbox)).poll(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Broken::Closed)),
                // The stream had no more than that.
                Poll::Ready(Ok(read)) if read < room => break,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => break,
            }
        }
        if self.inbox.len() > before {
            return Poll::Ready(Ok(()));
        }
        if self.inbox.is_empty() {
            // There may be many that wait.
            self.inbox = BytesMut::new();
        }
        Poll::Pending
    }
}

/// Connects and subscribes everyone; the result has the order of the entries.
pub(super) async fn open_all(
    way: &Way,
    entries: &[Entry],
    progress: &Progress,
) -> anyhow::Result<Vec<Connection>> {
    let stage = progress.count("connecting", entries.len() as u64);
    let mut opening = JoinSet::new();
    let mut opened = Vec::with_capacity(entries.len());
    for (index, entry) in (0..).zip(entries.iter().cloned()) {
        if opening.len() == OPENING_MAX {
            opened.extend(opening.join_next().await.transpose()?);
            stage.advance(1);
        }
        let way = way.clone();
        opening.spawn(async move {
            let connection = Connection::open(&way, index, &entry).await;
            let context = || format!("connecting {entry}");
            (index, connection.with_context(context))
        });
    }
    opened.extend(opening.join_all().await);
    opened.sort_unstable_by_key(|(index, _)| *index);
    let connections = opened.into_iter().map(|(_, connection)| connection);
    connections.collect()
}

/// Appends the PUBACK of what came with this packet id.
pub(super) fn acknowledge(out: &mut BytesMut, packet_id: NonZeroU16) {
    let success = ReasonCode::Success;
    encode_ack(AckKind::PubAck, Version::V4, out, packet_id, success);
}

async fn in_time(
    opening: impl Future<Output = anyhow::Result<Connection>>,
) -> anyhow::Result<Connection> {
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
    opened.context("the server did not answer in time")?
}
