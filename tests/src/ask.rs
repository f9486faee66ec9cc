//! What a device can ask and do beyond sending and reading: short ways to write the other commands of [`Up`].
//!
//! Commands with many fields that may be left out are written as they are in `schema`, from their `Default`.
//!
//! [`Up`]: schema::v1::Up

use schema::v1::up::Command;
use schema::v1::{
    ContactAccept, ContactBlock, ContactLabels, ContactRefuse, ContactRemove, ContactRequest,
    ContactSet, ContactUnblock, ConversationClear, ConversationDelete, ConversationSet,
    DeleteMessages, DeviceSet, Edit, Forward, GetChanges, GetContacts, GetConversations, GetGroup,
    GetGroupRequests, GetMedia, GetPresence, GetProfile, GetReceipts, GetRevisions, GetScheduled,
    GetUsers, GroupAnswer, GroupDissolve, GroupJoin, GroupLink, GroupMute, GroupNickname, GroupPin,
    GroupRole, GroupSet, GroupTransfer, PresenceSet, ProfileSet, React, Recall, ScheduleCancel,
    Search, Send, SettingsSet, Sync, To, Typing, send,
};

// === messages ===

/// A text that mentions these users; `@all`: everybody.
pub fn text_with_mentions(to: To, text: &str, mentions: &[&str]) -> Command {
    Command::Send(Send {
        to: Some(to),
        content: Some(send::Content::Text(text.into())),
        mentions: owned(mentions),
        ..Default::default()
    })
}

/// A text that answers another message.
pub fn reply(to: To, text: &str, reply_to: u64) -> Command {
    Command::Send(Send {
        to: Some(to),
        content: Some(send::Content::Text(text.into())),
        reply_to,
        ..Default::default()
    })
}

/// The content of one message, or several messages in one.
pub fn forward(to: To, msg_ids: &[u64]) -> Command {
    let forward = Forward {
        msg_ids: msg_ids.into(),
        ..Default::default()
    };
    Command::Send(Send {
        to: Some(to),
        content: Some(send::Content::Forward(forward)),
        ..Default::default()
    })
}

/// "I am writing."
pub fn typing(to: To) -> Command {
    Command::Typing(Typing {
        to: Some(to),
        ..Default::default()
    })
}

/// Takes a message back.
pub fn recall(msg_id: u64) -> Command {
    Command::Recall(Recall { msg_id })
}

/// Another text for one's own message.
pub fn edit(msg_id: u64, text: &str) -> Command {
    Command::Edit(Edit {
        msg_id,
        text: text.into(),
        ..Default::default()
    })
}

/// A reaction to a message.
pub fn react(msg_id: u64, emoji: &str) -> Command {
    Command::React(React {
        msg_id,
        emoji: emoji.into(),
        remove: false,
    })
}

/// Takes a reaction back.
pub fn unreact(msg_id: u64, emoji: &str) -> Command {
    Command::React(React {
        msg_id,
        emoji: emoji.into(),
        remove: true,
    })
}

/// Deletes messages for the caller only.
pub fn delete_messages(msg_ids: &[u64]) -> Command {
    Command::DeleteMessages(DeleteMessages {
        msg_ids: msg_ids.into(),
    })
}

/// Gives up a scheduled message.
pub fn schedule_cancel(id: u64) -> Command {
    Command::ScheduleCancel(ScheduleCancel { id })
}

/// Who has received and read a message.
pub fn receipts(msg_id: u64) -> Command {
    Command::GetReceipts(GetReceipts { msg_id })
}

/// What a message said before it was edited.
pub fn revisions(msg_id: u64) -> Command {
    Command::GetRevisions(GetRevisions { msg_id })
}

/// What is still to be sent.
pub fn scheduled() -> Command {
    Command::GetScheduled(GetScheduled {})
}

// === conversations ===

/// The caller's view of a conversation, to be changed by `..`: `ConversationSet { pinned: Some(true), ..view("g:team") }`.
pub fn view(conversation: &str) -> ConversationSet {
    ConversationSet {
        conversation: conversation.into(),
        ..Default::default()
    }
}

/// Hides what there is so far.
pub fn conversation_clear(conversation: &str) -> Command {
    Command::ConversationClear(ConversationClear {
        conversation: conversation.into(),
    })
}

/// Hides it, and does not list it any longer.
pub fn conversation_delete(conversation: &str) -> Command {
    Command::ConversationDelete(ConversationDelete {
        conversation: conversation.into(),
    })
}

/// The first conversations, so many at most.
pub fn conversations(limit: u32) -> Command {
    Command::GetConversations(GetConversations {
        limit,
        ..Default::default()
    })
}

/// What has changed since a version.
pub fn changes(since: u64, limit: u32) -> Command {
    Command::GetChanges(GetChanges {
        since,
        limit,
        ..Default::default()
    })
}

/// The page before `before_seq`; 0: the newest.
pub fn page_before(conversation: &str, before_seq: u32, limit: u32) -> Command {
    Command::Sync(Sync {
        conversation: conversation.into(),
        before_seq,
        limit,
        ..Default::default()
    })
}

/// What has happened to earlier messages since.
pub fn changed_after(conversation: &str, changes: u32) -> Command {
    Command::Sync(Sync {
        conversation: conversation.into(),
        changed_after: Some(changes),
        ..Default::default()
    })
}

/// The media of a conversation.
pub fn media(conversation: &str, kinds: &[&str]) -> Command {
    Command::GetMedia(GetMedia {
        conversation: conversation.into(),
        kinds: owned(kinds),
        ..Default::default()
    })
}

/// Messages that contain this, in all conversations.
pub fn search(query: &str) -> Command {
    Command::Search(Search {
        query: query.into(),
        ..Default::default()
    })
}

// === the caller, and others ===

/// How the device appears: `online`, `away` or `invisible`.
pub fn appear(state: &str) -> Command {
    Command::Presence(PresenceSet {
        state: state.into(),
        text: None,
    })
}

/// Who is there.
pub fn presence(uids: &[&str]) -> Command {
    Command::GetPresence(GetPresence { uids: owned(uids) })
}

/// Catch-up as zstd, or not.
pub fn zstd(wanted: bool) -> Command {
    Command::DeviceSet(DeviceSet { zstd: Some(wanted) })
}

/// The caller's name.
pub fn profile_name(name: &str) -> Command {
    Command::ProfileSet(ProfileSet {
        name: Some(name.into()),
        ..Default::default()
    })
}

/// The caller's settings.
pub fn settings(settings: SettingsSet) -> Command {
    Command::SettingsSet(settings)
}

/// The caller's own profile.
pub fn profile() -> Command {
    Command::GetProfile(GetProfile {})
}

/// Users whose uid or name begins like this.
pub fn users(query: &str) -> Command {
    Command::GetUsers(GetUsers {
        query: query.into(),
        ..Default::default()
    })
}

/// The caller's contacts, requests and blocks.
pub fn contacts() -> Command {
    Command::GetContacts(GetContacts::default())
}

/// "Shall we be contacts?"
pub fn contact_request(user: &str) -> Command {
    Command::ContactRequest(ContactRequest {
        user: user.into(),
        ..Default::default()
    })
}

/// "Yes."
pub fn contact_accept(user: &str) -> Command {
    Command::ContactAccept(ContactAccept { user: user.into() })
}

/// "No."
pub fn contact_refuse(user: &str) -> Command {
    Command::ContactRefuse(ContactRefuse { user: user.into() })
}

/// "No longer."
pub fn contact_remove(user: &str) -> Command {
    Command::ContactRemove(ContactRemove { user: user.into() })
}

/// What the caller calls a contact, and where it is sorted in.
pub fn contact_note(user: &str, remark: &str, groups: &[&str]) -> Command {
    Command::ContactSet(ContactSet {
        user: user.into(),
        remark: Some(remark.into()),
        groups: Some(ContactLabels {
            names: owned(groups),
        }),
    })
}

/// Keeps a user away.
pub fn block(user: &str, silent: bool) -> Command {
    Command::ContactBlock(ContactBlock {
        user: user.into(),
        silent,
    })
}

/// No longer.
pub fn unblock(user: &str) -> Command {
    Command::ContactUnblock(ContactUnblock { user: user.into() })
}

// === groups ===

/// What a group is, to be changed by `..`: `GroupSet { muted: Some(true), ..group_view("team") }`.
pub fn group_view(gid: &str) -> GroupSet {
    GroupSet {
        gid: gid.into(),
        ..Default::default()
    }
}

/// A group that the caller is in.
pub fn group(gid: &str) -> Command {
    Command::GetGroup(GetGroup { gid: gid.into() })
}

/// `admin` or `member`.
pub fn group_role(gid: &str, user: &str, role: &str) -> Command {
    Command::GroupRole(GroupRole {
        gid: gid.into(),
        user: user.into(),
        role: role.into(),
    })
}

/// Another owner.
pub fn group_transfer(gid: &str, user: &str) -> Command {
    Command::GroupTransfer(GroupTransfer {
        gid: gid.into(),
        user: user.into(),
    })
}

/// Keeps a member from sending.
pub fn group_mute(gid: &str, user: &str, secs: u32) -> Command {
    Command::GroupMute(GroupMute {
        gid: gid.into(),
        user: user.into(),
        secs,
    })
}

/// What the caller is called there.
pub fn group_nickname(gid: &str, nickname: &str) -> Command {
    Command::GroupNickname(GroupNickname {
        gid: gid.into(),
        nickname: nickname.into(),
        ..Default::default()
    })
}

/// A link to join by.
pub fn group_link(gid: &str) -> Command {
    Command::GroupLink(GroupLink {
        gid: gid.into(),
        ..Default::default()
    })
}

/// In, or asking to be let in.
pub fn group_join(gid: &str) -> Command {
    Command::GroupJoin(GroupJoin {
        gid: gid.into(),
        ..Default::default()
    })
}

/// In by the link.
pub fn group_join_by_link(link: &str) -> Command {
    Command::GroupJoin(GroupJoin {
        link: link.into(),
        ..Default::default()
    })
}

/// Who waits to be let in.
pub fn group_requests(gid: &str) -> Command {
    Command::GetGroupRequests(GetGroupRequests { gid: gid.into() })
}

/// Lets a user in, or not.
pub fn group_answer(gid: &str, user: &str, accept: bool) -> Command {
    Command::GroupAnswer(GroupAnswer {
        gid: gid.into(),
        user: user.into(),
        accept,
    })
}

/// Pins a message for everybody, or no longer.
pub fn group_pin(gid: &str, msg_id: u64, unpin: bool) -> Command {
    Command::GroupPin(GroupPin {
        gid: gid.into(),
        msg_id,
        unpin,
    })
}

/// The end of a group.
pub fn group_dissolve(gid: &str) -> Command {
    Command::GroupDissolve(GroupDissolve { gid: gid.into() })
}

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
