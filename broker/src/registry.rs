//! Who is connected: the last hop of the user topics.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytestring::ByteString;
use parking_lot::RwLock;
use schema::Uid;

use crate::closed::Closed;
use crate::outbox::Outbox;

/// What the rest of the edge sees of a session.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Unique as long as the process runs; never 0.
    pub(crate) id: u64,
    pub(crate) uid: Uid,
    /// The client id, private to the user.
    pub(crate) device: ByteString,
    /// The client came without an id: `device` is made up, and will not come again.
    pub(crate) is_nameless: bool,
    /// The login whose token opened the session.
    pub(crate) login: Option<String>,
    pub(crate) outbox: Outbox,
}

/// Who comes in.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) uid: Uid,
    pub(crate) device: ByteString,
    pub(crate) is_nameless: bool,
    pub(crate) login: Option<String>,
}

/// All sessions, by user and by id.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next_id: AtomicU64,
    sessions: RwLock<Sessions>,
}

/// One lock for both maps: sessions come and go far more rarely than deliveries look them up.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_uid: HashMap<Uid, Vec<Arc<Handle>>>,
    by_id: HashMap<u64, Arc<Handle>>,
}

impl Sessions {
    pub(crate) fn of_user(&self, uid: &str) -> &[Arc<Handle>] {
        self.by_uid.get(uid).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn by_id(&self, id: u64) -> Option<&Arc<Handle>> {
        self.by_id.get(&id)
    }
}

impl Registry {
    /// Adds a session. One with the same user and client id ends, as [MQTT-3.1.4-2] asks (v5: MQTT-3.1.4-3).
    pub(crate) fn add(&self, newcomer: Newcomer, outbox: Outbox) -> Arc<Handle> {
        let handle = Arc::new(Handle {
            id: self.next_id.fetch_add(1, Ordering::Relaxed) + 1,
            uid: newcomer.uid,
            device: newcomer.device,
            is_nameless: newcomer.is_nameless,
            login: newcomer.login,
            outbox,
        });
        let mut sessions = self.sessions.write();
        let same_user = sessions.by_uid.entry(handle.uid.clone()).or_default();
        let earlier = same_user
            .iter()
            .position(|other| other.device == handle.device)
            .map(|index| same_user.swap_remove(index));
        same_user.push(handle.clone());
        if let Some(earlier) = &earlier {
            sessions.by_id.remove(&earlier.id);
        }
        sessions.by_id.insert(handle.id, handle.clone());
        drop(sessions);
        if let Some(earlier) = earlier {
            earlier.outbox.close(Closed::TakenOver);
        }
        handle
    }

    /// A client id for a client that came without; as unpredictable as a session id needs to be among a user's own.
    pub(crate) fn new_client_id(&self) -> String {
        let mut random = RandomState::new().build_hasher();
        random.write_u64(self.next_id.load(Ordering::Relaxed));
        format!("auto-{:016x}", random.finish())
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&self, reason: Closed) {
        for handle in self.read().by_id.values() {
            handle.outbox.close(reason);
        }
    }

    /// Removes a session; one that was taken over is gone already.
    pub(crate) fn remove(&self, handle: &Handle) {
        let mut sessions = self.sessions.write();
        if sessions.by_id.remove(&handle.id).is_none() {
            return;
        }
        if let Some(same_user) = sessions.by_uid.get_mut(&handle.uid) {
            same_user.retain(|other| other.id != handle.id);
            if same_user.is_empty() {
                sessions.by_uid.remove(&handle.uid);
            }
        }
    }

    /// Looks sessions up; hold the guard for a short time only.
    pub(crate) fn read(&self) -> parking_lot::RwLockReadGuard<'_, Sessions> {
        self.sessions.read()
    }

    /// Ends a user's sessions: those of one login, or all.
    pub(crate) fn kick(&self, uid: &Uid, login: Option<&str>) {
        for handle in self.read().of_user(uid.as_str()) {
            if login.is_none() || handle.login.as_deref() == login {
                handle.outbox.close(Closed::Kicked);
            }
        }
    }
}
