//! Conversations in memory: which exist, and who is in them.

use std::collections::HashMap;
use std::sync::Arc;

use schema::Uid;

use super::groups::rules::GroupRules;
use crate::store::conversations::Found;

/// A conversation as it stands now.
#[derive(Debug)]
pub struct Conversation {
    /// Key in the database.
    pub id: i64,
    /// Name on the wire.
    pub name: String,
    /// Everybody who is in it, in the order of their names.
    members: Vec<Uid>,
    /// Of a group: who may send.
    pub group: Option<GroupRules>,
}

impl Conversation {
    /// A conversation; the members in any order.
    #[must_use]
    pub fn new(id: i64, name: String, mut members: Vec<Uid>) -> Self {
        members.sort_unstable();
        Conversation {
            id,
            name,
            members,
            group: None,
        }
    }

    /// Everybody who is in it.
    #[must_use]
    pub fn members(&self) -> &[Uid] {
        &self.members
    }

    /// Whether the user is in it.
    #[must_use]
    pub fn has(&self, uid: &Uid) -> bool {
        self.members.binary_search(uid).is_ok()
    }
}

impl From<Found> for Conversation {
    fn from(found: Found) -> Self {
        Conversation {
            group: found.group.map(GroupRules::from),
            ..Conversation::new(found.id, found.name, found.members)
        }
    }
}

/// Conversations by name. What a transaction reads or changes is staged, and counts for the next one only when that
/// has been committed.
#[derive(Debug)]
pub struct Catalog {
    committed: HashMap<String, Arc<Conversation>>,
    /// `None`: changed, to be read again.
    staged: HashMap<String, Option<Arc<Conversation>>>,
    /// Members of all cached conversations together, and how many there may be.
    weight: usize,
    weight_max: usize,
}

impl Catalog {
    /// Caches conversations with `weight_max` members in all.
    #[must_use]
    pub fn new(weight_max: usize) -> Self {
        Catalog {
            committed: HashMap::new(),
            staged: HashMap::new(),
            weight: 0,
            weight_max,
        }
    }

    /// The conversation, where it is known here.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Conversation>> {
        match self.staged.get(name) {
            Some(staged) => staged.as_ref(),
            None => self.committed.get(name),
        }
    }

    /// Adds a conversation that the transaction has read or made.
    pub fn stage(&mut self, conversation: Conversation) {
        let name = conversation.name.clone();
        self.staged.insert(name, Some(Arc::new(conversation)));
    }

    /// Forgets a conversation whose members or rules the transaction has changed.
    pub fn stage_change(&mut self, name: &str) {
        self.staged.insert(name.to_owned(), None);
    }

    /// The transaction was committed.
    pub fn commit(&mut self) {
        for (name, staged) in self.staged.drain() {
            let removed = match staged {
                Some(conversation) => {
                    self.weight += conversation.members.len();
                    self.committed.insert(name, conversation)
                }
                None => self.committed.remove(&name),
            };
            self.weight -= removed.map_or(0, |conversation| conversation.members.len());
        }
        if self.weight > self.weight_max {
            // Rare, and cheap to fill again with what is in use: no order of last use is kept for it.
            self.committed.clear();
            self.weight = 0;
        }
    }

    /// The transaction was not committed.
    pub fn rollback(&mut self) {
        self.staged.clear();
    }
}
