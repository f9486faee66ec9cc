//! What a device should have heard.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use schema::v1::Message;

use super::{Handset, Line};
use crate::model::chat::{Bounds, Chat, Conversation, Past, is_same_text};
use crate::{eventually, up};

impl Handset {
    /// Where the device is, as far as is known; it moves over what it need not hear.
    pub fn position(&self, name: &str, conversation: &Conversation) -> Bounds {
        let mut position = self.cursors.get(name).copied().unwrap_or_default();
        let next = conversation.after(position.hi).iter();
        let skipped = next.take_while(|message| !self.must_hear(conversation, message));
        position.hi += skipped.count() as u32;
        position
    }

    fn must_hear(&self, conversation: &Conversation, message: &Message) -> bool {
        !self.is_own(message) && conversation.sees(&self.uid, message.seq)
    }

    /// A device that has come for the first time started where its user was.
    pub fn learn_base(&mut self, chat: &Chat) {
        if self.is_placed || !self.has_come {
            return;
        }
        self.is_placed = true;
        let may_be_known = self.may_be_known;
        let member = |(name, conversation): (&String, &Conversation)| {
            let mut started = conversation.members[&self.uid].acked;
            if may_be_known {
                started.lo = 0;
            }
            (name.clone(), started)
        };
        let base: BTreeMap<String, Bounds> = chat.of(&self.uid).map(member).collect();
        for (name, started) in &base {
            let cursor = self.cursors.entry(name.clone()).or_default();
            cursor.may_reach(started.hi);
            cursor.lo = cursor.lo.max(started.lo);
        }
        if let Some(line) = &mut self.line {
            line.base = Some(base);
        }
    }

    /// The server was killed: a device that has come for the first time and left again may be unknown to it, and new when
    /// it comes the next time.
    pub fn may_be_unknown(&mut self) {
        if self.has_come && !self.is_placed && !self.is_online() {
            self.has_come = false;
            self.may_be_known = true;
        }
    }

    /// Waits until everything is here, the bell's last stroke too.
    pub async fn settle(&mut self, chat: &Chat) -> Result<()> {
        self.take_what_is_here().await?;
        while let Some(missing) = self.missing(chat) {
            let client = self.client()?;
            let arrival = client.arrival().await.context(missing)?;
            self.take(arrival).await?;
            self.take_what_is_here().await?;
        }
        Ok(())
    }

    fn missing(&self, chat: &Chat) -> Option<String> {
        let line = self.line.as_ref()?;
        chat.of(&self.uid).find_map(|(name, conversation)| {
            let base = self.base(line, name, conversation);
            let newest = conversation.after(base.hi).iter().rev();
            let mut newest = newest.filter(|message| self.must_hear(conversation, message));
            let newest = newest.next()?;
            let heard = line.heard.get(name).and_then(|heard| heard.last());
            let is_here = heard.is_some_and(|seq| *seq >= newest.seq);
            (!is_here).then(|| {
                let seqs = line.heard.get(name);
                format!("{self} should hear {newest:?}; from {base:?} on it heard {seqs:?}")
            })
        })
    }

    /// Where the device was when this connection, or this membership, began.
    fn base(&self, line: &Line, name: &str, conversation: &Conversation) -> Bounds {
        let start = conversation.members[&self.uid].start;
        let base = line.base.as_ref().and_then(|base| base.get(name)).copied();
        let base = base.unwrap_or_default();
        Bounds {
            lo: base.lo.max(start),
            hi: base.hi.max(start),
        }
    }

    fn is_own(&self, message: &Message) -> bool {
        message.sender == self.uid && message.sender_device == self.name
    }

    /// Waits until the server has written down what the device has acknowledged: PUBACKs are in order, and the last one
    /// is the bell's.
    pub async fn until_written_down(&mut self, chat: &Chat, bell: &str) -> Result<()> {
        if self.line.is_none() || self.habits.qos == 0 || self.habits.late > 0 {
            return Ok(());
        }
        let (what, rung) = (format!("{self}'s PUBACKs count"), chat.last_seq(bell));
        eventually(&what, async || {
            // A device that has come for the first time may still be sent what another of its user's has acknowledged.
            self.take_what_is_here().await?;
            // There is no message 0, so that it only asks.
            let answer = self.client()?.tell(up::ack(bell, 0)).await?;
            Ok(answer.seq == rung)
        })
        .await?;
        for (name, conversation) in chat.of(&self.uid) {
            let start = conversation.members[&self.uid].start;
            let pubacked = self.pubacked.get(name).filter(|seq| **seq > start);
            if let (Some(seq), Some(cursor)) = (pubacked, self.cursors.get_mut(name)) {
                cursor.reaches(*seq);
            }
        }
        Ok(())
    }

    /// Compares what was heard with what should have been.
    pub fn check(&mut self, chat: &Chat, burst: u32) -> Result<()> {
        let told = self.to_string();
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        line.is_settled = true;
        let fresh = std::mem::take(&mut line.fresh);
        for message in fresh {
            self.check_message(chat, &message).context(told.clone())?;
        }
        let Some(line) = &self.line else {
            return Ok(());
        };
        for (name, conversation) in &chat.conversations {
            let heard = line.heard.get(name).map_or(&[][..], Vec::as_slice);
            let checked = self.check_heard(line, name, conversation, heard, burst);
            let context = || format!("{told} in {name} heard {heard:?}");
            checked.with_context(context)?;
        }
        self.check_states(chat).context(told)?;
        self.tighten(chat);
        Ok(())
    }

    fn check_message(&self, chat: &Chat, message: &Message) -> Result<()> {
        let conversation = chat.conversations.get(&message.conversation);
        let conversation = conversation.with_context(|| format!("nobody has sent {message:?}"))?;
        ensure!(
            conversation.was(message),
            "heard {message:?}, and the history has {:?}",
            conversation.at(message.seq)
        );
        ensure!(!self.is_own(message), "heard itself: {message:?}");
        ensure!(
            conversation.was_for(&self.uid, message.seq),
            "heard what was not for its user: {message:?}, {:?}, {:?}",
            conversation.members,
            conversation.past,
        );
        Ok(())
    }

    fn check_heard(
        &self,
        line: &Line,
        name: &str,
        conversation: &Conversation,
        heard: &[u32],
        burst: u32,
    ) -> Result<()> {
        ensure!(heard.is_sorted_by(|a, b| a < b), "not in order, or twice");
        let between = |after: u32, to: u32| {
            let messages = conversation.after(after).iter();
            messages.filter(move |message| message.seq <= to && !self.is_own(message))
        };
        for past in &conversation.past {
            let is_throughout = line.since < burst;
            if past.uid == self.uid && is_throughout {
                let Past { start, end, .. } = past;
                let mut surely = between(conversation.quiet_seq.max(*start), end.lo);
                let lost = surely.find(|message| !heard.contains(&message.seq));
                ensure!(lost.is_none(), "{lost:?} was sent before {past:?} ended");
            }
        }
        let Some(member) = conversation.members.get(&self.uid) else {
            return Ok(());
        };
        let base = self.base(line, name, conversation);
        let now = heard.iter().copied().filter(|seq| *seq > member.start);
        let first = now.clone().next();
        ensure!(
            first.is_none_or(|first| first > base.lo),
            "it was at {base:?}, and so had it already"
        );
        // What the user has deleted since may have been heard or not.
        let seen = |seq: &u32| conversation.sees(&self.uid, *seq);
        let now: Vec<u32> = now.filter(seen).collect();
        let expected = |after: u32| -> Vec<u32> {
            let seqs = between(after, u32::MAX).map(|message| message.seq);
            seqs.filter(seen).collect()
        };
        let (surely, perhaps) = (expected(base.hi), expected(base.lo));
        if !now.ends_with(&surely) || !perhaps.ends_with(&now) {
            bail!("it was at {base:?}, and so should have heard {surely:?}, or {perhaps:?}");
        }
        Ok(())
    }

    /// Every notice of where the user stands tells how it was when it was written.
    fn check_states(&mut self, chat: &Chat) -> Result<()> {
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        for state in std::mem::take(&mut line.states) {
            let Some(conversation) = chat.conversations.get(&state.conversation) else {
                bail!("a notice of a conversation that is not: {state:?}");
            };
            if conversation.is_unsettled(&self.uid) || state.removed {
                continue;
            }
            let Some(member) = conversation.members.get(&self.uid) else {
                bail!("a notice of a foreign conversation: {state:?}");
            };
            if member.has_tidied {
                continue;
            }
            let from = state.last_read_seq.max(member.start);
            let unread = conversation.count_of_others(&self.uid, from, state.last_seq);
            ensure!(
                state.unread == unread && state.last_read_seq <= member.read,
                "{state:?}, but {unread} are unread, and the user has read up to {}",
                member.read
            );
        }
        Ok(())
    }

    /// Whether it was online in all of the burst.
    pub fn was_throughout(&self, burst: u32) -> bool {
        self.line.as_ref().is_some_and(|line| line.since < burst)
    }

    /// Waits until the device has been told how far its user has read.
    pub async fn until_told_of_reading(&mut self, conversation: &str, seq: u32) -> Result<()> {
        let what = format!("{self} is told that {conversation} is read up to {seq}");
        eventually(&what, async || {
            self.take_what_is_here().await?;
            let line = self.line.as_ref().context("the device is offline")?;
            Ok(line.read.get(conversation) == Some(&seq))
        })
        .await
    }

    /// Waits until the device has been told what has become of a message.
    pub async fn until_told_of_change(&mut self, message: &Message) -> Result<()> {
        let what = format!("{self} is told of {message:?}");
        eventually(&what, async || {
            self.take_what_is_here().await?;
            let line = self.line.as_ref().context("the device is offline")?;
            let told = line.changed.get(&message.msg_id);
            Ok(told.is_some_and(|told| is_same_text(told, message)))
        })
        .await
    }

    /// What was heard shows where the device was.
    fn tighten(&mut self, chat: &Chat) {
        let Some(line) = &mut self.line else {
            return;
        };
        let Some(base) = &mut line.base else {
            return;
        };
        for (name, conversation) in chat.of(&self.uid) {
            let start = conversation.members[&self.uid].start;
            let heard = line.heard.get(name).into_iter().flatten();
            let Some(first) = heard.copied().find(|seq| *seq > start) else {
                continue;
            };
            let base = base.entry(name.clone()).or_default();
            base.hi = base.hi.min(first - 1).max(base.lo);
            let cursor = self.cursors.entry(name.clone()).or_default();
            let pubacked = self.pubacked.get(name).copied().unwrap_or_default();
            // What it hears in this connection it has not acknowledged before, but it may have said so by a command.
            if cursor.hi > pubacked.max(first - 1) && cursor.lo < cursor.hi {
                cursor.hi = cursor.lo.max(pubacked).max(first - 1);
            }
        }
    }
}
