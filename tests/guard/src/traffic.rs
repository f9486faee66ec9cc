//! What goes through the edge. Each kind of traffic is a struct that sets everything up, and a `step` that does a fixed
//! piece of work and sees to it that all of it was done.

use anyhow::{Context as _, ensure};
use broker::codec::Version;
use bytes::Bytes;
use schema::link::{Answer, Deliver, Position, Ready, from_edge, to_edge};
use schema::v1::{self, down};
use schema::wire::{encode_down, encode_message};
use schema::{Format, Topic};

use crate::edge::{AT_ONCE, Client, Edge, SUBSCRIPTIONS_MAX};
use crate::samples;

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
    members: Vec<(Client, Format)>,
    text_length: usize,
    seq: u32,
}

impl FanOut {
    /// A group of so many, with both versions of MQTT and these formats, and texts of so many bytes.
    ///
    /// # Errors
    /// The edge does not do what it should.
    pub async fn new(
        members: usize,
        formats: &[Format],
        text_length: usize,
    ) -> anyhow::Result<Self> {
        let mut edge = Edge::start()?;
        let mut clients = Vec::with_capacity(members);
        let pairs = formats.iter().flat_map(|format| {
            let of_version = |version| (version, *format);
            [Version::V4, Version::V5].map(of_version)
        });
        for (number, (version, format)) in (0..members).zip(pairs.cycle()) {
            let mut client = edge.connect(samples::uid(number), version).await?;
            edge.go_live(&mut client, format).await?;
            clients.push((client, format));
        }
        Ok(FanOut {
            edge,
            members: clients,
            text_length,
            seq: 0,
        })
    }

    /// One message, from the bridge's frame to the bytes for each member, and their acknowledgements back to the bridge.
    ///
    /// # Errors
    /// The edge does not do what it should.
    pub async fn step(&mut self) -> anyhow::Result<()> {
        self.seq += 1;
        let message = samples::message(self.seq, self.text_length);
        let payload = encode_message(&message);
        let json = Format::Json.from_protobuf(&payload)?;
        let users = self.members.iter().map(|(member, _)| &member.user);
        let deliver = Deliver {
            to: users.map(ToString::to_string).collect(),
            except_session: 0,
            payload: payload.clone(),
            position: Some(Position {
                conversation: 1,
                seq: self.seq,
                msg_id: message.msg_id,
            }),
        };
        self.edge
            .send(vec![to_edge::Item::Deliver(deliver)])
            .await?;
        for (member, format) in &mut self.members {
            let expected = match format {
                Format::Protobuf => payload.len(),
                Format::Json => json.len(),
            };
            let bytes = member.receive(1).await?;
            ensure!(bytes == expected, "{bytes} bytes instead of {expected}");
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
