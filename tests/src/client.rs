//! One person's device: an MQTT connection, and what has come in on it.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use schema::Format;
use schema::v1::{Message, Reply, To, Up, event::Event, reply, up::Command};
use tokio::time::timeout;

use self::mail::Mail;
use crate::link::{Accepted, Closed, Link, Publish};
use crate::up;
use crate::wait::PATIENCE;

mod builder;
mod mail;

pub use self::builder::Builder;
pub use self::mail::unpacked;

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

// === impl Client ===

impl Client {
    // --- saying ---

    /// Sends a text, and waits until it is stored and answered.
    pub async fn say(&mut self, to: To, text: &str) -> Result<schema::v1::Ok> {
        self.tell(up::text(to, text)).await
    }

    /// Gives a command that should succeed.
    pub async fn tell(&mut self, command: Command) -> Result<schema::v1::Ok> {
        ok_of(self.ask(&up::new(command)).await?)
    }

    /// Gives a command that should be refused; returns the error's code.
    pub async fn tell_in_vain(&mut self, command: Command) -> Result<String> {
        error_of(self.ask(&up::new(command)).await?)
    }

    /// Publishes an `Up`, and waits for its PUBACK and its reply.
    pub async fn ask(&mut self, up: &Up) -> Result<Reply> {
        let ticket = self.publish(up).await?;
        self.puback(ticket).await?;
        self.reply_to(&up.client_msg_id).await
    }

    /// Publishes an `Up` at QoS 1 without waiting for anything.
    pub async fn publish(&mut self, up: &Up) -> Result<Ticket> {
        let payload = self.encode(up)?;
        self.publish_to(&self.up_topic(), payload).await
    }

    /// Publishes anything anywhere at QoS 1 without waiting.
    pub async fn publish_to(&mut self, topic: &str, payload: Vec<u8>) -> Result<Ticket> {
        self.link.publish(topic, payload).await?;
        Ok(self.mail.ticket())
    }

    /// Publishes an `Up` as an MQTT 5 request: the reply is to come on `response_topic` with `correlation`.
    pub async fn request(
        &mut self,
        up: &Up,
        response_topic: &str,
        correlation: &[u8],
    ) -> Result<Ticket> {
        let payload = self.encode(up)?;
        let topic = self.up_topic();
        self.link
            .request(&topic, payload, response_topic, correlation)
            .await?;
        Ok(self.mail.ticket())
    }

    fn encode(&self, up: &Up) -> Result<Vec<u8>> {
        Ok(match self.format {
            Format::Protobuf => up.encode_to_vec(),
            Format::Json => serde_json::to_vec(up)?,
        })
    }

    /// Where this device speaks.
    pub fn up_topic(&self) -> String {
        format!("{}/{}/up", self.tree(), self.uid)
    }

    /// Where this device listens.
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
    pub async fn subscribe_down(&mut self) -> Result<()> {
        let codes = self.subscribe(&self.down_topic()).await?;
        ensure!(codes == [1], "SUBACK {codes:?} instead of QoS 1");
        Ok(())
    }

    /// Subscribes to anything at QoS 1; returns the codes in the SUBACK.
    pub async fn subscribe(&mut self, filter: &str) -> Result<Vec<u8>> {
        self.subscribe_at(filter, 1).await
    }

    /// Subscribes at a QoS of choice; returns the codes in the SUBACK.
    pub async fn subscribe_at(&mut self, filter: &str, qos: u8) -> Result<Vec<u8>> {
        self.link.subscribe(filter, qos).await?;
        let what = format!("the SUBACK of {filter}");
        self.wait_for(&what, |mail| mail.subacks.pop_front()).await
    }

    /// The code of a publish's PUBACK.
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
    pub async fn arrival(&mut self) -> Result<Arrival> {
        self.wait_for("a message", |mail| mail.arrivals.pop_front())
            .await
    }

    /// The next message.
    pub async fn message(&mut self) -> Result<Message> {
        self.wait_for("a message", Mail::take_message).await
    }

    /// The next `count` messages.
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

    /// The next event that `wanted` makes something of; those before it stay.
    pub async fn event<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T> {
        let take = |mail: &mut Mail| {
            let mut events = mail.events.iter().enumerate();
            let (place, found) = events.find_map(|(place, event)| Some((place, wanted(event)?)))?;
            mail.events.remove(place);
            Some(found)
        };
        self.wait_for(what, take).await
    }

    /// The events that have come and nobody has asked for.
    pub fn events_so_far(&mut self) -> Vec<Event> {
        self.sort_what_is_here();
        self.mail.events.drain(..).collect()
    }

    /// The arrivals that have come and nobody has asked for.
    pub fn arrivals_so_far(&mut self) -> Vec<Arrival> {
        self.sort_what_is_here();
        self.mail.arrivals.drain(..).collect()
    }

    /// Sends the PUBACK of an arrival, on a device with manual acks.
    pub async fn acknowledge(&self, arrival: &Arrival) -> Result<()> {
        self.link.acknowledge(&arrival.publish).await
    }

    /// How far the server knows this device to be in a conversation.
    pub async fn position(&mut self, conversation: &str) -> Result<u32> {
        // Cursors only go forward, so acknowledging the first message changes nothing and tells where it stands.
        Ok(self.tell(up::ack(conversation, 1)).await?.seq)
    }

    // --- leaving ---

    /// Waits until the broker ends the connection.
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

/// The good half of a reply.
pub fn ok_of(reply: Reply) -> Result<schema::v1::Ok> {
    match reply.result {
        Some(reply::Result::Ok(ok)) => Ok(ok),
        other => bail!("{} was refused: {other:?}", reply.client_msg_id),
    }
}

/// The code of an error reply.
pub fn error_of(reply: Reply) -> Result<String> {
    match reply.result {
        Some(reply::Result::Error(error)) => Ok(error.code),
        other => bail!("{} was not refused: {other:?}", reply.client_msg_id),
    }
}
