//! A bridge in a process of its own joins its broker, as an MQTT 5 client, and comes back when the connection breaks.
//!
//! A link outlives its connections for [`RETURN_WITHIN`]: with the client id that the broker gave it, and the session still
//! there, it goes on where it was. Otherwise it is another link, and the service begins anew with it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use broker::link::remote::{
    BEAT_INTERVAL, BEAT_TOPIC, BOOT, Carrier, PACKET_MAX, RETURN_WITHIN, Remote, SHARES,
    SILENCE_MAX, USER_NAME,
};
use broker::link::{BridgeLink, DOWN_TOPIC, UP_TOPIC};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectProperties, ConnectReturnCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::settings::{BrokerAddress, Secret};
use crate::store::chain;

/// Requests that may wait for the connection: far more than the link's windows let through.
const REQUESTS_MAX: usize = 1024;
/// Pauses between attempts, each twice the last.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long an attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which broker it is, and how to be let in.
pub(crate) struct Target {
    pub(crate) address: BrokerAddress,
    pub(crate) secret: Secret,
    /// Who has signed its certificate; not read without TLS.
    pub(crate) ca: PathBuf,
    /// Whether other bridges may do the same work.
    pub(crate) shares: bool,
}

/// The broker does not believe that this is a bridge.
#[derive(Debug, thiserror::Error)]
#[error("the broker refuses link.secret")]
pub(crate) struct Refused;

/// See the module's documentation.
pub(crate) struct Joiner {
    target: Target,
    transport: Transport,
    /// The connection that ends is the last.
    leaving: CancellationToken,
    boot: String,
    links: mpsc::Sender<BridgeLink>,
    is_joined: watch::Sender<bool>,
    link: Option<Link>,
}

/// The link that there is.
struct Link {
    id: String,
    remote: Remote,
    lost_at: Instant,
}

/// A connection that the broker has accepted.
struct Connected {
    client: AsyncClient,
    events: EventLoop,
    connack: ConnAck,
}

impl Joiner {
    /// Gives the links to their receiver, one after the other; the watch says whether there is one now.
    ///
    /// # Errors
    /// That `ca` can't be used.
    pub(crate) fn new(
        target: Target,
        leaving: CancellationToken,
    ) -> anyhow::Result<(Self, mpsc::Receiver<BridgeLink>, watch::Receiver<bool>)> {
        let transport = match target.address.is_tls {
            true => Transport::tls_with_config(trust(&target.ca)?),
            false => Transport::tcp(),
        };
        let (links, next) = mpsc::channel(1);
        let (is_joined, joined) = watch::channel(false);
        let joiner = Joiner {
            target,
            transport,
            leaving,
            // Tells this process from what it was before it was started anew.
            boot: format!("{:016x}", RandomState::new().build_hasher().finish()),
            links,
            is_joined,
            link: None,
        };
        Ok((joiner, next, joined))
    }

    /// Joins again and again. Returns when the bridge has left (`None`), or the broker does not let it in.
    pub(crate) async fn run(mut self) -> Option<Refused> {
        let leaving = self.leaving.clone();
        let mut pause = PAUSE_MIN;
        loop {
            let connecting = timeout(CONNECT_TIMEOUT, self.connect());
            // One who is not joined has nothing to leave.
            match leaving.run_until_cancelled(connecting).await? {
                Ok(Ok(connected)) => {
                    pause = PAUSE_MIN;
                    self.serve(connected).await;
                    self.is_joined.send_replace(false);
                }
                Ok(Err(ConnectionError::ConnectionRefused(code))) => match code {
                    ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                        return Some(Refused);
                    }
                    ConnectReturnCode::QuotaExceeded => warn!(
                        "another bridge is joined to the broker: several of them need redis.url, and PostgreSQL or MySQL in \
                         database.url"
                    ),
                    _ => warn!(?code, "the broker can't be joined now"),
                },
                Ok(Err(error)) => warn!(error = %chain(&error), "the broker can't be reached"),
                Err(_) => warn!("the broker does not answer"),
            }
            if let Some(link) = &self.link
                && link.lost_at.elapsed() > RETURN_WITHIN
            {
                // Dropped, it ends for the service as well.
                self.link = None;
            }
            leaving.run_until_cancelled(sleep(pause)).await?;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    async fn connect(&self) -> Result<Connected, ConnectionError> {
        let id = self.link.as_ref().map_or("", |link| &link.id);
        let BrokerAddress { host, port, .. } = &self.target.address;
        let mut options = MqttOptions::new(id, host.as_str(), *port);
        let mut properties = ConnectProperties::new();
        properties.max_packet_size = Some(PACKET_MAX);
        properties.user_properties = vec![
            (BOOT.to_owned(), self.boot.clone()),
            (SHARES.to_owned(), self.target.shares.to_string()),
        ];
        options
            .set_credentials(USER_NAME, self.target.secret.expose())
            .set_transport(self.transport.clone())
            .set_clean_start(id.is_empty())
            .set_connect_properties(properties);
        let mut network = NetworkOptions::new();
        // Frames are waited for: Nagle's algorithm would hold them back.
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
        loop {
            if let Event::Incoming(Incoming::ConnAck(connack)) = events.poll().await? {
                return Ok(Connected {
                    client,
                    events,
                    connack,
                });
            }
        }
    }

    /// Carries frames until the connection ends.
    async fn serve(&mut self, connected: Connected) {
        let Connected {
            client,
            events,
            connack,
        } = connected;
        let carrier = match &self.link {
            Some(link) if connack.session_present => link.remote.reconnect(),
            _ => {
                let properties = connack.properties.as_ref();
                let id = properties.and_then(|set| set.assigned_client_identifier.clone());
                let (remote, link, carrier) = Remote::bridge();
                // The earlier one ends first.
                self.link = Some(Link {
                    id: id.unwrap_or_default(),
                    remote,
                    lost_at: Instant::now(),
                });
                if self.links.send(link).await.is_err() {
                    return;
                }
                carrier
            }
        };
        info!("joined the broker");
        self.is_joined.send_replace(true);
        let Carrier {
            outgoing,
            incoming,
            broken,
        } = carrier;
        tokio::select! {
            () = read(events, incoming) => {}
            () = write(&client, outgoing) => {}
            () = broken.cancelled() => {}
        }
        if let Some(link) = &mut self.link {
            link.lost_at = Instant::now();
        }
        warn!("the connection to the broker has ended");
    }
}

/// Trust in whoever has signed the broker's certificate, and in nobody else.
fn trust(ca: &Path) -> anyhow::Result<TlsConfiguration> {
    let unreadable = || format!("link.ca ({}) can't be used", ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(unreadable)? {
        let certificate = certificate.with_context(unreadable)?;
        roots.add(certificate).with_context(unreadable)?;
    }
    ensure!(!roots.is_empty(), "link.ca has no certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    Ok(TlsConfiguration::Rustls(Arc::new(config)))
}

/// Hands on what comes, until nothing does.
async fn read(mut events: EventLoop, frames: mpsc::Sender<Bytes>) {
    let mut last_heard = Instant::now();
    loop {
        // Not dropped half-way: what is being written would be lost. Beats wake it in any case.
        let event = events.poll().await;
        match event {
            Ok(Event::Incoming(incoming)) => {
                last_heard = Instant::now();
                if let Incoming::Publish(publish) = incoming
                    && publish.topic == UP_TOPIC
                    && frames.try_send(publish.payload).is_err()
                {
                    return;
                }
            }
            Ok(Event::Outgoing(_)) if last_heard.elapsed() > SILENCE_MAX => return,
            Ok(Event::Outgoing(_)) => {}
            Err(_) => return,
        }
    }
}

/// Sends frames, and beats.
async fn write(client: &AsyncClient, mut frames: mpsc::Receiver<Bytes>) {
    if client.subscribe(UP_TOPIC, QoS::AtMostOnce).await.is_err() {
        return;
    }
    let mut beats = interval(BEAT_INTERVAL);
    loop {
        let (topic, payload) = tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => (DOWN_TOPIC, frame),
                None => return,
            },
            _ = beats.tick() => (BEAT_TOPIC, Bytes::new()),
        };
        let sent = client.publish(topic, QoS::AtMostOnce, false, payload).await;
        if sent.is_err() {
            return;
        }
    }
}
