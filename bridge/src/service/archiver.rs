//! Moves cold messages to files, deletes what is too old, and keeps files and database in step, beside the pipeline.
//!
//! It walks through all conversations, and does one small thing at a time, each in a transaction of its own; after each it
//! rests for several times as long as it has worked. Nothing waits for an object store while a transaction is open. A
//! crash at any point loses nothing: an object is announced before it is written, named by the transaction that takes
//! the rows away, and deleted later where that did not happen.

use std::time::{Duration, Instant, SystemTime};

use schema::{MsgId, archive};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) use counts::Counts;
pub use counts::Figures;

use crate::archive::Archive;
use crate::clock;
use crate::cluster::duty::Duty;
use crate::store::archives::{self, Candidate, File};
use crate::store::operations::Gone;
use crate::store::{self, Store};

mod counts;

/// Conversations that are looked up at once.
const PAGE: u32 = 500;
/// How often files are looked for that have to be written anew, and objects that nobody needs any more.
const TIDY_INTERVAL: Duration = Duration::from_secs(5);
/// How many of them at once.
const TIDY_STEP: u32 = 16;
/// After each step, so many times as long as it took.
const REST: u32 = 3;
/// How long an object may be announced before it is named: longer than writing it can take.
const ANNOUNCED_FOR: Duration = Duration::from_secs(3600);
/// How long an object stays that was replaced: who has just looked up its name may still read it.
const REPLACED_FOR: Duration = Duration::from_secs(2);
/// After so many conversations of which nothing could be moved, and none in between of which something was, the rest is left
/// for later: it is hardly about them.
const FAILURES_MAX: usize = 5;
/// How long after that, at most.
const RETRY: Duration = Duration::from_secs(60);
/// How often a run is read again that something has happened to meanwhile.
const TRIES: usize = 3;
/// What is deleted for good is deleted by whole days, so that conversations don't change all the time.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// When messages leave the database.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    /// They go to files. `None`: never.
    pub archive_after: Option<Duration>,
    /// They are deleted for good. `None`: never.
    pub keep: Option<Duration>,
    /// How often it is looked for them.
    pub interval: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Archiver {
    store: Store,
    ages: Ages,
    counts: Counts,
}

impl Archiver {
    pub(super) fn new(store: Store, ages: Ages) -> Self {
        let counts = Counts::default();
        Archiver {
            store,
            ages,
            counts,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Works until `stop`, while it is this node's duty. It may end anywhere, as by a crash.
    pub(super) async fn run(self, duty: Duty, stop: CancellationToken) {
        let work = duty.while_held(|| self.work());
        stop.run_until_cancelled(work).await;
    }

    async fn work(&self) {
        let interval = self.ages.interval;
        let mut walk_at = Instant::now();
        let mut after = i64::MIN;
        loop {
            if let Err(error) = self.tidy().await {
                self.counts.failed();
                warn!(error = %store::chain(&error), "files of messages can't be kept in order now");
            }
            if Instant::now() >= walk_at {
                walk_at = Instant::now() + interval;
                if let Err(error) = self.walk(&mut after).await {
                    walk_at = Instant::now() + interval.min(RETRY);
                    self.counts.failed();
                    warn!(error = %store::chain(&error), "old messages can't be moved or deleted now");
                }
            }
            sleep(TIDY_INTERVAL.min(interval)).await;
        }
    }

    /// Looks at all conversations once, or after an error at those that are left; their keys are greater than `after`.
    /// Those of which nothing is old cost a look at their oldest row.
    async fn walk(&self, after: &mut i64) -> Result<(), store::Error> {
        if self.ages.archive_after.is_none() && self.ages.keep.is_none() {
            return Ok(());
        }
        let rows_min = match self.ages.keep {
            Some(_) => 1,
            None => archives::ROWS_MIN,
        };
        let (mut moved, mut dropped, mut failures) = (0, 0, 0);
        loop {
            let started = Instant::now();
            let page = archives::candidates(self.store.reader(), *after, PAGE, rows_min).await?;
            if page.is_empty() {
                break;
            }
            sleep(started.elapsed() * REST).await;
            for candidate in page {
                let id = candidate.conversation_id;
                match self.take_old(candidate).await {
                    Ok((0, 0)) => {}
                    Ok(more) => {
                        (moved, dropped) = (moved + more.0, dropped + more.1);
                        failures = 0;
                    }
                    // What is wrong with one conversation does not keep the others from being looked at.
                    Err(error) if is_about_one(&error) && failures < FAILURES_MAX => {
                        failures += 1;
                        self.counts.failed();
                        warn!(conversation.id = id, error = %store::chain(&error), "old messages can't be moved or deleted now");
                    }
                    Err(error) => return Err(error),
                }
                *after = id;
            }
        }
        *after = i64::MIN;
        self.counts.walked(SystemTime::now());
        if moved > 0 || dropped > 0 {
            info!(moved, dropped, "old messages have left the database");
        }
        Ok(())
    }

    /// Moves and deletes what is old in a conversation; returns how many messages each.
    async fn take_old(&self, candidate: Candidate) -> Result<(usize, u64), store::Error> {
        let dropped = self.drop_aged(&candidate).await?;
        Ok((self.move_all(candidate).await?, dropped))
    }

    /// Deletes for good what is too old; returns how many messages they were.
    async fn drop_aged(&self, candidate: &Candidate) -> Result<u64, store::Error> {
        let Some(keep) = self.ages.keep else {
            return Ok(0);
        };
        let below = first_id_of_day(SystemTime::now() - keep);
        let mut dropped = 0;
        if candidate.archived_seq == 0 && !candidate.has_row_below(below) {
            return Ok(dropped);
        }
        loop {
            let started = Instant::now();
            let id = candidate.conversation_id;
            let Some(aged) = archives::aged(self.store.reader(), id, below).await? else {
                return Ok(dropped);
            };
            let now = clock::millis(SystemTime::now());
            let drop = || async {
                let tx = self.store.begin().await?;
                let dropped = archives::drop_until(&tx, &aged, now).await?;
                tx.commit().await?;
                Ok::<_, store::Error>(dropped)
            };
            let step = store::repeat(drop).await?;
            self.counts.dropped(step);
            dropped += step;
            sleep(started.elapsed() * REST).await;
        }
    }

    /// Moves the cold messages of a conversation to files; returns how many they were.
    async fn move_all(&self, mut candidate: Candidate) -> Result<usize, store::Error> {
        let Some(after) = self.ages.archive_after else {
            return Ok(0);
        };
        let (mut moved, mut tries) = (0, 0);
        let below = MsgId::at(SystemTime::now() - after).0;
        while candidate.is_long() && candidate.has_row_below(below) && tries < TRIES {
            let started = Instant::now();
            match self.move_run(&candidate, below).await? {
                Moved::Nothing => break,
                Moved::Some(messages) => moved += messages,
                Moved::Changed => tries += 1,
            }
            let id = candidate.conversation_id;
            let again =
                archives::candidates(self.store.reader(), id - 1, 1, archives::ROWS_MIN).await?;
            match again.into_iter().next() {
                Some(again) if again.conversation_id == id => candidate = again,
                _ => break,
            }
            sleep(started.elapsed() * REST).await;
        }
        Ok(moved)
    }

    async fn move_run(&self, candidate: &Candidate, below: u64) -> Result<Moved, store::Error> {
        let db = self.store.reader();
        let id = candidate.conversation_id;
        let Some(newest_kept) = archives::newest_kept(db, id).await? else {
            return Ok(Moved::Nothing);
        };
        let Some(run) = archives::read_run(db, candidate, newest_kept, below).await? else {
            return Ok(Moved::Nothing);
        };
        let object = run.object(nonce());
        let bytes = self.write(&object, &run.stored).await?;
        let take = || async {
            let tx = self.store.begin().await?;
            if !archives::take(&tx, &run, &object, bytes).await? {
                tx.rollback().await?;
                return Ok(false);
            }
            tx.commit().await?;
            Ok::<_, store::Error>(true)
        };
        if !store::repeat(take).await? {
            return Ok(Moved::Changed);
        }
        self.counts.moved(run.len());
        Ok(Moved::Some(run.len()))
    }

    /// Announces and writes an object; returns its size.
    async fn write(&self, object: &str, run: &archive::Run) -> Result<usize, store::Error> {
        let due_at = clock::millis(SystemTime::now() + ANNOUNCED_FOR);
        archives::announce(self.store.writer(), object, due_at).await?;
        let bytes = self.archive()?.write(object, run).await?;
        self.counts.wrote(bytes);
        Ok(bytes)
    }

    fn archive(&self) -> Result<&Archive, store::Error> {
        self.store.archive()
    }

    /// Writes files anew whose content has to go, and deletes objects that nobody needs.
    async fn tidy(&self) -> Result<(), store::Error> {
        loop {
            let now = clock::millis(SystemTime::now());
            let due = archives::due(self.store.reader(), now, TIDY_STEP).await?;
            let mut is_end = due.is_empty();
            for file in due {
                let started = Instant::now();
                match self.rewrite(&file).await {
                    // One object that is damaged does not keep the others from being written.
                    Err(store::Error::Archive(error)) => {
                        self.counts.failed();
                        warn!(object = file.object, error = %store::chain(&error), "a file can't be written anew now");
                        is_end = true;
                    }
                    rewritten => rewritten?,
                }
                sleep(started.elapsed() * REST).await;
            }
            if is_end {
                break;
            }
        }
        loop {
            let now = clock::millis(SystemTime::now());
            let strays = archives::idle_strays(self.store.reader(), now, TIDY_STEP).await?;
            if strays.is_empty() {
                return Ok(());
            }
            for object in strays {
                if archives::claim(self.store.writer(), &object).await? {
                    self.archive()?.delete(&object).await?;
                    archives::forget(self.store.writer(), &object).await?;
                    self.counts.removed();
                }
            }
        }
    }

    async fn rewrite(&self, file: &File) -> Result<(), store::Error> {
        let opened = self.archive()?.read(&file.object).await?;
        let object = archives::rewritten(file, nonce());
        let bytes = self
            .write(&object, &without_what_is_gone(file, &opened.run))
            .await?;
        let due_at = clock::millis(SystemTime::now() + REPLACED_FOR);
        let replace = || async {
            let tx = self.store.begin().await?;
            if archives::replace(&tx, file, (&object, bytes), due_at).await? {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok::<_, store::Error>(())
        };
        store::repeat(replace).await
    }
}

/// What has become of a run.
enum Moved {
    /// There is none.
    Nothing,
    /// So many messages have moved.
    Some(usize),
    /// Something has happened to one of them meanwhile.
    Changed,
}

/// Whether other conversations may fare better.
fn is_about_one(error: &store::Error) -> bool {
    matches!(error, store::Error::Archive(_) | store::Error::Internal(_))
}

/// The smallest id of the day of a time, in UTC.
fn first_id_of_day(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let days = since.as_secs() / DAY.as_secs();
    MsgId::at(SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY.as_secs())).0
}

/// An object's name is never used twice, even by nodes that do the same at the same time.
fn nonce() -> u64 {
    getrandom::u64().expect("the system has randomness")
}

/// What the file's object is to hold: what its directory says.
fn without_what_is_gone(file: &File, run: &archive::Run) -> archive::Run {
    let directory = &file.directory;
    let stored = run.messages.iter().filter_map(|stored| {
        let entry = directory.at(stored.seq)?;
        let mut stored = stored.clone();
        if let Some(gone) = entry.gone {
            stored.content.clear();
            stored.edited_at = 0;
            stored.reactions.clear();
            stored.revisions.clear();
            if gone == Gone::Deleted {
                stored.sender_device.clear();
                stored.client_msg_id.clear();
                stored.client_seq = 0;
            }
        }
        stored
            .reactions
            .retain(|reaction| !directory.is_erased(&reaction.uid));
        Some(stored)
    });
    archive::Run {
        conversation: run.conversation,
        messages: stored.collect(),
    }
}

#[cfg(test)]
mod tests;
