//! What a device has to get when it comes back: of each conversation `seq` 1, 2, 3 … with the messages in the order in
//! which they were sent, each once.

use std::sync::Arc;

use schema::Uid;

use super::down::Delivered;
use super::faults::Faults;
use super::stamp::Stamp;

/// One user's view of it.
#[derive(Debug)]
pub(super) struct Missed {
    /// Of whom among all users: everyone's conversations are with the same senders.
    user: u32,
    users: u32,
    /// By conversation.
    senders: Arc<[Uid]>,
    /// Bytes of each content.
    size: usize,
    conversations: Vec<Conversation>,
    /// How many are still to come.
    left: u64,
    pub faults: Faults,
}

#[derive(Debug)]
struct Conversation {
    /// By `seq`.
    is_received: Vec<bool>,
    /// The highest `seq` so far.
    last: u32,
}

/// How many of `messages` are in the `conversation`th of `conversations`.
pub(super) fn share(messages: u32, conversations: u32, conversation: u32) -> u32 {
    messages / conversations + u32::from(conversation < messages % conversations)
}

/// The sender's number of the message that is `seq` in the conversation with `user`: a sender writes to the users in
/// turn.
fn number(users: u32, user: u32, seq: u32) -> Option<u32> {
    seq.checked_sub(1)?
        .checked_mul(users)?
        .checked_add(user)?
        .checked_add(1)
}

impl Missed {
    /// What `user` has missed: so many messages of the senders together, contents of `size` bytes.
    pub(super) fn new(
        user: u32,
        users: u32,
        messages: u32,
        senders: Arc<[Uid]>,
        size: usize,
    ) -> Missed {
        let conversations = senders.len() as u32;
        let share = |conversation| share(messages, conversations, conversation) as usize;
        let conversation = |conversation| Conversation {
            is_received: vec![false; share(conversation)],
            last: 0,
        };
        Missed {
            user,
            users,
            senders,
            size,
            conversations: (0..conversations).map(conversation).collect(),
            left: messages.into(),
            faults: Faults::default(),
        }
    }

    /// The first sender has sent one more.
    pub(super) fn expect_one_more(&mut self) {
        if let Some(conversation) = self.conversations.first_mut() {
            conversation.is_received.push(false);
            self.left += 1;
        }
    }

    /// A message came.
    pub(super) fn receive(&mut self, message: &Delivered<'_>) {
        let Delivered { stamp, seq, .. } = *message;
        let Stamp {
            talk,
            sender,
            number,
            ..
        } = stamp;
        let is_whole = (message.size, talk) == (self.size, self.user);
        let uid = self.senders.get(sender as usize);
        let is_senders = uid.is_some_and(|uid| uid.as_str() == message.sender);
        let message = || format!("message {number} of sender {sender} with seq {seq}");
        let conversation = self.conversations.get_mut(sender as usize);
        let Some((conversation, at)) = conversation.zip((seq as usize).checked_sub(1)) else {
            self.faults.note("unexpected message", message);
            return;
        };
        if self::number(self.users, self.user, seq) != Some(number) {
            self.faults.note("another message at that seq", message);
        }
        if !is_whole || !is_senders {
            self.faults.note("another content", message);
        }
        match conversation.is_received.get_mut(at) {
            None => self.faults.note("unexpected message", message),
            Some(true) => self.faults.note("received twice", message),
            Some(is_received) => {
                *is_received = true;
                self.left -= 1;
                if seq < conversation.last {
                    self.faults.note("out of order", message);
                }
                conversation.last = conversation.last.max(seq);
            }
        }
    }

    /// How many messages are still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The faults, with what never came.
    pub(super) fn into_faults(mut self) -> Faults {
        for (sender, conversation) in self.conversations.iter().enumerate() {
            let all = (1..).zip(&conversation.is_received);
            for (seq, _) in all.filter(|(_, is_received)| !**is_received) {
                self.faults
                    .note("lost", || format!("seq {seq} of sender {sender}"));
            }
        }
        self.faults.name_place(format_args!("user {}", self.user));
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second of two users has missed three messages of one sender and two of another.
    fn good() -> Vec<(u32, u32, u32)> {
        vec![(0, 2, 1), (1, 2, 1), (0, 4, 2), (0, 6, 3), (1, 4, 2)]
    }

    fn check(received: &[(u32, u32, u32)], left: u64, expected: &[&str]) {
        let mut missed = missed();
        for &one in received {
            missed.receive(&message(one));
        }
        assert_eq!(missed.left(), left);
        assert_eq!(missed.into_faults().kinds(), expected, "{received:?}");
    }

    fn missed() -> Missed {
        let senders = ["a", "b"].map(|uid| uid.parse().unwrap());
        Missed::new(1, 2, 5, senders.into(), 64)
    }

    fn message((sender, number, seq): (u32, u32, u32)) -> Delivered<'static> {
        Delivered {
            stamp: Stamp {
                talk: 1,
                sender,
                number,
                due: 0,
            },
            size: 64,
            seq,
            conversation: "u:a:c",
            sender: if sender == 0 { "a" } else { "b" },
        }
    }

    #[test]
    fn a_message_is_whole_and_of_its_sender() {
        let good = message((0, 2, 1));
        let cut = Delivered { size: 63, ..good };
        let (foreign, mut of_other) = (
            Delivered {
                sender: "b",
                ..good
            },
            good,
        );
        of_other.stamp.talk = 0;
        for message in [cut, foreign, of_other] {
            let mut missed = missed();
            missed.receive(&message);
            assert_eq!(missed.faults.kinds(), ["another content"], "{message:?}");
        }
    }

    #[test]
    fn one_more_is_missed_too() {
        let mut missed = missed();
        for one in good() {
            missed.receive(&message(one));
        }
        missed.expect_one_more();
        assert_eq!(missed.left(), 1);
        missed.receive(&message((0, 8, 4)));
        assert_eq!(missed.left(), 0);
        assert!(missed.into_faults().is_empty());
    }

    #[test]
    fn each_broken_promise_has_a_name() {
        check(&good(), 0, &[]);
        check(&good()[..4], 1, &["lost"]);
        check(&[good(), vec![(1, 4, 2)]].concat(), 0, &["received twice"]);
        check(
            &[good(), vec![(1, 6, 3)]].concat(),
            0,
            &["unexpected message"],
        );
        check(
            &[good(), vec![(7, 2, 1)]].concat(),
            0,
            &["unexpected message"],
        );
        check(
            &[good(), vec![(0, 2, 0)]].concat(),
            0,
            &["unexpected message"],
        );
        let mut swapped = good();
        swapped.swap(0, 2);
        check(&swapped, 0, &["out of order"]);
        let mut other = good();
        other[0].1 = 1;
        check(&other, 0, &["another message at that seq"]);
    }

    #[test]
    fn conversations_share_the_messages() {
        let shares = |messages, all| (0..all).map(|one| share(messages, all, one)).collect();
        let check = |messages, all, expected: &[u32]| {
            let shares: Vec<u32> = shares(messages, all);
            assert_eq!(shares, expected);
        };
        check(6, 3, &[2, 2, 2]);
        check(8, 3, &[3, 3, 2]);
        check(2, 3, &[1, 1, 0]);
    }
}
