//! What must not happen at once, since the answers could not be explained afterwards.

use std::collections::BTreeSet;

/// Who is asked for what in the burst that is planned, so that the answers can be explained afterwards.
#[derive(Default)]
pub(super) struct Claims {
    /// Whose membership may change, and whose position.
    moved: BTreeSet<(String, String)>,
    positions: BTreeSet<(String, String)>,
    /// Who looks at a conversation's messages there, and who tidies them up.
    looks: BTreeSet<(String, String)>,
    tidied: BTreeSet<(String, String)>,
    /// Messages that are changed, and those that are reacted to.
    changed: BTreeSet<u64>,
    reacted: BTreeSet<(u64, String)>,
}

impl Claims {
    /// Several may change a user's membership at once, but not while the user does something else there.
    pub(super) fn membership(&mut self, conversation: &str, uid: &str) -> bool {
        let key = key(conversation, uid);
        let others = [&self.positions, &self.looks, &self.tidied];
        let is_free = !others.iter().any(|claimed| claimed.contains(&key));
        if is_free {
            self.moved.insert(key);
        }
        is_free
    }

    pub(super) fn position(&mut self, conversation: &str, uid: &str) -> bool {
        let key = key(conversation, uid);
        let is_free = !self.moved.contains(&key) && !self.tidied.contains(&key);
        if is_free {
            self.positions.insert(key);
        }
        is_free
    }

    pub(super) fn look(&mut self, conversation: &str, uid: &str) -> bool {
        let key = key(conversation, uid);
        let is_free = !self.moved.contains(&key) && !self.tidied.contains(&key);
        if is_free {
            self.looks.insert(key);
        }
        is_free
    }

    /// What one changes alone.
    pub(super) fn tidy(&mut self, conversation: &str, uid: &str) -> bool {
        let key = key(conversation, uid);
        let others = [&self.moved, &self.positions, &self.looks];
        !others.iter().any(|claimed| claimed.contains(&key)) && self.tidied.insert(key)
    }

    pub(super) fn change(&mut self, msg_id: u64) -> bool {
        let is_reacted = self.reacted.iter().any(|(id, _)| *id == msg_id);
        !is_reacted && self.changed.insert(msg_id)
    }

    /// Several may react at once.
    pub(super) fn react(&mut self, msg_id: u64, uid: &str) -> bool {
        !self.changed.contains(&msg_id) && self.reacted.insert((msg_id, uid.to_owned()))
    }
}

fn key(conversation: &str, uid: &str) -> (String, String) {
    (conversation.to_owned(), uid.to_owned())
}
