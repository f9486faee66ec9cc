//! SQLite's write-ahead log, copied into the database while others write.
//!
//! Left to itself, SQLite copies it within a commit, every 1,000 pages: everybody waits for two syncs, and a page that
//! every batch changes is copied each time. Here a connection of its own does it beside the writer. That alone never
//! reaches the end of a log that grows meanwhile, so that the file would grow without bound: once it is long, and what
//! is copied is on the disk, the writer copies the few pages that have come since, between two transactions, and SQLite
//! begins the log anew. Where readers are in the way for too long, SQLite does it as if left to itself.
//!
//! Two that copy while a third commits are common here; SQLite before 3.51.3 may lose pages then (its WAL-reset bug), and
//! is left to itself.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sea_orm::DbErr;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_blocking};
use tracing::warn;

use super::{Pool, sql};

/// How long the log may grow before it is copied again.
const INTERVAL: Duration = Duration::from_millis(250);
/// Pages, of 4 KiB, of a log that is to begin anew.
const LONG: i32 = 16 * 1024;
/// Pages from which on each commit tries to copy it.
const TOO_LONG: i32 = 4 * LONG;
/// Pages that the writer may be left with.
const REST: i32 = 512;
/// How often to try to leave so few.
const PASSES_MAX: usize = 8;
/// The first version without the WAL-reset bug.
const SQLITE_MIN: [u32; 3] = [3, 51, 3];

/// See the module's documentation. Ends when dropped.
#[derive(Debug)]
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    written: Notify,
    is_due: AtomicBool,
}

/// Where the log stood when its copying began, and how far it came.
struct Log {
    pages: i32,
    copied: i32,
}

impl Checkpoints {
    /// Copies through `connection` what `writer` writes to the database at `path`; `None`: this SQLite has to be left to
    /// itself.
    pub(super) async fn start(
        writer: &Pool,
        connection: Pool,
        path: &str,
    ) -> Result<Option<Self>, DbErr> {
        let version = sqlite_version(&connection).await?;
        if !is_new_enough(&version) {
            warn!(
                version,
                "SQLite is too old to have its log copied beside the writer"
            );
            return Ok(None);
        }
        // Never closed: with any of its descriptors of a file a process gives up all its locks on it, and so SQLite's.
        let file: &'static File = match File::open(path) {
            Ok(file) => Box::leak(Box::new(file)),
            Err(error) => {
                warn!(%error, path, "the database can't be synced, so that its log is not copied beside the writer");
                return Ok(None);
            }
        };
        let pragma = format!("PRAGMA wal_autocheckpoint = {TOO_LONG}");
        sql::query(writer, &pragma, []).await?;
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(connection, file, shared.clone())).abort_handle();
        Ok(Some(Checkpoints { shared, task }))
    }

    /// Something is written.
    pub(super) fn written(&self) {
        self.shared.written.notify_one();
    }

    /// To be called before each transaction that writes, with the connection that will.
    pub(super) async fn before_write(&self, writer: &Pool) {
        self.written();
        if self.shared.is_due.swap(false, Ordering::Relaxed) {
            // Where it fails, the log stays long, and the next pass tells.
            let _ = copy(writer).await;
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(connection: Pool, file: &'static File, shared: Arc<Shared>) {
    let mut is_failing = false;
    loop {
        shared.written.notified().await;
        tokio::time::sleep(INTERVAL).await;
        let passed = pass(&connection, file, &shared).await;
        if let Err(error) = &passed
            && !is_failing
        {
            warn!(error = %super::chain(error), "SQLite's log can't be copied, and grows");
        }
        is_failing = passed.is_err();
    }
}

async fn pass(connection: &Pool, file: &'static File, shared: &Shared) -> Result<(), DbErr> {
    let mut log = copy(connection).await?;
    for _ in 0..PASSES_MAX {
        if log.pages < LONG {
            break;
        }
        // Otherwise the writer would have to wait until all of it is on the disk.
        if let Ok(Err(error)) = spawn_blocking(|| file.sync_data()).await {
            let reason = format!("syncing the database: {error}");
            return Err(DbErr::Custom(reason));
        }
        let next = copy(connection).await?;
        if next.pages - log.copied <= REST {
            shared.is_due.store(true, Ordering::Relaxed);
            break;
        }
        log = next;
    }
    Ok(())
}

/// Copies what nobody needs where it was, without making anybody wait.
async fn copy(connection: &Pool) -> Result<Log, DbErr> {
    let row = sql::query_one(connection, "PRAGMA wal_checkpoint(PASSIVE)", []).await?;
    let column = |name| row.as_ref().map_or(Ok(0), |row| row.try_get("", name));
    Ok(Log {
        pages: column("log")?,
        copied: column("checkpointed")?,
    })
}

async fn sqlite_version(connection: &Pool) -> Result<String, DbErr> {
    let row = sql::query_one(connection, "SELECT sqlite_version() AS version", []).await?;
    row.map_or(Ok(String::new()), |row| row.try_get("", "version"))
}

fn is_new_enough(version: &str) -> bool {
    let numbers = version.split('.').map_while(|number| number.parse().ok());
    numbers.collect::<Vec<u32>>().as_slice() >= SQLITE_MIN.as_slice()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::Path;
    use std::time::Instant;

    use super::super::Store;
    use super::*;

    #[test]
    fn old_versions_are_told() {
        for (version, expected) in [
            ("3.51.3", true),
            ("3.52.0", true),
            ("4.0", true),
            ("3.51.2", false),
            ("3.9.9", false),
            ("", false),
        ] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }

    /// How often the log has begun anew, as its header says (https://sqlite.org/fileformat2.html#walformat).
    fn sequence(log: &Path) -> Vec<u8> {
        let mut header = [0; 16];
        let mut file = File::open(log).unwrap();
        file.read_exact(&mut header).unwrap();
        header[12..].to_vec()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_log_begins_anew_while_others_write() {
        let (store, folder) = Store::fresh().await;
        let store = store.with_checkpoints().await.unwrap();
        let create = "CREATE TABLE t (x BLOB)";
        sql::execute(store.writer(), create, []).await.unwrap();
        let log = folder.path().join("tidings.db-wal");
        let (before, started) = (sequence(&log), Instant::now());
        while sequence(&log) == before {
            assert!(started.elapsed() < Duration::from_secs(60));
            let tx = store.begin().await.unwrap();
            let insert = "INSERT INTO t VALUES (zeroblob(100000))";
            sql::execute(&tx, insert, []).await.unwrap();
            tx.commit().await.unwrap();
        }
        let length = log.metadata().unwrap().len();
        assert!(length >= u64::from(LONG.unsigned_abs()) * 4096, "{length}");
    }
}
