//! Topic aliases (MQTT 5, 3.3.2.3.4): numbers that stand for topics, for as long as the connection lasts.

use std::collections::HashMap;
use std::num::NonZeroU16;

use bytestring::ByteString;

use crate::closed::Closed;
use crate::codec::ReasonCode;

/// Aliases given to one client at most: a device publishes few topics, and more would be memory for little.
const GIVEN_MAX: u16 = 16;

/// Those that the client has set.
#[derive(Debug)]
pub(super) struct ClientAliases {
    topics: HashMap<NonZeroU16, ByteString>,
    max: u16,
}

impl ClientAliases {
    pub(super) fn new(max: u16) -> Self {
        ClientAliases {
            topics: HashMap::new(),
            max,
        }
    }

    /// Sets an alias to a topic, or puts the topic that it stands for into an empty one. Only usable topics are kept: the
    /// others are refused anyway.
    pub(super) fn resolve(
        &mut self,
        alias: NonZeroU16,
        topic: &mut ByteString,
        is_usable: bool,
    ) -> Result<(), Closed> {
        // [MQTT-3.3.2-9]
        let invalid = Closed::Unsupported(ReasonCode::TopicAliasInvalid);
        if alias.get() > self.max {
            return Err(invalid);
        }
        if topic.is_empty() {
            *topic = self.topics.get(&alias).ok_or(invalid)?.clone();
        } else if is_usable {
            // Copied: a slice would keep the whole read buffer alive.
            self.topics.insert(alias, String::from(&**topic).into());
        }
        Ok(())
    }
}

/// Those that we have set, for plain topics: first come, first served, and none is ever taken away.
#[derive(Debug)]
pub(super) struct ServerAliases {
    aliases: HashMap<Box<str>, NonZeroU16>,
    max: u16,
}

impl ServerAliases {
    pub(super) fn new(max: u16) -> Self {
        ServerAliases {
            aliases: HashMap::new(),
            max: max.min(GIVEN_MAX),
        }
    }

    /// How to write a topic: with which alias, and whether the client knows that already. Once a packet that says both
    /// is written, call [`ServerAliases::set`].
    pub(super) fn alias(&self, topic: &str) -> Option<(NonZeroU16, bool)> {
        if let Some(alias) = self.aliases.get(topic) {
            return Some((*alias, true));
        }
        let next = u16::try_from(self.aliases.len()).unwrap_or(u16::MAX);
        (next < self.max).then(|| (NonZeroU16::MIN.saturating_add(next), false))
    }

    pub(super) fn set(&mut self, topic: &str, alias: NonZeroU16) {
        self.aliases.insert(topic.into(), alias);
    }
}
