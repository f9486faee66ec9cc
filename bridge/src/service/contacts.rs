//! Contacts: requests, notes on them, blocks.
//!
//! Two users have a row each of what they have to do with each other. What a command makes of the two is decided by a
//! plain function, `Pair::after`; what is stored, told and limited follows from the difference.

use schema::{ConversationId, Uid, v1};

use super::Limits;
use super::batch::Executor;
use super::command;
use super::job::{Caller, Delivery, Settled};
use super::refused::Refused;
use super::single::Failed;
use super::users::short_text;
use crate::code::Code;
use crate::store::contacts::{self, Block, Contact, State};
use crate::store::{Transaction, conversations, users, views};

/// Longest text of a request, remark and name of a group of contacts, in characters.
const TEXT_MAX: usize = 256;
const REMARK_MAX: usize = 128;
const LABEL_MAX: usize = 64;
/// Groups of contacts that one may be in.
const LABELS_MAX: usize = 32;

/// What changes what the caller has to do with another user.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The other one.
    pub other: Uid,
    /// What it is.
    pub change: Change,
}

/// See [`Command`].
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Asks to become contacts, with that text.
    Request(String),
    /// Takes up the other one's request.
    Accept,
    /// Turns it down.
    Refuse,
    /// Ends the contact, or takes the own request back.
    Remove,
    /// Notes something of the contact; `None`: as it is.
    Note {
        /// What the caller calls the contact.
        remark: Option<String>,
        /// The groups of contacts that it is in.
        labels: Option<Vec<String>>,
    },
    /// Hears the other one, or no longer.
    Block(Block),
}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(caller: &Uid, asked: v1::up::Command) -> Result<command::Command, Refused> {
    use v1::up::Command as Asked;
    let (user, change) = match asked {
        Asked::ContactRequest(asked) => {
            let text = short_text("the text of a request", &asked.text, TEXT_MAX)?;
            (asked.user, Change::Request(text))
        }
        Asked::ContactAccept(asked) => (asked.user, Change::Accept),
        Asked::ContactRefuse(asked) => (asked.user, Change::Refuse),
        Asked::ContactRemove(asked) => (asked.user, Change::Remove),
        Asked::ContactSet(asked) => {
            let remark = asked
                .remark
                .map(|remark| short_text("a remark", &remark, REMARK_MAX));
            let labels = asked.groups.map(|groups| check_labels(groups.names));
            let change = Change::Note {
                remark: remark.transpose()?,
                labels: labels.transpose()?,
            };
            (asked.user, change)
        }
        Asked::ContactBlock(asked) => {
            let block = if asked.silent {
                Block::Silent
            } else {
                Block::Refuse
            };
            (asked.user, Change::Block(block))
        }
        Asked::ContactUnblock(asked) => (asked.user, Change::Block(Block::No)),
        _ => unreachable!("only these are handed over"),
    };
    let other = command::uid(&user)?;
    if other == *caller {
        return Err(Refused::invalid("nobody is his own contact"));
    }
    Ok(command::Command::Contact(Command { other, change }))
}

fn check_labels(names: Vec<String>) -> Result<Vec<String>, Refused> {
    if names.len() > LABELS_MAX {
        let reason = "a contact is in at most 32 groups of contacts";
        return Err(Refused::new(Code::TooLarge, reason));
    }
    let mut labels: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        let label = short_text("the name of a group of contacts", &name, LABEL_MAX)?;
        if label.is_empty() {
            let reason = "the name of a group of contacts has 1-64 characters";
            return Err(Refused::invalid(reason));
        }
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    Ok(labels)
}

impl Executor {
    /// Executes a change of a contact.
    pub(super) async fn change_contact(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        command: &Command,
        session: u64,
    ) -> Result<Settled, Failed> {
        let (uid, other) = (&caller.uid, &command.other);
        users::lock(tx, [uid, other]).await?;
        let (caller_seen, other_seen) = both(tx, uid, other).await?;
        if other_seen.deleted && command.change.needs_other() {
            return Err(no_such_user(other).into());
        }
        let before = Pair {
            own: contacts::lookup(tx, uid, other).await?.unwrap_or_default(),
            others: contacts::lookup(tx, other, uid).await?.unwrap_or_default(),
        };
        let after = before.after(&command.change)?;
        check_limits(tx, (uid, other), (&before, &after), &self.limits).await?;
        let mut deliveries = Vec::new();
        let own = after.own.clone().into_wire(other_seen);
        if after.own != before.own {
            contacts::set(tx, uid, other, &after.own).await?;
            let event = v1::event::Event::Contact(own.clone());
            deliveries.push(Delivery::event(event, [uid], session));
        }
        if after.others != before.others {
            contacts::set(tx, other, uid, &after.others).await?;
            let event = v1::event::Event::Contact(after.others.clone().into_wire(caller_seen));
            deliveries.push(Delivery::event(event, [other], 0));
        }
        if after != before {
            // What they may write to each other.
            let conversation = ConversationId::direct(uid.clone(), other.clone());
            let name = conversation.to_string();
            conversations::revise(tx, std::slice::from_ref(&name)).await?;
            self.stage_change(&name);
        }
        Ok(Settled {
            deliveries,
            ..Settled::ok(v1::Ok {
                answer: Some(v1::ok::Answer::Contact(Box::new(own))),
                ..Default::default()
            })
        })
    }
}

impl Change {
    /// Whether it begins something, which nobody can with a deleted user.
    fn needs_other(&self) -> bool {
        match self {
            Change::Request(_) | Change::Accept => true,
            Change::Block(block) => *block != Block::No,
            Change::Refuse | Change::Remove | Change::Note { .. } => false,
        }
    }
}

/// What two users have to do with each other.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pair {
    own: Contact,
    others: Contact,
}

impl Pair {
    /// What a change of the caller's makes of it.
    fn after(&self, change: &Change) -> Result<Pair, Refused> {
        let no_contact = || Refused::not_found("that user is not among your contacts");
        let no_request = || Refused::not_found("that user has not asked you");
        let mut after = self.clone();
        let Pair { own, others } = &mut after;
        match (change, own.state) {
            (Change::Request(_), _) if own.block != Block::No => {
                let reason = "you have blocked this user: unblock first";
                return Err(Refused::new(Code::Conflict, reason));
            }
            (Change::Request(_), State::Contact | State::Requested)
            | (Change::Accept, State::Contact) => {}
            (Change::Request(_), _) if others.state == State::Requested => after.join(),
            (Change::Request(text), _) => {
                own.state = State::Requested;
                own.text.clone_from(text);
                // Whoever is blocked does not learn of it, and is not heard.
                if others.block == Block::No {
                    others.state = State::Asked;
                    others.text.clone_from(text);
                }
            }
            (Change::Accept, State::Asked) => after.join(),
            (Change::Accept | Change::Refuse, _) if own.state != State::Asked => {
                return Err(no_request());
            }
            // The one who asked goes on waiting, and can't ask again without taking it back.
            (Change::Accept | Change::Refuse, _) => own.end(),
            (Change::Remove, State::Contact) => {
                own.end();
                others.end();
            }
            (Change::Remove, State::Requested) => {
                own.end();
                if others.state == State::Asked {
                    others.end();
                }
            }
            (Change::Remove, State::None | State::Asked) => return Err(no_contact()),
            (Change::Note { remark, labels }, State::Contact) => {
                if let Some(remark) = remark {
                    own.remark.clone_from(remark);
                }
                if let Some(labels) = labels {
                    own.labels.clone_from(labels);
                }
            }
            (Change::Note { .. }, _) => return Err(no_contact()),
            (Change::Block(block), state) => {
                own.block = *block;
                if *block != Block::No && state == State::Asked {
                    own.end();
                }
            }
        }
        Ok(after)
    }

    fn join(&mut self) {
        self.own.state = State::Contact;
        self.others.state = State::Contact;
    }
}

impl Contact {
    /// Nothing is left but the block, if there is one.
    fn end(&mut self) {
        *self = Contact {
            block: self.block,
            ..Contact::default()
        };
    }
}

/// The caller and the other one, as everybody sees them.
async fn both(tx: &Transaction, uid: &Uid, other: &Uid) -> Result<(v1::User, v1::User), Failed> {
    let mut users = views::users(tx, &[uid.clone(), other.clone()]).await?;
    let mut take = |uid: &Uid| {
        let place = users.iter().position(|user| user.uid == uid.as_str());
        place.map(|place| users.swap_remove(place))
    };
    match (take(uid), take(other)) {
        (Some(caller), Some(other)) => Ok((caller, other)),
        _ => Err(no_such_user(other).into()),
    }
}

fn no_such_user(uid: &Uid) -> Refused {
    Refused::not_found(format!("there is no user {uid}"))
}

/// Refuses where one of the two would have too many. Whether the other one has blocked the caller makes no difference.
async fn check_limits(
    tx: &Transaction,
    (uid, other): (&Uid, &Uid),
    (before, after): (&Pair, &Pair),
    limits: &Limits,
) -> Result<(), Failed> {
    let is_request = after.own.state == State::Requested && before.own.state != State::Requested;
    let takes_place = after.own.counts() && !before.own.counts();
    if !takes_place && !is_request {
        return Ok(());
    }
    let own = contacts::count(tx, uid).await?;
    if takes_place && own.all >= limits.contacts_max {
        let reason = format!("a user has at most {} contacts", limits.contacts_max);
        return Err(Refused::new(Code::TooLarge, reason).into());
    }
    if is_request {
        let max = limits.contact_requests_max;
        if own.requested >= max {
            let reason = format!("at most {max} requests of a user wait");
            return Err(Refused::new(Code::TooLarge, reason).into());
        }
        if contacts::count(tx, other).await?.asked >= max {
            let reason = "too many requests wait for that user";
            return Err(Refused::new(Code::RateLimited, reason).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(state: State, block: Block) -> Contact {
        Contact {
            state,
            block,
            ..Contact::default()
        }
    }

    /// What each change makes of how two users stand to each other; `None`: it is refused.
    #[test]
    fn changes_make_pairs_of_pairs() {
        use Block::{No, Refuse as Told, Silent};
        use Change::{Accept, Block as SetBlock, Refuse, Remove};
        use State::{Asked, Contact as Friend, None as Nothing, Requested};
        let ask = || Change::Request(String::new());
        let note = || Change::Note {
            remark: None,
            labels: None,
        };
        for (change, before, after) in [
            (ask(), (Nothing, No, Nothing, No), Some((Requested, Asked))),
            (ask(), (Requested, No, Asked, No), Some((Requested, Asked))),
            (
                ask(),
                (Requested, No, Nothing, No),
                Some((Requested, Nothing)),
            ),
            (ask(), (Asked, No, Requested, No), Some((Friend, Friend))),
            // Turned down before, and now asked by the other side.
            (ask(), (Nothing, No, Requested, No), Some((Friend, Friend))),
            (ask(), (Friend, No, Friend, No), Some((Friend, Friend))),
            (
                ask(),
                (Nothing, No, Nothing, Told),
                Some((Requested, Nothing)),
            ),
            (
                ask(),
                (Nothing, No, Nothing, Silent),
                Some((Requested, Nothing)),
            ),
            (ask(), (Nothing, Told, Nothing, No), None),
            (Accept, (Asked, No, Requested, No), Some((Friend, Friend))),
            (Accept, (Friend, No, Friend, No), Some((Friend, Friend))),
            (Accept, (Requested, No, Asked, No), None),
            (Accept, (Nothing, No, Nothing, No), None),
            (
                Refuse,
                (Asked, No, Requested, No),
                Some((Nothing, Requested)),
            ),
            (Refuse, (Friend, No, Friend, No), None),
            (Refuse, (Nothing, No, Requested, No), None),
            (Remove, (Friend, No, Friend, No), Some((Nothing, Nothing))),
            (Remove, (Requested, No, Asked, No), Some((Nothing, Nothing))),
            (
                Remove,
                (Requested, No, Nothing, No),
                Some((Nothing, Nothing)),
            ),
            (Remove, (Asked, No, Requested, No), None),
            (Remove, (Nothing, No, Nothing, No), None),
            (note(), (Friend, Told, Friend, No), Some((Friend, Friend))),
            (note(), (Requested, No, Asked, No), None),
            (
                SetBlock(Told),
                (Asked, No, Requested, No),
                Some((Nothing, Requested)),
            ),
            (
                SetBlock(Silent),
                (Friend, No, Friend, No),
                Some((Friend, Friend)),
            ),
            (
                SetBlock(Told),
                (Requested, No, Asked, No),
                Some((Requested, Asked)),
            ),
            (
                SetBlock(No),
                (Nothing, Silent, Nothing, No),
                Some((Nothing, Nothing)),
            ),
        ] {
            let (own, own_block, others, others_block) = before;
            let pair = Pair {
                own: contact(own, own_block),
                others: contact(others, others_block),
            };
            let made = pair.after(&change).ok();
            let states = made
                .as_ref()
                .map(|pair| (pair.own.state, pair.others.state));
            assert_eq!(states, after, "{change:?} of {before:?}");
            if let Some(made) = made {
                let block = match change {
                    SetBlock(block) => block,
                    _ => own_block,
                };
                assert_eq!((made.own.block, made.others.block), (block, others_block));
            }
        }
    }

    #[test]
    fn what_is_noted_ends_with_the_contact() {
        let noted = Contact {
            remark: "Al".into(),
            labels: vec!["work".into()],
            ..contact(State::Contact, Block::Silent)
        };
        let pair = Pair {
            own: noted.clone(),
            others: noted,
        };
        let ended = pair.after(&Change::Remove).unwrap();
        assert_eq!(ended.own, contact(State::None, Block::Silent));
        assert_eq!(ended.others, contact(State::None, Block::Silent));
    }

    #[test]
    fn groups_of_contacts_are_checked() {
        let labels = |names: &[&str]| check_labels(names.iter().map(ToString::to_string).collect());
        assert_eq!(labels(&[" a ", "b", "a"]).unwrap(), ["a", "b"]);
        assert!(labels(&["a", " "]).is_err());
        assert!(labels(&["a\nb"]).is_err());
        assert!(labels(&[&"x".repeat(65)]).is_err());
        assert!(labels(&["x"; 33]).is_err());
    }
}
