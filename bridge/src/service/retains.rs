//! The retained messages of a round.

use std::collections::{HashMap, HashSet};

use schema::link::{PlainMessage, Retain, ToEdge};
use tracing::error;

use super::announce::plain_answer;
use crate::code::Code;

/// What has to be stored, and who waits for it. Of several messages to one topic only the last one is stored.
#[derive(Debug, Default)]
pub(super) struct Retains {
    /// By topic.
    newest: HashMap<String, PlainMessage>,
    waiting: Vec<Waiting>,
}

/// A publish that is acknowledged when its topic's message is stored.
#[derive(Debug)]
struct Waiting {
    session: u64,
    token: u32,
    topic: String,
}

impl Retains {
    pub(super) fn note(&mut self, retain: Retain) {
        let Some(message) = retain.message else {
            error!("the edge sent a retained message without a message");
            return;
        };
        if retain.token != 0 {
            self.waiting.push(Waiting {
                session: retain.session,
                token: retain.token,
                topic: message.topic.clone(),
            });
        }
        self.newest.insert(message.topic.clone(), message);
    }

    /// How many topics there are.
    pub(super) fn len(&self) -> usize {
        self.newest.len()
    }

    /// What has to be stored.
    pub(super) fn take_messages(&mut self) -> Vec<PlainMessage> {
        let newest = std::mem::take(&mut self.newest);
        let mut messages: Vec<PlainMessage> = newest.into_values().collect();
        // In one order on all nodes, so that two transactions don't wait for each other.
        messages.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
        messages
    }

    /// The answers to those who wait, now that everything but the messages to `unstored` topics is durable.
    pub(super) fn answers(self, unstored: &HashSet<String>) -> impl Iterator<Item = ToEdge> {
        self.waiting.into_iter().map(move |waiting| {
            let reason = if unstored.contains(&waiting.topic) {
                Code::Internal.mqtt_reason()
            } else {
                0
            };
            plain_answer(waiting.session, waiting.token, reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use schema::link::to_edge;

    use super::*;

    fn retain(session: u64, token: u32, topic: &str, payload: &'static str) -> Retain {
        Retain {
            session,
            token,
            message: Some(PlainMessage {
                topic: topic.to_owned(),
                payload: payload.into(),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn the_last_one_is_stored_and_all_are_answered() {
        let mut retains = Retains::default();
        for (session, token, topic, payload) in [
            (1, 1, "b", "first"),
            (1, 2, "a", "lost"),
            (2, 0, "b", "second"),
            (1, 3, "b", "third"),
            (2, 1, "c", "gone"),
            (2, 2, "c", ""),
        ] {
            retains.note(retain(session, token, topic, payload));
        }
        assert_eq!(retains.len(), 3);
        let stored = retains.take_messages();
        let stored: Vec<(&str, &[u8])> = stored
            .iter()
            .map(|message| (message.topic.as_str(), message.payload.as_ref()))
            .collect();
        let expected: [(&str, &[u8]); 3] = [("a", b"lost"), ("b", b"third"), ("c", b"")];
        assert_eq!(stored, expected);

        let unstored = HashSet::from(["a".to_owned()]);
        let answers: Vec<(u64, u32, u32)> = retains
            .answers(&unstored)
            .map(|item| match item.item {
                Some(to_edge::Item::Answer(answer)) if answer.reply.is_empty() => {
                    (answer.session, answer.token, answer.reason)
                }
                other => panic!("not such an answer: {other:?}"),
            })
            .collect();
        let expected = [(1, 1, 0), (1, 2, 0x80), (1, 3, 0), (2, 1, 0), (2, 2, 0)];
        assert_eq!(answers, expected);
    }
}
