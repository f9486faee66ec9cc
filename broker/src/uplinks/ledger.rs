//! What has been sent to a bridge that it has not dealt with: should it go away, another one gets it.
//!
//! A publish stays until it is answered. What nobody answers stays until the bridge is done with its frame.

use std::collections::{BTreeMap, HashMap, VecDeque};

use schema::link::{FromEdge, from_edge};

use crate::session::NO_ANSWER;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Whether the bridge may go away. Else only what is to be retained is of interest.
    is_of_all: bool,
    last: u64,
    /// By number, so in their order.
    items: BTreeMap<u64, from_edge::Item>,
    /// Those that are answered, by session and token.
    awaited: HashMap<(u64, u32), u64>,
    /// The others, with the frame that the last of them has travelled in.
    unanswered: VecDeque<(u64, Vec<u64>)>,
}

/// How it shows that a bridge has dealt with an item.
enum Sign {
    Answer(u64, u32),
    Frame,
    /// It has nothing to do, or nothing that would not be said again.
    None,
}

fn sign(item: &from_edge::Item) -> Sign {
    let answer = |session, token| match token {
        NO_ANSWER => Sign::Frame,
        _ => Sign::Answer(session, token),
    };
    match item {
        from_edge::Item::Uplink(uplink) => answer(uplink.session, uplink.token),
        from_edge::Item::Publish(publish) => answer(publish.session, publish.token),
        // Its answer may come before that.
        from_edge::Item::Retain(_) | from_edge::Item::Disconnected(_) => Sign::Frame,
        from_edge::Item::Subscribed(_)
        | from_edge::Item::Acked(_)
        | from_edge::Item::Drained(_)
        | from_edge::Item::Gone(_)
        | from_edge::Item::Connected(_)
        | from_edge::Item::Shared(_)
        | from_edge::Item::Brief(_)
        | from_edge::Item::Authenticate(_) => Sign::None,
    }
}

impl Ledger {
    pub(super) fn of_all() -> Self {
        Self::new(true)
    }

    pub(super) fn of_retained() -> Self {
        Self::new(false)
    }

    fn new(is_of_all: bool) -> Self {
        Ledger {
            is_of_all,
            last: 0,
            items: BTreeMap::new(),
            awaited: HashMap::new(),
            unanswered: VecDeque::new(),
        }
    }

    /// Notes what is about to be sent. Returns what [`Ledger::sent`] has to be told of.
    pub(super) fn note(&mut self, items: &[FromEdge]) -> Vec<u64> {
        let mut kept = Vec::new();
        for item in items.iter().filter_map(|item| item.item.as_ref()) {
            if !self.is_of_all && !matches!(item, from_edge::Item::Retain(_)) {
                continue;
            }
            let number = self.last + 1;
            match sign(item) {
                Sign::Answer(session, token) => {
                    self.awaited.insert((session, token), number);
                }
                Sign::Frame => kept.push(number),
                Sign::None => continue,
            }
            self.last = number;
            self.items.insert(number, item.clone());
        }
        kept
    }

    /// They have travelled in that frame, or before it.
    pub(super) fn sent(&mut self, frame: u64, kept: Vec<u64>) {
        self.unanswered.push_back((frame, kept));
    }

    /// The bridge is done with all frames up to that one; returns what it has dealt with.
    pub(super) fn forget_done(&mut self, frame: u64) -> Vec<from_edge::Item> {
        let mut done = Vec::new();
        while let Some((last, _)) = self.unanswered.front()
            && *last <= frame
            && let Some((_, kept)) = self.unanswered.pop_front()
        {
            let items = kept.into_iter();
            done.extend(items.filter_map(|number| self.items.remove(&number)));
        }
        done
    }

    /// The bridge has answered a publish, which is returned if it has waited for that.
    pub(super) fn answered(&mut self, session: u64, token: u32) -> Option<from_edge::Item> {
        let number = self.awaited.remove(&(session, token))?;
        self.items.remove(&number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What the bridge has not dealt with.
    pub(super) fn take(&mut self) -> Vec<from_edge::Item> {
        self.awaited.clear();
        self.unanswered.clear();
        std::mem::take(&mut self.items).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use schema::link::{Disconnected, PlainMessage, Publish, Retain, Uplink};

    use super::*;

    fn uplink(token: u32) -> from_edge::Item {
        from_edge::Item::Uplink(Uplink {
            session: 1,
            token,
            ..Uplink::default()
        })
    }

    fn retain(token: u32, topic: &str) -> from_edge::Item {
        from_edge::Item::Retain(Retain {
            session: 1,
            token,
            message: Some(PlainMessage {
                topic: topic.to_owned(),
                ..PlainMessage::default()
            }),
        })
    }

    fn note(ledger: &mut Ledger, items: &[from_edge::Item]) -> Vec<u64> {
        let items = items.iter().cloned().map(Some);
        let items: Vec<FromEdge> = items.map(|item| FromEdge { item }).collect();
        ledger.note(&items)
    }

    #[test]
    fn what_is_not_dealt_with_is_left_in_its_order() {
        let publish = from_edge::Item::Publish(Box::new(Publish {
            session: 1,
            token: 9,
            published: None,
        }));
        let left = from_edge::Item::Disconnected(Disconnected::default());
        let mut ledger = Ledger::of_all();
        let first = note(
            &mut ledger,
            &[uplink(7), uplink(NO_ANSWER), retain(8, "a"), uplink(10)],
        );
        ledger.sent(2, first);
        let second = note(
            &mut ledger,
            &[retain(0, "b"), publish.clone(), left.clone(), uplink(11)],
        );
        ledger.sent(4, second);
        assert_eq!(ledger.answered(1, 10), Some(uplink(10)));
        for (session, token) in [(1, 10), (2, 7), (1, 8)] {
            assert_eq!(ledger.answered(session, token), None);
        }
        assert!(ledger.forget_done(1).is_empty());
        let done = ledger.forget_done(3);
        assert_eq!(done, [uplink(NO_ANSWER), retain(8, "a")]);
        // One that is not sent yet.
        let _ = note(&mut ledger, &[retain(0, "c")]);
        let rest = [
            uplink(7),
            retain(0, "b"),
            publish,
            left,
            uplink(11),
            retain(0, "c"),
        ];
        assert_eq!(ledger.take(), rest);
        assert!(ledger.take().is_empty() && ledger.answered(1, 7).is_none());
    }

    #[test]
    fn of_a_bridge_that_stays_only_what_is_to_be_stored_counts() {
        let mut ledger = Ledger::of_retained();
        let kept = note(&mut ledger, &[uplink(7), retain(8, "a"), uplink(NO_ANSWER)]);
        ledger.sent(1, kept);
        assert_eq!(ledger.answered(1, 7), None);
        assert_eq!(ledger.forget_done(1), [retain(8, "a")]);
        assert!(ledger.take().is_empty());
    }
}
