//! Tells a user's contacts how the user appears: those who are online and may see it, in one event for all of them.
//!
//! Invariants: nobody hears of a user whom asking would not show; a change costs a few reads, and one delivery, however
//! many contacts there are.

use std::time::Duration;

use schema::v1;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::appearance::{Appearance, Change};
use super::job::Delivery;
use super::presence::Presence;
use super::status;
use crate::store::looks;
use crate::store::{self, Store};

/// A user's contacts who may hear of a change: the first so many, by uid.
const CONTACTS_MAX: u32 = 10_000;
/// So long it tells without a pause, which is `PAUSE` times as long then: when everybody comes back at once, at most a
/// fifth of a core goes into it.
const BUSY: Duration = Duration::from_millis(20);
const PAUSE: u32 = 4;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Watchers {
    pub(super) store: Store,
    pub(super) presence: Presence,
    pub(super) events: mpsc::Sender<Delivery>,
}

impl Watchers {
    /// Tells until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let telling = async {
            loop {
                self.presence.has_news().await;
                let started = Instant::now();
                while started.elapsed() < BUSY
                    && let Some(change) = self.presence.take_news()
                {
                    self.tell(&change).await;
                }
                if started.elapsed() >= BUSY {
                    sleep(started.elapsed() * PAUSE).await;
                }
            }
        };
        tokio::select! {
            () = telling => {}
            () = stop.cancelled() => {}
        }
    }

    async fn tell(&self, change: &Change) {
        if let Err(error) = self.try_tell(change).await {
            warn!(error = %store::chain(&error), "a user's presence could not be told");
            self.presence.untold(change);
        }
    }

    async fn try_tell(&self, change: &Change) -> Result<(), store::Error> {
        let db = self.store.reader();
        let Some(look) = looks::lookup(db, &change.uid).await? else {
            self.presence.told(change);
            return Ok(());
        };
        let presence = if look.is_shown {
            self.presence.told(change);
            status::presence(&self.presence, look, change.now)
        } else {
            self.presence.hidden(&change.uid);
            if change.before == Some(Appearance::Offline) {
                return Ok(());
            }
            // Neither when it was seen last, nor what it says.
            v1::Presence {
                uid: change.uid.to_string(),
                state: Appearance::Offline.as_str().to_owned(),
                ..Default::default()
            }
        };
        let mut contacts = looks::contacts(db, &change.uid, CONTACTS_MAX).await?;
        contacts.retain(|uid| self.presence.is_online(uid));
        let viewers = looks::viewers(db, &change.uid, &contacts).await?;
        if viewers.is_empty() {
            return Ok(());
        }
        let event = v1::event::Event::Presence(presence);
        // Nobody listens any more when the service ends.
        let _ = self.events.send(Delivery::event(event, &viewers, 0)).await;
        Ok(())
    }
}
