//! What was read lately, kept in Redis for whoever asks next, at whichever node: newest messages of groups, and users' lists of
//! conversations.
//!
//! Nobody is told that an entry is out of date, and nobody relies on having heard it: an entry says which state it was read in,
//! and counts only for who has just read that state in the database. For a page of messages it is the state of the conversation,
//! which everybody who asks reads for the sake of his rights; of what is one user's (what he has deleted, what is hidden from
//! him, how far back he may see) nothing is kept there. For a list it is where the user stands in each conversation, which is
//! read for his unread counts. See `store::views`.
//!
//! It has to cost less than it saves: only what was missed before is kept, messages only of groups; and where Redis is slow once,
//! nobody asks it for a while.

use std::fmt::Display;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use schema::{Uid, cache};
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
/// Keys of which it is known that they were missed.
const MISSED_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Stand in the keys. Others where entries get fields that those of earlier versions don't have.
const MESSAGES: &str = "recent1";
const LISTS: &str = "list1";

/// See the module's documentation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recent {
    /// Newest messages by conversation, missed in a state.
    pub messages: Shelf<i64, cache::State>,
    /// Lists by user.
    pub lists: Shelf<Uid, ()>,
}

/// Entries of a kind, by `K`. They are worth keeping when they were missed in the same state `S` before; with `()`, when they were
/// missed before.
#[derive(Debug)]
pub struct Shelf<K: Hash + Eq, S> {
    shared: Arc<Shared<K, S>>,
}

#[derive(Debug)]
struct Shared<K: Hash + Eq, S> {
    redis: Redis,
    kind: &'static str,
    ttl: Duration,
    /// In which state entries were missed last.
    missed: Mutex<LruCache<K, S>>,
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
    /// What was asked for came from it.
    pub hits: u64,
    /// Nothing was there.
    pub misses: u64,
    /// What was there was of another state, or not all of what was asked for.
    pub ignored: u64,
    /// Redis was away, slow, or not asked since it had been.
    pub unanswered: u64,
    /// Entries that were written.
    pub kept: u64,
}

impl Recent {
    /// Keeps entries for so long.
    #[must_use]
    pub fn new(redis: &Redis, ttl: Duration) -> Self {
        Recent {
            messages: Shelf::new(redis, MESSAGES, ttl),
            lists: Shelf::new(redis, LISTS, ttl),
        }
    }
}

impl<K: Hash + Eq, S> Clone for Shelf<K, S> {
    fn clone(&self) -> Self {
        Shelf {
            shared: self.shared.clone(),
        }
    }
}

impl<K, S> Shelf<K, S>
where
    K: Display + Hash + Eq + Clone + Send + 'static,
    S: PartialEq + Send + 'static,
{
    fn new(redis: &Redis, kind: &'static str, ttl: Duration) -> Self {
        Shelf {
            shared: Arc::new(Shared {
                redis: redis.clone(),
                kind,
                ttl,
                missed: Mutex::new(LruCache::new(MISSED_MAX)),
                rests_until: Mutex::default(),
                writes: Arc::new(Semaphore::new(WRITES_MAX)),
                counts: Counts::default(),
            }),
        }
    }

    /// What is kept under `key`. Whoever gets something says by [`Shelf::used`] what came of it.
    pub async fn find<M: prost::Message + Default>(&self, key: &K) -> Option<M> {
        let counts = &self.shared.counts;
        let count = match self.get(key).await {
            Ok(Some(bytes)) => {
                // Slices of it become the entries.
                match M::decode(bytes::Bytes::from(bytes)) {
                    Ok(found) => return Some(found),
                    Err(_) => &counts.ignored,
                }
            }
            Ok(None) => &counts.misses,
            Err(error) => {
                debug!(kind = self.shared.kind, error = %chain(&error), "Redis is not asked");
                &counts.unanswered
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Whether what was found was of use.
    pub fn used(&self, is_used: bool) {
        let counts = &self.shared.counts;
        let count = if is_used {
            &counts.hits
        } else {
            &counts.ignored
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    async fn get(&self, key: &K) -> Result<Option<Vec<u8>>, Error> {
        if self.rests() {
            return Err(Error::Away);
        }
        let key = self.key(key);
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

    fn key(&self, key: &K) -> String {
        self.shared.redis.key(self.shared.kind, &key.to_string())
    }

    /// Whether it is worth the while to keep what was missed: it was missed in the same state before.
    #[must_use]
    pub fn is_wanted(&self, key: &K, state: S) -> bool {
        if !self.shared.redis.is_there() || self.rests() {
            return false;
        }
        let mut missed = self.shared.missed.lock();
        let is_again = missed.peek(key) == Some(&state);
        missed.put(key.clone(), state);
        is_again
    }

    /// Keeps an entry; the caller does not wait for it.
    pub fn keep(&self, key: &K, entry: &impl prost::Message) {
        let Ok(permit) = self.shared.writes.clone().try_acquire_owned() else {
            return;
        };
        let mut set = redis::cmd("SET");
        let millis = u64::try_from(self.shared.ttl.as_millis()).unwrap_or(u64::MAX);
        set.arg(self.key(key))
            .arg(entry.encode_to_vec())
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
                Err(error) => {
                    debug!(kind = shared.kind, error = %chain(&error), "Redis keeps nothing");
                }
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
