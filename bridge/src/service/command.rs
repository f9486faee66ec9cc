//! The gate: an [`v1::Up`] from the network becomes a [`Command`] that holds, or is refused.

use schema::topic::is_filter;
use schema::{ConversationId, Gid, Uid, v1};

use super::Limits;
use super::refused::Refused;
use crate::code::Code;
use crate::content;
use crate::store::grants::Grant;

/// Longest `client_msg_id`, in characters.
const CLIENT_MSG_ID_MAX: usize = 64;
/// Longest `kind`, in characters.
const KIND_MAX: usize = 32;
/// Most uids in one list of mentions.
const MENTIONS_MAX: usize = 500;
/// Longest name of a group, in characters.
const GROUP_NAME_MAX: usize = 128;
/// Messages of a sync page: what is given without being asked, and at most.
const SYNC_DEFAULT: u32 = 100;
const SYNC_MAX: u32 = 500;

/// What a user asks, checked as far as it can be without looking anything up.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Sends a message.
    Send(Send),
    /// The device has everything up to seq.
    Ack(ConversationId, u32),
    /// The user has read everything up to seq.
    Read(ConversationId, u32),
    /// Asks for a page.
    Sync(Sync),
    /// Makes a group.
    GroupCreate {
        /// `None`: the server chooses.
        gid: Option<Gid>,
        /// For people.
        name: String,
        /// Without the caller.
        members: Vec<Uid>,
    },
    /// Adds members to a group.
    GroupAdd(Gid, Vec<Uid>),
    /// Removes members from a group.
    GroupRemove(Gid, Vec<Uid>),
    /// Leaves a group.
    GroupLeave(Gid),
    /// Lets another user use topics of the caller's devices, or no longer.
    Grant(Grant),
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

/// A page of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Only greater seqs, oldest first.
    pub after_seq: Option<u32>,
    /// Only smaller seqs.
    pub before_seq: Option<u32>,
    /// Messages at most.
    pub limit: u32,
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
        Some(Asked::Sync(sync)) => check_sync(&sync).map(Command::Sync),
        Some(Asked::GroupCreate(create)) => check_group_create(caller, create, limits),
        Some(Asked::GroupAdd(add)) => Ok(Command::GroupAdd(
            gid(&add.gid)?,
            uids(&add.members, limits)?,
        )),
        Some(Asked::GroupRemove(remove)) => Ok(Command::GroupRemove(
            gid(&remove.gid)?,
            uids(&remove.members, limits)?,
        )),
        Some(Asked::GroupLeave(leave)) => Ok(Command::GroupLeave(gid(&leave.gid)?)),
        Some(Asked::Grant(grant)) => check_grant(caller, grant, limits).map(Command::Grant),
    }
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
    let to = send.to.and_then(|to| to.to);
    let conversation = match to {
        None => return Err(Refused::invalid("send.to is missing")),
        Some(v1::to::To::User(user)) => ConversationId::direct(caller.clone(), uid(&user)?),
        Some(v1::to::To::Group(group)) => ConversationId::Group(gid(&group)?),
        Some(v1::to::To::Conversation(name)) => conversation(&name)?,
    };
    if let ConversationId::Direct(one, other) = &conversation
        && caller != one
        && caller != other
    {
        return Err(Refused::not_found("there is no such conversation"));
    }
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

fn check_kind(kind: String, default: &str) -> Result<String, Refused> {
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

fn check_sync(sync: &v1::Sync) -> Result<Sync, Refused> {
    let limit = match sync.limit {
        0 => SYNC_DEFAULT,
        1..=SYNC_MAX => sync.limit,
        _ => return Err(Refused::invalid("sync.limit is more than 500")),
    };
    let before_seq = Some(sync.before_seq).filter(|seq| *seq > 0);
    // `before_seq` alone asks for the page before it; everything else reads forward.
    let after_seq = (before_seq.is_none() || sync.after_seq > 0).then_some(sync.after_seq);
    Ok(Sync {
        conversation: conversation(&sync.conversation)?,
        after_seq,
        before_seq,
        limit,
    })
}

fn check_group_create(
    caller: &Uid,
    create: v1::GroupCreate,
    limits: &Limits,
) -> Result<Command, Refused> {
    let length = create.name.trim().chars().count();
    if length == 0 || length > GROUP_NAME_MAX || create.name.contains('\0') {
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
    Ok(Command::GroupCreate {
        gid: asked,
        name: create.name.trim().to_owned(),
        members,
    })
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
fn uids(members: &[String], limits: &Limits) -> Result<Vec<Uid>, Refused> {
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

fn uid(name: &str) -> Result<Uid, Refused> {
    name.parse()
        .map_err(|_| Refused::invalid("a uid is 1-64 of A-Z a-z 0-9 . _ -"))
}

fn gid(name: &str) -> Result<Gid, Refused> {
    name.parse()
        .map_err(|_| Refused::invalid("a gid is 1-64 of A-Z a-z 0-9 . _ -"))
}

fn conversation(name: &str) -> Result<ConversationId, Refused> {
    name.parse().map_err(|_| {
        Refused::invalid("a conversation is u:{a}:{b} with the uids sorted, or g:{gid}")
    })
}
