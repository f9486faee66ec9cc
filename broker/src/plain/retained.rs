//! What is kept for those who subscribe later (MQTT 3.3.1.3): the last retained message of each topic.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytestring::ByteString;

use super::message::Message;
use super::policy;
use super::tree::Tree;
use crate::options::RetainedOptions;

/// What a level of a topic takes in the tree, in bytes, if no other topic shares it: a deep topic must not come cheap.
const LEVEL_OVERHEAD: usize = 96;

/// Why a message is not kept (0x97 Quota exceeded).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Full {
    /// `messages_max`.
    #[error("too many retained messages")]
    Messages,
    /// `bytes_max`.
    #[error("too many bytes of retained messages")]
    Bytes,
    /// `per_user_max`.
    #[error("too many retained messages of the user")]
    User,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Retained {
    options: RetainedOptions,
    messages: Tree<Arc<Message>>,
    /// When the messages that expire do so, and which they are.
    expiries: BTreeSet<(u64, ByteString)>,
    /// Messages below each `dev/{uid}/`.
    per_user: HashMap<Box<str>, usize>,
    bytes: usize,
}

impl Retained {
    pub(crate) fn new(options: RetainedOptions) -> Self {
        Retained {
            options,
            messages: Tree::default(),
            expiries: BTreeSet::new(),
            per_user: HashMap::new(),
            bytes: 0,
        }
    }

    /// Keeps the message instead of an earlier one of its topic; one without payload only ends the earlier one's time
    /// [MQTT-3.3.1-6, 7].
    ///
    /// # Errors
    /// There is no room, and nothing has changed.
    pub(crate) fn put(&mut self, message: Arc<Message>) -> Result<(), Full> {
        if !message.payload.is_empty() {
            self.check_room(&message)?;
        }
        self.remove(&message.topic);
        if !message.payload.is_empty() {
            self.add(message);
        }
        Ok(())
    }

    /// The message of a topic, even if it has expired and is not purged yet.
    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.messages.get(topic)
    }

    /// Visits the messages whose topics the filter matches, until told to stop.
    pub(crate) fn for_each_below(
        &self,
        filter: &str,
        now_ms: u64,
        mut visit: impl FnMut(&Arc<Message>) -> ControlFlow<()>,
    ) {
        self.messages.for_each_below(filter, |message| {
            if message.is_expired(now_ms) {
                ControlFlow::Continue(())
            } else {
                visit(message)
            }
        });
    }

    /// Drops what has expired; costs nothing for what has not.
    pub(crate) fn purge(&mut self, now_ms: u64) {
        while let Some((expires_at_ms, topic)) = self.expiries.first()
            && *expires_at_ms <= now_ms
        {
            let topic = topic.clone();
            self.remove(&topic);
        }
    }

    /// Messages, the expired ones that are not purged among them.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Their bytes, as they count against `bytes_max`.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn check_room(&self, message: &Message) -> Result<(), Full> {
        let old = self.get(&message.topic);
        let old_bytes = old.map_or(0, |old| weight(old));
        let new_bytes = weight(message);
        // What is there may be past a bound that the operator has lowered; it can be replaced and shrink all the same.
        if new_bytes > old_bytes && self.bytes - old_bytes + new_bytes > self.options.bytes_max {
            return Err(Full::Bytes);
        }
        if old.is_some() {
            return Ok(());
        }
        if self.len() >= self.options.messages_max {
            return Err(Full::Messages);
        }
        let of_user = policy::owner(&message.topic).and_then(|owner| self.per_user.get(owner));
        if of_user.is_some_and(|count| *count >= self.options.per_user_max) {
            return Err(Full::User);
        }
        Ok(())
    }

    fn add(&mut self, message: Arc<Message>) {
        self.bytes += weight(&message);
        if message.expires_at_ms != 0 {
            let expiry = (message.expires_at_ms, message.topic.clone());
            self.expiries.insert(expiry);
        }
        if let Some(owner) = policy::owner(&message.topic) {
            *self.per_user.entry(owner.into()).or_default() += 1;
        }
        let topic = message.topic.clone();
        self.messages.get_or_insert_with(&topic, || message);
    }

    fn remove(&mut self, topic: &str) {
        let Some(message) = self.messages.remove(topic) else {
            return;
        };
        self.bytes -= weight(&message);
        if message.expires_at_ms != 0 {
            let expiry = (message.expires_at_ms, message.topic.clone());
            self.expiries.remove(&expiry);
        }
        let Some(owner) = policy::owner(topic) else {
            return;
        };
        if let Some(count) = self.per_user.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                self.per_user.remove(owner);
            }
        }
    }
}

fn weight(message: &Message) -> usize {
    message.size() + message.topic.split('/').count() * LEVEL_OVERHEAD
}
