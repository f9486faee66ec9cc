//! What a device has to get when it comes back: of each conversation `seq` 1, 2, 3 … with the messages in the order in
//! which they were sent, each once.

use super::faults::Faults;

/// One user's view of it.
#[derive(Debug)]
pub(super) struct Missed {
    /// Of whom among all users: everyone's conversations are with the same senders.
    user: u32,
    users: u32,
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
    pub(super) fn new(user: u32, users: u32, messages: u32, conversations: u32) -> Missed {
        let share = |conversation| share(messages, conversations, conversation) as usize;
        let conversation = |conversation| Conversation {
            is_received: vec![false; share(conversation)],
            last: 0,
        };
        Missed {
            user,
            users,
            conversations: (0..conversations).map(conversation).collect(),
            left: messages.into(),
            faults: Faults::default(),
        }
    }

    /// The `number`th message of `sender` came with `seq`.
    pub(super) fn receive(&mut self, sender: u32, number: u32, seq: u32) {
        let message = || format!("message {number} of sender {sender} with seq {seq}");
        let conversation = self.conversations.get_mut(sender as usize);
        let Some((conversation, at)) = conversation.zip((seq as usize).checked_sub(1)) else {
            self.faults.note("unexpected message", message);
            return;
        };
        if self::number(self.users, self.user, seq) != Some(number) {
            self.faults.note("another message at that seq", message);
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
        let mut missed = Missed::new(1, 2, 5, 2);
        for &(sender, number, seq) in received {
            missed.receive(sender, number, seq);
        }
        assert_eq!(missed.left(), left);
        assert_eq!(missed.into_faults().kinds(), expected, "{received:?}");
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
