//! What was ended lately: logins before their access tokens ran out, and passwords that may just have been checked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use schema::Uid;

use crate::store::logins::Revocation;
use crate::store::users::PasswordChange;

/// How far back to look again for what another process has written: longer than a commit may take after its time was
/// taken, and than clocks differ. A replaced password is remembered as long, which outlasts any CONNECT under way.
const OVERLAP: Duration = Duration::from_secs(10 * 60);

/// The ended logins whose access tokens might still be valid, and the users with a new password. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Revocations {
    ended: Arc<Mutex<Ended>>,
    /// How long an access token lives; older revocations are of no interest.
    ttl: Duration,
}

#[derive(Debug, Default)]
struct Ended {
    /// When they ended.
    logins: HashMap<String, SystemTime>,
    /// When the newest password was set.
    passwords: HashMap<Uid, SystemTime>,
    /// The time of the last look into the database; `None`: there was none yet.
    read_at: Option<SystemTime>,
}

impl Revocations {
    /// None yet.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Revocations {
            ended: Arc::default(),
            ttl,
        }
    }

    /// The time from which on revocations matter.
    #[must_use]
    pub fn horizon(&self, now: SystemTime) -> SystemTime {
        before(now, self.ttl)
    }

    /// The time from which on the database may know more.
    #[must_use]
    pub fn unread_since(&self, now: SystemTime) -> SystemTime {
        let read_at = self.ended.lock().read_at;
        before(read_at.unwrap_or_else(|| self.horizon(now)), OVERLAP)
    }

    /// Notes that all is known that the database knew at `now`, and forgets what is too old.
    pub fn read_until(&self, now: SystemTime) {
        let horizon = before(now, self.ttl.max(OVERLAP));
        let mut ended = self.ended.lock();
        ended.read_at = Some(now);
        ended.logins.retain(|_, ended_at| *ended_at >= horizon);
        ended.passwords.retain(|_, set_at| *set_at >= horizon);
    }

    /// Remembers the end of a login; tells whether it is news.
    pub fn insert(&self, revocation: &Revocation) -> bool {
        let id = revocation.id.clone();
        let mut ended = self.ended.lock();
        ended.logins.insert(id, revocation.revoked_at).is_none()
    }

    /// Remembers a new password; tells whether it is news.
    pub fn insert_password(&self, change: &PasswordChange) -> bool {
        let mut ended = self.ended.lock();
        let newest = ended.passwords.get(&change.uid);
        let is_news = newest.is_none_or(|newest| *newest < change.changed_at);
        if is_news {
            let uid = change.uid.clone();
            ended.passwords.insert(uid, change.changed_at);
        }
        is_news
    }

    /// Whether the login was ended.
    #[must_use]
    pub fn contains(&self, login: &str) -> bool {
        self.ended.lock().logins.contains_key(login)
    }

    /// Whether the user has a newer password than the one of that time.
    #[must_use]
    pub fn has_newer_password(&self, uid: &Uid, set_at: SystemTime) -> bool {
        let ended = self.ended.lock();
        ended
            .passwords
            .get(uid)
            .is_some_and(|newest| *newest > set_at)
    }
}

fn before(time: SystemTime, duration: Duration) -> SystemTime {
    time.checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_revocation_is_remembered_as_long_as_tokens_live() {
        let revocations = Revocations::new(HOUR);
        let now = SystemTime::now();
        let revocation = |id: &str| Revocation {
            id: id.to_owned(),
            uid: "alice".parse().unwrap(),
            revoked_at: now,
        };
        assert!(revocations.insert(&revocation("one")));
        assert!(!revocations.insert(&revocation("one")));
        revocations.read_until(now + HOUR);
        assert!(revocations.contains("one") && !revocations.contains("two"));
        revocations.read_until(now + HOUR + Duration::from_secs(1));
        assert!(!revocations.contains("one"));
    }

    #[test]
    fn a_password_is_told_from_its_successor() {
        let revocations = Revocations::new(HOUR);
        let (now, alice): (_, Uid) = (SystemTime::now(), "alice".parse().unwrap());
        let later = now + Duration::from_millis(1);
        let change = |changed_at| PasswordChange {
            uid: alice.clone(),
            changed_at,
        };
        assert!(!revocations.has_newer_password(&alice, now));
        assert!(revocations.insert_password(&change(later)));
        for known in [later, now] {
            assert!(!revocations.insert_password(&change(known)));
        }
        assert!(revocations.has_newer_password(&alice, now));
        assert!(!revocations.has_newer_password(&alice, later));
    }

    #[test]
    fn the_database_is_read_from_a_little_before_the_last_time() {
        // So short that a revocation could run out between two looks.
        let revocations = Revocations::new(Duration::from_secs(1));
        let now = SystemTime::now();
        assert!(revocations.unread_since(now) < now);
        revocations.read_until(now);
        assert_eq!(revocations.unread_since(now + HOUR), now - OVERLAP);
    }
}
