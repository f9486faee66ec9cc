//! One person's device: an MQTT connection, and what has come in on it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use schema::Format;
use schema::v1::{Down, Event, Message, Reply, To, Up, down, reply, up::Command};
use tokio::time::timeout;

use crate::link::{Accepted, Acks, Closed, Dial, Link, Opened, Packet, Publish, Session, Version};
use crate::server::password_of;
use crate::up;
use crate::wait::PATIENCE;

/// A device that is still to connect.
#[derive(Clone, Debug)]
pub struct Builder {
    uid: String,
    format: Format,
    dial: Dial,
}

/// A connected device.
pub struct Client {
    uid: String,
    device: String,
    format: Format,
    pub accepted: Accepted,
    link: Link,
    mail: Mail,
}

/// Names a publish of this connection: the first one is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// One PUBLISH with what it carries: one message, or a batch of them.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub messages: Vec<Message>,
    pub publish: Publish,
}

/// A reply, and the Correlation Data that came with it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub reply: Reply,
    pub correlation: Option<Bytes>,
}

/// What has come in and nobody has asked for yet.
#[derive(Default)]
struct Mail {
    arrivals: VecDeque<Arrival>,
    answers: VecDeque<Answer>,
    events: VecDeque<Event>,
    subacks: VecDeque<Vec<u8>>,
    /// Our publishes by packet id, while they wait for their PUBACK.
    under_way: HashMap<u16, Ticket>,
    pubacks: HashMap<Ticket, u8>,
    /// Publishes given to the link, and those that the link has written; both in the same order.
    queued: u64,
    sent: u64,
    closed: Option<Closed>,
}

// === impl Builder ===

impl Builder {
    pub(crate) fn new(address: SocketAddr, uid: &str) -> Self {
        Builder {
            uid: uid.into(),
            format: Format::Protobuf,
            dial: Dial {
                address,
                version: Version::V4,
                client_id: format!("{uid}-phone"),
                login: Some((uid.into(), password_of(uid))),
                session: Session::Clean,
                acks: Acks::Automatic,
                will: None,
            },
        }
    }

    /// The device's name, which is its MQTT client id.
    #[must_use]
    pub fn device(mut self, client_id: &str) -> Self {
        self.dial.client_id = client_id.into();
        self
    }

    /// MQTT 5 instead of 3.1.1.
    #[must_use]
    pub fn v5(self) -> Self {
        self.version(Version::V5)
    }

    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.dial.version = version;
        self
    }

    /// JSON instead of protobuf.
    #[must_use]
    pub fn json(self) -> Self {
        self.format(Format::Json)
    }

    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Another password, or a token.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.dial.login = Some((self.uid.clone(), password.into()));
        self
    }

    /// Neither username nor password.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.dial.login = None;
        self
    }

    /// A session that outlives the connection.
    #[must_use]
    pub fn kept_session(mut self) -> Self {
        self.dial.session = Session::Kept;
        self
    }

    /// PUBACKs only by [`Client::acknowledge`].
    #[must_use]
    pub fn manual_acks(mut self) -> Self {
        self.dial.acks = Acks::ByTest;
        self
    }

    /// A last will on this topic.
    #[must_use]
    pub fn will(mut self, topic: &str) -> Self {
        self.dial.will = Some(topic.into());
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn connect(self) -> Result<Client> {
        let opened = Link::open(&self.dial)
            .await
            .with_context(|| format!("connecting {self}"))?;
        match opened {
            Opened::Accepted(link, accepted) => Ok(Client {
                uid: self.uid,
                device: self.dial.client_id,
                format: self.format,
                accepted,
                link,
                mail: Mail::default(),
            }),
            Opened::Refused(code) => bail!("{self} was refused: CONNACK {code:#04x}"),
        }
    }

    /// Connects and subscribes to the user's down topic: what every chat client does.
    ///
    /// # Errors
    /// When either is refused.
    pub async fn online(self) -> Result<Client> {
        let mut client = self.connect().await?;
        client.subscribe_down().await?;
        Ok(client)
    }

    /// Expects to be refused; returns the code in the CONNACK.
    ///
    /// # Errors
    /// When the broker accepts, or closes without a CONNACK.
    pub async fn refused(self) -> Result<u8> {
        let opened = Link::open(&self.dial)
            .await
            .with_context(|| format!("connecting {self}"))?;
        match opened {
            Opened::Refused(code) => Ok(code),
            Opened::Accepted(..) => bail!("{self} was let in"),
        }
    }
}

impl fmt::Display for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uid, device, version) = (&self.uid, &self.dial.client_id, self.dial.version);
        write!(f, "{uid}'s {device} ({version:?}, {:?})", self.format)
    }
}

// === impl Client ===

impl Client {
    // --- saying ---

    /// Sends a text, and waits until it is stored and answered.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn say(&mut self, to: To, text: &str) -> Result<schema::v1::Ok> {
        self.tell(up::text(to, text)).await
    }

    /// Gives a command that should succeed.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn tell(&mut self, command: Command) -> Result<schema::v1::Ok> {
        ok_of(self.ask(&up::new(command)).await?)
    }

    /// Gives a command that should be refused; returns the error's code.
    ///
    /// # Errors
    /// When it succeeds.
    pub async fn tell_in_vain(&mut self, command: Command) -> Result<String> {
        error_of(self.ask(&up::new(command)).await?)
    }

    /// Publishes an `Up`, and waits for its PUBACK and its reply.
    ///
    /// # Errors
    /// When either does not come.
    pub async fn ask(&mut self, up: &Up) -> Result<Reply> {
        let ticket = self.publish(up).await?;
        self.puback(ticket).await?;
        self.reply_to(&up.client_msg_id).await
    }

    /// Publishes an `Up` at QoS 1 without waiting for anything.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn publish(&mut self, up: &Up) -> Result<Ticket> {
        let payload = match self.format {
            Format::Protobuf => up.encode_to_vec(),
            Format::Json => serde_json::to_vec(up)?,
        };
        self.publish_to(&self.up_topic(), payload).await
    }

    /// Publishes anything anywhere at QoS 1 without waiting.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn publish_to(&mut self, topic: &str, payload: Vec<u8>) -> Result<Ticket> {
        self.link.publish(topic, payload).await?;
        Ok(self.mail.ticket())
    }

    /// Publishes an `Up` as an MQTT 5 request: the reply is to come on `response_topic` with `correlation`.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn request(
        &mut self,
        up: &Up,
        response_topic: &str,
        correlation: &[u8],
    ) -> Result<Ticket> {
        let payload = match self.format {
            Format::Protobuf => up.encode_to_vec(),
            Format::Json => serde_json::to_vec(up)?,
        };
        let topic = self.up_topic();
        self.link
            .request(&topic, payload, response_topic, correlation)
            .await?;
        Ok(self.mail.ticket())
    }

    /// Where this device speaks.
    #[must_use]
    pub fn up_topic(&self) -> String {
        format!("{}/{}/up", self.tree(), self.uid)
    }

    /// Where this device listens.
    #[must_use]
    pub fn down_topic(&self) -> String {
        format!("{}/{}/down", self.tree(), self.uid)
    }

    fn tree(&self) -> &'static str {
        match self.format {
            Format::Protobuf => "im",
            Format::Json => "imj",
        }
    }

    // --- listening ---

    /// Subscribes to the user's down topic.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn subscribe_down(&mut self) -> Result<()> {
        let codes = self.subscribe(&self.down_topic()).await?;
        ensure!(codes == [1], "SUBACK {codes:?} instead of QoS 1");
        Ok(())
    }

    /// Subscribes to anything at QoS 1; returns the codes in the SUBACK.
    ///
    /// # Errors
    /// When there is no SUBACK.
    pub async fn subscribe(&mut self, filter: &str) -> Result<Vec<u8>> {
        self.link.subscribe(filter).await?;
        let what = format!("the SUBACK of {filter}");
        self.wait_for(&what, |mail| mail.subacks.pop_front()).await
    }

    /// The code of a publish's PUBACK.
    ///
    /// # Errors
    /// When there is none.
    pub async fn puback(&mut self, ticket: Ticket) -> Result<u8> {
        self.wait_for("a PUBACK", |mail| mail.pubacks.remove(&ticket))
            .await
    }

    /// How many PUBACKs have come that nobody waited for.
    pub fn pubacks_so_far(&mut self) -> usize {
        self.sort_what_is_here();
        self.mail.pubacks.len()
    }

    /// Waits until that many PUBACKs have come that nobody waited for.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn until_pubacks(&mut self, count: usize) -> Result<()> {
        let what = format!("{count} PUBACKs");
        self.wait_for(&what, |mail| (mail.pubacks.len() >= count).then_some(()))
            .await
    }

    /// Whether this publish has been acknowledged, as far as it is known here.
    pub fn is_puback_here(&mut self, ticket: Ticket) -> bool {
        self.sort_what_is_here();
        self.mail.pubacks.contains_key(&ticket)
    }

    /// The reply to one command.
    ///
    /// # Errors
    /// When there is none.
    pub async fn reply_to(&mut self, client_msg_id: &str) -> Result<Reply> {
        let what = format!("the reply to {client_msg_id}");
        let is_it = |answer: &Answer| answer.reply.client_msg_id == client_msg_id;
        let answer = self.wait_for(&what, |mail| {
            let place = mail.answers.iter().position(is_it)?;
            mail.answers.remove(place)
        });
        Ok(answer.await?.reply)
    }

    /// The next reply, whatever it answers.
    ///
    /// # Errors
    /// When there is none.
    pub async fn answer(&mut self) -> Result<Answer> {
        self.wait_for("a reply", |mail| mail.answers.pop_front())
            .await
    }

    /// The replies that have come and nobody has asked for.
    pub fn replies_so_far(&mut self) -> Vec<Reply> {
        self.sort_what_is_here();
        let answers = self.mail.answers.drain(..);
        answers.map(|answer| answer.reply).collect()
    }

    /// The next publish that carries messages.
    ///
    /// # Errors
    /// When there is none.
    pub async fn arrival(&mut self) -> Result<Arrival> {
        self.wait_for("a message", |mail| mail.arrivals.pop_front())
            .await
    }

    /// The next message.
    ///
    /// # Errors
    /// When there is none.
    pub async fn message(&mut self) -> Result<Message> {
        self.wait_for("a message", Mail::take_message).await
    }

    /// The next `count` messages.
    ///
    /// # Errors
    /// When fewer come.
    pub async fn messages(&mut self, count: usize) -> Result<Vec<Message>> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            let message = self.message().await.with_context(|| {
                let last = messages.last();
                format!("{} of {count} came, the last is {last:?}", messages.len())
            })?;
            messages.push(message);
        }
        Ok(messages)
    }

    /// The next event.
    ///
    /// # Errors
    /// When there is none.
    pub async fn event(&mut self) -> Result<Event> {
        self.wait_for("an event", |mail| mail.events.pop_front())
            .await
    }

    /// Sends the PUBACK of an arrival, on a device with manual acks.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn acknowledge(&self, arrival: &Arrival) -> Result<()> {
        self.link.acknowledge(&arrival.publish).await
    }

    /// How far the server knows this device to be in a conversation.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn position(&mut self, conversation: &str) -> Result<u32> {
        // Cursors only go forward, so acknowledging the first message changes nothing and tells where it stands.
        Ok(self.tell(up::ack(conversation, 1)).await?.seq)
    }

    // --- leaving ---

    /// Waits until the broker ends the connection.
    ///
    /// # Errors
    /// When it does not.
    pub async fn closed(&mut self) -> Result<Closed> {
        let end = async {
            while self.mail.closed.is_none() {
                self.sort_next().await;
            }
        };
        timeout(PATIENCE, end)
            .await
            .with_context(|| format!("{self} is still connected after {PATIENCE:?}"))?;
        let closed = self.mail.closed.clone();
        closed.context("just seen")
    }

    /// DISCONNECT after all that is queued.
    ///
    /// # Errors
    /// When the connection has ended before.
    pub async fn disconnect(self) -> Result<()> {
        self.link.disconnect().await
    }

    /// Drops the socket without a word.
    pub async fn drop_connection(self) {
        self.link.drop_connection().await;
    }

    // --- sorting ---

    async fn wait_for<T>(
        &mut self,
        what: &str,
        mut take: impl FnMut(&mut Mail) -> Option<T>,
    ) -> Result<T> {
        let taking = async {
            loop {
                if let Some(taken) = take(&mut self.mail) {
                    return Ok(taken);
                }
                if let Some(closed) = &self.mail.closed {
                    bail!("disconnected: {closed:?}");
                }
                self.sort_next().await;
            }
        };
        let taken = timeout(PATIENCE, taking).await;
        let taken = taken.unwrap_or_else(|_| bail!("nothing within {PATIENCE:?}"));
        taken.with_context(|| format!("{self} waiting for {what}, with {} unread", self.mail))
    }

    async fn sort_next(&mut self) {
        match self.link.next().await {
            Some(packet) => self.mail.sort(packet),
            None => self.mail.lost(),
        }
    }

    fn sort_what_is_here(&mut self) {
        while let Some(packet) = self.link.try_next() {
            self.mail.sort(packet);
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}'s {}", self.uid, self.device)
    }
}

// === impl Mail ===

impl Mail {
    /// The ticket of the publish that is queued just now.
    fn ticket(&mut self) -> Ticket {
        self.queued += 1;
        Ticket(self.queued - 1)
    }

    fn sort(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.sort_publish(publish),
            Packet::Sent(id) => {
                self.under_way.insert(id, Ticket(self.sent));
                self.sent += 1;
            }
            Packet::Done { id, reason } => {
                let ticket = self.under_way.remove(&id);
                self.pubacks.extend(ticket.map(|ticket| (ticket, reason)));
            }
            Packet::SubAck(codes) => self.subacks.push_back(codes),
            Packet::Closed(closed) => self.closed = Some(closed),
        }
    }

    fn sort_publish(&mut self, publish: Publish) {
        let down = match decode(&publish) {
            Ok(down) => down,
            Err(error) => return self.broken(&publish, &error),
        };
        let messages = match down.content {
            Some(down::Content::Message(message)) => vec![message],
            Some(down::Content::Batch(batch)) => batch.messages,
            Some(down::Content::Event(event)) => return self.events.push_back(event),
            Some(down::Content::Reply(reply)) => {
                return self.answers.push_back(Answer {
                    reply,
                    correlation: publish.correlation,
                });
            }
            None => return self.broken(&publish, &anyhow::anyhow!("an empty Down")),
        };
        self.arrivals.push_back(Arrival { messages, publish });
    }

    /// A payload that is no `Down` ends the story like a lost connection does.
    fn broken(&mut self, publish: &Publish, error: &anyhow::Error) {
        self.closed = Some(Closed {
            reason: None,
            text: format!("what came on {} can't be read: {error:#}", publish.topic),
        });
    }

    fn lost(&mut self) {
        self.closed.get_or_insert_with(|| Closed {
            reason: None,
            text: "the connection's task has ended".into(),
        });
    }

    fn take_message(&mut self) -> Option<Message> {
        loop {
            let arrival = self.arrivals.front_mut()?;
            if arrival.messages.is_empty() {
                self.arrivals.pop_front();
            } else {
                return Some(arrival.messages.remove(0));
            }
        }
    }
}

impl fmt::Display for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (arrivals, answers) = (&self.arrivals, &self.answers);
        write!(f, "{} arrivals and {answers:?}", arrivals.len())
    }
}

fn decode(publish: &Publish) -> Result<Down> {
    let json = publish.topic.starts_with("imj/");
    Ok(if json {
        serde_json::from_slice(&publish.payload)?
    } else {
        Down::decode(publish.payload.clone())?
    })
}

/// The good half of a reply.
///
/// # Errors
/// When it is the other one.
pub fn ok_of(reply: Reply) -> Result<schema::v1::Ok> {
    match reply.result {
        Some(reply::Result::Ok(ok)) => Ok(ok),
        other => bail!("{} was refused: {other:?}", reply.client_msg_id),
    }
}

/// The code of an error reply.
///
/// # Errors
/// When it is not one.
pub fn error_of(reply: Reply) -> Result<String> {
    match reply.result {
        Some(reply::Result::Error(error)) => Ok(error.code),
        other => bail!("{} was not refused: {other:?}", reply.client_msg_id),
    }
}
