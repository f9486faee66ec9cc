//! Makes messages findable after they were sent, beside the pipeline.
//!
//! Nothing of it is part of a send. It follows the messages by their ids, in small transactions of its own, and keeps
//! where it has got to with what it has written. On SQLite there is one writer: while the pipeline commits too, the
//! indexer rests for several times as long as it has worked, and makes up for it when there is less to do. Texts that
//! have changed are marked by whoever changes them ([`search::mark`]), and indexed anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use schema::MsgId;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::search::words;
use crate::cluster::duty::Duty;
use crate::store::search::{Entry, Source};
use crate::store::{self, Store, nodes, search};

/// Messages that are waited for after the first one, so that single ones don't cost a transaction each.
const GATHER: Duration = Duration::from_millis(200);
/// Messages of a transaction.
const MESSAGES_MAX: usize = 256;
/// Messages that are read at once: each may have a large content.
const READ_STEP: usize = 64;
/// Bytes of tokens that a transaction writes: about that many, and how many follows from how long it takes.
const BYTES: (usize, usize) = (4 * 1024, 256 * 1024);
/// How long a transaction may take.
const WRITE_MAX: Duration = Duration::from_millis(20);
/// While the pipeline commits too, so many times as long as a step took it is left alone: an eighth of the time is ours.
const REST: u32 = 7;
/// How often it is looked for what other nodes have stored.
const LOOK: Duration = Duration::from_secs(1);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// How far behind the indexer is.
#[derive(Clone, Debug, Default)]
pub(super) struct Behind {
    /// The first message that was seen not to be in the index; 0: none.
    first_missing: Arc<AtomicU64>,
}

impl Behind {
    /// The age of the oldest message that can't be found yet.
    pub(super) fn since(&self, now: SystemTime) -> Duration {
        match self.first_missing.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            id => now.duration_since(MsgId(id).time()).unwrap_or_default(),
        }
    }

    fn note(&self, first_missing: Option<u64>) {
        let id = first_missing.unwrap_or_default();
        self.first_missing.store(id, Ordering::Relaxed);
    }
}

/// See the module's documentation.
pub(super) struct Indexer {
    store: Store,
    /// Counts the pipeline's transactions.
    commits: watch::Receiver<u64>,
    behind: Behind,
    duty: Duty,
    /// Bytes of tokens for the next transaction.
    bytes: usize,
}

/// Drops the index where none is to be kept, so that it takes no space; it is made anew when it is wanted again.
///
/// # Errors
/// [`store::Error`] when the database can't do it.
pub(super) async fn drop_all(store: &Store) -> Result<(), store::Error> {
    match search::position(store.reader()).await? {
        Some(_) => search::drop_all(store.writer()).await,
        None => Ok(()),
    }
}

/// What a step came to.
#[derive(PartialEq, Eq)]
enum Step {
    Done,
    NothingToDo,
}

impl Indexer {
    pub(super) fn new(
        store: Store,
        commits: watch::Receiver<u64>,
        behind: Behind,
        duty: Duty,
    ) -> Self {
        Indexer {
            store,
            commits,
            behind,
            duty,
            bytes: BYTES.0,
        }
    }

    /// Follows the pipeline until it ends.
    pub(super) async fn run(mut self) {
        let mut is_failing = false;
        loop {
            self.duty.held().await;
            self.commits.borrow_and_update();
            sleep(GATHER).await;
            match self.catch_up().await {
                Ok(()) => is_failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        warn!(error = %store::chain(&error), "messages can't be indexed, and are not found by search");
                    }
                    sleep(RETRY).await;
                    continue;
                }
            }
            tokio::select! {
                changed = self.commits.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(LOOK), if self.store.is_shared() => {}
            }
        }
    }

    /// Indexes all that has settled.
    pub(super) async fn catch_up(&mut self) -> Result<(), store::Error> {
        let mut position = search::begin(self.store.writer()).await?;
        let mut commits = *self.commits.borrow();
        loop {
            let started = Instant::now();
            let (changed, waited) = self.index_changed(position).await?;
            let (new, also_waited) = self.index_new(&mut position).await?;
            if changed == Step::NothingToDo && new == Step::NothingToDo {
                return Ok(());
            }
            if !self.duty.is_held() {
                return Ok(());
            }
            let worked = started.elapsed().saturating_sub(waited + also_waited);
            let commits_now = *self.commits.borrow();
            if std::mem::replace(&mut commits, commits_now) != commits_now {
                sleep(worked * REST).await;
            }
        }
    }

    /// Indexes the next messages; also tells how long the writer was waited for.
    async fn index_new(&mut self, position: &mut u64) -> Result<(Step, Duration), store::Error> {
        let (entries, last) = self.next_entries(*position).await?;
        let Some(last) = last else {
            self.behind.note(None);
            return Ok((Step::NothingToDo, Duration::ZERO));
        };
        let range = (*position, last);
        let asked = Instant::now();
        let advance = || async {
            let tx = self.store.begin().await?;
            let begun = Instant::now();
            let is_advanced = search::advance(&tx, range, &entries).await?;
            match is_advanced {
                true => tx.commit().await?,
                false => tx.rollback().await?,
            }
            Ok::<_, store::Error>((is_advanced, begun))
        };
        let (is_advanced, begun) = store::repeat(advance).await?;
        if is_advanced {
            *position = last;
            self.adapt(begun.elapsed());
        } else {
            *position = search::begin(self.store.writer()).await?;
        }
        Ok((Step::Done, begun - asked))
    }

    /// What to write for the next messages, and the last of them; `None`: there are none.
    async fn next_entries(&self, position: u64) -> Result<(Vec<Entry>, Option<u64>), store::Error> {
        let db = self.store.reader();
        let below = match self.store.is_shared() {
            // One process writes, and its ids grow from commit to commit.
            false => i64::MAX.cast_unsigned(),
            // Read before the messages: what is below it is there by now.
            true => nodes::floor(db).await?.unwrap_or_default(),
        };
        let (mut entries, mut last, mut seen, mut bytes) = (Vec::new(), None, 0, 0);
        while seen < MESSAGES_MAX && bytes < self.bytes {
            let after = last.unwrap_or(position);
            let sources = search::sources_after(db, after, below, READ_STEP).await?;
            if let (None, Some(first)) = (last, sources.first()) {
                self.behind.note(Some(first.msg_id));
            }
            for source in &sources {
                last = Some(source.msg_id);
                let entry = entry(source);
                bytes += entry.as_ref().map_or(0, |entry| entry.tokens.len());
                entries.extend(entry);
                if bytes >= self.bytes {
                    break;
                }
            }
            seen += sources.len();
            if sources.len() < READ_STEP {
                break;
            }
        }
        Ok((entries, last))
    }

    /// Indexes messages anew that have changed; also tells how long the writer was waited for.
    async fn index_changed(&self, position: u64) -> Result<(Step, Duration), store::Error> {
        let marked = search::marked(self.store.reader(), position, READ_STEP).await?;
        if marked.is_empty() {
            return Ok((Step::NothingToDo, Duration::ZERO));
        }
        let asked = Instant::now();
        let index = || async {
            let tx = self.store.begin().await?;
            let waited = asked.elapsed();
            let sources = search::unmark(&tx, &marked).await?;
            let entries: Vec<Entry> = sources.iter().filter_map(entry).collect();
            search::add(&tx, &entries).await?;
            tx.commit().await?;
            Ok::<_, store::Error>(waited)
        };
        Ok((Step::Done, store::repeat(index).await?))
    }

    /// Makes transactions as large as the time allows.
    fn adapt(&mut self, took: Duration) {
        let bytes = match took {
            took if took > WRITE_MAX => self.bytes / 2,
            took if took < WRITE_MAX / 2 => self.bytes * 2,
            _ => self.bytes,
        };
        self.bytes = bytes.clamp(BYTES.0, BYTES.1);
    }
}

/// `None`: there is nothing to be found by, or not any more.
fn entry(source: &Source) -> Option<Entry> {
    let text = words::text_of(&source.message);
    (!text.trim().is_empty()).then(|| Entry {
        msg_id: source.msg_id,
        tokens: words::index_row(&text, source.conversation_id),
    })
}

#[cfg(test)]
mod tests;
