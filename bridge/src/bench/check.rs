//! Whether the server kept its promises: every message stored, answered and received exactly once, in the order in
//! which it was sent, and `seq` 1, 2, 3 … without hole or repeat for all members.
//!
//! What a client has seen of a conversation takes the same memory however many messages there were: counts, what came
//! last, and sums of hashes, which agree at the end only if everyone has seen the same messages at the same places.

use std::fmt;
use std::ops::Range;

use broker::codec::Qos;

use super::faults::{Checked, Faults};

/// What the server promises about a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promises {
    /// It stores messages, answers each, and gives it to all other members with its `seq`.
    Chat,
    /// It passes messages on, once each and in the order of the sender, to those who do not send.
    Plain,
    /// The same, but for those that it drops.
    PlainWithLosses,
}

impl Promises {
    /// Of plain messages that are delivered at this QoS.
    pub(super) fn of_plain(qos: Qos) -> Promises {
        match qos {
            Qos::AtMostOnce => Promises::PlainWithLosses,
            Qos::AtLeastOnce | Qos::ExactlyOnce => Promises::Plain,
        }
    }
}

/// What one client has seen of one conversation.
#[derive(Debug)]
pub(super) struct View {
    promises: Promises,
    /// The client's index among the senders, if it is one.
    sender: Option<u32>,
    own: Own,
    /// How many different messages of others were received.
    received: u32,
    /// Of them, the last `seq`, and the sum of all marks.
    received_seq: u32,
    received_sum: u64,
    /// Of each sender, the highest number received.
    numbers: Box<[u32]>,
    /// Numbers that were passed over and have not come since.
    missing: u64,
    /// Of each sender, the numbers that may come again: the server may not know that they were received on a
    /// connection that was lost. Empty while none was, and as soon as something new has come on the next one.
    repeats: Box<[Range<u32>]>,
    pub faults: Faults,
}

/// What became of a client's own messages.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    published: u32,
    acked: u32,
    answered: u32,
    /// Of those that were answered, the last number and the last `seq`, the sum of all marks, and that of all `seq`s.
    last: u32,
    seq: u32,
    sum: u64,
    seqs: u64,
}

impl View {
    /// Of a conversation with so many senders; `sender` tells whether this client is one.
    pub(super) fn new(promises: Promises, sender: Option<u32>, senders: u32) -> View {
        View {
            promises,
            sender,
            own: Own::default(),
            received: 0,
            received_seq: 0,
            received_sum: 0,
            numbers: vec![0; senders as usize].into(),
            missing: 0,
            repeats: Box::default(),
            faults: Faults::default(),
        }
    }

    /// The number of the next own message, which counts as published now.
    pub(super) fn publish(&mut self) -> u32 {
        self.own.published += 1;
        self.own.published
    }

    /// The connection was lost, and is there again.
    pub(super) fn reconnect(&mut self) {
        let received = self.numbers.iter();
        self.repeats = received.map(|last| 1..last.saturating_add(1)).collect();
    }

    /// How many messages were published.
    pub(super) fn published(&self) -> u32 {
        self.own.published
    }

    /// An own message had its PUBACK.
    pub(super) fn ack(&mut self) {
        self.own.acked += 1;
    }

    /// The own message `number` was stored at `seq`.
    pub(super) fn answer(&mut self, number: u32, seq: u32) {
        let own = &mut self.own;
        let (next, last_seq) = (own.last + 1, own.seq);
        if number == 0 || number > own.published {
            let example = || format!("message {number}");
            self.faults.note("unexpected reply", example);
            return;
        }
        if number < next {
            let example = || format!("message {number}");
            self.faults.note("answered twice", example);
            return;
        }
        if number > next {
            let example = || format!("message {number} before {next}");
            self.faults.note("reply out of order", example);
        }
        own.answered += 1;
        (own.last, own.seq) = (number, seq);
        let sender = self.sender.unwrap_or_default();
        own.sum = own.sum.wrapping_add(mark(sender, number, seq));
        own.seqs = own.seqs.wrapping_add(scramble(seq.into()));
        if seq <= last_seq {
            self.note_reordered(seq, last_seq);
        }
    }

    /// The own message `number` was refused.
    pub(super) fn refuse(&mut self, number: u32, reason: String) {
        self.faults
            .note("refused", || format!("message {number}: {reason}"));
    }

    /// A sender's message `number` came, with `seq` if this is a chat. Whether it is one that was to come, and new.
    pub(super) fn receive(&mut self, sender: u32, number: u32, seq: u32) -> bool {
        if !self.hears() || self.sender == Some(sender) {
            self.faults
                .note("own message", || format!("message {number}"));
            return false;
        }
        let Some(last) = self.numbers.get_mut(sender as usize) else {
            let example = || format!("sender {sender}");
            self.faults.note("unexpected message", example);
            return false;
        };
        if number == 0 {
            let example = || "message 0".to_owned();
            self.faults.note("unexpected message", example);
            return false;
        }
        if number <= *last {
            if self.missing == 0 {
                if !self.may_repeat(sender, number) {
                    let example = || format!("message {number}");
                    self.faults.note("received twice", example);
                }
                return false;
            }
            self.missing -= 1;
            let example = || format!("message {number} after {last}");
            self.faults.note("out of order", example);
        } else {
            self.missing += u64::from(number - *last - 1);
            *last = number;
        }
        self.received += 1;
        self.repeats = Box::default();
        if self.promises == Promises::Chat {
            self.place(sender, number, seq);
        }
        true
    }

    /// Whether a message may come once more; it may not after that, nor may those before it.
    fn may_repeat(&mut self, sender: u32, number: u32) -> bool {
        let repeats = self.repeats.get_mut(sender as usize);
        let Some(repeats) = repeats.filter(|numbers| numbers.contains(&number)) else {
            return false;
        };
        repeats.start = number + 1;
        true
    }

    fn place(&mut self, sender: u32, number: u32, seq: u32) {
        if seq <= self.received_seq {
            self.note_reordered(seq, self.received_seq);
        }
        self.received_seq = seq;
        self.received_sum = self.received_sum.wrapping_add(mark(sender, number, seq));
    }

    fn note_reordered(&mut self, seq: u32, last: u32) {
        self.faults
            .note("reordered", || format!("seq {seq} after {last}"));
    }

    /// Whether messages of others come to this client.
    fn hears(&self) -> bool {
        self.promises == Promises::Chat || self.sender.is_none()
    }

    /// How many of all messages this client is to receive.
    fn expected(&self, total: u64) -> u64 {
        match self.hears() {
            true => total.saturating_sub(self.own.published.into()),
            false => 0,
        }
    }

    /// Whether all own messages were stored and answered, and all others of the `total` received.
    pub(super) fn is_complete(&self, total: u64) -> bool {
        let Own {
            published,
            acked,
            answered,
            ..
        } = self.own;
        let is_answered = answered >= published || self.promises != Promises::Chat;
        acked >= published && is_answered && u64::from(self.received) >= self.expected(total)
    }

    /// What [`is_complete`](Self::is_complete) waits for.
    pub(super) fn progress(&self, total: u64) -> String {
        let Own {
            published,
            acked,
            answered,
            ..
        } = self.own;
        format!(
            "of {published} messages {acked} had a PUBACK and {answered} a reply; {} of {} were received",
            self.received,
            self.expected(total)
        )
    }
}

/// What stands for a message at its place in sums.
pub(super) fn mark(sender: u32, number: u32, seq: u32) -> u64 {
    scramble(scramble(u64::from(sender) << 32 | u64::from(number)) ^ u64::from(seq))
}

/// A bijection that leaves nothing of the order of its arguments: the finalizer of SplitMix64.
pub(super) fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What was sent to a conversation, all of which is stored if the server says the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sent {
    pub messages: u64,
    /// Of all [marks](mark), as the senders were told.
    pub sum: u64,
}

/// What the check of all conversations came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conversations {
    conversations: usize,
    /// Messages sent, warm-up included.
    messages: u64,
    /// Messages received, the same one by as many as are to receive it.
    deliveries: u64,
    /// Deliveries that did not happen.
    pub lost: u64,
    /// Conversations whose `lastSeq` the server was asked for.
    confirmed: usize,
    /// Conversations of which messages were read back, and how many.
    read_back: (usize, u64),
    pub faults: Faults,
}

impl Conversations {
    /// Checks the conversation `name` as all its members have seen it; the result is what was sent to it.
    pub(super) fn add(&mut self, name: impl fmt::Display, views: &[&View]) -> Sent {
        let total: u64 = views.iter().map(|view| u64::from(view.published())).sum();
        self.conversations += 1;
        self.messages += total;
        let mut faults = Faults::default();
        for view in views {
            self.deliveries += u64::from(view.received);
            self.lost += check_counts(view, total, &mut faults);
            faults.add(&view.faults);
        }
        check_senders(views, &mut faults);
        if views.iter().all(|view| view.promises == Promises::Chat) {
            check_places(views, total, &mut faults);
        }
        faults.name_place(name);
        self.faults.add(&faults);
        Sent {
            messages: total,
            sum: sum_of(views, |view| view.own.sum),
        }
    }

    /// Holds what the server has stored of a conversation against what was sent.
    pub(super) fn confirm(
        &mut self,
        name: impl fmt::Display,
        sent: Sent,
        stored: anyhow::Result<u32>,
    ) {
        self.confirmed += 1;
        let messages = sent.messages;
        match stored {
            Ok(stored) if u64::from(stored) == messages => {}
            Ok(stored) => {
                let example = || format!("{name}: lastSeq is {stored}, {messages} were sent");
                self.faults.note("stored count", example);
            }
            Err(error) => {
                let example = || format!("{name}: {error:#}");
                self.faults.note("stored count", example);
            }
        }
    }

    /// So many messages of a conversation were read back, with these faults.
    pub(super) fn add_read_back(&mut self, messages: u64, faults: &Faults) {
        self.read_back.0 += 1;
        self.read_back.1 += messages;
        self.faults.add(faults);
    }

    pub(super) fn into_checked(self, promises: Promises) -> Checked {
        let Conversations {
            conversations,
            messages,
            deliveries,
            confirmed,
            read_back: (read_back, read),
            faults,
            ..
        } = self;
        let confirmed = match confirmed == conversations {
            true => format!("all {conversations}"),
            false => format!("{confirmed} of {conversations}"),
        };
        let counts = format!("{messages} messages in {conversations} conversations");
        let what = match promises {
            Promises::Chat => format!(
                "{counts}, each stored and answered once, {deliveries} deliveries, each once and in order, seq without \
                 holes; lastSeq right in {confirmed}; {read} messages in {read_back} of them read back"
            ),
            Promises::Plain => {
                format!(
                    "{counts}, each acknowledged, {deliveries} deliveries, each once and in order"
                )
            }
            Promises::PlainWithLosses => format!(
                "{counts}, each acknowledged, {deliveries} deliveries, none twice and all in order"
            ),
        };
        Checked { what, faults }
    }
}

/// Whether as many came as were to come; the result is how many were lost.
fn check_counts(view: &View, total: u64, faults: &mut Faults) -> u64 {
    let Own {
        published,
        acked,
        answered,
        ..
    } = view.own;
    let without = |count: u32| u64::from(published.saturating_sub(count));
    faults.note_many("no PUBACK", without(acked), || view.progress(total));
    if view.promises == Promises::Chat {
        faults.note_many("no reply", without(answered), || view.progress(total));
    }
    let lost = view.expected(total).saturating_sub(view.received.into());
    if view.promises != Promises::PlainWithLosses {
        faults.note_many("lost", lost, || view.progress(total));
    }
    lost
}

/// Whether nobody has received what nobody sent.
fn check_senders(views: &[&View], faults: &mut Faults) {
    for sender in views {
        let Some(index) = sender.sender else { continue };
        for view in views {
            let highest = view.numbers.get(index as usize).copied().unwrap_or(0);
            if highest > sender.published() {
                let of = sender.published();
                faults.note("invented", || format!("message {highest} of {of}"));
            }
        }
    }
}

/// Whether everyone has seen the same messages at the same places, which are 1, 2, 3 …
fn check_places(views: &[&View], total: u64, faults: &mut Faults) {
    // Otherwise the sums differ, and why has been told.
    let is_answered = |view: &&View| view.own.answered == view.own.published;
    if !views.iter().all(is_answered) {
        return;
    }
    let answered = sum_of(views, |view| view.own.sum);
    for view in views {
        let is_counted = u64::from(view.received) == view.expected(total);
        let others = answered.wrapping_sub(view.own.sum);
        if is_counted && view.received_sum != others {
            let example = || "the senders were told other ones than a receiver".to_owned();
            faults.note("two seqs", example);
        }
    }
    let last = views.iter().map(|view| view.own.seq).max().unwrap_or(0);
    let expected = (1..=total).map(scramble).fold(0, u64::wrapping_add);
    if u64::from(last) > total {
        let example = || format!("seq {last} after {total} messages");
        faults.note("hole in seq", example);
    } else if sum_of(views, |view| view.own.seqs) != expected {
        let example = || format!("{total} messages up to seq {last}");
        faults.note("repeated seq", example);
    }
}

fn sum_of(views: &[&View], part: impl Fn(&View) -> u64) -> u64 {
    let parts = views.iter().map(|view| part(view));
    parts.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two messages of a and one of b, stored as a, b, a; c only listens.
    fn good() -> [View; 3] {
        let new = |sender| View::new(Promises::Chat, sender, 2);
        let [mut a, mut b, mut c] = [Some(0), Some(1), None].map(new);
        assert_eq!((a.publish(), a.publish(), b.publish()), (1, 2, 1));
        a.ack();
        a.answer(1, 1);
        b.ack();
        b.answer(1, 2);
        a.ack();
        a.answer(2, 3);
        b.receive(0, 1, 1);
        b.receive(0, 2, 3);
        a.receive(1, 1, 2);
        for (sender, number, seq) in [(0, 1, 1), (1, 1, 2), (0, 2, 3)] {
            c.receive(sender, number, seq);
        }
        [a, b, c]
    }

    fn kinds(views: &[View]) -> Vec<String> {
        let mut checked = Conversations::default();
        checked.add("x", &views.iter().collect::<Vec<_>>());
        checked
            .faults
            .kinds()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    fn check<R>(break_it: impl FnOnce(&mut View, &mut View, &mut View) -> R, expected: &[&str]) {
        let mut views = good();
        let [a, b, c] = &mut views;
        let _ = break_it(a, b, c);
        assert_eq!(kinds(&views), expected);
    }

    /// The same conversation, with these places told to the sender of 1 and 3 and to the listener.
    fn check_seqs(told: [u32; 2], heard: [u32; 3], expected: &[&str]) {
        let [_, b, _] = good();
        let (mut a, mut c) = (
            View::new(Promises::Chat, Some(0), 2),
            View::new(Promises::Chat, None, 2),
        );
        for (number, seq) in (1..).zip(told) {
            a.publish();
            a.ack();
            a.answer(number, seq);
        }
        a.receive(1, 1, 2);
        for ((sender, number), seq) in [(0, 1), (1, 1), (0, 2)].into_iter().zip(heard) {
            c.receive(sender, number, seq);
        }
        assert_eq!(kinds(&[a, b, c]), expected);
    }

    #[test]
    fn a_good_conversation_is_good() {
        let views = good();
        assert!(views.iter().all(|view| view.is_complete(3)));
        assert!(!views.iter().any(|view| view.is_complete(4)));
        let mut checked = Conversations::default();
        let sent = checked.add("x", &views.iter().collect::<Vec<_>>());
        checked.confirm("x", sent, Ok(3));
        assert!(checked.faults.is_empty(), "{checked:?}");
        assert_eq!((checked.messages, checked.deliveries), (3, 6));
    }

    #[test]
    fn each_broken_promise_has_a_name() {
        check(|a, _, _| a.own.acked = 1, &["no PUBACK"]);
        check(|a, _, _| a.answer(2, 4), &["answered twice"]);
        check(|a, _, _| a.answer(7, 4), &["unexpected reply"]);
        check(|a, _, _| a.refuse(1, "x".into()), &["refused"]);
        check(|_, b, _| b.receive(0, 2, 3), &["received twice"]);
        check(|_, b, _| b.receive(0, 0, 3), &["unexpected message"]);
        check(|_, b, _| b.receive(9, 1, 3), &["unexpected message"]);
        check(|_, b, _| b.receive(1, 1, 3), &["own message"]);
        check(|_, b, _| b.receive(0, 3, 4), &["invented"]);
        check(|_, b, _| b.receive(0, u32::MAX, 4), &["invented"]);
        check(|_, _, c| c.received -= 1, &["lost"]);
        check(
            |a, _, _| {
                a.publish();
                a.ack();
            },
            &["lost", "no reply"],
        );
        check(
            |a, b, c| {
                assert_eq!((a.publish(), a.publish()), (3, 4));
                a.ack();
                a.ack();
                a.answer(4, 5);
                b.receive(0, 4, 5);
                b.receive(0, 3, 6);
                c.receive(0, 3, 4);
                c.receive(0, 4, 5);
            },
            &["no reply", "out of order", "reply out of order"],
        );
    }

    #[test]
    fn everyone_sees_the_same_seqs() {
        check_seqs([1, 3], [1, 2, 3], &[]);
        check_seqs([1, 4], [1, 2, 3], &["hole in seq", "two seqs"]);
        check_seqs([1, 2], [1, 2, 3], &["repeated seq", "two seqs"]);
        check_seqs([1, 3], [1, 2, 4], &["two seqs"]);
        check_seqs([1, 3], [1, 3, 2], &["reordered", "two seqs"]);
        check_seqs([3, 1], [1, 2, 3], &["reordered", "two seqs"]);
    }

    #[test]
    fn after_a_reconnect_what_was_there_may_come_again_once() {
        let again = |c: &mut View| {
            c.reconnect();
            for (sender, number, seq) in [(0, 1, 1), (1, 1, 2), (0, 2, 3)] {
                assert!(!c.receive(sender, number, seq));
            }
        };
        let send = |a: &mut View, b: &mut View, number, seq| {
            a.publish();
            a.ack();
            a.answer(number, seq);
            b.receive(0, number, seq);
        };
        check(|_, _, c| again(c), &[]);
        let twice = |_: &mut View, _: &mut View, c: &mut View| {
            again(c);
            c.receive(0, 2, 3)
        };
        check(twice, &["received twice"]);
        let new_one_twice = |a: &mut View, b: &mut View, c: &mut View| {
            again(c);
            send(a, b, 3, 4);
            c.receive(0, 3, 4);
            c.receive(0, 3, 4)
        };
        check(new_one_twice, &["received twice"]);
        let after_a_new_one = |a: &mut View, b: &mut View, c: &mut View| {
            c.reconnect();
            send(a, b, 3, 4);
            c.receive(0, 3, 4);
            c.receive(0, 2, 3)
        };
        check(after_a_new_one, &["received twice"]);
        let gone = |a: &mut View, b: &mut View, c: &mut View| {
            again(c);
            send(a, b, 3, 4);
            send(a, b, 4, 5);
            c.receive(0, 4, 5)
        };
        check(gone, &["lost"]);
    }

    #[test]
    fn a_plain_broker_only_passes_on() {
        for (promises, expected) in [
            (Promises::Plain, &["lost"][..]),
            (Promises::PlainWithLosses, &[]),
        ] {
            let mut sender = View::new(promises, Some(0), 1);
            let mut listener = View::new(promises, None, 1);
            for number in 1..=3 {
                assert_eq!(sender.publish(), number);
                sender.ack();
            }
            listener.receive(0, 1, 0);
            listener.receive(0, 3, 0);
            assert!(sender.is_complete(3) && !listener.is_complete(3));
            let mut checked = Conversations::default();
            checked.add("x", &[&sender, &listener]);
            assert_eq!(checked.faults.kinds(), expected);
            assert_eq!(checked.lost, 1);
        }
    }

    #[test]
    fn what_the_server_has_stored_counts() {
        let mut checked = Conversations::default();
        let sent = Sent {
            messages: 3,
            sum: 0,
        };
        checked.confirm("u:a:b", sent, Ok(2));
        let text = checked.into_checked(Promises::Chat).to_string();
        assert!(
            text.contains("stored count: 1 times; u:a:b: lastSeq is 2, 3 were sent"),
            "{text}"
        );
    }
}
