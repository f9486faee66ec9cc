//! The gate: an [`v1::Up`] from the network becomes a [`Command`] that holds, or is refused.

use schema::topic::is_filter;
use schema::{ConversationId, Gid, Uid, v1};

use super::questions::{self, Question};
use super::refused::Refused;
use super::{Limits, changes, contacts, conversations, erasure, groups, operations, users};
use crate::code::Code;
use crate::content;
use crate::store::grants::Grant;

/// Longest `client_msg_id`, in characters.
const CLIENT_MSG_ID_MAX: usize = 64;
/// Longest `kind`, in characters.
const KIND_MAX: usize = 32;
/// Most uids in one list of mentions.
const MENTIONS_MAX: usize = 500;

/// What a user asks, checked as far as it can be without looking anything up.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Sends a message.
    Send(Send),
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

/// A message before it has its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Send {
    /// Where it goes.
    pub conversation: ConversationId,
    /// The same as the wire has it: the key under which it is looked up.
    pub name: String,
    /// What the content is.
    pub kind: String,
    /// The content.
    pub content: v1::message::Content,
    /// The message that it answers; 0: none.
    pub reply_to: u64,
    /// uids that it mentions.
    pub mentions: Vec<String>,
    /// The device's counter.
    pub client_seq: u64,
    /// What of it is stored as a blob.
    pub stored: Vec<u8>,
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
        Some(Asked::Send(send)) => check_send(caller, send, limits).map(Command::Send),
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

/// What is promised and not there yet.
pub(super) fn not_yet() -> Refused {
    Refused::new(Code::Unavailable, "this command is not there yet")
}

fn check_client_msg_id(id: &str) -> Result<(), Refused> {
    if id.chars().count() > CLIENT_MSG_ID_MAX || id.contains('\0') {
        return Err(Refused::invalid(
            "client_msg_id has more than 64 characters, or a NUL",
        ));
    }
    Ok(())
}

fn check_send(caller: &Uid, send: v1::Send, limits: &Limits) -> Result<Send, Refused> {
    let conversation = destination(caller, send.to, "send")?;
    let (content, size, default_kind) = match send.content {
        None => return Err(Refused::invalid("send has neither text nor body")),
        Some(v1::send::Content::Text(text)) => {
            let size = text.len();
            (v1::message::Content::Text(text), size, "text")
        }
        Some(v1::send::Content::Body(body)) => {
            let size = body.len();
            (v1::message::Content::Body(body), size, "custom")
        }
        Some(_) => return Err(not_yet()),
    };
    if size == 0 {
        return Err(Refused::invalid("the message is empty"));
    }
    if size > limits.text_max {
        let reason = format!("the message has more than {} bytes", limits.text_max);
        return Err(Refused::new(Code::TooLarge, reason));
    }
    if send.mentions.len() > MENTIONS_MAX {
        return Err(Refused::new(Code::TooLarge, "more than 500 mentions"));
    }
    for mention in &send.mentions {
        uid(mention)?;
    }
    Ok(Send {
        name: conversation.to_string(),
        conversation,
        kind: check_kind(send.kind, default_kind)?,
        stored: content::encode(&content, send.reply_to, &send.mentions),
        content,
        reply_to: send.reply_to,
        mentions: send.mentions,
        client_seq: send.client_seq,
    })
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

pub(super) fn check_kind(kind: String, default: &str) -> Result<String, Refused> {
    if kind.is_empty() {
        return Ok(default.to_owned());
    }
    let is_allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    if kind.len() > KIND_MAX || !kind.bytes().all(is_allowed) {
        return Err(Refused::invalid("kind is 1-32 of a-z 0-9 . _ -"));
    }
    Ok(kind)
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
