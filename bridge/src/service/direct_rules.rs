//! What two users may write to each other.
//!
//! The rules are read with the conversation and kept with it; whatever changes them lets the catalog forget it.

use std::collections::HashMap;

use schema::Uid;

use super::refused::Refused;
use crate::code::Code;
use crate::store::contacts::{self, Block, State};
use crate::store::users::{self, Openness};
use crate::store::{self, Transaction};

/// What becomes of messages from one user to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ruling {
    /// They reach the other one.
    #[default]
    Heard,
    /// They seem to.
    Unheard,
    /// The other one does not take them.
    Refused,
    /// The sender has blocked the other one.
    UnblockFirst,
    /// The other one's account is deleted.
    Gone,
}

impl Ruling {
    /// Whether the message is heard, if it may be sent at all. Whom the other one does not want, and who is merely a
    /// stranger to somebody who takes nothing from strangers, is told the same.
    fn is_heard(self) -> Result<bool, Refused> {
        match self {
            Ruling::Heard => Ok(true),
            Ruling::Unheard => Ok(false),
            Ruling::Refused => Err(Refused::new(
                Code::PermissionDenied,
                "this user takes no messages from you",
            )),
            Ruling::UnblockFirst => Err(Refused::new(
                Code::Conflict,
                "you have blocked this user: unblock first",
            )),
            Ruling::Gone => Err(Refused::not_found("there is no such user")),
        }
    }
}

/// The rulings in a conversation of two; all is heard in others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectRules {
    /// For what the user says whose uid is the first in order.
    pub first: Ruling,
    /// For what the other one says.
    pub second: Ruling,
}

impl DirectRules {
    /// Whether there is nothing to ask about.
    #[must_use]
    pub fn is_open(self) -> bool {
        self == DirectRules::default()
    }

    /// Which of the two does not hear what `sender` says, if he may say anything.
    ///
    /// # Errors
    /// [`Refused`] where the other one does not take it.
    pub fn deaf_to<'a>(
        self,
        sender: &Uid,
        (first, second): (&'a Uid, &'a Uid),
    ) -> Result<Option<&'a Uid>, Refused> {
        let (ruling, other) = if sender == first {
            (self.first, second)
        } else {
            (self.second, first)
        };
        Ok((!ruling.is_heard()?).then_some(other))
    }
}

/// The rules between users, each pair in the order of their uids, with two queries for all of them. Those between
/// whom all is heard may be missing.
///
/// # Errors
/// [`store::Error`] when the database can't answer.
pub(super) async fn load<'a>(
    tx: &Transaction,
    pairs: &[(&'a Uid, &'a Uid)],
) -> Result<HashMap<(&'a Uid, &'a Uid), DirectRules>, store::Error> {
    // Notes to oneself always work.
    let pairs = pairs
        .iter()
        .copied()
        .filter(|(first, second)| first != second);
    let pairs: Vec<(&Uid, &Uid)> = pairs.collect();
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let both_ways = pairs.iter().flat_map(|&(a, b)| [(a, b), (b, a)]);
    let standings = contacts::standings(tx, both_ways).await?;
    let mut uids: Vec<&Uid> = pairs.iter().flat_map(|&(a, b)| [a, b]).collect();
    uids.sort_unstable();
    uids.dedup();
    let openness = users::openness(tx, &uids).await?;
    let side = |uid: &Uid, other: &Uid| {
        let standing = standings.get(&(uid.clone(), other.clone())).copied();
        let (state, block) = standing.unwrap_or_default();
        Side {
            is_contact: state == State::Contact,
            block,
            openness: openness.get(uid).copied(),
        }
    };
    let rules = pairs.iter().map(|&(a, b)| {
        let (first, second) = (side(a, b), side(b, a));
        let rules = DirectRules {
            first: ruling(first, second),
            second: ruling(second, first),
        };
        ((a, b), rules)
    });
    Ok(rules.collect())
}

/// One of two users.
#[derive(Clone, Copy)]
struct Side {
    is_contact: bool,
    block: Block,
    /// `None`: there never was such a user.
    openness: Option<Openness>,
}

fn ruling(sender: Side, recipient: Side) -> Ruling {
    let Some(openness) = recipient.openness.filter(|openness| !openness.is_deleted) else {
        return Ruling::Gone;
    };
    if sender.block != Block::No {
        return Ruling::UnblockFirst;
    }
    let is_stranger = !openness.strangers && !recipient.is_contact;
    match recipient.block {
        Block::Refuse => Ruling::Refused,
        // Also before silence: others in the sender's place are refused too.
        _ if is_stranger => Ruling::Refused,
        Block::Silent => Ruling::Unheard,
        Block::No => Ruling::Heard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipient_decides_unless_the_sender_has_blocked() {
        use Block::{No, Refuse, Silent};
        // Contacts, what the sender and the recipient have blocked, whether the recipient takes strangers' messages.
        for (is_contact, sender, recipient, strangers, expected) in [
            (false, No, No, true, Ruling::Heard),
            (false, No, No, false, Ruling::Refused),
            (true, No, No, false, Ruling::Heard),
            (true, No, Refuse, true, Ruling::Refused),
            (true, No, Silent, false, Ruling::Unheard),
            (false, No, Silent, true, Ruling::Unheard),
            (false, No, Silent, false, Ruling::Refused),
            (true, Refuse, No, true, Ruling::UnblockFirst),
            (true, Silent, Refuse, true, Ruling::UnblockFirst),
        ] {
            let side = |block, strangers| Side {
                is_contact,
                block,
                openness: Some(Openness {
                    strangers,
                    is_deleted: false,
                }),
            };
            let found = ruling(side(sender, true), side(recipient, strangers));
            assert_eq!(
                found, expected,
                "{is_contact} {sender:?} {recipient:?} {strangers}"
            );
            let nobody = Side {
                openness: None,
                ..side(recipient, strangers)
            };
            assert_eq!(ruling(side(sender, true), nobody), Ruling::Gone);
        }
    }
}
