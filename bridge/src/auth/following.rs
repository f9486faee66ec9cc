//! What other processes and nodes have ended.

use std::time::{Duration, SystemTime};

use schema::Uid;
use schema::link::{self, kick};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::logins::revocation;
use super::{Auth, Sessions};
use crate::store::{self, logins, users};

/// How often it is looked for logins and passwords that another process has ended.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

impl Auth {
    /// Learns of logins and passwords that another process has ended, like `tidings user passwd`, and of sessions that
    /// other nodes have ended, until it is dropped. A session that was opened since by the new password may end too, and
    /// comes back.
    pub async fn follow(self, mut kicks: mpsc::Receiver<link::Kick>) {
        let mut interval = tokio::time::interval(FOLLOW_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(kick) = kicks.recv() => self.follow_kick(&kick).await,
                _ = interval.tick() => self.follow_revocations().await,
            }
        }
    }

    async fn follow_revocations(&self) {
        if let Err(error) = self.load_revocations().await {
            tracing::warn!(error = %store::chain(&error), "can't look for ended logins");
        }
    }

    /// Another node has ended sessions of a user.
    async fn follow_kick(&self, kick: &link::Kick) {
        let Ok(uid) = kick.uid.parse::<Uid>() else {
            return tracing::error!("another node has ended sessions of a user who can't exist");
        };
        match &kick.which {
            Some(kick::Which::Login(login)) => {
                self.announce(&revocation(&uid, login.clone(), SystemTime::now()));
            }
            Some(kick::Which::Device(device)) => {
                (self.kick)(&uid, Sessions::OfDevice(device));
            }
            None => {
                // First what they were let in by, so that they don't come back with that, nor end again for it later.
                self.follow_revocations().await;
                (self.kick)(&uid, Sessions::All);
            }
        }
    }

    pub(super) async fn load_revocations(&self) -> Result<(), store::Error> {
        let now = SystemTime::now();
        let since = self.revocations.unread_since(now);
        let db = self.store.reader();
        for revocation in logins::revoked_since(db, since).await? {
            self.announce(&revocation);
        }
        for change in users::password_changes_since(db, since).await? {
            self.announce_password(&change);
        }
        self.revocations.read_until(now);
        Ok(())
    }
}
