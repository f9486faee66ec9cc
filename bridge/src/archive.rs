//! Messages in files: runs of cold messages, each an object in a folder or an S3-compatible store.
//!
//! Reading order: [`bucket`] (where objects are), [`mod@file`] (what one looks like), `cache` (those that were read lately),
//! `transport` (HTTP for S3). Which messages are in which object is the database's to know
//! ([`store::archives`](crate::store::archives)); who moves them there is `service::archiver`.
//!
//! Invariants: an object never changes, so that what was read of it stays true; every call ends within
//! `archive.timeout`; nobody calls within a transaction of the database, nor in the pipeline's task.

pub mod bucket;
pub mod file;

mod cache;
mod transport;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use schema::archive::Run;
use tokio::sync::Semaphore;

use bucket::Bucket;
use cache::Cache;

/// Objects that are read at the same time; others wait.
const READERS: usize = 8;
/// Objects that are fetched before somebody waits for them; more are not.
const AHEAD: usize = 64;

/// How long nobody reads after an error.
const REST: Duration = Duration::from_secs(1);

/// Why an object can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refuses, or can't be reached.
    #[error("the object store can't be used")]
    Store(#[source] object_store::Error),
    /// It did not answer in time.
    #[error("the object store has not answered within {0:?}")]
    Timeout(Duration),
    /// There is no such object.
    #[error("there is no object {0}")]
    Missing(String),
    /// The object is not what was written.
    #[error("the object {object} is damaged")]
    Damaged {
        /// Its name.
        object: String,
        /// What is wrong with it.
        #[source]
        source: file::Damaged,
    },
    /// The object would be larger than can be read.
    #[error("the object {object} can't be written")]
    TooLarge {
        /// Its name.
        object: String,
        /// How large it would be.
        #[source]
        source: file::TooLarge,
    },
    /// It could not be used a moment ago, and is not asked again yet.
    #[error("the object store is left alone after an error")]
    Resting,
    /// This process has not been given an archive.
    #[error("there is no archive here")]
    None,
}

/// An object with messages that was read.
#[derive(Debug)]
pub struct Opened {
    /// Its messages.
    pub run: Run,
    /// What it takes in memory, about.
    bytes: usize,
}

/// Reads and writes objects. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Archive {
    bucket: Arc<Bucket>,
    cache: Arc<Mutex<Cache>>,
    readers: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    /// After an error, until when nobody reads.
    rests_until: Arc<Mutex<Option<Instant>>>,
}

impl Archive {
    /// Of objects in `bucket`; up to `cache` bytes of them stay in memory.
    #[must_use]
    pub fn new(bucket: Bucket, cache: usize) -> Self {
        Archive {
            bucket: Arc::new(bucket),
            cache: Arc::new(Mutex::new(Cache::new(cache))),
            readers: Arc::new(Semaphore::new(READERS)),
            ahead: Arc::new(Semaphore::new(AHEAD)),
            rests_until: Arc::default(),
        }
    }

    /// The messages of an object.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read(&self, object: &str) -> Result<Arc<Opened>, Error> {
        if let Some(opened) = self.in_memory(object) {
            return Ok(opened);
        }
        // The semaphore is never closed; a permit less would do no harm.
        let _permit = self.readers.acquire().await.ok();
        // Somebody else may have read it while this one waited.
        if let Some(opened) = self.in_memory(object) {
            return Ok(opened);
        }
        let bytes = self.get(object).await?;
        let (run, size) = file::decode(&bytes).map_err(|source| Error::Damaged {
            object: object.to_owned(),
            source,
        })?;
        let opened = Arc::new(Opened { run, bytes: size });
        self.cache.lock().add(object, opened.clone());
        Ok(opened)
    }

    /// While the store can't be used, one reader at a time finds that out, and the others need not wait for it.
    async fn get(&self, object: &str) -> Result<Bytes, Error> {
        let now = Instant::now();
        {
            let mut rests_until = self.rests_until.lock();
            if let Some(until) = &mut *rests_until {
                if now < *until {
                    return Err(Error::Resting);
                }
                *until = now + self.bucket.timeout() + REST;
            }
        }
        let read = self.bucket.get(object).await;
        *self.rests_until.lock() = match &read {
            Err(Error::Store(_) | Error::Timeout(_)) => Some(Instant::now() + REST),
            _ => None,
        };
        read
    }

    /// The messages of an object that was read lately.
    #[must_use]
    pub fn in_memory(&self, object: &str) -> Option<Arc<Opened>> {
        self.cache.lock().get(object)
    }

    /// Reads objects beside the caller, so that they are in memory soon; where too many are being read so, it does not.
    pub fn fetch_ahead(&self, objects: Vec<String>) {
        for object in objects {
            let Ok(permit) = self.ahead.clone().try_acquire_owned() else {
                return;
            };
            let archive = self.clone();
            tokio::spawn(async move {
                // Whoever asks again learns what is wrong.
                archive.read(&object).await.ok();
                drop(permit);
            });
        }
    }

    /// Writes an object, if it can be read again; returns its size.
    ///
    /// # Errors
    /// [`Error`]; it may have been written all the same.
    pub async fn write(&self, object: &str, run: &Run) -> Result<usize, Error> {
        let damaged = |source| Error::Damaged {
            object: object.to_owned(),
            source,
        };
        let bytes = file::encode(run).map_err(|source| Error::TooLarge {
            object: object.to_owned(),
            source,
        })?;
        // It will be all that is left of its messages.
        if file::decode(&bytes).map_err(damaged)?.0 != *run {
            return Err(damaged(file::Damaged::Different));
        }
        let bytes = Bytes::from(bytes);
        let size = bytes.len();
        self.bucket.put(object, bytes).await?;
        Ok(size)
    }

    /// Deletes an object, if there is one.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete(&self, object: &str) -> Result<(), Error> {
        self.cache.lock().remove(object);
        match self.bucket.delete(object).await {
            Err(Error::Missing(_)) => Ok(()),
            deleted => deleted,
        }
    }
}

#[cfg(test)]
mod tests {
    use schema::archive::Stored;

    use super::*;

    fn run(messages: u32) -> Run {
        let stored = |seq| Stored {
            msg_id: u64::from(seq) << 22,
            seq,
            sender: "alice".to_owned(),
            content: Bytes::from(format!("text {seq}")),
            ..Default::default()
        };
        Run {
            conversation: 7,
            messages: (1..=messages).map(stored).collect(),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_read_until_it_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::folder(folder.path(), Duration::from_secs(5)).unwrap();
        let archive = Archive::new(bucket, 1 << 20);
        let size = archive.write("7/1-100-x", &run(100)).await.unwrap();
        assert!(size > 100);
        assert!(archive.in_memory("7/1-100-x").is_none());
        assert_eq!(archive.read("7/1-100-x").await.unwrap().run, run(100));
        assert!(archive.in_memory("7/1-100-x").is_some());
        archive.delete("7/1-100-x").await.unwrap();
        archive.delete("7/1-100-x").await.unwrap();
        assert!(archive.in_memory("7/1-100-x").is_none());
        let missing = archive.read("7/1-100-x").await;
        assert!(matches!(missing, Err(Error::Missing(_))), "{missing:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_damaged_object_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::folder(folder.path(), Duration::from_secs(5)).unwrap();
        let archive = Archive::new(bucket, 1 << 20);
        archive.write("x", &run(10)).await.unwrap();
        let path = folder.path().join("x");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let damaged = archive.read("x").await;
        assert!(matches!(damaged, Err(Error::Damaged { .. })), "{damaged:?}");
    }
}
