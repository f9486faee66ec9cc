//! Groups: who is in them, and what they allow.
//!
//! Reading order: `rules` (who may do what), `group` (a group while it is changed, and how its members hear of it), then
//! what can be done to one: `create`, `members`, `roles`, `settings`, `joining`, `pins`; `questions` only reads.
//!
//! Who is not in a group is told the same of it as of one that does not exist.

pub mod create;
pub mod joining;
pub mod questions;
pub mod rules;
pub mod settings;

mod group;
mod members;
mod pins;
mod roles;

use schema::{Gid, Uid, v1};

use super::Limits;
use super::batch::Executor;
use super::command::{self, gid, uid, uids};
use super::job::{Caller, Settled};
use super::refused::Refused;
use super::single::Failed;
use crate::store::Transaction;
use crate::store::members::Role;

/// Longest name of a group, in characters.
const NAME_MAX: usize = 128;

/// What changes a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Makes a group.
    Create(create::Create),
    /// Adds members.
    Add(Gid, Vec<Uid>),
    /// Removes members.
    Remove(Gid, Vec<Uid>),
    /// Leaves.
    Leave(Gid),
    /// What a member is called; `None`: the caller.
    Nickname(Gid, Option<Uid>, String),
    /// Makes a member an admin or an ordinary member.
    Role(Gid, Uid, Role),
    /// Makes a member the owner.
    Transfer(Gid, Uid),
    /// Keeps a member from sending for so many seconds.
    Mute(Gid, Uid, u32),
    /// Changes what the group is.
    Set(Gid, settings::Asked),
    /// Ends the group.
    Dissolve(Gid),
    /// Makes a link to join by, valid for so many seconds; `None`: ends it.
    Link(Gid, Option<u32>),
    /// Joins, or asks to be let in.
    Join(joining::Way, String),
    /// Lets a user in who has asked, or not.
    Answer(Gid, Uid, joining::Verdict),
    /// Pins a message.
    Pin(Gid, u64),
    /// Takes a pin back.
    Unpin(Gid, u64),
}

impl Command {
    /// Whether a repetition gets the first answer. One holds a secret, which is not kept: a repetition makes another.
    pub(super) fn keeps_answer(&self) -> bool {
        !matches!(self, Command::Link(..))
    }
}

/// Checks what `caller` asks of a group.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(
    caller: &Uid,
    asked: v1::up::Command,
    limits: &Limits,
) -> Result<command::Command, Refused> {
    use v1::up::Command as Asked;
    let command = match asked {
        Asked::GroupCreate(create) => create::check(caller, create, limits)?,
        Asked::GroupAdd(add) => Command::Add(gid(&add.gid)?, uids(&add.members, limits)?),
        Asked::GroupRemove(remove) => {
            Command::Remove(gid(&remove.gid)?, uids(&remove.members, limits)?)
        }
        Asked::GroupLeave(leave) => Command::Leave(gid(&leave.gid)?),
        Asked::GroupNickname(asked) => members::check_nickname(asked)?,
        Asked::GroupRole(asked) => roles::check_role(&asked)?,
        Asked::GroupTransfer(asked) => Command::Transfer(gid(&asked.gid)?, uid(&asked.user)?),
        Asked::GroupMute(asked) => Command::Mute(gid(&asked.gid)?, uid(&asked.user)?, asked.secs),
        Asked::GroupSet(asked) => settings::check(asked)?,
        Asked::GroupDissolve(asked) => Command::Dissolve(gid(&asked.gid)?),
        Asked::GroupLink(asked) => joining::check_link(&asked)?,
        Asked::GroupJoin(asked) => joining::check_join(asked)?,
        Asked::GroupAnswer(asked) => joining::check_answer(&asked)?,
        Asked::GroupPin(asked) => pins::check(&asked)?,
        _ => unreachable!("only these are handed over"),
    };
    Ok(command::Command::Group(command))
}

impl Executor {
    /// Executes a command on a group.
    pub(super) async fn change_group(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        command: &Command,
    ) -> Result<Settled, Failed> {
        let caller = &caller.uid;
        match command {
            Command::Create(create) => self.create_group(tx, caller, create).await,
            Command::Add(gid, uids) => self.add_members(tx, caller, gid, uids).await,
            Command::Remove(gid, uids) => self.remove_members(tx, caller, gid, uids).await,
            Command::Leave(gid) => self.leave(tx, caller, gid).await,
            Command::Nickname(gid, user, nickname) => {
                let user = user.as_ref().unwrap_or(caller);
                self.name_member(tx, caller, gid, user, nickname).await
            }
            Command::Role(gid, user, role) => self.give_role(tx, caller, gid, user, *role).await,
            Command::Transfer(gid, user) => self.transfer(tx, caller, gid, user).await,
            Command::Mute(gid, user, secs) => self.mute(tx, caller, gid, user, *secs).await,
            Command::Set(gid, asked) => self.set_group(tx, caller, gid, asked).await,
            Command::Dissolve(gid) => self.dissolve(tx, caller, gid).await,
            Command::Link(gid, valid_secs) => self.link(tx, caller, gid, *valid_secs).await,
            Command::Join(way, text) => self.join(tx, caller, way, text).await,
            Command::Answer(gid, user, verdict) => {
                self.answer_request(tx, caller, gid, user, *verdict).await
            }
            Command::Pin(gid, msg_id) => self.pin(tx, caller, gid, *msg_id).await,
            Command::Unpin(gid, msg_id) => self.unpin(tx, caller, gid, *msg_id).await,
        }
    }
}

/// A group's name, as it is kept.
fn name(name: &str) -> Result<String, Refused> {
    let name = text(name.trim(), NAME_MAX, "a group's name")?;
    if name.is_empty() {
        return Err(Refused::invalid("a group's name has 1-128 characters"));
    }
    Ok(name)
}

/// A text for people of at most so many characters.
fn text(text: &str, max: usize, what: &str) -> Result<String, Refused> {
    if text.chars().count() > max || text.contains('\0') {
        let reason = format!("{what} has more than {max} characters, or a NUL");
        return Err(Refused::invalid(reason));
    }
    Ok(text.to_owned())
}
