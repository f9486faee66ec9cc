//! "I am writing", for the others who are there. It is never stored, and costs two reads at most.
//!
//! What comes too often, goes to a group that is too large, or to one who has to do with a block, is answered like
//! anything else, and reaches nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use schema::{ConversationId, Uid, v1};
use tokio::time::Instant;

use super::command;
use super::job::{Delivery, Settled};
use super::presence::Presence;
use super::refused::Refused;
use super::send;
use crate::store::{self, Store, looks, members, views};

/// The shortest time between two notices of a user in a conversation.
const INTERVAL: Duration = Duration::from_secs(2);
/// In larger groups nobody is told.
const MEMBERS_MAX: u32 = 200;
/// Writers who are remembered; with more of them at the same time, some are not told of.
const WRITERS_MAX: usize = 50_000;

/// Somebody is writing, or has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typing {
    /// Where.
    pub conversation: ConversationId,
    /// What; empty: text.
    pub kind: String,
    /// It has ended.
    pub stopped: bool,
}

/// Who has written where, and when that was told. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Writers {
    told: Arc<Mutex<HashMap<(Uid, String), Told>>>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    has_stopped: bool,
}

/// Checks where the caller says to be writing.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`NotFound`](crate::code::Code::NotFound).
pub(super) fn check(caller: &Uid, typing: v1::Typing) -> Result<Typing, Refused> {
    let conversation = command::destination(caller, typing.to, "typing")?;
    let kind = match typing.kind.as_str() {
        "" => String::new(),
        _ => send::check_kind(typing.kind, "")?,
    };
    Ok(Typing {
        conversation,
        kind,
        stopped: typing.stopped,
    })
}

/// Tells the others, if that is to be.
pub(super) async fn tell(
    store: &Store,
    presence: &Presence,
    writers: &Writers,
    caller: &Uid,
    typing: &Typing,
) -> Result<Settled, store::Error> {
    let name = typing.conversation.to_string();
    let ok = Settled::ok(v1::Ok {
        conversation: name.clone(),
        ..Default::default()
    });
    let key = (caller.clone(), name);
    if !writers.may_tell(&key, typing.stopped, Instant::now()) {
        return Ok(ok);
    }
    let name = key.1.as_str();
    let Some(others) = others(store, presence, caller, &typing.conversation, name).await? else {
        let refused = Refused::not_found("there is no such conversation");
        return Ok(refused.into());
    };
    // Where nobody hears it nothing has to be remembered.
    if others.is_empty() || !writers.note(&key, typing.stopped, Instant::now()) {
        return Ok(ok);
    }
    let event = v1::event::Event::Typing(v1::TypingNotice {
        conversation: name.to_owned(),
        uid: caller.to_string(),
        kind: typing.kind.clone(),
        stopped: typing.stopped,
    });
    Ok(Settled {
        deliveries: vec![Delivery::event(event, &others, 0)],
        ..ok
    })
}

/// The others who are there and are to be told; `None`: the caller may not know of the conversation.
async fn others(
    store: &Store,
    presence: &Presence,
    caller: &Uid,
    conversation: &ConversationId,
    name: &str,
) -> Result<Option<Vec<Uid>>, store::Error> {
    let db = store.reader();
    let membership = views::membership(db, caller, name).await?;
    let mut others = match (conversation, membership) {
        (ConversationId::Group(_), None) => return Ok(None),
        // Nobody has written there yet, and the other one may not exist: who asks does not learn which.
        (ConversationId::Direct(..), None) => Vec::new(),
        (ConversationId::Direct(one, other), Some(_)) => {
            if looks::is_blocked(db, one, other).await? {
                Vec::new()
            } else {
                vec![one.clone(), other.clone()]
            }
        }
        (ConversationId::Group(_), Some(membership)) => {
            let limit = MEMBERS_MAX + 1;
            let members = members::some(db, membership.conversation_id, limit).await?;
            let is_small = members.len() < limit as usize;
            if is_small { members } else { Vec::new() }
        }
    };
    others.retain(|uid| uid != caller && presence.is_online(uid));
    Ok(Some(others))
}

impl Writers {
    /// Whether a notice may be told now.
    fn may_tell(&self, key: &(Uid, String), stopped: bool, now: Instant) -> bool {
        let told = self.told.lock();
        told.get(key).is_none_or(|told| told.allows(stopped, now))
    }

    /// Notes that one is told; `false`: another one was faster, or there is no room to know of it.
    fn note(&self, key: &(Uid, String), stopped: bool, now: Instant) -> bool {
        let mut told = self.told.lock();
        if let Some(found) = told.get_mut(key) {
            if !found.allows(stopped, now) {
                return false;
            }
            // A stop does not make room for a new beginning.
            if !stopped || found.is_over(now) {
                found.at = now;
            }
            found.has_stopped = stopped;
            return true;
        }
        if told.len() >= WRITERS_MAX {
            told.retain(|_, told| !told.is_over(now));
        }
        if told.len() >= WRITERS_MAX {
            return false;
        }
        let has_stopped = stopped;
        told.insert(
            key.clone(),
            Told {
                at: now,
                has_stopped,
            },
        );
        true
    }
}

impl Told {
    fn is_over(self, now: Instant) -> bool {
        now >= self.at + INTERVAL
    }

    fn allows(self, stopped: bool, now: Instant) -> bool {
        self.is_over(now) || (stopped && !self.has_stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> (Uid, String) {
        (format!("user-{number}").parse().unwrap(), "g:team".into())
    }

    #[test]
    fn a_writer_is_told_of_now_and_then() {
        let (writers, start) = (Writers::default(), Instant::now());
        for (millis, stopped, is_told) in [
            (0, false, true),
            (100, false, false),
            (200, true, true),
            (300, true, false),
            (400, false, false),
            (1_999, false, false),
            (2_000, false, true),
            (4_500, false, true),
            (4_600, true, true),
            (6_600, true, true),
            (6_700, false, false),
        ] {
            let now = start + Duration::from_millis(millis);
            assert_eq!(writers.may_tell(&key(1), stopped, now), is_told, "{millis}");
            assert_eq!(writers.note(&key(1), stopped, now), is_told, "{millis}");
        }
    }

    #[test]
    fn writers_are_bounded() {
        let (writers, start) = (Writers::default(), Instant::now());
        for number in 0..WRITERS_MAX {
            assert!(writers.note(&key(number), false, start));
        }
        assert!(!writers.note(&key(WRITERS_MAX), false, start));
        assert!(writers.note(&key(0), true, start));
        let later = start + INTERVAL;
        assert!(writers.note(&key(WRITERS_MAX), false, later));
        assert_eq!(writers.told.lock().len(), 1);
    }
}
