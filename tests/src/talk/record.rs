//! What a device remembers: what it has said, and what it has heard.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use schema::v1::{Message, Reply, reply};
use tokio::time::Instant;

use super::world::World;

/// Errors that mean "say it again later".
const AGAIN_LATER: [&str; 2] = ["unavailable", "rate_limited"];
/// Faults that a device keeps; one is too many already.
const FAULTS_MAX: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Record {
    /// By number.
    pub sent: Vec<Sent>,
    /// What is to be said until it is answered.
    pub open: BTreeMap<usize, Open>,
    /// By place of the conversation.
    pub heard: HashMap<usize, Heard>,
    /// Messages that came again.
    pub again: u64,
    /// Connections that the server let in, and those that broke.
    pub connections: u64,
    pub breaks: u64,
    /// What must never be.
    pub faults: Vec<String>,
}

/// A message that the device has written.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub conversation: usize,
    pub by_http: bool,
    pub since: Instant,
    /// A PUBACK that says that it is stored.
    pub is_promised: bool,
    /// Its seq and id, as answered, and how long that took.
    pub place: Option<(u32, u64)>,
    pub answered_after_ms: Option<u64>,
}

/// One that is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// When it is to be said again on the same connection.
    pub again_at: Option<Instant>,
}

/// What was heard of a conversation.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Ids by seq.
    pub ids: BTreeMap<u32, u64>,
    /// The last new message of somebody else, or of the user's other device.
    newest: u32,
}

impl Sent {
    /// How long it took to be answered, or has waited for that.
    pub fn wait(&self) -> Duration {
        match self.answered_after_ms {
            Some(millis) => Duration::from_millis(millis),
            None => self.since.elapsed(),
        }
    }
}

// === impl Record ===

impl Record {
    /// What must never be.
    pub fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// Takes down a message that goes out now; returns its number.
    pub fn send(&mut self, conversation: usize, by_http: bool) -> usize {
        let number = self.sent.len();
        self.sent.push(Sent {
            conversation,
            by_http,
            since: Instant::now(),
            is_promised: false,
            place: None,
            answered_after_ms: None,
        });
        self.open.insert(number, Open { again_at: None });
        number
    }

    /// A reply to the message of this number.
    pub fn answered(&mut self, number: usize, reply: Reply, world: &World) {
        let Some(sent) = self.sent.get_mut(number) else {
            return self.fault(format!("an answer to what was not asked: {reply:?}"));
        };
        match reply.result {
            Some(reply::Result::Ok(ok)) => {
                let place = (ok.seq, ok.msg_id);
                let name = &world.conversations[sent.conversation].name;
                let is_same = sent.place.is_none_or(|before| before == place);
                let elapsed_ms = sent.since.elapsed().as_millis();
                let elapsed_ms = u64::try_from(elapsed_ms).unwrap_or(u64::MAX);
                sent.answered_after_ms.get_or_insert(elapsed_ms);
                let before = sent.place.replace(place);
                self.open.remove(&number);
                if ok.conversation != *name {
                    self.fault(format!(
                        "stored in another conversation than {name}: {ok:?}"
                    ));
                }
                if !is_same {
                    self.fault(format!("answered {before:?} before, and now {ok:?}"));
                }
            }
            Some(reply::Result::Error(error)) if AGAIN_LATER.contains(&&*error.code) => {
                if let Some(open) = self.open.get_mut(&number) {
                    let wait = Duration::from_millis(error.retry_after_ms.max(500).into());
                    open.again_at = Some(Instant::now() + wait);
                }
            }
            refused => {
                self.open.remove(&number);
                self.fault(format!("message {number} was refused: {refused:?}"));
            }
        }
    }

    /// A message has come to the device of that name, whose user is in the conversation.
    pub fn hear(&mut self, conversation: usize, device: &str, message: &Message) {
        let heard = self.heard.entry(conversation).or_default();
        let before = heard.ids.insert(message.seq, message.msg_id);
        match before {
            Some(id) if id == message.msg_id => self.again += 1,
            Some(id) => self.fault(format!("{id} had the place of {message:?}")),
            // What the device itself has written it hears only when it comes back, if at all.
            None if message.sender_device == device => {}
            None if message.seq < heard.newest => {
                let newest = heard.newest;
                self.fault(format!(
                    "after {newest} came for the first time {message:?}"
                ));
            }
            None => heard.newest = message.seq,
        }
    }
}
