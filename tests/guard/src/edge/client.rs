//! A client at the other end of an in-memory stream.

use std::num::NonZeroU16;

use anyhow::{bail, ensure};
use broker::codec::{Packet, Qos, Subscribe, SubscribeFilter, Version, decode};
use bytes::{Bytes, BytesMut};
use schema::Uid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::samples;

/// Publishes that a client sends at once.
pub(crate) const AT_ONCE: u16 = 16;

/// A client's side of a connection.
pub(crate) struct Client {
    pub(crate) user: Uid,
    version: Version,
    stream: DuplexStream,
    input: BytesMut,
}

impl Client {
    pub(super) fn new(user: Uid, version: Version, stream: DuplexStream) -> Self {
        Client {
            user,
            version,
            stream,
            input: BytesMut::new(),
        }
    }

    /// Sends packets, in one go.
    pub(crate) async fn write(&mut self, packets: &[Packet]) -> anyhow::Result<()> {
        let mut bytes = BytesMut::new();
        for packet in packets {
            packet.encode(self.version, &mut bytes);
        }
        Ok(self.stream.write_all(&bytes).await?)
    }

    pub(crate) async fn read(&mut self) -> anyhow::Result<Packet> {
        loop {
            if let Some(packet) = decode(self.version, &mut self.input, usize::MAX)? {
                return Ok(packet);
            }
            let count = self.stream.read_buf(&mut self.input).await?;
            ensure!(count > 0, "the edge has closed a connection");
        }
    }

    pub(crate) async fn subscribe(&mut self, filters: &[String]) -> anyhow::Result<()> {
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
    pub(crate) async fn publish(&mut self, topic: &str, payload: &Bytes) -> anyhow::Result<()> {
        let packets: Vec<_> = packet_ids()
            .map(|id| samples::publish(self.version, topic, id, payload.clone()))
            .collect();
        self.write(&packets).await
    }

    /// Reads so many deliveries and acknowledges them; returns how many bytes they had to tell.
    pub(crate) async fn receive(&mut self, count: usize) -> anyhow::Result<usize> {
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
    pub(crate) async fn read_acks(&mut self, others: u16) -> anyhow::Result<()> {
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
