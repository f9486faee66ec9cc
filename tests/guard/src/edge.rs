//! The real edge with clients at in-memory streams, and us in the place of the bridge: what comes out for what goes in.
//!
//! Each kind of traffic is a struct that sets everything up, and a `step` that does a fixed piece of work and sees to it
//! that all of it was done.

use std::future::Future;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bridge::serve::broker_options;
use bridge::settings::Settings;
use broker::codec::{Packet, Qos, Subscribe, SubscribeFilter, Version, decode};
use broker::link::BridgeLink;
use broker::{Authenticate, Broker, Credentials, Door, Identity, Peer, Refusal, Rules};
use bytes::{Bytes, BytesMut};
use schema::link::{
    Answer, Deliver, FromEdge, Live, Position, Ready, Subscribed, ToEdge, from_edge, to_edge,
};
use schema::v1::{self, down};
use schema::wire::{encode_down, encode_message};
use schema::{Format, Topic, Uid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::samples;

/// Bytes between a client and its connection, each way.
const STREAM_BYTES: usize = 64 * 1024;
/// Subscriptions of one client.
const SUBSCRIPTIONS_MAX: usize = 1000;
/// Publishes that a client sends at once.
const AT_ONCE: u16 = 16;

/// Lets everybody in by name.
struct Everybody;

impl Authenticate for Everybody {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Identity, Refusal>> + Send + 'a>> {
        let uid = credentials.username.and_then(|name| name.parse().ok());
        let identity = uid.map(|uid| Identity {
            uid,
            login: None,
            password_set_at: None,
            expires_at: None,
            is_admin: false,
        });
        Box::pin(async { identity.ok_or(Refusal::BadCredentials) })
    }

    fn is_revoked(&self, _: &Identity) -> bool {
        false
    }
}

/// An edge with the settings that everybody has, and no limits but those of memory.
///
/// # Errors
/// The router can't be started.
pub fn start(rules: Rules) -> anyhow::Result<(Broker, BridgeLink)> {
    let mut settings = Settings::defaults();
    settings.network.connections_per_address = 0;
    settings.network.connects_per_second = 0;
    settings.mqtt.publish_rate = 0;
    settings.mqtt.byte_rate = 0;
    settings.mqtt.subscriptions_max = SUBSCRIPTIONS_MAX;
    let mut options = broker_options(&settings);
    // It comes by the clock, not by the work.
    options.sys_interval = None;
    Ok(Broker::start(options, rules, Arc::new(Everybody))?)
}

/// The edge, and our end of its link.
struct Edge {
    broker: Broker,
    link: BridgeLink,
}

impl Edge {
    fn start() -> anyhow::Result<Self> {
        let (broker, link) = start(samples::rules()?)?;
        Ok(Edge { broker, link })
    }

    /// The items of the next frame.
    async fn take(&mut self) -> anyhow::Result<Vec<FromEdge>> {
        let (number, items) = self.link.receiver.recv().await?;
        self.link.sender.flow().done(number);
        self.link.sender.report().await?;
        Ok(items)
    }

    /// Takes frames until there are `count` of what `pick` finds.
    async fn take_until<T>(
        &mut self,
        count: usize,
        pick: impl Fn(from_edge::Item) -> Vec<T>,
    ) -> anyhow::Result<Vec<T>> {
        let mut found = Vec::with_capacity(count);
        while found.len() < count {
            let items = self.take().await?.into_iter();
            found.extend(items.filter_map(|one| one.item).flat_map(&pick));
        }
        ensure!(found.len() == count, "{} instead of {count}", found.len());
        Ok(found)
    }

    async fn send(&mut self, items: Vec<to_edge::Item>) -> anyhow::Result<()> {
        let items = items.into_iter().map(|item| ToEdge { item: Some(item) });
        Ok(self.link.sender.send(items.collect()).await?)
    }

    async fn connect(&mut self, user: Uid, version: Version) -> anyhow::Result<Client> {
        let (stream, mut server) = tokio::io::duplex(STREAM_BYTES);
        let handle = self.broker.handle();
        let address = Ipv4Addr::LOCALHOST.into();
        let visitor = handle.entrance().admit(&mut server, address).await?;
        let pass = visitor.pass.ok().context("an address has a limit")?;
        let peer = Peer {
            address,
            door: Door::Mqtt,
            certified: None,
            refusal: None,
        };
        tokio::spawn(async move { handle.serve(server, peer, pass).await });
        let mut client = Client {
            user,
            version,
            stream,
            input: BytesMut::new(),
        };
        client
            .write(&[samples::connect(version, &client.user)])
            .await?;
        match client.read().await? {
            Packet::ConnAck(connack) if !connack.reason.is_error() => Ok(client),
            other => bail!("not let in: {other:?}"),
        }
    }

    /// Subscribes to the client's down topic, and declares that it has missed nothing.
    async fn go_live(&mut self, client: &mut Client, format: Format) -> anyhow::Result<()> {
        let topic = Topic::down(format, &client.user);
        client.subscribe(&[topic]).await?;
        let subscribed = |item| match item {
            from_edge::Item::Subscribed(Subscribed { session, epoch, .. }) => {
                vec![Live { session, epoch }]
            }
            _ => Vec::new(),
        };
        let live = self.take_until(1, subscribed).await?;
        self.send(live.into_iter().map(to_edge::Item::Live).collect())
            .await
    }
}

/// A client's side of a connection.
struct Client {
    user: Uid,
    version: Version,
    stream: DuplexStream,
    input: BytesMut,
}

impl Client {
    /// Sends packets, in one go.
    async fn write(&mut self, packets: &[Packet]) -> anyhow::Result<()> {
        let mut bytes = BytesMut::new();
        for packet in packets {
            packet.encode(self.version, &mut bytes);
        }
        Ok(self.stream.write_all(&bytes).await?)
    }

    async fn read(&mut self) -> anyhow::Result<Packet> {
        loop {
            if let Some(packet) = decode(self.version, &mut self.input, usize::MAX)? {
                return Ok(packet);
            }
            let count = self.stream.read_buf(&mut self.input).await?;
            ensure!(count > 0, "the edge has closed a connection");
        }
    }

    async fn subscribe(&mut self, filters: &[String]) -> anyhow::Result<()> {
        let filters = filters.iter();
        let subscribe = Packet::Subscribe(Subscribe {
            packet_id: NonZeroU16::MIN,
            filters: filters
                .map(|filter| SubscribeFilter::new(filter.as_str(), Qos::AtLeastOnce))
                .collect(),
            subscription_identifier: None,
            user_properties: Vec::new(),
        });
        self.write(&[subscribe]).await?;
        let Packet::SubAck(suback) = self.read().await? else {
            bail!("no SUBACK");
        };
        let is_granted = !suback.reasons.iter().any(|reason| reason.is_error());
        ensure!(is_granted, "a subscription was refused");
        Ok(())
    }

    /// Sends [`AT_ONCE`] publishes at QoS 1.
    async fn publish(&mut self, topic: &str, payload: &Bytes) -> anyhow::Result<()> {
        let packets: Vec<_> = packet_ids()
            .map(|id| samples::publish(self.version, topic, id, payload.clone()))
            .collect();
        self.write(&packets).await
    }

    /// Reads so many deliveries and acknowledges them; returns how many bytes they had to tell.
    async fn receive(&mut self, count: usize) -> anyhow::Result<usize> {
        let (mut bytes, mut acks) = (0, Vec::with_capacity(count));
        for _ in 0..count {
            let Packet::Publish(publish) = self.read().await? else {
                bail!("not a delivery");
            };
            bytes += publish.payload.len();
            acks.extend(publish.packet_id.map(samples::puback));
        }
        ensure!(acks.len() == count, "a delivery at QoS 0");
        self.write(&acks).await?;
        Ok(bytes)
    }

    /// Reads the acknowledgements of [`Client::publish`], with `others` publishes in between.
    async fn read_acks(&mut self, others: u16) -> anyhow::Result<()> {
        let (mut acks, mut publishes) = (0, 0);
        for _ in 0..AT_ONCE + others {
            match self.read().await? {
                Packet::PubAck(ack) if !ack.reason.is_error() => acks += 1,
                Packet::Publish(_) => publishes += 1,
                other => bail!("an unexpected packet: {other:?}"),
            }
        }
        ensure!((acks, publishes) == (AT_ONCE, others));
        Ok(())
    }
}

fn packet_ids() -> impl Iterator<Item = NonZeroU16> {
    (1..=AT_ONCE).filter_map(NonZeroU16::new)
}

/// Clients send commands, and get a PUBACK and a reply for each.
pub struct Commands {
    edge: Edge,
    /// One of each version.
    clients: [Client; 2],
    payload: Bytes,
}

impl Commands {
    /// Commands in one step.
    pub const PER_STEP: usize = 2 * AT_ONCE as usize;

    /// Two clients who are there.
    ///
    /// # Errors
    /// The edge does not do what it should.
    pub async fn new() -> anyhow::Result<Self> {
        let mut edge = Edge::start()?;
        let mut first = edge.connect(samples::uid(0), Version::V4).await?;
        let mut second = edge.connect(samples::uid(1), Version::V5).await?;
        edge.go_live(&mut first, Format::Protobuf).await?;
        edge.go_live(&mut second, Format::Json).await?;
        let up = samples::send(&samples::uid(2), "message-1".to_owned(), 64);
        Ok(Commands {
            edge,
            clients: [first, second],
            payload: samples::written(Format::Protobuf, &up),
        })
    }

    /// [`Commands::PER_STEP`] commands, from bytes to frames for the bridge, and from its frames to bytes.
    ///
    /// # Errors
    /// The edge does not do what it should.
    pub async fn step(&mut self) -> anyhow::Result<()> {
        for client in &mut self.clients {
            let topic = Topic::Up(Format::Protobuf, client.user.clone()).to_string();
            client.publish(&topic, &self.payload).await?;
        }
        let uplink = |item| match item {
            from_edge::Item::Uplink(uplink) => vec![uplink],
            _ => Vec::new(),
        };
        let uplinks = self.edge.take_until(Self::PER_STEP, uplink).await?;
        let answers = uplinks.into_iter().map(|uplink| {
            to_edge::Item::Answer(Answer {
                session: uplink.session,
                token: uplink.token,
                reason: 0,
                reply: encode_down(down::Content::Reply(v1::Reply::default())),
            })
        });
        self.edge.send(answers.collect()).await?;
        for client in &mut self.clients {
            client.read_acks(AT_ONCE).await?;
        }
        Ok(())
    }
}

/// One message after the other goes to a group whose members are all there.
pub struct FanOut {
    edge: Edge,
    members: Vec<Client>,
    seq: u32,
}

impl FanOut {
    /// A group of so many, with both versions of MQTT and both formats.
    ///
    /// # Errors
    /// The edge does not do what it should.
    pub async fn new(members: usize) -> anyhow::Result<Self> {
        let mut edge = Edge::start()?;
        let mut clients = Vec::with_capacity(members);
        for number in 0..members {
            let version = [Version::V4, Version::V5][number % 2];
            let format = [Format::Protobuf, Format::Json][number / 2 % 2];
            let mut client = edge.connect(samples::uid(number), version).await?;
            edge.go_live(&mut client, format).await?;
            clients.push(client);
        }
        Ok(FanOut {
            edge,
            members: clients,
            seq: 0,
        })
    }

    /// One message, from the bridge's frame to the bytes for each member, and their acknowledgements back to the bridge.
    ///
    /// # Errors
    /// The edge does not do what it should.
    pub async fn step(&mut self) -> anyhow::Result<()> {
        self.seq += 1;
        let message = samples::message(self.seq);
        let deliver = Deliver {
            to: self
                .members
                .iter()
                .map(|one| one.user.to_string())
                .collect(),
            except_session: 0,
            payload: encode_message(&message),
            position: Some(Position {
                conversation: 1,
                seq: self.seq,
                msg_id: message.msg_id,
            }),
        };
        self.edge
            .send(vec![to_edge::Item::Deliver(deliver)])
            .await?;
        for member in &mut self.members {
            member.receive(1).await?;
        }
        let acked = |item| match item {
            from_edge::Item::Acked(acked) => acked.positions,
            _ => Vec::new(),
        };
        self.edge.take_until(self.members.len(), acked).await?;
        Ok(())
    }
}

/// A device's topic among many filters, with subscribers who need a grant for it.
pub struct Plain {
    // The connections would end with it.
    _edge: Edge,
    // Their subscriptions would.
    _watchers: Vec<Client>,
    publisher: Client,
    subscribers: Vec<Client>,
    payload: Bytes,
}

impl Plain {
    /// Publishes in one step.
    pub const PER_STEP: usize = AT_ONCE as usize;
    /// Clients who get them.
    const SUBSCRIBERS: usize = 8;

    /// Some who know user 1, and others with so many filters of other topics.
    ///
    /// # Errors
    /// The edge does not do what it should.
    pub async fn new(filters: usize) -> anyhow::Result<Self> {
        let mut edge = Edge::start()?;
        let friends = (2..).map(samples::uid).take(Self::SUBSCRIBERS + 1);
        let friends: Vec<_> = friends.collect();
        let grants = friends.iter().flat_map(samples::grants);
        let grants = grants.map(to_edge::Item::Grant);
        let told = grants.chain([to_edge::Item::Ready(Ready {})]);
        edge.send(told.collect()).await?;
        edge.broker.ready().await?;
        let mut clients = Vec::new();
        for (number, friend) in friends.into_iter().enumerate() {
            let version = [Version::V4, Version::V5][number % 2];
            clients.push(edge.connect(friend, version).await?);
        }
        let publisher = clients.pop().context("nobody publishes")?;
        for client in &mut clients {
            client.subscribe(&[samples::LAMP.to_owned()]).await?;
        }
        let filters: Vec<_> = (0..filters).map(samples::room).collect();
        let mut watchers = Vec::new();
        for some in filters.chunks(SUBSCRIPTIONS_MAX) {
            let name = samples::uid(100 + watchers.len());
            let mut watcher = edge.connect(name, Version::V5).await?;
            watcher.subscribe(some).await?;
            watchers.push(watcher);
        }
        Ok(Plain {
            _edge: edge,
            _watchers: watchers,
            publisher,
            subscribers: clients,
            payload: Bytes::from_static(&[b'x'; 64]),
        })
    }

    /// [`Plain::PER_STEP`] publishes, from the publisher's bytes to those for each subscriber, and all acknowledgements.
    ///
    /// # Errors
    /// The edge does not do what it should.
    pub async fn step(&mut self) -> anyhow::Result<()> {
        self.publisher.publish(samples::LAMP, &self.payload).await?;
        self.publisher.read_acks(0).await?;
        for subscriber in &mut self.subscribers {
            let bytes = subscriber.receive(Self::PER_STEP).await?;
            ensure!(bytes == Self::PER_STEP * self.payload.len());
        }
        Ok(())
    }
}
