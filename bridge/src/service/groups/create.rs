//! Making a group.

use std::time::SystemTime;

use schema::{ConversationId, Gid, Uid, v1};

use super::group::{Change, Group, no_such_group};
use super::members::who_comes;
use super::{Command, name};
use crate::code::Code;
use crate::service::Limits;
use crate::service::batch::Executor;
use crate::service::command::{gid, too_many_members, uids};
use crate::service::job::Settled;
use crate::service::refused::Refused;
use crate::service::single::{Failed, check_existence};
use crate::store::members::{self, Role};
use crate::store::{Transaction, groups};

/// A group to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Create {
    /// `None`: the server chooses.
    gid: Option<Gid>,
    /// For people.
    name: String,
    /// Without the caller.
    members: Vec<Uid>,
}

pub(super) fn check(
    caller: &Uid,
    create: v1::GroupCreate,
    limits: &Limits,
) -> Result<Command, Refused> {
    let asked = match create.gid.as_str() {
        "" => None,
        asked => Some(gid(asked)?),
    };
    let mut members = match create.members.as_slice() {
        [] => Vec::new(),
        members => uids(members, limits)?,
    };
    members.retain(|uid| uid != caller);
    if members.len() >= limits.group_members_max {
        return Err(too_many_members(limits));
    }
    Ok(Command::Create(Create {
        gid: asked,
        name: name(&create.name)?,
        members,
    }))
}

impl Executor {
    pub(super) async fn create_group(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        create: &Create,
    ) -> Result<Settled, Failed> {
        check_existence(tx, &create.members).await?;
        let members = who_comes(tx, caller, &create.members).await?;
        let gid = match &create.gid {
            Some(gid) => gid.clone(),
            None => new_gid(self.ids.next(SystemTime::now()).0),
        };
        if groups::lookup(tx, &gid).await?.is_some() {
            let reason = "there is or was a group of that gid";
            return Err(Refused::new(Code::AlreadyExists, reason).into());
        }
        let conversation = ConversationId::Group(gid.clone()).to_string();
        let id = self.make_conversation(tx, &conversation).await?;
        groups::add(tx, id, &gid, &create.name).await?;
        let others = members.iter().map(|uid| (uid, Role::Member));
        let everybody = std::iter::once((caller, Role::Owner)).chain(others);
        members::add(tx, id, 0, 0, everybody).await?;
        let group = Group::lock(tx, &gid, id).await?;
        let group = group.ok_or_else(no_such_group)?;
        let about = group.uids().cloned().collect();
        // No message tells of it: the group's first one is somebody's.
        let change = Change {
            about,
            ..Change::default()
        };
        self.tell_group(tx, caller, &group, change).await
    }
}

/// A gid that nobody has: the time-ordered id in base 36.
fn new_gid(mut id: u64) -> Gid {
    let mut digits = Vec::new();
    while id > 0 {
        let digit = u32::try_from(id % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        id /= 36;
    }
    let text: String = digits.into_iter().rev().collect();
    text.parse().expect("digits of base 36 make a name")
}
