//! Logins that were ended before their access tokens ran out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::store::logins::Revocation;

/// The ended logins whose access tokens might still be valid. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Revocations {
    ended: Arc<Mutex<HashMap<String, SystemTime>>>,
    /// How long an access token lives; older revocations are of no interest.
    ttl: Duration,
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
        now.checked_sub(self.ttl).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Remembers a revocation and forgets what is too old; tells whether it is news.
    pub fn insert(&self, revocation: &Revocation, now: SystemTime) -> bool {
        let horizon = self.horizon(now);
        let mut ended = self.ended.lock();
        ended.retain(|_, revoked_at| *revoked_at >= horizon);
        let id = revocation.id.clone();
        ended.insert(id, revocation.revoked_at).is_none()
    }

    /// Whether the login was ended.
    #[must_use]
    pub fn contains(&self, login: &str) -> bool {
        self.ended.lock().contains_key(login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_is_remembered_as_long_as_tokens_live() {
        let revocations = Revocations::new(Duration::from_secs(60));
        let now = SystemTime::now();
        let revocation = |id: &str| Revocation {
            id: id.to_owned(),
            uid: "alice".parse().unwrap(),
            revoked_at: now,
        };
        assert!(revocations.insert(&revocation("one"), now));
        assert!(!revocations.insert(&revocation("one"), now));
        assert!(revocations.contains("one") && !revocations.contains("two"));
        revocations.insert(&revocation("two"), now + Duration::from_secs(61));
        assert!(!revocations.contains("one"));
    }
}
