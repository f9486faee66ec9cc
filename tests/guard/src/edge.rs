//! The real edge with clients at in-memory streams, and us in the place of the bridge.

mod client;

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bridge::serve::broker_options;
use bridge::settings::Settings;
use broker::codec::{Packet, Version};
use broker::link::BridgeLink;
use broker::{Authenticate, Broker, Credentials, Door, Identity, Peer, Refusal, Rules};
use schema::link::{FromEdge, Live, Subscribed, ToEdge, from_edge, to_edge};
use schema::{Format, Topic, Uid};

pub(crate) use self::client::{AT_ONCE, Client};
use crate::samples;

/// Bytes between a client and its connection, each way.
const STREAM_BYTES: usize = 64 * 1024;
/// Subscriptions of one client.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 1000;

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
            as_of: 0,
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
pub(crate) struct Edge {
    pub(crate) broker: Broker,
    link: BridgeLink,
}

impl Edge {
    pub(crate) fn start() -> anyhow::Result<Self> {
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
    pub(crate) async fn take_until<T>(
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

    pub(crate) async fn send(&mut self, items: Vec<to_edge::Item>) -> anyhow::Result<()> {
        let items = items.into_iter().map(|item| ToEdge { item: Some(item) });
        Ok(self.link.sender.send(items.collect()).await?)
    }

    pub(crate) async fn connect(&mut self, user: Uid, version: Version) -> anyhow::Result<Client> {
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
        let mut client = Client::new(user, version, stream);
        client
            .write(&[samples::connect(version, &client.user)])
            .await?;
        match client.read().await? {
            Packet::ConnAck(connack) if !connack.reason.is_error() => Ok(client),
            other => bail!("not let in: {other:?}"),
        }
    }

    /// Subscribes to the client's down topic, and declares that it has missed nothing.
    pub(crate) async fn go_live(
        &mut self,
        client: &mut Client,
        format: Format,
    ) -> anyhow::Result<()> {
        let topic = Topic::down(format, &client.user);
        client.subscribe(&[topic]).await?;
        let subscribed = |item| match item {
            from_edge::Item::Subscribed(Subscribed { session, epoch, .. }) => {
                vec![Live {
                    session,
                    epoch,
                    sent: Vec::new(),
                }]
            }
            _ => Vec::new(),
        };
        let live = self.take_until(1, subscribed).await?;
        self.send(live.into_iter().map(to_edge::Item::Live).collect())
            .await
    }
}
