//! The gate: an [`v1::Up`] from the network becomes a [`Command`] that holds, or is refused.

use schema::topic::is_filter;
use schema::{ConversationId, Gid, Uid, v1};

use super::questions::{self, Question};
use super::refused::Refused;
use super::send::{self, Send};
use super::{
    Limits, changes, contacts, conversations, erasure, groups, operations, schedule, users,
};
use crate::code::Code;
use crate::store::grants::Grant;

/// Longest `client_msg_id`, in characters.
const CLIENT_MSG_ID_MAX: usize = 64;

/// What a user asks, checked as far as it can be without looking anything up.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Sends a message.
    Send(Send),
    /// Keeps a message that is to be sent later.
    Schedule(Box<schedule::New>),
    /// The device has everything up to seq.
    Ack(ConversationId, u32),
    /// The user has read everything up to seq.
    Read(ConversationId, u32),
    /// Changes a group.
    Group(groups::Command),
    /// Changes messages that are there.
    Operation(operations::Command),
    /// Changes how the caller sees a conversation.
    Conversation(conversations::Command),
    /// Asks what has changed. What it finds is numbered, so that it is no [`Question`].
    Changes(changes::Asked),
    /// Changes the caller, or the device.
    User(users::Command),
    /// Changes a contact.
    Contact(contacts::Command),
    /// Needs no transaction.
    Ask(Question),
    /// Lets another user use topics of the caller's devices, or no longer.
    Grant(Grant),
    /// Removes some of what a deleted account has left. Nobody asks for it from outside.
    Erase(erasure::Step),
}

/// Checks what `caller` asks.
///
/// # Errors
/// [`Code::InvalidArgument`] or [`Code::TooLarge`].
pub fn check(caller: &Uid, up: v1::Up, limits: &Limits) -> Result<Command, Refused> {
    use v1::up::Command as Asked;
    check_client_msg_id(&up.client_msg_id)?;
    match up.command {
        None => Err(Refused::invalid("the command is missing")),
        Some(Asked::Send(send)) => send::check(caller, send, limits),
        Some(Asked::Ack(ack)) => Ok(Command::Ack(conversation(&ack.conversation)?, ack.seq)),
        Some(Asked::Read(read)) => Ok(Command::Read(conversation(&read.conversation)?, read.seq)),
        Some(Asked::Grant(grant)) => check_grant(caller, grant, limits).map(Command::Grant),
        Some(
            asked @ (Asked::GroupCreate(_)
            | Asked::GroupAdd(_)
            | Asked::GroupRemove(_)
            | Asked::GroupLeave(_)
            | Asked::GroupSet(_)
            | Asked::GroupRole(_)
            | Asked::GroupTransfer(_)
            | Asked::GroupMute(_)
            | Asked::GroupNickname(_)
            | Asked::GroupLink(_)
            | Asked::GroupJoin(_)
            | Asked::GroupAnswer(_)
            | Asked::GroupPin(_)
            | Asked::GroupDissolve(_)),
        ) => groups::check(caller, asked, limits),
        Some(
            asked @ (Asked::Recall(_)
            | Asked::Edit(_)
            | Asked::React(_)
            | Asked::DeleteMessages(_)
            | Asked::ScheduleCancel(_)),
        ) => operations::check(asked, limits),
        Some(
            asked @ (Asked::ConversationSet(_)
            | Asked::ConversationClear(_)
            | Asked::ConversationDelete(_)),
        ) => conversations::check(asked, limits),
        Some(Asked::GetChanges(asked)) => changes::check(&asked).map(Command::Changes),
        Some(
            asked @ (Asked::Presence(_)
            | Asked::DeviceSet(_)
            | Asked::ProfileSet(_)
            | Asked::SettingsSet(_)),
        ) => users::check(asked, limits),
        Some(
            asked @ (Asked::ContactRequest(_)
            | Asked::ContactAccept(_)
            | Asked::ContactRefuse(_)
            | Asked::ContactRemove(_)
            | Asked::ContactSet(_)
            | Asked::ContactBlock(_)
            | Asked::ContactUnblock(_)),
        ) => contacts::check(caller, asked),
        Some(
            asked @ (Asked::Sync(_)
            | Asked::Typing(_)
            | Asked::GetConversations(_)
            | Asked::GetReceipts(_)
            | Asked::GetRevisions(_)
            | Asked::GetScheduled(_)
            | Asked::Search(_)
            | Asked::GetContacts(_)
            | Asked::GetUsers(_)
            | Asked::GetProfile(_)
            | Asked::GetPresence(_)
            | Asked::GetGroup(_)
            | Asked::GetGroupRequests(_)
            | Asked::GetMedia(_)),
        ) => questions::check(caller, asked).map(Command::Ask),
    }
}

fn check_client_msg_id(id: &str) -> Result<(), Refused> {
    if id.starts_with(schedule::CLIENT_MSG_ID) {
        return Err(Refused::invalid(
            "client_msg_ids like this one are the server's",
        ));
    }
    if id.chars().count() > CLIENT_MSG_ID_MAX || id.contains('\0') {
        return Err(Refused::invalid(
            "client_msg_id has more than 64 characters, or a NUL",
        ));
    }
    Ok(())
}

/// The conversation that the caller's `what` is for: one that it may be in.
pub(super) fn destination(
    caller: &Uid,
    to: Option<v1::To>,
    what: &str,
) -> Result<ConversationId, Refused> {
    let conversation = match to.and_then(|to| to.to) {
        None => return Err(Refused::invalid(format!("{what}.to is missing"))),
        Some(v1::to::To::User(user)) => ConversationId::direct(caller.clone(), uid(&user)?),
        Some(v1::to::To::Group(group)) => ConversationId::Group(gid(&group)?),
        Some(v1::to::To::Conversation(name)) => conversation(&name)?,
    };
    match &conversation {
        ConversationId::Direct(one, other) if caller != one && caller != other => {
            Err(Refused::not_found("there is no such conversation"))
        }
        _ => Ok(conversation),
    }
}

fn check_grant(caller: &Uid, grant: v1::Grant, limits: &Limits) -> Result<Grant, Refused> {
    let user = uid(&grant.user)?;
    if user == *caller {
        return Err(Refused::invalid("one's own devices need no grant"));
    }
    let filter = if grant.filter.is_empty() {
        "#".to_owned()
    } else {
        grant.filter
    };
    // Shared subscriptions are about who gets a message, not about who may.
    if !is_filter(&filter) || filter.split('/').next() == Some("$share") {
        return Err(Refused::invalid("the filter is not an MQTT topic filter"));
    }
    // Whoever subscribes to it writes dev/{owner}/ before it.
    let length = "dev//".len() + caller.as_str().len() + filter.len();
    let levels = 2 + filter.split('/').count();
    if length > limits.topic_length_max || levels > limits.topic_levels_max {
        let reason = format!(
            "with dev/{caller}/ a topic filter has at most {} bytes and {} levels",
            limits.topic_length_max, limits.topic_levels_max
        );
        return Err(Refused::new(Code::TooLarge, reason));
    }
    Ok(Grant {
        owner: caller.clone(),
        user,
        filter,
        read: grant.read,
        write: grant.write,
    })
}

/// A list of users, each once, in the order of their names.
pub(super) fn uids(members: &[String], limits: &Limits) -> Result<Vec<Uid>, Refused> {
    if members.is_empty() {
        return Err(Refused::invalid("the list of members is empty"));
    }
    if members.len() > limits.group_members_max {
        return Err(too_many_members(limits));
    }
    let mut uids = members
        .iter()
        .map(|name| uid(name))
        .collect::<Result<Vec<_>, _>>()?;
    uids.sort_unstable();
    uids.dedup();
    Ok(uids)
}

/// The refusal of a group that would grow too large.
pub fn too_many_members(limits: &Limits) -> Refused {
    let reason = format!("a group has at most {} members", limits.group_members_max);
    Refused::new(Code::TooLarge, reason)
}

/// The refusal of a grant too many.
pub fn too_many_grants(limits: &Limits) -> Refused {
    let reason = format!("a user gives at most {} grants", limits.grants_max);
    Refused::new(Code::TooLarge, reason)
}

pub(super) fn uid(name: &str) -> Result<Uid, Refused> {
    name.parse()
        .map_err(|_| Refused::invalid("a uid is 1-64 of A-Z a-z 0-9 . _ -"))
}

pub(super) fn gid(name: &str) -> Result<Gid, Refused> {
    name.parse()
        .map_err(|_| Refused::invalid("a gid is 1-64 of A-Z a-z 0-9 . _ -"))
}

pub(super) fn conversation(name: &str) -> Result<ConversationId, Refused> {
    name.parse().map_err(|_| {
        Refused::invalid("a conversation is u:{a}:{b} with the uids sorted, or g:{gid}")
    })
}
