//! What the server says it has stored, asked over HTTP after a run: `lastSeq` of every conversation, and some
//! conversations message by message.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use schema::Uid;
use schema::v1::{self, message};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::accounts::{self, Account};
use super::check::{Conversations, Sent, mark};
use super::faults::Faults;
use super::http;
use super::progress::Progress;
use super::stamp::Stamp;

/// Requests at the same time.
const ASKING_MAX: usize = 8;
/// Conversations that are read back, from the first to the last of the run.
const READ_BACK_MAX: usize = 4;
/// Messages of each that are read back: the oldest.
const MESSAGES_MAX: u64 = 20_000;
/// Messages of a request.
const PAGE: u32 = 500;
/// How long all of it may take; after that it is told how far it came.
const PATIENCE: Duration = Duration::from_secs(60);

/// A conversation, whom to ask about it, and what was sent to it.
pub(super) struct Question {
    /// What the server calls it.
    pub name: String,
    /// The index of the conversation.
    pub talk: u32,
    /// One of its members.
    pub account: Account,
    pub senders: Arc<[Uid]>,
    /// Bytes of each content.
    pub size: usize,
    pub sent: Sent,
}

/// Reads some of the conversations back, asks for the `lastSeq` of all, and adds what is wrong.
pub(super) async fn confirm(
    address: &str,
    questions: Vec<Question>,
    checked: &mut Conversations,
    progress: &Progress,
) {
    let until = Instant::now() + PATIENCE;
    let stage = progress.count("asking what is stored", questions.len() as u64);
    let filled = questions.iter().filter(|each| each.sent.messages > 0);
    let filled: Vec<&Question> = filled.collect();
    for index in spread(filled.len(), READ_BACK_MAX) {
        let mut back = ReadBack::of(filled[index]);
        if let Err(error) = back.read_all(address, until).await {
            back.faults.note("not read back", || format!("{error:#}"));
        }
        back.faults.name_place(&filled[index].name);
        checked.add_read_back(back.read, &back.faults);
    }
    let mut questions = VecDeque::from(questions);
    let mut asking = JoinSet::new();
    loop {
        while asking.len() < ASKING_MAX
            && Instant::now() < until
            && let Some(question) = questions.pop_front()
        {
            let address = address.to_owned();
            asking.spawn(async move {
                let Question { name, account, .. } = &question;
                let stored = accounts::last_seq(&address, account, name).await;
                (question, stored)
            });
        }
        match asking.join_next().await {
            Some(Ok((Question { name, sent, .. }, stored))) => checked.confirm(name, sent, stored),
            Some(Err(error)) => checked.faults.note("stored count", || error.to_string()),
            None => return,
        }
        stage.advance(1);
    }
}

/// Up to `wanted` indices of so many, the first and the last among them.
fn spread(all: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let count = wanted.min(all);
    (0..count).map(move |index| index * (all - 1) / (count - 1).max(1))
}

/// A page of a conversation, as far as it is looked at.
#[derive(Deserialize)]
struct Page {
    messages: Vec<v1::Message>,
    more: bool,
}

/// A conversation, message by message.
struct ReadBack<'a> {
    question: &'a Question,
    /// How many there were.
    read: u64,
    last_seq: u32,
    /// The last number of each sender.
    numbers: Vec<u32>,
    /// Of all marks.
    sum: u64,
    faults: Faults,
}

impl ReadBack<'_> {
    fn of(question: &Question) -> ReadBack<'_> {
        ReadBack {
            question,
            read: 0,
            last_seq: 0,
            numbers: vec![0; question.senders.len()],
            sum: 0,
            faults: Faults::default(),
        }
    }

    /// Reads as much of it as there is, and as there may be.
    async fn read_all(&mut self, address: &str, until: Instant) -> anyhow::Result<()> {
        let Question { name, account, .. } = self.question;
        while self.read < MESSAGES_MAX && Instant::now() < until {
            let after = self.last_seq;
            let path = format!("/v1/conversations/{name}/messages?after_seq={after}&limit={PAGE}");
            let page = http::get(address, &path, &account.token).await?;
            let page: Page = serde_json::from_value(page)?;
            for message in &page.messages {
                self.take(message);
            }
            if !page.more || page.messages.is_empty() {
                self.finish();
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, message: &v1::Message) {
        self.read += 1;
        let (seq, last_seq) = (message.seq, self.last_seq);
        if seq != last_seq.saturating_add(1) {
            let example = || format!("seq {seq} after {last_seq}");
            self.faults.note("hole in what is stored", example);
        }
        self.last_seq = seq;
        let Some(Stamp { sender, number, .. }) = self.stamp(message) else {
            let example = || format!("at seq {seq}");
            self.faults.note("another message stored", example);
            return;
        };
        self.sum = self.sum.wrapping_add(mark(sender, number, seq));
        // A stamp has a sender that is there.
        let last = &mut self.numbers[sender as usize];
        if number != last.saturating_add(1) {
            let example = || format!("message {number} of sender {sender} after {last}");
            self.faults.note("stored out of order", example);
        }
        *last = number;
    }

    /// The stamp of a message that is as one of the senders has sent it.
    fn stamp(&self, message: &v1::Message) -> Option<Stamp> {
        let content = match message.content.as_ref()? {
            message::Content::Text(text) => text.as_bytes(),
            message::Content::Body(body) => body,
            _ => return None,
        };
        let stamp = Stamp::read(content)?;
        let Question {
            name,
            talk,
            senders,
            size,
            ..
        } = self.question;
        let sender = senders.get(stamp.sender as usize)?;
        let is_it = sender.as_str() == message.sender
            && *name == message.conversation
            && (*talk, *size) == (stamp.talk, content.len());
        is_it.then_some(stamp)
    }

    /// There is no more.
    fn finish(&mut self) {
        let Sent { messages, sum } = self.question.sent;
        if self.read != messages {
            let example = || format!("{} of {messages} messages", self.read);
            self.faults.note("stored count", example);
        } else if self.sum != sum {
            let example = || "the senders were told other places".to_owned();
            self.faults.note("stored elsewhere", example);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = super::super::stamp::SIZE + 2;

    fn message(sender: u32, number: u32, seq: u32) -> v1::Message {
        let stamp = format!("{:06x}{sender:06x}{number:08x}{:012x}..", 7, 99);
        v1::Message {
            conversation: "u:a:b".into(),
            seq,
            sender: ["a", "b"][sender as usize].into(),
            content: Some(message::Content::Body(stamp.into_bytes().into())),
            ..Default::default()
        }
    }

    /// Two messages of a and one of b, in this order.
    fn good() -> Vec<v1::Message> {
        vec![message(0, 1, 1), message(1, 1, 2), message(0, 2, 3)]
    }

    fn check(change: impl FnOnce(&mut Vec<v1::Message>), expected: &[&str]) {
        let marks = [mark(0, 1, 1), mark(1, 1, 2), mark(0, 2, 3)];
        let question = Question {
            name: "u:a:b".to_owned(),
            talk: 7,
            account: Account {
                uid: "a".parse().unwrap(),
                token: String::new(),
            },
            senders: ["a", "b"].map(|uid| uid.parse().unwrap()).into(),
            size: SIZE,
            sent: Sent {
                messages: 3,
                sum: marks.into_iter().fold(0, u64::wrapping_add),
            },
        };
        let mut messages = good();
        change(&mut messages);
        let mut back = ReadBack::of(&question);
        for message in &messages {
            back.take(message);
        }
        back.finish();
        assert_eq!(back.faults.kinds(), expected);
    }

    #[test]
    fn what_is_stored_is_held_against_what_was_sent() {
        check(|_| (), &[]);
        check(|all| all.truncate(2), &["stored count"]);
        check(
            |all| all[2].seq = 4,
            &["hole in what is stored", "stored elsewhere"],
        );
        let again = |all: &mut Vec<v1::Message>| all.push(message(0, 2, 4));
        check(again, &["stored count", "stored out of order"]);
        let swapped = |all: &mut Vec<v1::Message>| {
            (all[0], all[1]) = (message(1, 1, 1), message(0, 1, 2));
        };
        check(swapped, &["stored elsewhere"]);
        let other = &["another message stored", "stored elsewhere"];
        check(|all| all[1].sender = "a".into(), other);
        check(|all| all[1].conversation = "u:b:c".into(), other);
        check(|all| all[1].content = None, other);
        let cut = |all: &mut Vec<v1::Message>| {
            if let Some(message::Content::Body(body)) = &mut all[1].content {
                body.truncate(SIZE - 1);
            }
        };
        check(cut, other);
    }

    #[test]
    fn conversations_that_are_read_back_are_spread() {
        let spread = |all| spread(all, 4).collect::<Vec<_>>();
        assert_eq!(spread(0), [0; 0]);
        assert_eq!(spread(1), [0]);
        assert_eq!(spread(3), [0, 1, 2]);
        assert_eq!(spread(250), [0, 83, 166, 249]);
    }
}
