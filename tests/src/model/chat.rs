//! The reference: what is in the database if the server does what it promises. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use schema::v1::Message;

/// All conversations, by name.
#[derive(Clone, Debug, Default)]
pub struct Chat {
    pub conversations: BTreeMap<String, Conversation>,
}

#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// Of a group: who made it.
    pub owner: Option<String>,
    /// The first one has seq 1, and none is missing.
    pub messages: Vec<Message>,
    pub members: BTreeMap<String, Member>,
    /// Where the last burst began; and memberships that ended in it.
    pub quiet_seq: u32,
    pub past: Vec<Past>,
    /// What messages were before they were changed, by seq.
    pub earlier: BTreeMap<u32, Vec<Message>>,
}

#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Only messages with a greater seq are for the member.
    pub start: u32,
    /// Of those, only messages with a greater seq are left to be seen, without those that the user has deleted.
    pub cleared: u32,
    pub deleted: BTreeSet<u32>,
    pub view: View,
    /// Whether the user has changed any of that in the last burst.
    pub has_tidied: bool,
    pub read: u32,
    /// Where that was when the last burst began.
    pub quiet_read: u32,
    /// `last_ack_seq`
    pub acked: Bounds,
}

/// How a member wants to see the conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub pinned: bool,
    pub archived: bool,
    pub marked_unread: bool,
    pub draft: String,
    /// It is not listed until there is a newer message.
    pub deleted_at: Option<u32>,
}

/// A membership that has ended.
#[derive(Clone, Debug)]
pub struct Past {
    pub uid: String,
    pub start: u32,
    /// The last message that was for the member.
    pub end: Bounds,
}

/// A position that is known only so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub lo: u32,
    pub hi: u32,
}

// === impl Bounds ===

impl Bounds {
    pub fn exactly(seq: u32) -> Self {
        Bounds { lo: seq, hi: seq }
    }

    pub fn contains(self, seq: u32) -> bool {
        (self.lo..=self.hi).contains(&seq)
    }

    /// It may have moved this far.
    pub fn may_reach(&mut self, seq: u32) {
        self.hi = self.hi.max(seq);
    }

    /// It has moved this far at least.
    pub fn reaches(&mut self, seq: u32) {
        self.lo = self.lo.max(seq);
        self.may_reach(seq);
    }

    /// A new membership begins after this seq.
    pub fn begin_at(&mut self, seq: u32) {
        self.reaches(seq);
        self.lo = seq;
    }
}

// === impl Member ===

impl Member {
    /// One of the devices may be here.
    pub fn may_reach(&mut self, device: Bounds) {
        self.acked.may_reach(device.hi);
    }

    /// One of the devices is here.
    pub fn reaches(&mut self, device: Bounds) {
        self.acked.reaches(device.lo);
        self.acked.may_reach(device.hi);
    }
}

// === impl Chat ===

impl Chat {
    /// The message of that id: its conversation and its seq.
    pub fn find(&self, msg_id: u64) -> Option<(&str, u32)> {
        self.conversations.iter().find_map(|(name, conversation)| {
            let messages = &conversation.messages;
            let place = messages.binary_search_by_key(&msg_id, |message| message.msg_id);
            Some((name.as_str(), place.ok()? as u32 + 1))
        })
    }

    pub fn of(&self, uid: &str) -> impl Iterator<Item = (&String, &Conversation)> {
        let is_member = move |(_, conversation): &(_, &Conversation)| conversation.has(uid);
        self.conversations.iter().filter(is_member)
    }

    pub fn last_seq(&self, name: &str) -> u32 {
        self.conversations
            .get(name)
            .map_or(0, Conversation::last_seq)
    }

    /// A 1:1 conversation exists from its first message on.
    pub fn make_direct(&mut self, name: &str) {
        let people = direct_people(name);
        self.conversations
            .entry(name.to_owned())
            .or_insert_with(|| Conversation {
                members: people
                    .into_iter()
                    .map(|uid| (uid, Member::default()))
                    .collect(),
                ..Default::default()
            });
    }

    pub fn make_group(&mut self, name: &str, owner: &str, members: &[String]) {
        let everybody = members.iter().cloned().chain([owner.to_owned()]);
        let group = Conversation {
            owner: Some(owner.to_owned()),
            members: everybody.map(|uid| (uid, Member::default())).collect(),
            ..Default::default()
        };
        self.conversations.insert(name.to_owned(), group);
    }

    /// A burst begins.
    pub fn begin_burst(&mut self) {
        for conversation in self.conversations.values_mut() {
            conversation.quiet_seq = conversation.last_seq();
            conversation.past.clear();
            for member in conversation.members.values_mut() {
                member.quiet_read = member.read;
                member.has_tidied = false;
            }
        }
    }
}

// === impl Conversation ===

impl Conversation {
    pub fn has(&self, uid: &str) -> bool {
        self.members.contains_key(uid)
    }

    pub fn last_seq(&self) -> u32 {
        self.messages.len() as u32
    }

    pub fn at(&self, seq: u32) -> Option<&Message> {
        self.messages.get((seq as usize).checked_sub(1)?)
    }

    /// Messages with a greater seq.
    pub fn after(&self, seq: u32) -> &[Message] {
        self.messages.get(seq as usize..).unwrap_or_default()
    }

    /// Who sees everything: the owner, or the first of two. This one never tidies up.
    pub fn witness(&self) -> Option<&String> {
        let first = self.members.keys().next();
        self.owner.as_ref().or(first)
    }

    /// What a member may see.
    pub fn visible(&self, uid: &str) -> Vec<&Message> {
        let messages = self.messages.iter();
        messages
            .filter(|message| self.sees(uid, message.seq))
            .collect()
    }

    /// Whether the user sees the message now.
    pub fn sees(&self, uid: &str, seq: u32) -> bool {
        self.members.get(uid).is_some_and(|member| {
            seq > member.start.max(member.cleared) && !member.deleted.contains(&seq)
        })
    }

    /// Messages of others in `(after, to]`.
    pub fn count_of_others(&self, uid: &str, after: u32, to: u32) -> u32 {
        let messages = self.after(after).iter();
        let is_deleted = |seq| {
            let member = self.members.get(uid);
            member.is_some_and(|member| member.deleted.contains(seq))
        };
        let of_others = messages.filter(|message| {
            message.seq <= to && message.sender != uid && !is_deleted(&message.seq)
        });
        of_others.count() as u32
    }

    pub fn unread(&self, uid: &str) -> u32 {
        let after = self
            .members
            .get(uid)
            .map_or(0, |member| member.start.max(member.read));
        self.count_of_others(uid, after, u32::MAX)
    }

    /// Unread messages that mention the user.
    pub fn mentions(&self, uid: &str) -> u32 {
        let after = self.members.get(uid).map_or(0, |member| member.read);
        let is_meant = |message: &&&Message| {
            message.seq > after
                && message.sender != uid
                && message.gone.is_empty()
                && message
                    .mentions
                    .iter()
                    .any(|mention| mention == uid || mention == "@all")
        };
        self.visible(uid).iter().filter(is_meant).count() as u32
    }

    /// The message is another one now.
    pub fn replace(&mut self, message: Message) {
        let seq = message.seq;
        if let Some(place) = self.messages.get_mut(seq as usize - 1) {
            let before = std::mem::replace(place, message);
            self.earlier.entry(seq).or_default().push(before);
        }
    }

    /// Whether a message was like this at some time. Reactions are told in pages only.
    pub fn was(&self, message: &Message) -> bool {
        let earlier = self.earlier.get(&message.seq).into_iter().flatten();
        let versions = earlier.chain(self.at(message.seq));
        versions
            .into_iter()
            .any(|version| is_same_text(version, message))
    }

    /// The next place in the sequence gets this message.
    pub fn push(&mut self, message: Message) -> Result<()> {
        let newest = self.messages.last();
        ensure!(
            message.seq == self.last_seq() + 1,
            "after {newest:?} comes {message:?}: a hole, or one twice"
        );
        ensure!(
            newest.is_none_or(|newest| newest.msg_id < message.msg_id),
            "after {newest:?} comes {message:?}: msg_ids do not grow"
        );
        self.messages.push(message);
        Ok(())
    }

    /// A new membership.
    pub fn enter(&mut self, uid: &str, start: u32) {
        let member = Member {
            start,
            read: start,
            quiet_read: start,
            acked: Bounds::exactly(start),
            ..Default::default()
        };
        self.members.insert(uid.to_owned(), member);
    }

    /// The end of one; it was between the burst's first message and its last one.
    pub fn leave(&mut self, uid: &str) {
        if let Some(member) = self.members.remove(uid) {
            self.past.push(Past {
                uid: uid.to_owned(),
                start: member.start,
                end: Bounds {
                    lo: self.quiet_seq.max(member.start),
                    hi: u32::MAX,
                },
            });
        }
    }

    /// Whether the user came in or went out in the last burst.
    pub fn is_unsettled(&self, uid: &str) -> bool {
        let came = self.members.get(uid).map(|member| member.start);
        came.is_some_and(|start| start > 0 && start >= self.quiet_seq)
            || self.past.iter().any(|past| past.uid == uid)
    }

    /// Learns from system messages when exactly members have left.
    pub fn narrow_departures(&mut self) {
        let new = self.messages.get(self.quiet_seq as usize..);
        let departures = new.unwrap_or_default().iter().filter(|m| is_departure(m));
        let mut places: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for message in departures {
            for uid in departed(message) {
                places.entry(uid).or_default().push(message.seq);
            }
        }
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let last_seq = self.messages.len() as u32;
        for past in &mut self.past {
            let nth = seen.entry(&past.uid).or_default();
            let place = places
                .get(past.uid.as_str())
                .and_then(|seqs| seqs.get(*nth));
            *nth += 1;
            past.end = match place {
                // Whether the one who goes is told by the message itself is left open.
                Some(seq) => Bounds {
                    lo: seq - 1,
                    hi: *seq,
                },
                None => Bounds {
                    lo: past.end.lo,
                    hi: last_seq,
                },
            };
        }
    }

    /// Whether the message was for the user at its time: surely, or perhaps.
    pub fn was_for(&self, uid: &str, seq: u32) -> bool {
        let now = self.members.get(uid).map(|member| member.start);
        let in_past = |past: &Past| past.uid == uid && past.start < seq && seq <= past.end.hi;
        now.is_some_and(|start| start < seq) || self.past.iter().any(in_past)
    }
}

/// Who has left, as a system message tells.
fn departed(message: &Message) -> impl Iterator<Item = &str> {
    use schema::v1::message::Content;
    let system = match &message.content {
        Some(Content::System(system)) => Some(system),
        _ => None,
    };
    system
        .into_iter()
        .flat_map(|system| &system.users)
        .map(String::as_str)
        .chain((system.is_some_and(|system| system.users.is_empty())).then_some(&*message.sender))
}

fn is_departure(message: &Message) -> bool {
    use schema::v1::message::Content;
    matches!(&message.content, Some(Content::System(system))
        if matches!(&*system.r#type, "members_removed" | "member_left"))
}

/// Whether two messages are the same but for what others think of them.
pub fn is_same_text(one: &Message, other: &Message) -> bool {
    let plain = |message: &Message| Message {
        reactions: Vec::new(),
        ..message.clone()
    };
    plain(one) == plain(other)
}

/// The name of the conversation of two.
pub fn direct(one: &str, other: &str) -> String {
    let mut people = [one, other];
    people.sort_unstable();
    format!("u:{}:{}", people[0], people[1])
}

fn direct_people(name: &str) -> BTreeSet<String> {
    name.split(':').skip(1).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seq: u32, sender: &str) -> Message {
        Message {
            seq,
            msg_id: seq.into(),
            sender: sender.into(),
            ..Default::default()
        }
    }

    /// Who comes in late sees and counts nothing from before; who sends, does not count it.
    #[test]
    fn newcomers_and_senders_count_what_is_theirs() {
        let mut chat = Chat::default();
        chat.make_group("g:1", "ada", &["ben".into()]);
        let group = chat.conversations.get_mut("g:1").unwrap();
        for (seq, sender) in [(1, "ada"), (2, "ben"), (3, "ada")] {
            group.push(message(seq, sender)).unwrap();
        }
        group.enter("cleo", 2);
        assert_eq!(group.visible("cleo"), [&message(3, "ada")]);
        let unread = ["ada", "ben", "cleo"].map(|uid| group.unread(uid));
        assert_eq!(unread, [1, 2, 1]);
        assert!(group.push(message(5, "ada")).is_err());
    }
}
