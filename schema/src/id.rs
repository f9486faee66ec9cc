//! The names in the contract: users, groups, conversations, messages.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Timestamp;

/// Longest uid and gid, in characters.
const NAME_MAX: usize = 64;

/// A name that the contract does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 1–64 of `A-Z a-z 0-9 . _ -`.
    #[error("a name is 1-64 of A-Z a-z 0-9 . _ -")]
    Name,
    /// Neither `u:{a}:{b}` with sorted uids nor `g:{gid}`.
    #[error("a conversation is u:{{a}}:{{b}} with the uids sorted, or g:{{gid}}")]
    Conversation,
}

fn check_name(name: &str) -> Result<(), IdError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(IdError::Name)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = IdError;

            fn from_str(name: &str) -> Result<Self, IdError> {
                check_name(name)?;
                Ok(Self(name.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A user's name: 1–64 of `A-Z a-z 0-9 . _ -`, case-sensitive.
    Uid
}

impl Uid {
    /// Stands for all clients without user name. No user can have it: it is not parsed.
    #[must_use]
    pub fn anonymous() -> Self {
        Uid("$anonymous".into())
    }

    /// Whether this is [`Uid::anonymous`].
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.as_str().starts_with('$')
    }
}

name! {
    /// A group's name: 1–64 of `A-Z a-z 0-9 . _ -`, case-sensitive.
    Gid
}

/// Names a conversation on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConversationId {
    /// `u:{a}:{b}`: two people, in the order of their uids; the same uid twice is a user's notes to oneself.
    Direct(Uid, Uid),
    /// `g:{gid}`.
    Group(Gid),
}

impl ConversationId {
    /// The conversation of two users, whichever is named first.
    #[must_use]
    pub fn direct(one: Uid, other: Uid) -> Self {
        if one <= other {
            ConversationId::Direct(one, other)
        } else {
            ConversationId::Direct(other, one)
        }
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConversationId::Direct(a, b) => write!(f, "u:{a}:{b}"),
            ConversationId::Group(gid) => write!(f, "g:{gid}"),
        }
    }
}

impl FromStr for ConversationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let parsed = match text.split_once(':') {
            Some(("u", pair)) => pair.split_once(':').and_then(|(a, b)| {
                let (a, b) = (a.parse::<Uid>().ok()?, b.parse::<Uid>().ok()?);
                (a <= b).then_some(ConversationId::Direct(a, b))
            }),
            Some(("g", gid)) => gid.parse().ok().map(ConversationId::Group),
            _ => None,
        };
        parsed.ok_or(IdError::Conversation)
    }
}

/// Milliseconds from 1970 to 2024-01-01, where message ids begin.
const EPOCH_MS: u64 = 1_704_067_200_000;
/// Bits of an id below its time: 10 for the node, 12 for the counter within a millisecond.
const TIME_SHIFT: u32 = 22;

/// A message's id: milliseconds since 2024 (41 bits), node (10 bits), counter (12 bits).
/// Its order is the order of time, as far as the nodes' clocks agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MsgId(pub u64);

impl MsgId {
    /// The smallest id that node 0 could have given at `time`.
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        let since_1970 = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        MsgId(ms.saturating_sub(EPOCH_MS) << TIME_SHIFT)
    }

    /// When the id was given, to the millisecond.
    #[must_use]
    pub fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis((self.0 >> TIME_SHIFT) + EPOCH_MS)
    }

    /// [`MsgId::time`] as the wire has it.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        let ms = (self.0 >> TIME_SHIFT) + EPOCH_MS;
        Timestamp::from_millis(ms.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        for good in ["a", "Alice.B_c-9", &"x".repeat(64)] {
            assert!(good.parse::<Uid>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "é", "a/b", "+", "#", "a:b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Uid>(), Err(IdError::Name), "{bad}");
        }
    }

    #[test]
    fn conversations_have_one_spelling() {
        let (alice, bob): (Uid, Uid) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let one = ConversationId::direct(alice.clone(), bob.clone());
        assert_eq!(one, ConversationId::direct(bob, alice));
        for good in ["u:alice:bob", "u:a:a", "g:demo"] {
            assert_eq!(good.parse::<ConversationId>().unwrap().to_string(), good);
        }
        for bad in ["u:bob:alice", "u:a", "g:", "x:y", "", "u:a:b:c", "g:a:b"] {
            assert!(bad.parse::<ConversationId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_message_id_tells_its_time() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
        assert_eq!(MsgId::at(time).time(), time);
        assert_eq!(MsgId::at(time).timestamp().nanos, 123_000_000);
    }
}
