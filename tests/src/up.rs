//! What a device can say: short ways to write [`Up`] messages.

use std::sync::atomic::{AtomicU64, Ordering};

use schema::v1::{
    Ack, DeleteMessages, Edit, GetPresence, GetReceipts, Grant, GroupAdd, GroupAnswer, GroupCreate,
    GroupDissolve, GroupJoin, GroupLeave, GroupLink, GroupMute, GroupNickname, GroupPin,
    GroupRemove, GroupRole, GroupSet, GroupTransfer, PresenceSet, React, Read, Recall, Send, Sync,
    To, Typing, Up, send, to, up::Command,
};

/// A person.
pub fn user(uid: &str) -> To {
    To {
        to: Some(to::To::User(uid.into())),
    }
}

/// A group.
pub fn group(gid: &str) -> To {
    To {
        to: Some(to::To::Group(gid.into())),
    }
}

/// A command under a `client_msg_id` that no other command of this process has.
pub fn new(command: Command) -> Up {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    with_id(&format!("cmd-{number}"), command)
}

/// A command under a chosen `client_msg_id`.
pub fn with_id(client_msg_id: &str, command: Command) -> Up {
    Up {
        client_msg_id: client_msg_id.into(),
        command: Some(command),
    }
}

/// A text message.
pub fn text(to: To, text: &str) -> Command {
    Command::Send(Send {
        to: Some(to),
        content: Some(send::Content::Text(text.into())),
        ..Default::default()
    })
}

/// A message with any content.
pub fn send(to: To, content: send::Content) -> Send {
    Send {
        to: Some(to),
        content: Some(content),
        ..Default::default()
    }
}

/// Takes a message back.
pub fn recall(msg_id: u64) -> Command {
    Command::Recall(Recall { msg_id })
}

/// Gives a message another text.
pub fn edit(msg_id: u64, text: &str) -> Command {
    Command::Edit(Edit {
        msg_id,
        text: text.into(),
        ..Default::default()
    })
}

/// Reacts to a message, or takes the reaction back.
pub fn react(msg_id: u64, emoji: &str, remove: bool) -> Command {
    Command::React(React {
        msg_id,
        emoji: emoji.into(),
        remove,
    })
}

/// Deletes messages for the caller.
pub fn delete(msg_ids: &[u64]) -> Command {
    Command::DeleteMessages(DeleteMessages {
        msg_ids: msg_ids.to_vec(),
    })
}

/// "I have everything up to `seq`."
pub fn ack(conversation: &str, seq: u32) -> Command {
    Command::Ack(Ack {
        conversation: conversation.into(),
        seq,
    })
}

/// "I have read everything up to `seq`."
pub fn read(conversation: &str, seq: u32) -> Command {
    Command::Read(Read {
        conversation: conversation.into(),
        seq,
    })
}

/// "Give me up to `limit` messages after `after_seq`."
pub fn sync(conversation: &str, after_seq: u32, limit: u32) -> Command {
    Command::Sync(Sync {
        conversation: conversation.into(),
        after_seq,
        limit,
        ..Default::default()
    })
}

/// A new group of the caller and `members`.
pub fn group_create(gid: &str, members: &[&str]) -> Command {
    Command::GroupCreate(GroupCreate {
        name: format!("The {gid} group"),
        members: owned(members),
        gid: gid.into(),
    })
}

/// More members.
pub fn group_add(gid: &str, members: &[&str]) -> Command {
    Command::GroupAdd(GroupAdd {
        gid: gid.into(),
        members: owned(members),
    })
}

/// Fewer members.
pub fn group_remove(gid: &str, members: &[&str]) -> Command {
    Command::GroupRemove(GroupRemove {
        gid: gid.into(),
        members: owned(members),
    })
}

/// Out by one's own choice.
pub fn group_leave(gid: &str) -> Command {
    Command::GroupLeave(GroupLeave { gid: gid.into() })
}

/// What a group is and allows.
pub fn group_set(gid: &str, set: GroupSet) -> Command {
    Command::GroupSet(GroupSet {
        gid: gid.into(),
        ..set
    })
}

/// Who comes in without being added.
pub fn group_join_by(gid: &str, join: &str) -> Command {
    let join = Some(join.into());
    group_set(
        gid,
        GroupSet {
            join,
            ..Default::default()
        },
    )
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

/// No word from `user` for so long.
pub fn group_mute(gid: &str, user: &str, secs: u32) -> Command {
    Command::GroupMute(GroupMute {
        gid: gid.into(),
        user: user.into(),
        secs,
    })
}

/// What `user` is called; empty: the caller.
pub fn group_nickname(gid: &str, user: &str, nickname: &str) -> Command {
    Command::GroupNickname(GroupNickname {
        gid: gid.into(),
        nickname: nickname.into(),
        user: user.into(),
    })
}

/// A link to join by.
pub fn group_link(gid: &str, valid_secs: u32) -> Command {
    Command::GroupLink(GroupLink {
        gid: gid.into(),
        valid_secs,
        revoke: false,
    })
}

/// No link any longer.
pub fn group_unlink(gid: &str) -> Command {
    Command::GroupLink(GroupLink {
        gid: gid.into(),
        valid_secs: 0,
        revoke: true,
    })
}

/// "Let me in."
pub fn group_join(gid: &str, text: &str) -> Command {
    Command::GroupJoin(GroupJoin {
        gid: gid.into(),
        link: String::new(),
        text: text.into(),
    })
}

/// "Let me in, I have the link."
pub fn group_join_by_link(link: &str) -> Command {
    Command::GroupJoin(GroupJoin {
        link: link.into(),
        ..Default::default()
    })
}

/// Lets somebody in who has asked, or not.
pub fn group_answer(gid: &str, user: &str, accept: bool) -> Command {
    Command::GroupAnswer(GroupAnswer {
        gid: gid.into(),
        user: user.into(),
        accept,
    })
}

/// A message that all shall find.
pub fn group_pin(gid: &str, msg_id: u64, unpin: bool) -> Command {
    Command::GroupPin(GroupPin {
        gid: gid.into(),
        msg_id,
        unpin,
    })
}

/// The end.
pub fn group_dissolve(gid: &str) -> Command {
    Command::GroupDissolve(GroupDissolve { gid: gid.into() })
}

/// Rights of `user` on the caller's devices' topics.
pub fn grant(user: &str, filter: &str, read: bool, write: bool) -> Command {
    Command::Grant(Grant {
        user: user.into(),
        filter: filter.into(),
        read,
        write,
    })
}

/// Who has received and read it?
pub fn get_receipts(msg_id: u64) -> Command {
    Command::GetReceipts(GetReceipts { msg_id })
}

/// This device passes for something.
pub fn appear(state: &str) -> Command {
    Command::Presence(PresenceSet {
        state: state.into(),
        text: None,
    })
}

/// A text that contacts see.
pub fn status_text(text: &str) -> Command {
    Command::Presence(PresenceSet {
        text: Some(text.into()),
        ..Default::default()
    })
}

/// How do they appear?
pub fn get_presence(uids: &[&str]) -> Command {
    Command::GetPresence(GetPresence { uids: owned(uids) })
}

/// "I am writing", or not any longer.
pub fn typing(to: To, stopped: bool) -> Command {
    Command::Typing(Typing {
        to: Some(to),
        kind: String::new(),
        stopped,
    })
}

fn owned(uids: &[&str]) -> Vec<String> {
    uids.iter().map(ToString::to_string).collect()
}
