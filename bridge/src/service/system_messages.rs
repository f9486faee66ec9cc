//! Messages that nobody wrote: what happened in a conversation, at its place between the others.

use schema::{Uid, v1};

use super::batch::Executor;
use super::places::Wish;
use crate::content;
use crate::store::{self, Transaction, members, messages};

/// What their content is.
pub(super) const KIND: &str = "system";
/// Users that one of them names.
const USERS_MAX: usize = 100;

/// What happened, and to whom. Of very many users the first are named.
pub(super) fn happened<'a>(what: &str, users: impl IntoIterator<Item = &'a Uid>) -> v1::System {
    v1::System {
        r#type: what.to_owned(),
        users: users
            .into_iter()
            .take(USERS_MAX)
            .map(Uid::to_string)
            .collect(),
        ..Default::default()
    }
}

impl Executor {
    /// Gives what `actor` has done its places in a conversation. For the actor it is not unread, as if it had been sent.
    /// Returns each message with the id of the one before it.
    pub(super) async fn add_system_messages(
        &mut self,
        tx: &Transaction,
        (conversation_id, name): (i64, &str),
        actor: &Uid,
        happened: Vec<v1::System>,
    ) -> Result<Vec<(v1::Message, u64)>, store::Error> {
        let count = u32::try_from(happened.len()).unwrap_or_default();
        if count == 0 {
            return Ok(Vec::new());
        }
        let places: Vec<Wish> = happened.iter().map(|_| Wish::of(conversation_id)).collect();
        let places = self.take_places(tx, &places).await?;
        let mut added = Vec::with_capacity(happened.len());
        for (taken, system) in places.into_iter().zip(happened) {
            let (msg_id, seq) = (taken.msg_id, taken.seq);
            let content = v1::message::Content::System(Box::new(system));
            let stored = content::encode(&content, 0, &[]);
            let message = messages::New {
                expires_at: None,
                hidden_from: None,
                msg_id,
                conversation_id,
                seq,
                sender: actor,
                sender_device: "",
                client_msg_id: "",
                client_seq: 0,
                kind: KIND,
                content: &stored,
            };
            messages::add(tx, [message]).await?;
            let message = v1::Message {
                msg_id: msg_id.0,
                conversation: name.to_owned(),
                seq,
                sender: actor.to_string(),
                kind: KIND.to_owned(),
                content: Some(content),
                sent_at: Some(msg_id.timestamp()),
                ..Default::default()
            };
            added.push((message, taken.previous));
        }
        members::count_sent(tx, [(conversation_id, actor, count)]).await?;
        Ok(added)
    }
}
