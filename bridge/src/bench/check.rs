//! Whether the server kept its promises: every message stored, answered and received exactly once, in the order in
//! which it was sent, and `seq` 1, 2, 3 … without hole or repeat for both members.

use std::fmt;

use super::faults::{Checked, Faults};

/// How far a number may be ahead: one from nowhere must not take all memory.
const SKIP_MAX: usize = 1 << 20;

/// What one user has seen of the conversation.
#[derive(Debug, Default)]
pub(super) struct View {
    /// `seq` of the own messages by number, from the replies; 0: no reply yet.
    answered: Vec<u32>,
    /// `seq` of the peer's messages by number; 0: not received yet.
    received: Vec<u32>,
    /// How many of the own messages were answered, and how many different ones of the peer were received.
    counts: (u32, u32),
    /// PUBACKs.
    pub acked: u32,
    pub faults: Faults,
}

impl View {
    /// The number of the next own message, which counts as published now.
    pub(super) fn publish(&mut self) -> u32 {
        self.answered.push(0);
        self.published()
    }

    /// How many messages were published.
    pub(super) fn published(&self) -> u32 {
        u32::try_from(self.answered.len()).unwrap_or(u32::MAX)
    }

    /// The own message `number` was stored at `seq`.
    pub(super) fn answer(&mut self, number: u32, seq: u32) {
        match slot(&mut self.answered, number) {
            Some(answered) if *answered == 0 => {
                *answered = seq;
                self.counts.0 += 1;
            }
            Some(_) => self
                .faults
                .note("answered twice", || format!("message {number}")),
            None => self
                .faults
                .note("unexpected reply", || format!("message {number}")),
        }
    }

    /// The own message `number` was refused.
    pub(super) fn refuse(&mut self, number: u32, reason: String) {
        self.faults
            .note("refused", || format!("message {number}: {reason}"));
    }

    /// The peer's message `number` came with `seq`.
    pub(super) fn receive(&mut self, number: u32, seq: u32) {
        let (at, next) = (number as usize, self.received.len() + 1);
        if at > next {
            let example = || format!("message {number} before {next}");
            self.faults.note("out of order", example);
        }
        if at > next + SKIP_MAX {
            return;
        }
        if at >= next {
            self.received.resize(at, 0);
        }
        match slot(&mut self.received, number) {
            Some(received) if *received == 0 => {
                *received = seq;
                self.counts.1 += 1;
            }
            Some(_) => self
                .faults
                .note("received twice", || format!("message {number}")),
            None => self
                .faults
                .note("unexpected message", || format!("message {number}")),
        }
    }

    /// Whether all own messages were stored and answered, and all of the peer's received.
    pub(super) fn is_complete(&self, peer_total: u32) -> bool {
        let published = self.published();
        self.acked >= published && self.counts.0 >= published && self.counts.1 >= peer_total
    }

    /// What [`is_complete`](Self::is_complete) waits for.
    pub(super) fn progress(&self, peer_total: Option<u32>) -> String {
        let (answered, received) = self.counts;
        let of = peer_total.map_or("?".to_owned(), |total| total.to_string());
        format!(
            "of {} messages {} had a PUBACK and {answered} a reply; {received} of {of} were received",
            self.published(),
            self.acked
        )
    }
}

fn slot(seqs: &mut [u32], number: u32) -> Option<&mut u32> {
    seqs.get_mut((number as usize).checked_sub(1)?)
}

/// What the check of all conversations came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conversations {
    conversations: usize,
    /// Messages sent, warm-up included.
    messages: u64,
    /// Conversations whose `lastSeq` the server was asked for.
    confirmed: usize,
    pub faults: Faults,
}

impl Conversations {
    /// Holds what the server has stored of a conversation against what was sent.
    pub(super) fn confirm(
        &mut self,
        uid: &impl fmt::Display,
        sent: u32,
        stored: anyhow::Result<u32>,
    ) {
        self.confirmed += 1;
        match stored {
            Ok(stored) if stored == sent => {}
            Ok(stored) => {
                let example = || format!("lastSeq is {stored} for {uid}, {sent} were sent");
                self.faults.note("stored count", example);
            }
            Err(error) => self.faults.note("stored count", || format!("{error:#}")),
        }
    }

    pub(super) fn into_checked(self) -> Checked {
        let Conversations {
            conversations,
            messages,
            confirmed,
            faults,
        } = self;
        Checked {
            what: format!(
                "{messages} messages in {conversations} conversations, each stored, answered and received once, in \
                 order, seq without holes; lastSeq right in {confirmed} of {confirmed}"
            ),
            faults,
        }
    }
}

/// Checks all conversations; the views are in pairs.
pub(super) fn conversations(views: &[View]) -> Conversations {
    let mut checked = Conversations::default();
    for (index, pair) in views.chunks_exact(2).enumerate() {
        let (a, b) = (&pair[0], &pair[1]);
        checked.conversations += 1;
        checked.messages += u64::from(a.published()) + u64::from(b.published());
        let mut faults = Faults::default();
        check_direction(a, b, &mut faults);
        check_direction(b, a, &mut faults);
        check_merged(a, &mut faults);
        check_merged(b, &mut faults);
        faults.add(&a.faults);
        faults.add(&b.faults);
        faults.name_place(format_args!("conversation {index}"));
        checked.faults.add(&faults);
    }
    checked
}

/// What `sender` has sent, and `receiver` has got of it.
fn check_direction(sender: &View, receiver: &View, faults: &mut Faults) {
    for _ in sender.acked..sender.published() {
        faults.note("no PUBACK", || sender.progress(None));
    }
    let received = receiver.received.iter().copied();
    let mut received = received.chain(std::iter::repeat(0));
    for (number, &answered) in (1..).zip(&sender.answered) {
        let received = received.next().unwrap_or(0);
        if answered == 0 {
            faults.note("no reply", || format!("message {number}"));
        }
        if received == 0 {
            faults.note("lost", || format!("message {number} with seq {answered}"));
        }
        if answered != 0 && received != 0 && answered != received {
            let example =
                || format!("message {number} is {answered} to the sender, {received} to the peer");
            faults.note("two seqs", example);
        }
    }
    if receiver.received.len() > sender.answered.len() {
        let numbers = (receiver.received.len(), sender.answered.len());
        faults.note("invented", || {
            format!("{} of {} messages", numbers.0, numbers.1)
        });
    }
    if !receiver
        .received
        .iter()
        .filter(|seq| **seq != 0)
        .is_sorted()
    {
        let example = || "seq does not keep the order in which one user sent".to_owned();
        faults.note("reordered", example);
    }
}

/// A user's merged view is 1, 2, 3 …
fn check_merged(view: &View, faults: &mut Faults) {
    let all = view.answered.iter().chain(&view.received).copied();
    let mut seqs: Vec<u32> = all.filter(|seq| *seq != 0).collect();
    seqs.sort_unstable();
    let mut last = 0;
    for seq in seqs {
        if seq == last {
            faults.note("repeated seq", || format!("seq {seq}"));
        } else if seq != last + 1 {
            faults.note("hole in seq", || format!("seq {seq} after {last}"));
        }
        last = seq;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two messages of a and one of b, stored as a, b, a.
    fn good() -> [View; 2] {
        let (mut a, mut b) = (View::default(), View::default());
        assert_eq!((a.publish(), a.publish(), b.publish()), (1, 2, 1));
        a.acked = 2;
        b.acked = 1;
        a.answer(1, 1);
        a.answer(2, 3);
        b.answer(1, 2);
        b.receive(1, 1);
        b.receive(2, 3);
        a.receive(1, 2);
        [a, b]
    }

    fn check(break_it: fn(&mut View, &mut View), expected: &[&str]) {
        let [mut a, mut b] = good();
        break_it(&mut a, &mut b);
        assert_eq!(conversations(&[a, b]).faults.kinds(), expected);
    }

    #[test]
    fn a_good_conversation_is_good() {
        let views = good();
        assert!(views[0].is_complete(1) && views[1].is_complete(2));
        assert!(!views[1].is_complete(3));
        let mut checked = conversations(&views);
        checked.confirm(&"a", 3, Ok(3));
        assert!(checked.faults.is_empty(), "{checked:?}");
        assert_eq!((checked.conversations, checked.messages), (1, 3));
    }

    #[test]
    fn each_broken_promise_has_a_name() {
        check(|a, _| a.acked = 1, &["no PUBACK"]);
        check(|a, _| a.answer(2, 4), &["answered twice"]);
        check(|a, _| a.answer(7, 4), &["unexpected reply"]);
        check(|a, _| a.refuse(1, "x".into()), &["refused"]);
        check(|_, b| b.receive(2, 3), &["received twice"]);
        check(|_, b| b.receive(0, 3), &["unexpected message"]);
        check(|_, b| b.receive(3, 4), &["invented"]);
        check(|_, b| b.receive(5, 4), &["invented", "out of order"]);
        check(|_, b| b.receive(u32::MAX, 4), &["out of order"]);
        check(|_, b| b.received.truncate(1), &["lost"]);
        check(|a, _| a.answered[1] = 0, &["no reply"]);
        check(
            |a, b| (a.answered[1], b.received[1]) = (4, 4),
            &["hole in seq"],
        );
        check(|_, b| b.received[1] = 4, &["hole in seq", "two seqs"]);
        check(
            |a, b| (a.answered[1], b.received[1]) = (1, 1),
            &["repeated seq"],
        );
        check(
            |a, b| (a.answered, b.received) = (vec![3, 1], vec![3, 1]),
            &["reordered"],
        );
    }

    #[test]
    fn what_the_server_has_stored_counts() {
        let mut checked = conversations(&good());
        checked.confirm(&"a", 3, Ok(2));
        let text = checked.into_checked().to_string();
        assert!(
            text.contains("FAILED     stored count: 1 times; lastSeq is 2 for a, 3 were sent"),
            "{text}"
        );
    }
}
