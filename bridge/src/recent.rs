//! Newest messages of groups, kept in Redis for whoever asks for them next, at whichever node.
//!
//! Nobody is told that an entry is out of date, and nobody relies on having heard it: an entry says which state of the
//! conversation it was read in, and counts only for who has just read that state in the database, as everybody does who
//! asks for a page, for the sake of his rights. Of what is one user's (what he has deleted, what is hidden from him, how far
//! back he may see) nothing is kept; see `store::views`.
//!
//! It has to cost less than it saves: groups only, and only what was missed twice in the same state; and where Redis is slow
//! once, nobody asks it for a while.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use prost::Message as _;
use schema::cache;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::redis::{Error, Redis};
use crate::store::chain;

/// How long an answer is waited for: many times as long as Redis takes, and not much longer than the database does.
const ANSWER_WITHIN: Duration = Duration::from_millis(20);
/// How long nothing is asked after Redis took longer.
const REST: Duration = Duration::from_secs(1);
/// Entries on their way to Redis; with more, it is too slow to be of use.
const WRITES_MAX: usize = 8;
/// Conversations of which it is known that they were missed.
const MISSED_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Stands in the keys. Another one where messages get fields that entries of earlier versions don't have.
const VERSION: &str = "recent1";

/// See the module's documentation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recent {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    redis: Redis,
    ttl: Duration,
    /// In which state conversations were missed last.
    missed: Mutex<LruCache<i64, cache::State>>,
    rests_until: Mutex<Option<Instant>>,
    writes: Arc<Semaphore>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    ignored: AtomicU64,
    unanswered: AtomicU64,
    kept: AtomicU64,
}

/// How often what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Pages that were answered from it.
    pub hits: u64,
    /// Nothing was there.
    pub misses: u64,
    /// What was there was of another state, or did not reach far enough.
    pub ignored: u64,
    /// Redis was away, slow, or not asked since it had been.
    pub unanswered: u64,
    /// Entries that were written.
    pub kept: u64,
}

impl Recent {
    /// Keeps entries for so long.
    #[must_use]
    pub fn new(redis: Redis, ttl: Duration) -> Self {
        Recent {
            shared: Arc::new(Shared {
                redis,
                ttl,
                missed: Mutex::new(LruCache::new(MISSED_MAX)),
                rests_until: Mutex::default(),
                writes: Arc::new(Semaphore::new(WRITES_MAX)),
                counts: Counts::default(),
            }),
        }
    }

    /// What is kept of a conversation that is in this state. Whoever uses it counts that as [`Recent::used`].
    pub async fn find(&self, conversation_id: i64, state: cache::State) -> Option<cache::Recent> {
        let counts = &self.shared.counts;
        let bytes = match self.get(conversation_id).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                counts.misses.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Err(error) => {
                debug!(error = %chain(&error), "recent messages are not asked for");
                counts.unanswered.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        // Slices of it become the entries.
        let recent = cache::Recent::decode(bytes::Bytes::from(bytes)).ok();
        let recent = recent.filter(|recent| recent.state == Some(state));
        if recent.is_none() {
            counts.ignored.fetch_add(1, Ordering::Relaxed);
        }
        recent
    }

    /// Whether an entry was of use.
    pub fn used(&self, is_used: bool) {
        let counts = &self.shared.counts;
        let count = if is_used {
            &counts.hits
        } else {
            &counts.ignored
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    async fn get(&self, conversation_id: i64) -> Result<Option<Vec<u8>>, Error> {
        if self.rests() {
            return Err(Error::Away);
        }
        let key = self.key(conversation_id);
        let asked = self.shared.redis.run(async |mut connection| {
            let mut get = redis::cmd("GET");
            get.arg(key).query_async(&mut connection).await
        });
        let answer = timeout(ANSWER_WITHIN, asked).await;
        let answer = answer.unwrap_or(Err(Error::Slow));
        if let Err(Error::Slow) = answer {
            *self.shared.rests_until.lock() = Some(Instant::now() + REST);
        }
        answer
    }

    fn rests(&self) -> bool {
        let until = *self.shared.rests_until.lock();
        until.is_some_and(|until| Instant::now() < until)
    }

    fn key(&self, conversation_id: i64) -> String {
        let tag = conversation_id.to_string();
        self.shared.redis.key(VERSION, &tag)
    }

    /// Whether it is worth the while to keep a conversation that was missed: it was missed in the same state before.
    #[must_use]
    pub fn is_wanted(&self, conversation_id: i64, state: cache::State) -> bool {
        if !self.shared.redis.is_there() || self.rests() {
            return false;
        }
        let mut missed = self.shared.missed.lock();
        missed.put(conversation_id, state) == Some(state)
    }

    /// Keeps an entry; the caller does not wait for it.
    pub fn keep(&self, conversation_id: i64, recent: &cache::Recent) {
        let Ok(permit) = self.shared.writes.clone().try_acquire_owned() else {
            return;
        };
        let mut set = redis::cmd("SET");
        let millis = u64::try_from(self.shared.ttl.as_millis()).unwrap_or(u64::MAX);
        set.arg(self.key(conversation_id))
            .arg(recent.encode_to_vec())
            .arg("PX")
            .arg(millis);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let written = shared
                .redis
                .run(async |mut connection| set.exec_async(&mut connection).await)
                .await;
            match written {
                Ok(()) => _ = shared.counts.kept.fetch_add(1, Ordering::Relaxed),
                Err(error) => debug!(error = %chain(&error), "recent messages are not kept"),
            }
            drop(permit);
        });
    }

    /// What came of it since the start.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let counts = &self.shared.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            hits: of(&counts.hits),
            misses: of(&counts.misses),
            ignored: of(&counts.ignored),
            unanswered: of(&counts.unanswered),
            kept: of(&counts.kept),
        }
    }
}
