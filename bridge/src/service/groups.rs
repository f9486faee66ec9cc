//! Groups: who is in them, and what they allow.

use schema::{ConversationId, Gid, Uid, v1};

use super::Limits;
use super::batch::Executor;
use super::command::{self, gid, too_many_members, uids};
use super::job::{Caller, Delivery, Settled};
use super::refused::Refused;
use super::single::{Failed, check_existence};
use crate::code::Code;
use crate::store::members::{self, Role};
use crate::store::{Transaction, conversations, views};

/// Longest name of a group, in characters.
const NAME_MAX: usize = 128;

/// What changes a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Makes a group.
    Create {
        /// `None`: the server chooses.
        gid: Option<Gid>,
        /// For people.
        name: String,
        /// Without the caller.
        members: Vec<Uid>,
    },
    /// Adds members.
    Add(Gid, Vec<Uid>),
    /// Removes members.
    Remove(Gid, Vec<Uid>),
    /// Leaves.
    Leave(Gid),
}

/// Checks what `caller` asks of a group.
///
/// # Errors
/// [`Code::InvalidArgument`] or [`Code::TooLarge`].
pub(super) fn check(
    caller: &Uid,
    asked: v1::up::Command,
    limits: &Limits,
) -> Result<command::Command, Refused> {
    use v1::up::Command as Asked;
    let command = match asked {
        Asked::GroupCreate(create) => check_create(caller, create, limits)?,
        Asked::GroupAdd(add) => Command::Add(gid(&add.gid)?, uids(&add.members, limits)?),
        Asked::GroupRemove(remove) => {
            Command::Remove(gid(&remove.gid)?, uids(&remove.members, limits)?)
        }
        Asked::GroupLeave(leave) => Command::Leave(gid(&leave.gid)?),
        _ => return Err(command::not_yet()),
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
        match command {
            Command::Create { gid, name, members } => {
                self.create_group(tx, caller, gid.as_ref(), name, members)
                    .await
            }
            Command::Add(gid, uids) => self.add_members(tx, caller, gid, uids).await,
            Command::Remove(gid, uids) => self.remove_members(tx, caller, gid, uids).await,
            Command::Leave(gid) => self.leave(tx, caller, gid).await,
        }
    }

    async fn create_group(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        gid: Option<&Gid>,
        name: &str,
        others: &[Uid],
    ) -> Result<Settled, Failed> {
        check_existence(tx, others).await?;
        let gid = match gid {
            Some(gid) => gid.clone(),
            None => new_gid(self.ids.next(std::time::SystemTime::now()).0),
        };
        let conversation = ConversationId::Group(gid.clone()).to_string();
        if views::group(tx, &gid).await?.is_some() {
            let reason = "a group of that gid exists";
            return Err(Refused::new(Code::AlreadyExists, reason).into());
        }
        let id = self.make_conversation(tx, &conversation).await?;
        conversations::add_group(tx, id, gid.as_str(), name).await?;
        let everybody = std::iter::once((&caller.uid, Role::Owner))
            .chain(others.iter().map(|uid| (uid, Role::Member)));
        members::add(tx, id, 0, everybody).await?;
        self.announce(tx, &gid, &[]).await
    }

    async fn add_members(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        gid: &Gid,
        uids: &[Uid],
    ) -> Result<Settled, Failed> {
        let (id, last_seq, roles) = managed_group(tx, caller, gid).await?;
        check_existence(tx, uids).await?;
        let is_new = |uid: &&Uid| !roles.iter().any(|(member, _)| member == *uid);
        let new: Vec<&Uid> = uids.iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(Settled::ok(self.group_ok(tx, gid).await?));
        }
        if roles.len() + new.len() > self.limits.group_members_max {
            return Err(too_many_members(&self.limits).into());
        }
        let new = new.into_iter().map(|uid| (uid, Role::Member));
        members::add(tx, id, last_seq, new).await?;
        self.announce(tx, gid, &[]).await
    }

    async fn remove_members(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        gid: &Gid,
        uids: &[Uid],
    ) -> Result<Settled, Failed> {
        let (id, _, roles) = managed_group(tx, caller, gid).await?;
        for uid in uids {
            match roles.iter().find(|(member, _)| member == uid) {
                Some((_, Role::Owner)) => {
                    let reason = "nobody removes the owner";
                    return Err(Refused::new(Code::PermissionDenied, reason).into());
                }
                Some(_) => {}
                None => {
                    let reason = format!("{uid} is not a member of the group");
                    return Err(Refused::not_found(reason).into());
                }
            }
        }
        for uid in uids {
            members::remove(tx, id, uid).await?;
        }
        self.announce(tx, gid, uids).await
    }

    async fn leave(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        gid: &Gid,
    ) -> Result<Settled, Failed> {
        let name = ConversationId::Group(gid.clone()).to_string();
        let Some(membership) = views::membership(tx, &caller.uid, &name).await? else {
            return Err(Refused::not_found("there is no such group").into());
        };
        if Role::parse(&membership.role) == Role::Owner {
            let reason = "the owner can't leave the group";
            return Err(Refused::new(Code::Conflict, reason).into());
        }
        members::remove(tx, membership.conversation_id, &caller.uid).await?;
        let gone = std::slice::from_ref(&caller.uid);
        self.announce(tx, gid, gone).await
    }

    /// Answers with the group as it stands now, and tells its members and those who are out.
    async fn announce(
        &mut self,
        tx: &Transaction,
        gid: &Gid,
        gone: &[Uid],
    ) -> Result<Settled, Failed> {
        let ok = self.group_ok(tx, gid).await?;
        self.catalog.stage_change(&ok.conversation);
        let group = ok.group.clone().unwrap_or_default();
        let members: Vec<Uid> = group
            .members
            .iter()
            .filter_map(|member| member.uid.parse().ok())
            .collect();
        let everybody = members.iter().chain(gone);
        let event = v1::event::Event::Group(*group);
        Ok(Settled {
            deliveries: vec![Delivery::event(event, everybody, 0)],
            precondition: None,
            result: Ok(ok),
        })
    }

    async fn group_ok(&self, tx: &Transaction, gid: &Gid) -> Result<v1::Ok, Failed> {
        let Some(group) = views::group(tx, gid).await? else {
            return Err(Refused::not_found("there is no such group").into());
        };
        Ok(v1::Ok {
            conversation: group.conversation.clone(),
            group: Some(Box::new(group)),
            ..Default::default()
        })
    }
}

fn check_create(
    caller: &Uid,
    create: v1::GroupCreate,
    limits: &Limits,
) -> Result<Command, Refused> {
    let length = create.name.trim().chars().count();
    if length == 0 || length > NAME_MAX || create.name.contains('\0') {
        return Err(Refused::invalid("a group's name has 1-128 characters"));
    }
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
    Ok(Command::Create {
        gid: asked,
        name: create.name.trim().to_owned(),
        members,
    })
}

/// A group whose members the caller may change: its conversation, newest seq and members.
async fn managed_group(
    tx: &Transaction,
    caller: &Caller,
    gid: &Gid,
) -> Result<(i64, u32, Vec<(Uid, Role)>), Failed> {
    let name = ConversationId::Group(gid.clone()).to_string();
    let Some(membership) = views::membership(tx, &caller.uid, &name).await? else {
        return Err(Refused::not_found("there is no such group").into());
    };
    if Role::parse(&membership.role) == Role::Member {
        let reason = "only the group's owner and admins may change its members";
        return Err(Refused::new(Code::PermissionDenied, reason).into());
    }
    let id = membership.conversation_id;
    // Under the lock that gives places: nobody comes in between a message and its delivery.
    let locked = conversations::lock(tx, &[id]).await?;
    let last_seq = locked.first().map_or(0, |(_, last_seq)| *last_seq);
    Ok((id, last_seq, members::roles(tx, id).await?))
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
