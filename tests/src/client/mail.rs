//! What has come in on a connection, sorted, until somebody asks for it.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use anyhow::Result;
use prost::Message as _;
use schema::v1::event::Event;
use schema::v1::{self, Batch, Down, Message, down};

use super::{Answer, Arrival, Ticket};
use crate::link::{Closed, Packet, Publish};

/// What has come in and nobody has asked for yet.
#[derive(Default)]
pub(super) struct Mail {
    pub arrivals: VecDeque<Arrival>,
    pub answers: VecDeque<Answer>,
    pub events: VecDeque<Event>,
    pub subacks: VecDeque<Vec<u8>>,
    /// Our publishes by packet id, while they wait for their PUBACK.
    under_way: HashMap<u16, Ticket>,
    pub pubacks: HashMap<Ticket, u8>,
    /// Publishes given to the link, and those that the link has written; both in the same order.
    queued: u64,
    sent: u64,
    pub closed: Option<Closed>,
}

impl Mail {
    /// The ticket of the publish that is queued just now.
    pub fn ticket(&mut self) -> Ticket {
        self.queued += 1;
        Ticket(self.queued - 1)
    }

    pub fn sort(&mut self, packet: Packet) {
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
            Some(down::Content::Batch(batch)) => match unpacked(batch) {
                Ok(batch) => batch.messages,
                Err(error) => return self.broken(&publish, &error),
            },
            Some(down::Content::Event(v1::Event { event: Some(event) })) => {
                return self.events.push_back(event);
            }
            Some(down::Content::Event(_)) => {
                return self.broken(&publish, &anyhow::anyhow!("an event without content"));
            }
            Some(down::Content::Reply(reply)) => {
                return self.answers.push_back(Answer {
                    reply,
                    correlation: publish.correlation,
                });
            }
            None => return self.broken(&publish, &anyhow::anyhow!("an empty Down")),
        };
        if messages.is_empty() {
            return self.broken(&publish, &anyhow::anyhow!("an empty batch"));
        }
        self.arrivals.push_back(Arrival { messages, publish });
    }

    /// A payload that is no `Down` ends the story like a lost connection does.
    fn broken(&mut self, publish: &Publish, error: &anyhow::Error) {
        self.closed = Some(Closed {
            reason: None,
            text: format!("what came on {} can't be read: {error:#}", publish.topic),
        });
    }

    pub fn lost(&mut self) {
        self.closed.get_or_insert_with(|| Closed {
            reason: None,
            text: "the connection's task has ended".into(),
        });
    }

    /// The next message; its arrival goes with the last one in it.
    pub fn take_message(&mut self) -> Option<Message> {
        let arrival = self.arrivals.front_mut()?;
        let message = arrival.messages.remove(0);
        if arrival.messages.is_empty() {
            self.arrivals.pop_front();
        }
        Some(message)
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

/// A batch with its messages, whether it is packed or not.
pub fn unpacked(batch: Batch) -> Result<Batch> {
    const BYTES_MAX: usize = 1024 * 1024;
    if batch.zstd.is_empty() {
        return Ok(batch);
    }
    let bytes = zstd::bulk::decompress(&batch.zstd, BYTES_MAX)?;
    Ok(Batch::decode(&*bytes)?)
}
