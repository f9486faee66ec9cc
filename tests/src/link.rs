//! One MQTT connection, the same to its user whether it speaks 3.1.1 or 5.
//!
//! A task polls rumqttc and passes every packet on; it stops when the connection ends, and never reconnects:
//! a test that wants to come back opens another link.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::wait::PATIENCE;

mod v4;
mod v5;

/// Which MQTT a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// What the client asks the broker to remember of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Nothing: clean session (3.1.1), clean start without expiry (5).
    Clean,
    /// Its subscriptions and what is on its way, for an hour.
    Kept,
}

/// Who acknowledges what comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// The connection, at once.
    Automatic,
    /// The test, with [`Link::acknowledge`], or never.
    ByTest,
}

/// How a connection is opened.
#[derive(Clone, Debug)]
pub struct Dial {
    pub address: SocketAddr,
    pub version: Version,
    pub client_id: String,
    /// Username and password; `None`: anonymous.
    pub login: Option<(String, String)>,
    pub session: Session,
    pub acks: Acks,
    pub will: Option<Will>,
}

/// What the broker is to publish when the connection is lost, at QoS 1.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: String,
    pub payload: String,
}

/// How the broker answered the CONNECT.
pub enum Opened {
    Accepted(Link, Accepted),
    /// The code in the CONNACK.
    Refused(u8),
}

/// What an accepting CONNACK says.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    pub session_present: bool,
    /// MQTT 5: the client id that the broker chose.
    pub assigned_client_id: Option<String>,
}

/// What comes in, or has gone out.
#[derive(Clone, Debug)]
pub enum Packet {
    Publish(Publish),
    /// The next of our own publishes left with this packet id (0 at QoS 0).
    Sent(u16),
    /// PUBACK, or PUBCOMP at QoS 2. In 3.1.1 the reason is always 0.
    Done {
        id: u16,
        reason: u8,
    },
    SubAck(Vec<u8>),
    Closed(Closed),
}

/// A PUBLISH from the broker.
#[derive(Clone, Debug)]
pub struct Publish {
    pub topic: String,
    pub payload: Bytes,
    pub qos: u8,
    /// MQTT 5: the Correlation Data.
    pub correlation: Option<Bytes>,
    original: Box<Original>,
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub struct Closed {
    /// MQTT 5: the reason in the broker's DISCONNECT.
    pub reason: Option<u8>,
    pub text: String,
}

/// An open connection.
pub struct Link {
    outbox: Outbox,
    inbox: UnboundedReceiver<Packet>,
    task: JoinHandle<()>,
}

enum Outbox {
    V4(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

#[derive(Clone, Debug)]
enum Original {
    V4(rumqttc::Publish),
    V5(rumqttc::v5::mqttbytes::v5::Publish),
}

/// Requests that may wait for room in the send window.
const OUTBOX_CAPACITY: usize = 10_000;
/// Publishes that a client has under way before it waits for acknowledgements.
const WINDOW: u16 = 100;
/// Larger than any message, so that the broker's limit is the one that counts.
const PACKET_BYTES_MAX: u32 = 1024 * 1024;
/// Seconds that the broker keeps a [`Session::Kept`] in MQTT 5.
const SESSION_EXPIRY_SECS: u32 = 3600;
/// How long the broker may take to close after our DISCONNECT.
const GOODBYE: Duration = Duration::from_secs(5);

// === impl Link ===

impl Link {
    /// Connects, and waits for the CONNACK.
    pub async fn open(dial: &Dial) -> Result<Opened> {
        let opening = async {
            match dial.version {
                Version::V4 => v4::open(dial).await,
                Version::V5 => v5::open(dial).await,
            }
        };
        timeout(PATIENCE, opening)
            .await
            .with_context(|| format!("no CONNACK within {PATIENCE:?}"))?
    }

    /// The next packet; `None` after [`Packet::Closed`].
    pub async fn next(&mut self) -> Option<Packet> {
        self.inbox.recv().await
    }

    /// The next packet, if one has already come.
    pub fn try_next(&mut self) -> Option<Packet> {
        self.inbox.try_recv().ok()
    }

    /// Queues a PUBLISH at QoS 1.
    pub async fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<()> {
        match &self.outbox {
            Outbox::V4(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                client.publish(topic, qos, false, payload).await?;
            }
            Outbox::V5(client) => {
                let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
                client.publish(topic, qos, false, payload).await?;
            }
        }
        Ok(())
    }

    /// Queues an MQTT 5 PUBLISH at QoS 1 that names where its answer goes.
    pub async fn request(
        &self,
        topic: &str,
        payload: Vec<u8>,
        response_topic: &str,
        correlation: &[u8],
    ) -> Result<()> {
        let Outbox::V5(client) = &self.outbox else {
            bail!("request/response needs MQTT 5");
        };
        let properties = rumqttc::v5::mqttbytes::v5::PublishProperties {
            response_topic: Some(response_topic.into()),
            correlation_data: Some(Bytes::copy_from_slice(correlation)),
            ..Default::default()
        };
        let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
        client
            .publish_with_properties(topic, qos, false, payload, properties)
            .await?;
        Ok(())
    }

    /// Queues a SUBSCRIBE.
    pub async fn subscribe(&self, filter: &str, qos: u8) -> Result<()> {
        match &self.outbox {
            Outbox::V4(client) => {
                let qos = rumqttc::qos(qos).context("a QoS is 0, 1 or 2")?;
                client.subscribe(filter, qos).await?;
            }
            Outbox::V5(client) => {
                let qos = rumqttc::v5::mqttbytes::qos(qos).context("a QoS is 0, 1 or 2")?;
                client.subscribe(filter, qos).await?;
            }
        }
        Ok(())
    }

    /// Queues the PUBACK of a publish, for [`Acks::ByTest`].
    pub async fn acknowledge(&self, publish: &Publish) -> Result<()> {
        match (&self.outbox, publish.original.as_ref()) {
            (Outbox::V4(client), Original::V4(publish)) => client.ack(publish).await?,
            (Outbox::V5(client), Original::V5(publish)) => client.ack(publish).await?,
            _ => bail!("the publish came on another connection"),
        }
        Ok(())
    }

    /// Says DISCONNECT after all that is queued, and waits until the broker closes.
    pub async fn disconnect(mut self) -> Result<()> {
        match &self.outbox {
            Outbox::V4(client) => client.disconnect().await?,
            Outbox::V5(client) => client.disconnect().await?,
        }
        // A broker that leaves the closing to us is within the standard.
        let _ = timeout(GOODBYE, &mut self.task).await;
        Ok(())
    }

    /// Drops the socket without a word.
    pub async fn drop_connection(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}
