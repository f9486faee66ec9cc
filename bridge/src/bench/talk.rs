//! Who talks with whom, and what everyone needs to know of it while the load goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use schema::v1::to;
use schema::{ConversationId, Format, Uid};
use tokio_util::sync::CancellationToken;

use super::accounts::Account;
use super::check::{Promises, View};
use super::down::Delivered;
use super::schedule::{Clock, Phases};
use super::tally::Tally;
use super::template::{Kind, Template};

/// A conversation; or a plain topic, on which some send and the others listen.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    pub at: At,
    /// Indices of clients, the senders first.
    pub members: Vec<u32>,
    pub senders: u32,
}

/// Where a conversation is.
#[derive(Clone, Debug)]
pub(super) enum At {
    /// Between the two members.
    Pair,
    /// In a group.
    Group(String),
    /// On a plain topic.
    Topic(String),
}

impl Talk {
    /// Two users who send to each other.
    pub(super) fn pair(one: u32, other: u32) -> Talk {
        Talk {
            at: At::Pair,
            members: vec![one, other],
            senders: 2,
        }
    }

    /// What the server calls it.
    pub(super) fn name(&self, accounts: &[Account]) -> String {
        match &self.at {
            At::Pair => {
                let [one, other] = [0, 1].map(|at| self.uid(accounts, at).clone());
                ConversationId::direct(one, other).to_string()
            }
            At::Group(gid) => format!("g:{gid}"),
            At::Topic(topic) => topic.clone(),
        }
    }

    /// What the `sender`th member sends to this conversation, the `talk`th of the run.
    pub(super) fn template(&self, accounts: &[Account], format: Format, kind: Kind) -> Template {
        let sender = kind.sender as usize;
        let to = match &self.at {
            At::Pair => to::To::User(self.uid(accounts, 1 - sender).to_string()),
            At::Group(gid) => to::To::Group(gid.clone()),
            At::Topic(topic) => return Template::of_content(topic, kind),
        };
        Template::of_command(format, self.uid(accounts, sender), to, kind)
    }

    /// Those who send, as messages name them: nobody on a plain topic, where messages name no one.
    pub(super) fn named_senders(&self, accounts: &[Account]) -> Arc<[Uid]> {
        let named = match self.at {
            At::Pair | At::Group(_) => self.senders as usize,
            At::Topic(_) => 0,
        };
        (0..named)
            .map(|member| self.uid(accounts, member).clone())
            .collect()
    }

    fn uid<'a>(&self, accounts: &'a [Account], member: usize) -> &'a Uid {
        &accounts[self.members[member] as usize].uid
    }
}

/// A client's place in a conversation.
#[derive(Debug)]
pub(super) struct Seat {
    /// The index of the conversation.
    pub talk: u32,
    /// What the server calls it.
    pub name: Box<str>,
    /// See [`Talk::named_senders`].
    pub senders: Arc<[Uid]>,
    /// Of a sender.
    pub template: Option<Template>,
    pub view: View,
}

impl Seat {
    /// Notes what is wrong with a message, apart from its number and its place; contents are of `size` bytes.
    pub(super) fn check(&mut self, message: &Delivered<'_>, size: usize) {
        let faults = &mut self.view.faults;
        let Delivered {
            stamp,
            conversation,
            sender,
            ..
        } = *message;
        if *self.name != *conversation {
            let example = || format!("{conversation} instead of {}", self.name);
            faults.note("wrong conversation", example);
        }
        if let Some(uid) = self.senders.get(stamp.sender as usize)
            && uid.as_str() != sender
        {
            let example = || format!("message {} is of {uid}, not of {sender}", stamp.number);
            faults.note("wrong sender", example);
        }
        if message.size != size {
            let example = || format!("{} bytes instead of {size}", message.size);
            faults.note("wrong size", example);
        }
    }
}

/// What all clients of a load share.
pub(super) struct Shared {
    pub promises: Promises,
    pub format: Format,
    pub clock: Clock,
    pub phases: Phases,
    /// Messages of a client that may wait for their answer.
    pub window: usize,
    /// Bytes of a message's content.
    pub size: usize,
    pub tally: Mutex<Tally>,
    pub totals: Totals,
}

/// How many messages there are to receive, which is known when all senders have sent their last one.
pub(super) struct Totals {
    by_talk: Vec<AtomicU64>,
    /// Clients that still send.
    sending: AtomicUsize,
    /// Cancelled when none does.
    known: CancellationToken,
}

impl Totals {
    pub(super) fn new(talks: usize, sending: usize) -> Totals {
        Totals {
            by_talk: (0..talks).map(|_| AtomicU64::new(0)).collect(),
            sending: AtomicUsize::new(sending),
            known: CancellationToken::new(),
        }
    }

    /// A client has sent its last message.
    pub(super) fn finish(&self, seats: &[Seat]) {
        for seat in seats {
            let published = seat.view.published().into();
            self.by_talk[seat.talk as usize].fetch_add(published, Ordering::Relaxed);
        }
        // Whoever sees 0 sees the counts of all others.
        if self.sending.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.known.cancel();
        }
    }

    /// Returns when all are known.
    pub(super) async fn known(&self) {
        self.known.cancelled().await;
    }

    /// How many messages were sent in a conversation, as far as is known.
    pub(super) fn of(&self, talk: u32) -> u64 {
        self.by_talk[talk as usize].load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    fn accounts() -> Vec<Account> {
        let account = |uid: &str| Account {
            uid: uid.parse().unwrap(),
            token: String::new(),
        };
        ["bob", "alice", "carol"].map(account).into()
    }

    #[test]
    fn conversations_have_the_names_that_the_server_gives_them() {
        let pair = Talk::pair(0, 1);
        assert_eq!(pair.name(&accounts()), "u:alice:bob");
        let at = |at| Talk {
            at,
            members: vec![0, 1, 2],
            senders: 1,
        };
        let group = at(At::Group("friends".into()));
        assert_eq!(group.name(&accounts()), "g:friends");
        let topic = at(At::Topic("a/b".into()));
        assert_eq!(topic.name(&accounts()), "a/b");
        let senders = [pair, group, topic].map(|talk| talk.named_senders(&accounts()).len());
        assert_eq!(senders, [2, 1, 0]);
    }

    #[tokio::test]
    async fn totals_are_known_when_the_last_sender_is_done() {
        let totals = Totals::new(2, 2);
        let seat = |talk, published| {
            let mut view = View::new(Promises::Chat, Some(0), 1);
            for _ in 0..published {
                view.publish();
            }
            Seat {
                talk,
                name: "x".into(),
                senders: Arc::new([]),
                template: None,
                view,
            }
        };
        totals.finish(&[seat(0, 2), seat(1, 3)]);
        assert_eq!(totals.known().now_or_never(), None);
        totals.finish(&[seat(1, 4)]);
        let known = tokio::time::timeout(Duration::from_secs(5), totals.known());
        assert!(known.await.is_ok());
        assert_eq!((totals.of(0), totals.of(1)), (2, 7));
    }
}
