//! What has been told of members, so that only what is new is told.

use std::collections::HashMap;

use schema::{ConversationId, Uid, v1};

use super::collected::{Move, Movers};
use super::receipt;
use crate::store::receipts::Position;

/// Members and conversations that are remembered together.
const WEIGHT_MAX: usize = 200_000;
/// Whoever has moved further at once is told of to those who sent the last so many of the messages.
pub(super) const PLACES_MAX: u32 = 1000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Memory {
    conversations: HashMap<i64, Known>,
    weight: usize,
}

/// A conversation, and what was told of its members.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: ConversationId,
    told: HashMap<Uid, Told>,
}

/// Where a member stood when it was told last.
#[derive(Clone, Copy, Debug)]
struct Told {
    delivered: u32,
    read: u32,
}

/// What there is to tell of a conversation.
#[derive(Debug, PartialEq)]
pub(super) struct News {
    /// Where those who have moved stand now.
    pub(super) receipts: Vec<v1::Receipt>,
    /// They have moved in the messages with a greater seq …
    pub(super) after_seq: u32,
    /// … up to this one.
    pub(super) last_seq: u32,
}

impl Known {
    /// The other one of two; `None`: it is a group, or notes to oneself.
    pub(super) fn counterpart(&self, uid: &Uid) -> Option<&Uid> {
        match &self.id {
            ConversationId::Direct(one, other) if uid == one && uid != other => Some(other),
            ConversationId::Direct(one, other) if uid == other && uid != one => Some(one),
            _ => None,
        }
    }

    /// Whether it is of one or two, who never change.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.id, ConversationId::Direct(..))
    }
}

impl Memory {
    /// Forgets everything when it is too much: rare, and cheap to learn again.
    pub(super) fn shrink(&mut self) {
        if self.weight > WEIGHT_MAX {
            *self = Memory::default();
        }
    }

    pub(super) fn get(&self, conversation_id: i64) -> Option<&Known> {
        self.conversations.get(&conversation_id)
    }

    pub(super) fn learn(&mut self, conversation_id: i64, id: ConversationId) {
        let told = HashMap::new();
        self.conversations
            .insert(conversation_id, Known { id, told });
        self.weight += 1;
    }

    /// What is new of the movers, who stand at these positions now.
    pub(super) fn news(
        &mut self,
        conversation_id: i64,
        movers: &Movers,
        positions: &[Position],
    ) -> Option<News> {
        let known = self.conversations.get_mut(&conversation_id)?;
        let mut news = News {
            receipts: Vec::new(),
            after_seq: u32::MAX,
            last_seq: 0,
        };
        for position in positions {
            let Some(moved) = movers.get(&position.uid) else {
                continue;
            };
            let now = Told {
                delivered: position.delivered(),
                read: position.read,
            };
            let told = known.told.get(&position.uid);
            let before = told.map_or_else(|| stood(moved, position), |told| *told);
            let steps = [(before.delivered, now.delivered), (before.read, now.read)];
            for (from, to) in steps.into_iter().filter(|(from, to)| from < to) {
                let after = from.max(position.start_seq);
                news.after_seq = news.after_seq.min(after);
                news.last_seq = news.last_seq.max(to);
            }
            if steps.iter().any(|(from, to)| from < to) {
                news.receipts.push(receipt(position));
                let told = known.told.insert(position.uid.clone(), now);
                self.weight += usize::from(told.is_none());
            }
        }
        let oldest = news.last_seq.saturating_sub(PLACES_MAX);
        news.after_seq = news.after_seq.max(oldest);
        (!news.receipts.is_empty()).then_some(news)
    }
}

/// Where a member stood before, of whom nothing has been told yet. How far it had acknowledged is not known: where
/// another of its devices was there first, it is told once too often.
fn stood(moved: &Move, position: &Position) -> Told {
    let read = moved
        .read_from
        .map_or(position.read, |from| from.min(position.read));
    let has_acked = moved.acked > position.start_seq && moved.acked >= position.acked;
    let acked = if has_acked {
        position.start_seq
    } else {
        position.acked
    };
    Told {
        delivered: acked.max(read),
        read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> Uid {
        name.parse().unwrap()
    }

    fn memory() -> Memory {
        let mut memory = Memory::default();
        memory.learn(1, "g:team".parse().unwrap());
        memory
    }

    fn position(name: &str, start_seq: u32, acked: u32, read: u32) -> Position {
        Position {
            uid: uid(name),
            start_seq,
            acked,
            read,
        }
    }

    fn moved(name: &str, acked: u32, read_from: Option<u32>) -> Movers {
        [(uid(name), Move { acked, read_from })].into()
    }

    /// The part of the conversation in which somebody has moved; `None`: nobody has.
    fn part(
        memory: &mut Memory,
        movers: Movers,
        position: Position,
    ) -> Option<(u32, u32, u32, u32)> {
        let news = memory.news(1, &movers, &[position])?;
        assert_eq!(news.receipts.len(), 1);
        let receipt = &news.receipts[0];
        let (delivered, read) = (receipt.delivered_seq, receipt.read_seq);
        Some((news.after_seq, news.last_seq, delivered, read))
    }

    #[test]
    fn only_what_is_new_is_told() {
        let mut memory = memory();
        let bob = |acked, read| position("bob", 3, acked, read);
        let mut check = |movers, position, expected| {
            assert_eq!(part(&mut memory, movers, position), expected);
        };
        // A device that follows another one, which is further.
        check(moved("bob", 5, None), bob(9, 3), None);
        // Nothing was for him yet.
        check(moved("bob", 2, None), bob(3, 3), None);
        check(moved("bob", 9, None), bob(9, 3), Some((3, 9, 9, 3)));
        check(moved("bob", 9, None), bob(9, 3), None);
        check(moved("bob", 12, None), bob(12, 3), Some((9, 12, 12, 3)));
        check(moved("bob", 0, Some(3)), bob(12, 7), Some((3, 7, 12, 7)));
        // By HTTP, without any acknowledgement: what is read has been delivered.
        check(moved("bob", 0, Some(7)), bob(12, 20), Some((7, 20, 20, 20)));
    }

    #[test]
    fn a_reading_is_told_from_where_it_began() {
        let mut memory = memory();
        let carol = moved("carol", 0, Some(40));
        let part_of = part(&mut memory, carol, position("carol", 0, 50, 50));
        assert_eq!(part_of, Some((40, 50, 50, 50)));
        // She does not tell how far she has read.
        let dave = moved("dave", 0, Some(40));
        let part_of = part(&mut memory, dave, position("dave", 0, 50, 0));
        assert_eq!(part_of, None);
    }

    #[test]
    fn a_long_way_is_told_to_those_at_its_end() {
        let mut memory = memory();
        let bob = moved("bob", 5000, None);
        let part_of = part(&mut memory, bob, position("bob", 0, 5000, 0));
        assert_eq!(part_of, Some((4000, 5000, 5000, 0)));
    }
}
