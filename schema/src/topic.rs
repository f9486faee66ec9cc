//! The topics of the contract, parsed once where a packet comes in.

use std::fmt;

use crate::id::Uid;
use crate::wire::Format;

/// What a topic name, or a topic filter without wildcards, means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topic {
    /// `im/{uid}/up`, `imj/{uid}/up`: that user's commands.
    Up(Format, Uid),
    /// `im/{uid}/down`, `imj/{uid}/down`: what that user gets.
    Down(Format, Uid),
    /// Any other: rooms, devices, `$SYS`, and what the contract does not know.
    Other,
}

impl Topic {
    /// Reads a topic name. Wildcards never match here: `im/+/down` is [`Topic::Other`].
    #[must_use]
    pub fn parse(topic: &str) -> Self {
        Self::parse_user_topic(topic).unwrap_or(Topic::Other)
    }

    fn parse_user_topic(topic: &str) -> Option<Self> {
        let (tree, rest) = topic.split_once('/')?;
        let (uid, leaf) = rest.split_once('/')?;
        let format = match tree {
            "im" => Format::Protobuf,
            "imj" => Format::Json,
            _ => return None,
        };
        match leaf {
            "up" => Some(Topic::Up(format, uid.parse().ok()?)),
            "down" => Some(Topic::Down(format, uid.parse().ok()?)),
            _ => None,
        }
    }

    /// The down topic of a user, as it is written on the wire.
    #[must_use]
    pub fn down(format: Format, uid: &Uid) -> String {
        Topic::Down(format, uid.clone()).to_string()
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = |format: &Format| match format {
            Format::Protobuf => "im",
            Format::Json => "imj",
        };
        match self {
            Topic::Up(format, uid) => write!(f, "{}/{uid}/up", tree(format)),
            Topic::Down(format, uid) => write!(f, "{}/{uid}/down", tree(format)),
            Topic::Other => f.write_str("(other)"),
        }
    }
}

/// The longest topic and topic filter, in bytes [MQTT-4.7.3-3].
const LENGTH_MAX: usize = 65_535;

/// Whether this is a topic filter as MQTT has it: not empty, no NUL [MQTT-4.7.3-1, MQTT-4.7.3-2], and each wildcard has
/// a level of its own, `#` the last one [MQTT-4.7.1-1, MQTT-4.7.1-2]. Shared subscriptions have no place of their own here.
#[must_use]
pub fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > LENGTH_MAX || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_well_formed = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            name => !name.contains(['#', '+']),
        };
        if !is_well_formed {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_exact_topics_are_user_topics() {
        let alice: Uid = "alice".parse().unwrap();
        assert_eq!(
            Topic::parse("im/alice/up"),
            Topic::Up(Format::Protobuf, alice.clone())
        );
        assert_eq!(
            Topic::parse("imj/alice/down"),
            Topic::Down(Format::Json, alice)
        );
        for other in [
            "",
            "im",
            "im/alice",
            "im//up",
            "im/alice/up/",
            "/im/alice/up",
            "im/+/down",
            "im/alice/#",
            "$share/x/im/alice/down",
            "IM/alice/up",
            "im/al ice/up",
            "im/é/up",
            "dev/alice/x",
        ] {
            assert_eq!(Topic::parse(other), Topic::Other, "{other}");
        }
    }

    #[test]
    fn wildcards_have_a_level_of_their_own() {
        for good in [
            "#", "+", "a", "/", "//", "/a", "a/", "a/#", "+/+", "+/a/#", "a b", "é", "$SYS/#",
        ] {
            assert!(is_filter(good), "{good}");
        }
        for bad in [
            "", "a#", "#/a", "#/", "a/#/b", "##", "a+", "+a/b", "a/++", "a\0",
        ] {
            assert!(!is_filter(bad), "{bad}");
        }
        assert!(is_filter(&"x".repeat(LENGTH_MAX)));
        assert!(!is_filter(&"x".repeat(LENGTH_MAX + 1)));
    }

    proptest! {
        /// A topic that reads as a user's is written back to the letter: no second spelling slips through.
        #[test]
        fn a_user_topic_has_one_spelling(topic in "(im|imj|x)/[a-zA-Z+#./$-]{0,8}/(up|down|x)") {
            let parsed = Topic::parse(&topic);
            prop_assert!(parsed == Topic::Other || parsed.to_string() == topic);
        }
    }
}
