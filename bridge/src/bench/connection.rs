//! A client's end of an MQTT 3.1.1 connection: bytes in, bytes out, as many at a time as there are.

use std::future::poll_fn;
use std::io;
use std::num::NonZeroU16;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use broker::codec::{
    Connect, DecodeError, Disconnect, Packet, Qos, ReasonCode, RetainHandling, Subscribe,
    SubscribeFilter, Version, decode,
};
use bytes::{Buf as _, BytesMut};
use futures_util::FutureExt as _;
use schema::{Format, Topic};
use tokio::io::AsyncReadExt as _;
use tokio::task::unconstrained;

use super::accounts::Account;
use super::way::{Stream, Way};

/// The client id; a user has only this device.
const DEVICE: &str = "bench";
/// The longest packet that is taken from the server.
const PACKET_MAX: usize = 1024 * 1024;
/// Bytes that are read before they are looked at.
const READ_MAX: usize = 64 * 1024;
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
}

/// See the module's documentation. `format` is that of the subscription.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    inbox: BytesMut,
    /// What [`flush`](Self::flush) is to write.
    pub(super) out: BytesMut,
    pub(super) format: Format,
}

impl Connection {
    /// Connects with the access token, as the `index`th of all, and subscribes to the user's down topic.
    pub(super) async fn open(
        way: &Way,
        index: u32,
        account: &Account,
        format: Format,
    ) -> anyhow::Result<Connection> {
        let opening = async {
            let mut connection = Self::connect(way, index, account, format).await?;
            connection.subscribe(account).await?;
            anyhow::Ok(connection)
        };
        in_time(opening).await
    }

    /// Connects with the access token only.
    pub(super) async fn log_in(
        way: &Way,
        index: u32,
        account: &Account,
    ) -> anyhow::Result<Connection> {
        in_time(Self::connect(way, index, account, Format::Protobuf)).await
    }

    async fn connect(
        way: &Way,
        index: u32,
        account: &Account,
        format: Format,
    ) -> anyhow::Result<Connection> {
        let mut connection = Connection {
            stream: way.open(index).await?,
            inbox: BytesMut::new(),
            out: BytesMut::new(),
            format,
        };
        connection.say_connect(account).await?;
        Ok(connection)
    }

    async fn say_connect(&mut self, account: &Account) -> anyhow::Result<()> {
        let connect = Connect {
            version: Version::V4,
            client_id: DEVICE.into(),
            // None: the run itself tells soon enough whether the server is there.
            keep_alive: 0,
            clean_start: true,
            username: Some(account.uid.as_str().into()),
            password: Some(account.token.clone().into()),
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

    /// Subscribes to the user's down topic; for one that has only logged in.
    pub(super) async fn subscribe(&mut self, account: &Account) -> anyhow::Result<()> {
        let filter = SubscribeFilter {
            filter: Topic::down(self.format, &account.uid).into(),
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::default(),
        };
        let subscribe = Subscribe {
            packet_id: NonZeroU16::MIN,
            filters: vec![filter],
            subscription_identifier: None,
            user_properties: Vec::new(),
        };
        match self.ask(Packet::Subscribe(subscribe)).await? {
            Packet::SubAck(suback) => {
                let reasons = suback.reasons;
                ensure!(reasons == [ReasonCode::GrantedQos1], "SUBACK {reasons:?}");
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
        let goodbye = Disconnect {
            reason: ReasonCode::Success,
            properties: None,
        };
        Packet::Disconnect(goodbye).encode(Version::V4, &mut self.out);
        let closing = async { while self.exchange().await.is_ok() {} };
        // Then it is closed from here.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
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
            self.inbox.reserve(READ_MAX / 2);
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

async fn in_time(
    opening: impl Future<Output = anyhow::Result<Connection>>,
) -> anyhow::Result<Connection> {
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
    opened.context("the server did not answer in time")?
}
