//! Who has moved since it was told last, in memory: one entry for a member, however often it moves.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use schema::Uid;

use super::{Moves, Read};
use crate::store::devices::Cursor;

/// Members of all conversations that may wait together; those beyond are not told of.
const MEMBERS_MAX: usize = 100_000;

/// What is known of a member who has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Move {
    /// The newest message that one of the member's devices has acknowledged meanwhile; 0: none.
    pub(super) acked: u32,
    /// Where the member had read up to before; `None`: has not read meanwhile.
    pub(super) read_from: Option<u32>,
}

/// A conversation's members who have moved.
pub(super) type Movers = HashMap<Uid, Move>;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Collected {
    by_conversation: HashMap<i64, Movers>,
    /// Its conversations, the one that has waited longest first.
    order: VecDeque<i64>,
    members: usize,
}

impl Collected {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn note(&mut self, moves: Moves) {
        for cursor in moves.cursors {
            self.note_ack(cursor);
        }
        for read in moves.reads {
            self.note_read(read);
        }
    }

    fn note_ack(&mut self, cursor: Cursor) {
        if let Some(found) = self.entry(cursor.conversation_id, cursor.uid) {
            found.acked = found.acked.max(cursor.seq);
        }
    }

    fn note_read(&mut self, read: Read) {
        if let Some(found) = self.entry(read.conversation_id, read.uid) {
            let from = found.read_from.unwrap_or(read.from_seq);
            found.read_from = Some(from.min(read.from_seq));
        }
    }

    fn entry(&mut self, conversation_id: i64, uid: Uid) -> Option<&mut Move> {
        let is_full = self.members >= MEMBERS_MAX;
        let movers = match self.by_conversation.entry(conversation_id) {
            Entry::Vacant(_) if is_full => return None,
            Entry::Vacant(vacant) => {
                self.order.push_back(conversation_id);
                vacant.insert(Movers::new())
            }
            Entry::Occupied(known) => known.into_mut(),
        };
        match movers.entry(uid) {
            Entry::Vacant(_) if is_full => None,
            Entry::Vacant(vacant) => {
                self.members += 1;
                Some(vacant.insert(Move::default()))
            }
            Entry::Occupied(known) => Some(known.into_mut()),
        }
    }

    /// Those that have waited longest: whole conversations, as many as have `members` together, and at least one.
    pub(super) fn take(&mut self, members: usize) -> Vec<(i64, Movers)> {
        let mut taken = Vec::new();
        let mut count = 0;
        while count < members
            && let Some(id) = self.order.pop_front()
        {
            let movers = self.by_conversation.remove(&id).unwrap_or_default();
            count += movers.len();
            taken.push((id, movers));
        }
        self.members -= count;
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uid(number: usize) -> Uid {
        format!("user-{number}").parse().unwrap()
    }

    fn cursor(conversation_id: i64, uid: Uid, seq: u32) -> Cursor {
        Cursor {
            uid,
            device: "phone".to_owned(),
            conversation_id,
            seq,
            msg_id: seq.into(),
        }
    }

    fn read(conversation_id: i64, uid: Uid, from_seq: u32) -> Read {
        Read {
            conversation_id,
            uid,
            from_seq,
        }
    }

    /// However 500 members acknowledge and read 20 messages, it is one entry for each, in one conversation.
    #[test]
    fn many_moves_are_one_entry_for_each_member() {
        let mut collected = Collected::default();
        for seq in 1..=20 {
            let members = || (0..500).map(uid);
            collected.note(Moves {
                cursors: members().map(|uid| cursor(7, uid, seq)).collect(),
                reads: members().map(|uid| read(7, uid, seq - 1)).collect(),
            });
        }
        let taken = collected.take(1);
        assert_eq!(taken.len(), 1);
        let (conversation_id, movers) = &taken[0];
        assert_eq!((*conversation_id, movers.len()), (7, 500));
        let all = Move {
            acked: 20,
            read_from: Some(0),
        };
        assert!(movers.values().all(|found| *found == all));
        assert!(collected.is_empty());
        assert_eq!(collected.members, 0);
    }

    /// Conversations wait in turn, whichever moves most; what is beyond the bound is dropped, and makes no room wrong.
    #[test]
    fn conversations_take_turns_and_are_bounded() {
        let mut collected = Collected::default();
        for id in [3, 1, 2, 1, 3] {
            collected.note(Moves {
                cursors: vec![cursor(id, uid(0), 1), cursor(id, uid(1), 1)],
                reads: Vec::new(),
            });
        }
        let ids = |taken: Vec<(i64, Movers)>| taken.into_iter().map(|(id, _)| id);
        assert_eq!(ids(collected.take(3)).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(ids(collected.take(3)).collect::<Vec<_>>(), [2]);
        let reads = (0..=MEMBERS_MAX).map(|number| read(1, uid(number), 0));
        collected.note(Moves {
            cursors: Vec::new(),
            reads: reads.collect(),
        });
        collected.note(Moves {
            cursors: vec![cursor(2, uid(0), 1), cursor(1, uid(0), 5)],
            reads: Vec::new(),
        });
        let taken = collected.take(usize::MAX);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].1.len(), MEMBERS_MAX);
        assert_eq!(taken[0].1[&uid(0)].acked, 5);
        assert_eq!(collected.members, 0);
    }

    proptest! {
        /// In whichever order moves come and are taken, a member's furthest acknowledgement and first reading are there.
        #[test]
        fn nothing_is_lost(moves in prop::collection::vec((0..3_i64, 0..4_usize, 1..50_u32, any::<bool>()), 0..60)) {
            let mut collected = Collected::default();
            let mut expected: HashMap<(i64, Uid), Move> = HashMap::new();
            for (id, member, seq, is_read) in moves {
                let found = expected.entry((id, uid(member))).or_default();
                let mut noted = Moves::default();
                if is_read {
                    found.read_from = Some(found.read_from.map_or(seq, |from| from.min(seq)));
                    noted.reads.push(read(id, uid(member), seq));
                } else {
                    found.acked = found.acked.max(seq);
                    noted.cursors.push(cursor(id, uid(member), seq));
                }
                collected.note(noted);
            }
            let mut found = HashMap::new();
            while !collected.is_empty() {
                for (id, movers) in collected.take(2) {
                    found.extend(movers.into_iter().map(|(uid, moved)| ((id, uid), moved)));
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
