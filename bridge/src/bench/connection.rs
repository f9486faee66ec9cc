//! A client's end of an MQTT 3.1.1 connection: bytes in, bytes out, as many at a time as there are.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use broker::codec::{
    Connect, DecodeError, Disconnect, Packet, Qos, ReasonCode, RetainHandling, Subscribe,
    SubscribeFilter, Version, decode,
};
use bytes::{Buf as _, BytesMut};
use schema::{Format, Topic};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

use super::accounts::Account;

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
    stream: TcpStream,
    inbox: BytesMut,
    /// What [`flush`](Self::flush) is to write.
    pub(super) out: BytesMut,
    pub(super) format: Format,
}

impl Connection {
    /// Connects with the access token, and subscribes to the user's down topic.
    pub(super) async fn open(
        address: &str,
        account: &Account,
        format: Format,
        source: Option<IpAddr>,
    ) -> anyhow::Result<Connection> {
        let opening = async {
            let mut connection = Self::connect(address, account, format, source).await?;
            connection.subscribe(account).await?;
            anyhow::Ok(connection)
        };
        in_time(opening).await
    }

    /// Connects with the access token only.
    pub(super) async fn log_in(
        address: &str,
        account: &Account,
        source: Option<IpAddr>,
    ) -> anyhow::Result<Connection> {
        in_time(Self::connect(address, account, Format::Protobuf, source)).await
    }

    async fn connect(
        address: &str,
        account: &Account,
        format: Format,
        source: Option<IpAddr>,
    ) -> anyhow::Result<Connection> {
        let stream = match source {
            None => TcpStream::connect(address).await?,
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind((source, 0).into())?;
                socket.connect(address.parse()?).await?
            }
        };
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            stream,
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

    async fn subscribe(&mut self, account: &Account) -> anyhow::Result<()> {
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
    pub(super) fn is_open(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The next packet of what has been read.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, Broken> {
        Ok(decode(Version::V4, &mut self.inbox, PACKET_MAX)?)
    }

    /// Writes as much as the socket takes now.
    pub(super) fn flush(&mut self) -> Result<(), Broken> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(written) => self.out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until there is something to read, and reads what is there; goes on writing meanwhile. May be dropped at
    /// any time: what was read or written before has happened, the rest has not.
    pub(super) async fn exchange(&mut self) -> Result<(), Broken> {
        loop {
            let interest = if self.out.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = self.stream.ready(interest).await?;
            if ready.is_writable() {
                self.flush()?;
            }
            if ready.is_readable() && self.read_waiting()? {
                return Ok(());
            }
        }
    }

    /// Tells whether anything was there.
    fn read_waiting(&mut self) -> Result<bool, Broken> {
        let before = self.inbox.len();
        while self.inbox.len() < before + READ_MAX {
            self.inbox.reserve(READ_MAX / 2);
            let room = self.inbox.capacity() - self.inbox.len();
            match self.stream.try_read_buf(&mut self.inbox) {
                Ok(0) => return Err(Broken::Closed),
                // The socket had no more than that.
                Ok(read) if read < room => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.inbox.len() > before)
    }
}

async fn in_time(
    opening: impl Future<Output = anyhow::Result<Connection>>,
) -> anyhow::Result<Connection> {
    let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await;
    opened.context("the server did not answer in time")?
}
