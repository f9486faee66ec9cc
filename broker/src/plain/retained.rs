//! What is kept for those who subscribe later (MQTT 3.3.1.3): the last retained message of each topic.

use std::collections::{BTreeSet, HashMap, HashSet};
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
    /// What is below each `dev/{uid}/`.
    per_user: HashMap<Box<str>, Share>,
    bytes: usize,
    /// While all of it is told anew: the topics that have come until now.
    briefed: Option<HashSet<ByteString>>,
}

/// What one user's topics take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    messages: usize,
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
            briefed: None,
        }
    }

    /// All that is kept comes anew.
    pub(crate) fn begin_briefing(&mut self) {
        self.briefed = Some(HashSet::new());
    }

    /// Whether that has begun, and not ended.
    pub(crate) fn is_being_briefed(&self) -> bool {
        self.briefed.is_some()
    }

    /// What has not come since [`Retained::begin_briefing`] is no longer kept, unless it `is_new`.
    pub(crate) fn end_briefing(&mut self, is_new: impl Fn(&str) -> bool) {
        let Some(briefed) = self.briefed.take() else {
            return;
        };
        let mut gone = Vec::new();
        self.messages.for_each(|message| {
            if !briefed.contains(&message.topic) && !is_new(&message.topic) {
                gone.push(message.topic.clone());
            }
        });
        for topic in gone {
            self.remove(&topic);
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
        if let Some(briefed) = &mut self.briefed {
            briefed.insert(message.topic.clone());
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

    /// Visits the messages whose topics the filter matches. Returns how many nodes of the tree had to be looked at.
    pub(crate) fn for_each_below(
        &self,
        filter: &str,
        now_ms: u64,
        mut visit: impl FnMut(&Arc<Message>),
    ) -> u32 {
        self.messages.for_each_below(filter, |message| {
            if !message.is_expired(now_ms) {
                visit(message);
            }
        })
    }

    /// Drops what has expired; costs nothing for what has not.
    pub(crate) fn purge(&mut self, now_ms: u64) {
        let is_due = |(expires_at_ms, _): &(u64, ByteString)| *expires_at_ms <= now_ms;
        while self.expiries.first().is_some_and(is_due) {
            if let Some((_, topic)) = self.expiries.pop_first() {
                self.remove(&topic);
            }
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
        let owner = policy::owner(&message.topic);
        let share = owner.and_then(|owner| self.per_user.get(owner).copied());
        let share = share.unwrap_or_default();
        // What is there may be past a bound that the operator has lowered; it can be replaced and shrink all the same.
        if new_bytes > old_bytes {
            let grown = new_bytes - old_bytes;
            if self.bytes + grown > self.options.bytes_max {
                return Err(Full::Bytes);
            }
            if owner.is_some() && share.bytes + grown > self.options.bytes_per_user_max {
                return Err(Full::User);
            }
        }
        if old.is_some() {
            return Ok(());
        }
        if self.len() >= self.options.messages_max {
            return Err(Full::Messages);
        }
        if owner.is_some() && share.messages >= self.options.per_user_max {
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
            let share = self.per_user.entry(owner.into()).or_default();
            share.messages += 1;
            share.bytes += weight(&message);
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
        if let Some(share) = self.per_user.get_mut(owner) {
            share.messages -= 1;
            share.bytes -= weight(&message);
            if share.messages == 0 {
                self.per_user.remove(owner);
            }
        }
    }
}

fn weight(message: &Message) -> usize {
    message.size() + message.topic.split('/').count() * LEVEL_OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::codec::Qos;
    use crate::plain::filter;

    const OPTIONS: RetainedOptions = RetainedOptions {
        messages_max: 5,
        bytes_max: 4000,
        per_user_max: 2,
        bytes_per_user_max: 3000,
    };

    fn message(topic: &str, payload_len: usize, expires_at_ms: u64) -> Arc<Message> {
        Arc::new(Message {
            topic: topic.into(),
            qos: Qos::AtMostOnce,
            payload: Bytes::from(vec![b'x'; payload_len]),
            properties: None,
            expires_at_ms,
            retain: true,
            publisher: 0,
        })
    }

    fn below(retained: &Retained, filter: &str, now_ms: u64) -> Vec<Arc<Message>> {
        let mut found = Vec::new();
        retained.for_each_below(filter, now_ms, |message| found.push(message.clone()));
        found.sort_by(|a, b| a.topic.cmp(&b.topic));
        found
    }

    #[test]
    fn each_bound_is_kept() {
        let mut retained = Retained::new(OPTIONS);
        for topic in ["dev/a/1", "dev/a/2", "dev/b/1"] {
            assert_eq!(retained.put(message(topic, 1, 0)), Ok(()));
        }
        assert_eq!(retained.put(message("dev/a/3", 1, 0)), Err(Full::User));
        assert_eq!(retained.put(message("dev/a", 1, 0)), Err(Full::User));
        assert_eq!(retained.put(message("dev/a/1", 2, 0)), Ok(()));
        assert_eq!(retained.put(message("dev/a/1", 4000, 0)), Err(Full::Bytes));
        assert_eq!(retained.get("dev/a/1").unwrap().payload.len(), 2);
        for topic in ["news/1", "news/2"] {
            assert_eq!(retained.put(message(topic, 1, 0)), Ok(()));
        }
        assert_eq!(retained.put(message("news/3", 1, 0)), Err(Full::Messages));
        for topic in ["dev/a/1", "dev/a/2", "dev/b/1", "news/1", "news/2", "none"] {
            assert_eq!(retained.put(message(topic, 0, 0)), Ok(()));
        }
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
        assert!(retained.per_user.is_empty() && retained.expiries.is_empty());
    }

    /// Of what is told anew, the rest is gone; but not what has come by itself, or is not stored yet.
    #[test]
    fn a_briefing_takes_away_what_it_does_not_name() {
        let mut retained = Retained::new(OPTIONS);
        for topic in ["a", "b", "dev/a/1", "$x"] {
            retained.put(message(topic, 1, 9)).unwrap();
        }
        retained.begin_briefing();
        retained.put(message("b", 2, 0)).unwrap();
        retained.put(message("c", 1, 0)).unwrap();
        retained.put(message("$x", 0, 0)).unwrap();
        retained.end_briefing(|topic| topic == "a");
        let topics: Vec<String> = below(&retained, "#", 0)
            .iter()
            .map(|message| message.topic.to_string())
            .collect();
        assert_eq!(topics, ["a", "b", "c"]);
        assert!(retained.per_user.is_empty() && retained.expiries.len() == 1);
        retained.end_briefing(|_| false);
        assert_eq!(retained.len(), 3);
    }

    #[test]
    fn past_a_lowered_bound_messages_may_still_shrink() {
        let mut retained = Retained::new(OPTIONS);
        assert_eq!(retained.put(message("a", 3000, 0)), Ok(()));
        retained.options.bytes_max = 1000;
        assert_eq!(retained.put(message("a", 2900, 0)), Ok(()));
        assert_eq!(retained.put(message("a", 2901, 0)), Err(Full::Bytes));
        assert_eq!(retained.put(message("b", 1, 0)), Err(Full::Bytes));
    }

    #[derive(Clone, Debug)]
    enum Change {
        Put(&'static str, usize, u64),
        Purge,
    }

    fn change() -> impl Strategy<Value = Change> {
        let topics = ["dev/a/1", "dev/a/2", "dev/a", "dev/b/1", "n", "n/1", "$x/1"];
        let expiry = select(vec![0, 0, 5, 10, 20, 30]);
        prop_oneof![
            6 => (select(topics.to_vec()), 0..1200_usize, expiry)
                .prop_map(|(topic, len, expiry)| Change::Put(topic, len.saturating_sub(400), expiry)),
            1 => Just(Change::Purge),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_bounded_map(changes in vec(change(), 1..40)) {
            let mut retained = Retained::new(OPTIONS);
            let mut model: BTreeMap<String, Arc<Message>> = BTreeMap::new();
            let bytes = |model: &BTreeMap<_, Arc<Message>>| model.values().map(|m| weight(m)).sum::<usize>();
            for (now_ms, change) in changes.into_iter().enumerate() {
                let now_ms = now_ms as u64;
                match change {
                    Change::Put(topic, 0, _) => {
                        prop_assert_eq!(retained.put(message(topic, 0, 0)), Ok(()));
                        model.remove(topic);
                    }
                    Change::Put(topic, len, expiry) => {
                        let message = message(topic, len, expiry);
                        let mut next = model.clone();
                        next.insert(topic.to_owned(), message.clone());
                        let of_user = |user: &str| next.keys().filter(|topic| topic.starts_with(user)).count();
                        let fits = next.len() <= 5
                            && bytes(&next) <= 4000
                            && of_user("dev/a") <= 2
                            && of_user("dev/b") <= 2;
                        prop_assert_eq!(retained.put(message).is_ok(), fits);
                        if fits {
                            model = next;
                        }
                    }
                    Change::Purge => {
                        retained.purge(now_ms);
                        model.retain(|_, message| !message.is_expired(now_ms));
                    }
                }
                prop_assert_eq!((retained.len(), retained.bytes()), (model.len(), bytes(&model)));
                let expiring = model.values().filter(|message| message.expires_at_ms != 0);
                prop_assert_eq!(retained.expiries.len(), expiring.count());
                for filter in ["#", "dev/+/1", "dev/a/#", "$x/+", "n/#"] {
                    let expected = model.values().filter(|message| {
                        filter::matches(filter, &message.topic) && !message.is_expired(now_ms)
                    });
                    prop_assert_eq!(below(&retained, filter, now_ms), expected.cloned().collect::<Vec<_>>());
                }
            }
        }
    }
}
