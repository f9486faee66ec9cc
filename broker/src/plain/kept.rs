//! What the bridge keeps for the edge: retained messages, and what users grant each other.

use std::sync::Arc;

use schema::Uid;
use schema::link::{Briefing, Grant, PlainMessage, Retain, from_edge};

use super::exchange::{Exchange, now_ms};
use super::filter::check_topic;
use super::message::Message;
use super::retained::Full;
use crate::registry::Handle;

impl Exchange {
    /// The database has to end up with the same message of a topic as the store here: so the bridge is told under the
    /// store's lock.
    ///
    /// # Errors
    /// [`Full`] when a bound is reached; nothing has changed then.
    pub(crate) fn retain_and_store(
        &self,
        message: &Arc<Message>,
        token: u32,
        publisher: &Handle,
    ) -> Result<(), Full> {
        let item = from_edge::Item::Retain(Retain {
            session: publisher.id,
            token,
            message: Some(PlainMessage::from(&**message)),
        });
        let mut retained = self.retained.lock();
        retained.put(message.clone())?;
        self.bridges.tell_voice(item);
        Ok(())
    }

    /// Says something of the broker itself, to those who subscribe now or later. It is not stored.
    pub(crate) fn announce(&self, topic: String, value: String) {
        let message = Arc::new(Message::announcement(topic, value));
        if self.statistics.lock().put(message.clone()).is_ok() {
            self.publish(&message);
        }
    }

    /// Takes what the bridge has stored: in a briefing, and later what has changed elsewhere. Without payload: it is gone.
    pub(crate) fn restore(&self, stored: PlainMessage) {
        if check_topic(&stored.topic, self.limits).is_err() {
            tracing::warn!("a stored retained message has a topic that is no longer allowed");
            return;
        }
        let message = match Message::try_from(stored) {
            Ok(message) => Arc::new(message),
            Err(error) => {
                return tracing::error!(%error, "a stored retained message is unusable");
            }
        };
        let mut retained = self.retained.lock();
        // What was published here since then is newer than what the bridge has read.
        if retained.is_being_briefed() && self.bridges.unstored().contains(&message.topic) {
            return;
        }
        if let Err(full) = retained.put(message) {
            tracing::warn!(%full, "a stored retained message is not delivered");
        }
    }

    /// All that is kept comes now, until [`Exchange::end_briefing`].
    pub(crate) fn begin_briefing(&self, briefing: &Briefing) {
        self.set_has_others(briefing.has_others);
        self.retained.lock().begin_briefing();
        if !briefing.only_retained {
            self.policy.begin_briefing();
        }
    }

    /// What has not come is not kept any more.
    pub(crate) fn end_briefing(&self) {
        let is_new = |topic: &str| self.bridges.unstored().contains(topic);
        self.retained.lock().end_briefing(is_new);
        self.policy.end_briefing();
    }

    /// Forgets what has expired.
    pub(crate) fn purge(&self) {
        self.retained.lock().purge(now_ms());
    }

    /// Takes a right that a user has given, or taken back.
    pub(crate) fn grant(&self, grant: &Grant) {
        let uids = (grant.owner.parse::<Uid>(), grant.user.parse::<Uid>());
        if let (Ok(owner), Ok(user)) = uids {
            self.policy
                .set_grant(&owner, &user, &grant.filter, grant.read, grant.write);
        }
    }
}
