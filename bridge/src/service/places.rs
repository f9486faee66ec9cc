//! Places in conversations: the only thing that says where a message stands.
//!
//! The conversation's row is locked from the moment that a place is taken until the transaction ends, whichever node it is
//! that sends. So seqs have no holes, messages that come later have larger ids also where nodes' clocks disagree, and it is
//! noticed there whether what is in memory of the conversation is still so.

use std::collections::HashMap;
use std::time::SystemTime;

use schema::MsgId;

use super::batch::Executor;
use crate::store::conversations::{self, Before, Wanted};
use crate::store::{self, Transaction};

/// A place that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// In this conversation.
    pub(super) conversation_id: i64,
    /// The revision by which it was decided that there may be a message; `None`: under the row's lock.
    pub(super) revision: Option<i64>,
}

impl Wish {
    /// A place in a conversation whose row is locked.
    pub(super) fn of(conversation_id: i64) -> Self {
        Wish {
            conversation_id,
            revision: None,
        }
    }
}

/// A place that was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) seq: u32,
    pub(super) msg_id: MsgId,
    /// The id of the message before it.
    pub(super) previous: u64,
}

impl Executor {
    /// Takes the places in their order.
    ///
    /// # Errors
    /// [`store::Error::Stale`] where one of the conversations has another revision: it is forgotten then.
    pub(super) async fn take_places(
        &mut self,
        tx: &Transaction,
        wishes: &[Wish],
    ) -> Result<Vec<Taken>, store::Error> {
        if wishes.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted: HashMap<i64, Wanted> = HashMap::new();
        let mut ids = Vec::with_capacity(wishes.len());
        for Wish {
            conversation_id: id,
            ..
        } in wishes
        {
            let msg_id = self.ids.next(SystemTime::now());
            let wanted = wanted.entry(*id).or_insert(Wanted {
                id: *id,
                places: 0,
                last_msg_id: 0,
            });
            wanted.places += 1;
            wanted.last_msg_id = msg_id.0;
            ids.push(msg_id);
        }
        let wanted: Vec<Wanted> = wanted.into_values().collect();
        let mut newest = conversations::advance(tx, &wanted).await?;
        self.check_revisions(wishes, &newest)?;
        let mut moved: HashMap<i64, u64> = HashMap::new();
        let mut taken = Vec::with_capacity(wishes.len());
        for (wish, mut msg_id) in wishes.iter().zip(ids) {
            let id = wish.conversation_id;
            let newest = newest.entry(id).or_default();
            if msg_id.0 <= newest.last_msg_id {
                // Another node was faster, or its clock is ahead.
                msg_id = self.ids.after(newest.last_msg_id, SystemTime::now());
                moved.insert(id, msg_id.0);
            }
            newest.last_seq += 1;
            taken.push(Taken {
                seq: newest.last_seq,
                msg_id,
                previous: newest.last_msg_id,
            });
            newest.last_msg_id = msg_id.0;
        }
        // The last one, if any, has moved with those before it.
        conversations::set_last_msg_ids(tx, moved).await?;
        Ok(taken)
    }

    fn check_revisions(
        &mut self,
        wishes: &[Wish],
        found: &HashMap<i64, Before>,
    ) -> Result<(), store::Error> {
        let is_stale = |wish: &&Wish| match (wish.revision, found.get(&wish.conversation_id)) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(known), Some(found)) => known != found.revision,
        };
        let stale: Vec<i64> = wishes
            .iter()
            .filter(is_stale)
            .map(|wish| wish.conversation_id)
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        self.catalog.forget(&stale);
        Err(store::Error::Stale)
    }
}
