//! A device that uses plain topics: one MQTT connection whose every packet the test can see and choose.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::link::{Acks, Version};
use crate::raw::{NARROW_BYTES, PINGREQ_PACKET, read_packet};
use crate::tunnel::Tunnel;
use crate::wait::PATIENCE;
use crate::wire::{
    self, Ack, AckKind, ConnAck, Connect, Packet, Properties, Property, Publish, id,
};

/// Seconds for which [`Builder::kept`] asks to keep the session.
const KEPT_SECS: u32 = 3600;

/// A device that is still to connect.
#[derive(Clone, Debug)]
pub struct Builder {
    address: SocketAddr,
    /// The device's own address; `None`: any.
    from: Option<IpAddr>,
    /// Whether its socket holds little that it has not read.
    is_narrow: bool,
    /// What stands before the CONNECT.
    preamble: Vec<u8>,
    connect: Connect,
    acks: Acks,
}

/// A connected device.
#[derive(Debug)]
pub struct Device {
    name: String,
    version: Version,
    stream: BufReader<TcpStream>,
    /// How it was let in.
    pub connack: ConnAck,
    acks: Acks,
    last_packet_id: u16,
    /// What has come and nobody has asked for.
    inbox: VecDeque<Publish>,
    /// QoS 2 publishes that wait for their PUBREL.
    unreleased: Vec<u16>,
    end: Option<End>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server said DISCONNECT with this reason (MQTT 5).
    Disconnect(u8),
    /// It just closed.
    Closed,
}

// === impl Builder ===

impl Builder {
    pub(crate) fn new(address: SocketAddr, login: Option<(&str, &str)>) -> Self {
        let uid = login.map(|(uid, _)| uid.to_owned());
        Builder {
            address,
            from: None,
            is_narrow: false,
            preamble: Vec::new(),
            connect: Connect {
                version: Version::V4,
                client_id: format!("{}-device", uid.as_deref().unwrap_or("stranger")),
                username: uid,
                password: login.map(|(_, password)| password.into()),
                clean: true,
                keep_alive_secs: 60,
                will: None,
                properties: Properties::default(),
            },
            acks: Acks::Automatic,
        }
    }

    /// Its client id.
    pub fn id(mut self, client_id: &str) -> Self {
        self.connect.client_id = client_id.into();
        self
    }

    /// MQTT 5 instead of 3.1.1.
    pub fn v5(self) -> Self {
        self.version(Version::V5)
    }

    pub fn version(mut self, version: Version) -> Self {
        self.connect.version = version;
        self
    }

    /// Another password, or a token.
    pub fn password(mut self, password: &str) -> Self {
        self.connect.password = Some(password.into());
        self
    }

    /// Without a password, for whom a certificate speaks.
    pub fn no_password(mut self) -> Self {
        self.connect.password = None;
        self
    }

    /// A session that outlives the connection by an hour, and goes on if there is one.
    pub fn kept(self) -> Self {
        match self.connect.version {
            Version::V4 => self.unclean(),
            Version::V5 => self.unclean().expiry(KEPT_SECS),
        }
    }

    /// Goes on with the session that there is. (In MQTT 5 it ends with the connection.)
    pub fn unclean(mut self) -> Self {
        self.connect.clean = false;
        self
    }

    /// MQTT 5: the Session Expiry Interval.
    pub fn expiry(self, secs: u32) -> Self {
        self.property(Property::Four(id::SESSION_EXPIRY, secs))
    }

    /// MQTT 5: one more property of the CONNECT.
    pub fn property(mut self, property: Property) -> Self {
        self.connect.properties.0.push(property);
        self
    }

    pub fn keep_alive(mut self, secs: u16) -> Self {
        self.connect.keep_alive_secs = secs;
        self
    }

    /// A last will.
    pub fn will(mut self, will: Publish) -> Self {
        self.connect.will = Some(will);
        self
    }

    /// Acknowledges nothing by itself.
    pub fn manual_acks(mut self) -> Self {
        self.acks = Acks::ByTest;
        self
    }

    /// From this address of the loopback.
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// With a socket whose buffer does not grow: what is not read stays with the server.
    pub fn narrow(mut self) -> Self {
        self.is_narrow = true;
        self
    }

    /// Bytes before the CONNECT, such as a PROXY header.
    pub fn preamble(mut self, bytes: &[u8]) -> Self {
        self.preamble = bytes.into();
        self
    }

    /// Not to the server itself, but into a tunnel that leads there.
    pub fn through(mut self, tunnel: &Tunnel) -> Self {
        self.address = tunnel.address();
        self
    }

    /// Connects.
    pub async fn connect(self) -> Result<Device> {
        let name = self.to_string();
        let device = self.ask().await?;
        let reason = device.connack.reason;
        ensure!(reason == 0, "{name} was refused: CONNACK {reason:#04x}");
        Ok(device)
    }

    /// Expects to be refused; returns the code in the CONNACK.
    pub async fn refused(self) -> Result<u8> {
        let name = self.to_string();
        let device = self.ask().await?;
        ensure!(device.connack.reason != 0, "{name} was let in");
        Ok(device.connack.reason)
    }

    /// Connects, and waits for the CONNACK, whatever it says.
    pub async fn ask(self) -> Result<Device> {
        let name = self.to_string();
        let asking = async {
            let mut device = Device {
                name: name.clone(),
                version: self.connect.version,
                stream: BufReader::new(self.open().await?),
                connack: ConnAck::default(),
                acks: self.acks,
                last_packet_id: 0,
                inbox: VecDeque::new(),
                unreleased: Vec::new(),
                end: None,
            };
            let bytes = [self.preamble, self.connect.packet()].concat();
            device.stream.write_all(&bytes).await?;
            match device.read().await? {
                Some(Packet::ConnAck(connack)) => device.connack = connack,
                other => bail!("{other:?} instead of CONNACK"),
            }
            Ok(device)
        };
        timeout(PATIENCE, asking)
            .await
            .unwrap_or_else(|_| bail!("nothing within {PATIENCE:?}"))
            .with_context(|| format!("connecting {name}"))
    }

    async fn open(&self) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        if self.is_narrow {
            socket.set_recv_buffer_size(NARROW_BYTES)?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl fmt::Display for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connect = &self.connect;
        let user = connect.username.as_deref().unwrap_or("nobody");
        write!(f, "{user}'s {} ({:?})", connect.client_id, connect.version)
    }
}

// === impl Device ===

impl Device {
    // --- saying ---

    /// Subscribes; returns the code in the SUBACK.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> Result<u8> {
        let none = Properties::default();
        let codes = self.subscribe_all(&[(filter, options)], &none).await?;
        ensure!(codes.len() == 1, "one filter, and {codes:02x?}");
        Ok(codes[0])
    }

    /// Subscribes with a Subscription Identifier.
    pub async fn subscribe_as(&mut self, filter: &str, options: u8, number: u32) -> Result<u8> {
        let property = Property::Varint(id::SUBSCRIPTION_ID, number);
        let properties = Properties(vec![property]);
        let codes = self
            .subscribe_all(&[(filter, options)], &properties)
            .await?;
        ensure!(codes.len() == 1, "one filter, and {codes:02x?}");
        Ok(codes[0])
    }

    /// Subscribes to filters with their options (3.8.3.1); returns the codes in the SUBACK.
    pub async fn subscribe_all(
        &mut self,
        filters: &[(&str, u8)],
        properties: &Properties,
    ) -> Result<Vec<u8>> {
        let packet_id = self.packet_id();
        let subscribe = wire::subscribe(self.version, packet_id, filters, properties);
        self.send(&subscribe).await?;
        self.wait("a SUBACK", |packet| match packet {
            Packet::SubAck {
                packet_id: id,
                codes,
            } if *id == packet_id => Some(codes.clone()),
            _ => None,
        })
        .await
    }

    /// Unsubscribes; returns the code in the UNSUBACK, 0 in MQTT 3.1.1.
    pub async fn unsubscribe(&mut self, filter: &str) -> Result<u8> {
        let packet_id = self.packet_id();
        let unsubscribe = wire::unsubscribe(self.version, packet_id, filter);
        self.send(&unsubscribe).await?;
        self.wait("an UNSUBACK", |packet| match packet {
            Packet::UnsubAck {
                packet_id: id,
                codes,
            } if *id == packet_id => Some(codes.first().copied().unwrap_or(0)),
            _ => None,
        })
        .await
    }

    /// Publishes, and waits until that is over; returns the reason in the last acknowledgement (0 at QoS 0).
    pub async fn publish(&mut self, topic: &str, payload: &str, qos: u8) -> Result<u8> {
        self.put(Publish::new(topic, payload, qos)).await
    }

    /// The same with all that a PUBLISH can say.
    pub async fn put(&mut self, publish: Publish) -> Result<u8> {
        let qos = publish.qos;
        let packet_id = self.start(publish).await?;
        match qos {
            0 => Ok(0),
            1 => self.ack(AckKind::PubAck, packet_id).await,
            _ => self.finish(packet_id).await,
        }
    }

    /// Publishes without waiting; returns the packet id.
    pub async fn start(&mut self, mut publish: Publish) -> Result<u16> {
        if publish.qos > 0 {
            publish.packet_id = self.packet_id();
        }
        self.send(&publish.packet(self.version)).await?;
        Ok(publish.packet_id)
    }

    /// The rest of a QoS 2 publish after its PUBLISH.
    async fn finish(&mut self, packet_id: u16) -> Result<u8> {
        let reason = self.ack(AckKind::PubRec, packet_id).await?;
        if reason >= 0x80 {
            return Ok(reason);
        }
        self.say_ack(AckKind::PubRel, packet_id).await?;
        self.ack(AckKind::PubComp, packet_id).await
    }

    /// Waits for an acknowledgement; returns its reason.
    pub async fn ack(&mut self, kind: AckKind, packet_id: u16) -> Result<u8> {
        let what = format!("{kind:?} {packet_id}");
        self.wait(&what, |packet| match packet {
            Packet::Ack(ack) if (ack.kind, ack.packet_id) == (kind, packet_id) => Some(ack.reason),
            _ => None,
        })
        .await
    }

    /// Sends an acknowledgement.
    pub async fn say_ack(&mut self, kind: AckKind, packet_id: u16) -> Result<()> {
        let ack = Ack {
            kind,
            packet_id,
            reason: 0,
        };
        self.send(&ack.packet()).await
    }

    /// Writes bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(())
    }

    fn packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.last_packet_id
    }

    // --- listening ---

    /// The next publish.
    pub async fn next(&mut self) -> Result<Publish> {
        let name = self.name.clone();
        let receiving = async {
            loop {
                if let Some(publish) = self.inbox.pop_front() {
                    return Ok(publish);
                }
                if let Some(end) = self.end {
                    bail!("disconnected: {end:?}");
                }
                self.take().await?;
            }
        };
        timeout(PATIENCE, receiving)
            .await
            .unwrap_or_else(|_| bail!("nothing within {PATIENCE:?}"))
            .with_context(|| format!("{name} waiting for a publish"))
    }

    /// The payload of the next publish, as text, when it is on this topic.
    pub async fn next_on(&mut self, topic: &str) -> Result<String> {
        let publish = self.next().await?;
        ensure!(publish.topic == topic, "not on {topic}: {publish:?}");
        Ok(publish.text())
    }

    /// The texts of the next publishes.
    pub async fn texts(&mut self, count: usize) -> Result<Vec<String>> {
        let mut texts = Vec::with_capacity(count);
        while texts.len() < count {
            let next = self.next().await;
            let next = next.with_context(|| format!("only {texts:?} before"))?;
            texts.push(next.text());
        }
        Ok(texts)
    }

    /// Checks that nothing has been delivered before what `other` publishes now on `topic`, to which this device has
    /// subscribed. Good for what `other` had published itself: order is kept per publisher.
    pub async fn hears_only(&mut self, other: &mut Device, topic: &str) -> Result<()> {
        let sentinel = "is anything before me?";
        other.publish(topic, sentinel, 1).await?;
        let next = self.next().await?;
        ensure!(next.text() == sentinel, "{} got {next:?}", self.name);
        Ok(())
    }

    /// Waits for the answer to a PINGREQ: whatever was sent before has been dealt with.
    pub async fn ping(&mut self) -> Result<()> {
        self.send(PINGREQ_PACKET).await?;
        self.wait("a PINGRESP", |packet| {
            matches!(packet, Packet::PingResp).then_some(())
        })
        .await
    }

    /// Waits until the server ends the connection.
    pub async fn closed(&mut self) -> Result<End> {
        let name = self.name.clone();
        let ending = async {
            loop {
                if let Some(end) = self.end {
                    return Ok(end);
                }
                self.take().await?;
            }
        };
        timeout(PATIENCE, ending)
            .await
            .with_context(|| format!("{name} is still connected after {PATIENCE:?}"))?
    }

    /// Reads until a packet is the one.
    pub async fn wait<T>(
        &mut self,
        what: &str,
        mut is_it: impl FnMut(&Packet) -> Option<T>,
    ) -> Result<T> {
        let name = self.name.clone();
        let waiting = async {
            loop {
                if let Some(end) = self.end {
                    bail!("disconnected: {end:?}");
                }
                let packet = self.take().await?;
                if let Some(found) = packet.as_ref().and_then(&mut is_it) {
                    return Ok(found);
                }
            }
        };
        timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| bail!("nothing within {PATIENCE:?}"))
            .with_context(|| format!("{name} waiting for {what}"))
    }

    /// Reads one packet, and does what a client does about it.
    async fn take(&mut self) -> Result<Option<Packet>> {
        let packet = self.read().await?;
        match &packet {
            Some(Packet::Publish(publish)) => self.on_publish(publish.clone()).await?,
            Some(Packet::Ack(ack)) if ack.kind == AckKind::PubRel => {
                self.unreleased.retain(|id| *id != ack.packet_id);
                if self.acks == Acks::Automatic {
                    self.say_ack(AckKind::PubComp, ack.packet_id).await?;
                }
            }
            Some(Packet::Disconnect { reason, .. }) => self.end = Some(End::Disconnect(*reason)),
            Some(_) => {}
            None => self.end = self.end.or(Some(End::Closed)),
        }
        Ok(packet)
    }

    async fn on_publish(&mut self, publish: Publish) -> Result<()> {
        let packet_id = publish.packet_id;
        // [MQTT-4.3.3-10] The same again before its PUBREL is no other message.
        let is_known = publish.qos == 2 && self.unreleased.contains(&packet_id);
        let qos = publish.qos;
        if !is_known {
            self.inbox.push_back(publish);
        }
        if qos == 2 && !is_known {
            self.unreleased.push(packet_id);
        }
        match (self.acks, qos) {
            (Acks::ByTest, _) | (_, 0) => Ok(()),
            (Acks::Automatic, 1) => self.say_ack(AckKind::PubAck, packet_id).await,
            (Acks::Automatic, _) => self.say_ack(AckKind::PubRec, packet_id).await,
        }
    }

    async fn read(&mut self) -> Result<Option<Packet>> {
        // A reset is an end, too.
        let Ok(Some((first, body))) = read_packet(&mut self.stream).await else {
            return Ok(None);
        };
        Packet::read(self.version, first, &body).map(Some)
    }

    // --- leaving ---

    /// DISCONNECT, and waits until the server closes.
    pub async fn disconnect(self) -> Result<()> {
        self.leave(0, &Properties::default()).await
    }

    /// MQTT 5: the same with a reason and properties.
    pub async fn leave(mut self, reason: u8, properties: &Properties) -> Result<()> {
        let disconnect = wire::disconnect(self.version, reason, properties);
        self.send(&disconnect).await?;
        // [MQTT-3.14.4-2] Nothing more is sent.
        self.acks = Acks::ByTest;
        self.closed().await.map(drop)
    }

    /// Drops the socket without a word.
    pub fn vanish(self) {}
}
