//! A command on its way through the pipeline, and what comes of it.

use std::sync::Arc;

use schema::link::{self, Position, ToEdge, to_edge};
use schema::{MsgId, Timestamp, Uid, v1};
use tokio::sync::oneshot;

use super::catalog::Conversation;
use super::command::Command;
use super::forward::Copied;
use super::refused::Refused;
use super::send::Send;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user.
    pub uid: Uid,
    /// The client id of the user's device; empty for HTTP.
    pub device: String,
}

/// Through which door the command came, and so where its answer goes.
#[derive(Debug)]
pub(super) enum Door {
    /// An MQTT session's publish.
    Edge { session: u64, token: u32 },
    /// An HTTP request.
    Http(oneshot::Sender<v1::Reply>),
}

impl Door {
    /// The session that sent it, which gets the answer and needs no copy; 0: none.
    pub(super) fn session(&self) -> u64 {
        match self {
            Door::Edge { session, .. } => *session,
            Door::Http(_) => 0,
        }
    }
}

/// A command and where it came from.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) caller: Caller,
    pub(super) door: Door,
    pub(super) client_msg_id: String,
    pub(super) command: Command,
    /// The words for which administrators are to see what it says.
    pub(super) flagged: Option<Box<str>>,
}

/// A user, and the `client_msg_id` that the user gave a command: under it the first answer counts.
pub(super) type Key<'a> = (&'a str, &'a str);

impl Job {
    /// The message to be sent, if that is what is asked.
    pub(super) fn send(&self) -> Option<&Send> {
        match &self.command {
            Command::Send(send) => Some(send),
            _ => None,
        }
    }

    /// The command's key; `None`: the client gave no id, or the command may be repeated.
    pub(super) fn key(&self) -> Option<Key<'_>> {
        let keeps_answer = match &self.command {
            Command::Group(command) => command.keeps_answer(),
            Command::Conversation(command) => command.keeps_answer(),
            Command::Send(_)
            | Command::Schedule(_)
            | Command::Grant(_)
            | Command::Operation(_)
            | Command::Contact(_) => true,
            // They say how it shall be, so that the second time changes nothing.
            Command::Ack(..)
            | Command::Read(..)
            | Command::User(_)
            | Command::Changes(_)
            | Command::Erase(_)
            | Command::Ask(_) => false,
        };
        (keeps_answer && !self.client_msg_id.is_empty())
            .then_some((self.caller.uid.as_str(), self.client_msg_id.as_str()))
    }
}

/// What a command came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A send has its place. What is to be told of it follows from the job and this.
    Stored(Place),
    /// Anything else.
    Settled(Box<Settled>),
}

/// A message's place in its conversation.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) conversation: Arc<Conversation>,
    pub(super) seq: u32,
    pub(super) msg_id: MsgId,
    /// The id of the message before it in its conversation; 0: it is the first, or nobody is to be told
    /// ([`Before::last_msg_id`](crate::store::conversations::Before::last_msg_id)).
    pub(super) previous: u64,
    /// The member who does not get it.
    pub(super) hidden_from: Option<Uid>,
    /// The content, where the send only says whose it is.
    pub(super) copied: Option<Arc<Copied>>,
}

impl Place {
    /// The answer to the send: the same whenever it is asked for.
    pub(super) fn ok(&self) -> v1::Ok {
        stored_ok(self.msg_id, &self.conversation.name, self.seq)
    }

    /// The message that a send becomes here.
    pub(super) fn message(&self, caller: Caller, client_msg_id: String, send: Send) -> v1::Message {
        let expires_at = self.expires_at(&send).map(Timestamp::from_millis);
        let (kind, content, forwarded) = match &self.copied {
            None => (send.kind, send.content, None),
            Some(copied) => {
                let copied = Copied::clone(copied);
                (copied.kind, Some(copied.content), copied.forwarded)
            }
        };
        v1::Message {
            msg_id: self.msg_id.0,
            conversation: send.name,
            seq: self.seq,
            sender: caller.uid.to_string(),
            sender_device: caller.device,
            client_msg_id,
            client_seq: send.client_seq,
            kind,
            content,
            forwarded,
            expires_at,
            reply_to: send.reply_to,
            mentions: send.mentions,
            sent_at: Some(self.msg_id.timestamp()),
            ..Default::default()
        }
    }
}

/// The answer to a send that has its place.
pub(super) fn stored_ok(msg_id: MsgId, conversation: &str, seq: u32) -> v1::Ok {
    v1::Ok {
        msg_id: msg_id.0,
        conversation: conversation.to_owned(),
        seq,
        sent_at: Some(msg_id.timestamp()),
        ..Default::default()
    }
}

/// The outcome of anything but a new message.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) result: Result<v1::Ok, Refused>,
    /// What others get to know of it.
    pub(super) deliveries: Vec<Delivery>,
    /// What the edge must have applied when the answer arrives.
    pub(super) precondition: Option<ToEdge>,
}

impl Settled {
    pub(super) fn ok(ok: v1::Ok) -> Self {
        Settled {
            result: Ok(ok),
            deliveries: Vec::new(),
            precondition: None,
        }
    }
}

impl From<Refused> for Settled {
    fn from(refused: Refused) -> Self {
        Settled {
            result: Err(refused),
            deliveries: Vec::new(),
            precondition: None,
        }
    }
}

impl From<Settled> for Outcome {
    fn from(settled: Settled) -> Self {
        Outcome::Settled(Box::new(settled))
    }
}

/// One payload for the live sessions of some users.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) deliver: link::Deliver,
    /// Of a message: as in [`Place::previous`].
    pub(super) previous: u64,
    /// Of an event: the message that it speaks of, which comes before it.
    pub(super) about: Option<Position>,
}

impl Delivery {
    /// A stored message for all of its conversation.
    pub(super) fn message<'a>(
        conversation_id: i64,
        message: &v1::Message,
        previous: u64,
        to: impl IntoIterator<Item = &'a Uid>,
        except_session: u64,
    ) -> Self {
        let deliver = link::Deliver {
            to: to.into_iter().map(Uid::to_string).collect(),
            except_session,
            payload: schema::wire::encode_message(message),
            position: Some(position(conversation_id, message)),
        };
        Delivery {
            deliver,
            previous,
            about: None,
        }
    }

    /// An event.
    pub(super) fn event<'a>(
        event: v1::event::Event,
        to: impl IntoIterator<Item = &'a Uid>,
        except_session: u64,
    ) -> Self {
        let event = v1::Event { event: Some(event) };
        let deliver = link::Deliver {
            to: to.into_iter().map(Uid::to_string).collect(),
            except_session,
            payload: schema::wire::encode_down(v1::down::Content::Event(event)),
            position: None,
        };
        Delivery {
            deliver,
            previous: 0,
            about: None,
        }
    }

    /// The event speaks of a stored message.
    pub(super) fn about(self, position: Position) -> Self {
        Delivery {
            about: Some(position),
            ..self
        }
    }

    pub(super) fn into_item(self) -> ToEdge {
        ToEdge {
            item: Some(to_edge::Item::Deliver(self.deliver)),
        }
    }
}

/// Where a message stands, for the edge to hand back when it is acknowledged.
pub(super) fn position(conversation_id: i64, message: &v1::Message) -> Position {
    Position {
        conversation: conversation_id.cast_unsigned(),
        seq: message.seq,
        msg_id: message.msg_id,
    }
}
