//! Conversations in memory: which exist, who is in them, and what two may write to each other.

use std::collections::HashMap;
use std::sync::Arc;

use schema::Uid;

use super::direct_rules::DirectRules;
use super::groups::rules::GroupRules;
use super::refused::Refused;
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
    /// What its two members may write to each other.
    direct: DirectRules,
    /// Of a group: who may send.
    pub group: Option<GroupRules>,
    /// The number of its last change, as the database has it: with another one there, this is no longer how it stands.
    pub revision: i64,
}

impl Conversation {
    /// A conversation in which everybody is heard; the members in any order.
    #[must_use]
    pub fn new(id: i64, name: String, mut members: Vec<Uid>) -> Self {
        members.sort_unstable();
        Conversation {
            id,
            name,
            members,
            direct: DirectRules::default(),
            group: None,
            revision: 0,
        }
    }

    /// The same with the rules between its two members.
    #[must_use]
    pub fn with_rules(self, direct: DirectRules) -> Self {
        Conversation { direct, ..self }
    }

    /// Everybody who is in it.
    #[must_use]
    pub fn members(&self) -> &[Uid] {
        &self.members
    }

    /// Whether the user is in it.
    #[must_use]
    pub fn has(&self, uid: &Uid) -> bool {
        self.has_name(uid.as_str())
    }

    /// The same by the name alone.
    #[must_use]
    pub fn has_name(&self, uid: &str) -> bool {
        let found = self
            .members
            .binary_search_by(|member| member.as_str().cmp(uid));
        found.is_ok()
    }

    /// Who does not hear what a member says, if the member may say anything.
    ///
    /// # Errors
    /// [`Refused`] where the other one does not take it.
    pub fn deaf_to(&self, sender: &Uid) -> Result<Option<&Uid>, Refused> {
        if self.direct.is_open() {
            return Ok(None);
        }
        let [first, second] = self.members.as_slice() else {
            return Ok(None);
        };
        self.direct.deaf_to(sender, (first, second))
    }
}

impl From<Found> for Conversation {
    fn from(found: Found) -> Self {
        Conversation {
            group: found.group.map(GroupRules::from),
            revision: found.revision,
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
    /// The rules between users of whom the transaction has looked up that they have no conversation, and need none.
    apart: HashMap<String, DirectRules>,
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
            apart: HashMap::new(),
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

    /// Notes the rules between two users who have no conversation, for this transaction.
    pub fn stage_apart(&mut self, name: &str, rules: DirectRules) {
        self.apart.insert(name.to_owned(), rules);
    }

    /// The rules between two users who have no conversation.
    #[must_use]
    pub fn apart(&self, name: &str) -> DirectRules {
        self.apart.get(name).copied().unwrap_or_default()
    }

    /// Forgets a conversation of which the transaction has changed the members, or what they may.
    pub fn stage_change(&mut self, name: &str) {
        self.staged.insert(name.to_owned(), None);
    }

    /// Forgets a conversation that another node has changed.
    pub fn forget_name(&mut self, name: &str) {
        if let Some(known) = self.committed.remove(name) {
            self.weight -= known.members.len();
        }
    }

    /// Forgets conversations that are no longer as they are known here, whatever becomes of the transaction.
    pub fn forget(&mut self, ids: &[i64]) {
        let is_stale = |conversation: &Arc<Conversation>| ids.contains(&conversation.id);
        let is_kept = |known: &Option<Arc<Conversation>>| !known.as_ref().is_some_and(is_stale);
        self.staged.retain(|_, staged| is_kept(staged));
        self.committed.retain(|_, known| {
            let is_stale = is_stale(known);
            if is_stale {
                self.weight -= known.members.len();
            }
            !is_stale
        });
    }

    /// The transaction was committed.
    pub fn commit(&mut self) {
        self.apart.clear();
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
        self.apart.clear();
    }
}
