//! One MQTT connection, the same to its user whether it speaks 3.1.1 or 5.
//!
//! A task polls rumqttc and passes every packet on; it stops when the connection ends, and never reconnects:
//! a test that wants to come back opens another link.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use rumqttc::{Outgoing, v5};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::wait::PATIENCE;

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
    /// Topic of a last will.
    pub will: Option<String>,
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
    pub duplicate: bool,
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
    V5(v5::AsyncClient),
}

#[derive(Clone, Debug)]
enum Original {
    V4(rumqttc::Publish),
    V5(v5::mqttbytes::v5::Publish),
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
    ///
    /// # Errors
    /// When the broker closes without a CONNACK, answers nonsense, or not in time.
    pub async fn open(dial: &Dial) -> Result<Opened> {
        let opening = async {
            match dial.version {
                Version::V4 => open_v4(dial).await,
                Version::V5 => open_v5(dial).await,
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
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<()> {
        match &self.outbox {
            Outbox::V4(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                client.publish(topic, qos, false, payload).await?;
            }
            Outbox::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client.publish(topic, qos, false, payload).await?;
            }
        }
        Ok(())
    }

    /// Queues an MQTT 5 PUBLISH at QoS 1 that names where its answer goes.
    ///
    /// # Errors
    /// When the connection has ended, or is not MQTT 5.
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
        let properties = v5::mqttbytes::v5::PublishProperties {
            response_topic: Some(response_topic.into()),
            correlation_data: Some(Bytes::copy_from_slice(correlation)),
            ..Default::default()
        };
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        client
            .publish_with_properties(topic, qos, false, payload, properties)
            .await?;
        Ok(())
    }

    /// Queues a SUBSCRIBE at QoS 1.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn subscribe(&self, filter: &str) -> Result<()> {
        match &self.outbox {
            Outbox::V4(client) => {
                client.subscribe(filter, rumqttc::QoS::AtLeastOnce).await?;
            }
            Outbox::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client.subscribe(filter, qos).await?;
            }
        }
        Ok(())
    }

    /// Queues the PUBACK of a publish, for [`Acks::ByTest`].
    ///
    /// # Errors
    /// When the connection has ended, or is not the one that the publish came on.
    pub async fn acknowledge(&self, publish: &Publish) -> Result<()> {
        match (&self.outbox, publish.original.as_ref()) {
            (Outbox::V4(client), Original::V4(publish)) => client.ack(publish).await?,
            (Outbox::V5(client), Original::V5(publish)) => client.ack(publish).await?,
            _ => bail!("the publish came on another connection"),
        }
        Ok(())
    }

    /// Says DISCONNECT after all that is queued, and waits until the broker closes.
    ///
    /// # Errors
    /// When the connection has ended before.
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

// === 3.1.1 ===

async fn open_v4(dial: &Dial) -> Result<Opened> {
    let (client, mut events) = rumqttc::AsyncClient::new(options_v4(dial), OUTBOX_CAPACITY);
    let connack = match events.poll().await {
        Ok(rumqttc::Event::Incoming(rumqttc::Packet::ConnAck(connack))) => connack,
        Ok(other) => bail!("{other:?} instead of CONNACK"),
        Err(rumqttc::ConnectionError::ConnectionRefused(code)) => {
            return Ok(Opened::Refused(code as u8));
        }
        Err(error) => return Err(error).context("no CONNACK"),
    };
    let accepted = Accepted {
        session_present: connack.session_present,
        assigned_client_id: None,
    };
    let (sender, inbox) = unbounded_channel();
    let link = Link {
        outbox: Outbox::V4(client),
        inbox,
        task: tokio::spawn(run_v4(events, sender)),
    };
    Ok(Opened::Accepted(link, accepted))
}

fn options_v4(dial: &Dial) -> rumqttc::MqttOptions {
    let address = dial.address;
    let mut options =
        rumqttc::MqttOptions::new(&dial.client_id, address.ip().to_string(), address.port());
    options
        .set_clean_session(dial.session == Session::Clean)
        .set_manual_acks(dial.acks == Acks::ByTest)
        .set_inflight(WINDOW)
        .set_max_packet_size(PACKET_BYTES_MAX as usize, PACKET_BYTES_MAX as usize);
    if let Some((user, password)) = &dial.login {
        options.set_credentials(user, password);
    }
    if let Some(topic) = &dial.will {
        let qos = rumqttc::QoS::AtLeastOnce;
        options.set_last_will(rumqttc::LastWill::new(topic, "gone", qos, false));
    }
    options
}

async fn run_v4(mut events: rumqttc::EventLoop, inbox: UnboundedSender<Packet>) {
    let closed = loop {
        match events.poll().await {
            // A send fails when the test has dropped the link; so does the next poll.
            Ok(event) => drop(packet_v4(event).map(|packet| inbox.send(packet))),
            Err(error) => {
                break Closed {
                    reason: None,
                    text: error.to_string(),
                };
            }
        }
    };
    let _ = inbox.send(Packet::Closed(closed));
}

fn packet_v4(event: rumqttc::Event) -> Option<Packet> {
    use rumqttc::{Event, Packet as P, SubscribeReasonCode};

    let code = |code: &SubscribeReasonCode| match code {
        SubscribeReasonCode::Success(qos) => *qos as u8,
        SubscribeReasonCode::Failure => 0x80,
    };
    match event {
        Event::Outgoing(Outgoing::Publish(id)) => Some(Packet::Sent(id)),
        Event::Incoming(P::Publish(publish)) => Some(Packet::Publish(Publish {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            duplicate: publish.dup,
            correlation: None,
            original: Box::new(Original::V4(publish)),
        })),
        Event::Incoming(P::PubAck(ack)) => Some(Packet::Done {
            id: ack.pkid,
            reason: 0,
        }),
        Event::Incoming(P::SubAck(ack)) => {
            Some(Packet::SubAck(ack.return_codes.iter().map(code).collect()))
        }
        _ => None,
    }
}

// === 5 ===

async fn open_v5(dial: &Dial) -> Result<Opened> {
    let (client, mut events) = v5::AsyncClient::new(options_v5(dial), OUTBOX_CAPACITY);
    let connack = match events.poll().await {
        Ok(v5::Event::Incoming(v5::mqttbytes::v5::Packet::ConnAck(connack))) => connack,
        Ok(other) => bail!("{other:?} instead of CONNACK"),
        Err(v5::ConnectionError::ConnectionRefused(code)) => {
            return connect_code(code).map(Opened::Refused);
        }
        Err(error) => return Err(error).context("no CONNACK"),
    };
    let accepted = Accepted {
        session_present: connack.session_present,
        assigned_client_id: connack
            .properties
            .and_then(|properties| properties.assigned_client_identifier),
    };
    let (sender, inbox) = unbounded_channel();
    let link = Link {
        outbox: Outbox::V5(client),
        inbox,
        task: tokio::spawn(run_v5(events, sender)),
    };
    Ok(Opened::Accepted(link, accepted))
}

fn options_v5(dial: &Dial) -> v5::MqttOptions {
    let address = dial.address;
    let mut options =
        v5::MqttOptions::new(&dial.client_id, address.ip().to_string(), address.port());
    options
        .set_clean_start(dial.session == Session::Clean)
        .set_manual_acks(dial.acks == Acks::ByTest)
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_max_packet_size(Some(PACKET_BYTES_MAX));
    if dial.session == Session::Kept {
        options.set_session_expiry_interval(Some(SESSION_EXPIRY_SECS));
    }
    if let Some((user, password)) = &dial.login {
        options.set_credentials(user, password);
    }
    if let Some(topic) = &dial.will {
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        let will = v5::mqttbytes::v5::LastWill::new(topic, "gone", qos, false, None);
        options.set_last_will(will);
    }
    options
}

async fn run_v5(mut events: v5::EventLoop, inbox: UnboundedSender<Packet>) {
    let closed = loop {
        match events.poll().await {
            // A send fails when the test has dropped the link; so does the next poll.
            Ok(event) => drop(packet_v5(event).map(|packet| inbox.send(packet))),
            Err(error) => {
                break Closed {
                    reason: disconnect_reason(&error),
                    text: error.to_string(),
                };
            }
        }
    };
    let _ = inbox.send(Packet::Closed(closed));
}

fn disconnect_reason(error: &v5::ConnectionError) -> Option<u8> {
    match error {
        v5::ConnectionError::MqttState(v5::StateError::ServerDisconnect {
            reason_code, ..
        }) => Some(*reason_code as u8),
        _ => None,
    }
}

fn packet_v5(event: v5::Event) -> Option<Packet> {
    use v5::Event;
    use v5::mqttbytes::v5::Packet as P;

    match event {
        Event::Outgoing(Outgoing::Publish(id)) => Some(Packet::Sent(id)),
        Event::Incoming(P::Publish(publish)) => Some(Packet::Publish(Publish {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.clone(),
            duplicate: publish.dup,
            correlation: publish
                .properties
                .as_ref()
                .and_then(|properties| properties.correlation_data.clone()),
            original: Box::new(Original::V5(publish)),
        })),
        Event::Incoming(P::PubAck(ack)) => Some(Packet::Done {
            id: ack.pkid,
            reason: puback_code(ack.reason),
        }),
        Event::Incoming(P::SubAck(ack)) => {
            let codes = ack.return_codes.into_iter().map(suback_code);
            Some(Packet::SubAck(codes.collect()))
        }
        _ => None,
    }
}

/// rumqttc names the codes; the tests, like the standard, number them.
fn connect_code(code: v5::mqttbytes::v5::ConnectReturnCode) -> Result<u8> {
    use v5::mqttbytes::v5::ConnectReturnCode as Code;

    Ok(match code {
        Code::MalformedPacket => 0x81,
        Code::ProtocolError => 0x82,
        Code::ClientIdentifierNotValid => 0x85,
        Code::BadUserNamePassword => 0x86,
        Code::NotAuthorized => 0x87,
        Code::ServerUnavailable => 0x88,
        Code::ServerBusy => 0x89,
        Code::Banned => 0x8A,
        Code::TopicNameInvalid => 0x90,
        other => bail!("unexpected code in CONNACK: {other:?}"),
    })
}

fn puback_code(reason: v5::mqttbytes::v5::PubAckReason) -> u8 {
    use v5::mqttbytes::v5::PubAckReason as Reason;

    match reason {
        Reason::Success => 0x00,
        Reason::NoMatchingSubscribers => 0x10,
        Reason::UnspecifiedError => 0x80,
        Reason::ImplementationSpecificError => 0x83,
        Reason::NotAuthorized => 0x87,
        Reason::TopicNameInvalid => 0x90,
        Reason::PacketIdentifierInUse => 0x91,
        Reason::QuotaExceeded => 0x97,
        Reason::PayloadFormatInvalid => 0x99,
    }
}

fn suback_code(reason: v5::mqttbytes::v5::SubscribeReasonCode) -> u8 {
    use v5::mqttbytes::v5::SubscribeReasonCode as Code;

    match reason {
        Code::Success(qos) => qos as u8,
        Code::Failure | Code::Unspecified => 0x80,
        Code::ImplementationSpecific => 0x83,
        Code::NotAuthorized => 0x87,
        Code::TopicFilterInvalid => 0x8F,
        Code::PkidInUse => 0x91,
        Code::QuotaExceeded => 0x97,
        Code::SharedSubscriptionsNotSupported => 0x9E,
        Code::SubscriptionIdNotSupported => 0xA1,
        Code::WildcardSubscriptionsNotSupported => 0xA2,
    }
}
