//! What a device can ask and do beyond sending and reading: short ways to write the other commands of [`Up`].
//!
//! Commands with many fields that may be left out are written as they are in `schema`, from their `Default`.
//!
//! [`Up`]: schema::v1::Up

use schema::v1::up::Command;
use schema::v1::{
    ContactAccept, ContactBlock, ContactRefuse, ContactRemove, ContactRequest, ContactUnblock,
    ConversationClear, ConversationDelete, ConversationSet, DeleteMessages, DeviceSet, GetChanges,
    GetConversations, GetMedia, React, Recall, Search, SettingsSet, Sync,
};

// === messages ===

/// Takes a message back.
pub fn recall(msg_id: u64) -> Command {
    Command::Recall(Recall { msg_id })
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

/// Catch-up as zstd, or not.
pub fn zstd(wanted: bool) -> Command {
    Command::DeviceSet(DeviceSet { zstd: Some(wanted) })
}

/// The caller's settings.
pub fn settings(settings: SettingsSet) -> Command {
    Command::SettingsSet(settings)
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

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
