//! SQLite's write-ahead log, copied into the database while others write.
//!
//! Left to itself, SQLite does it within a commit, every 1,000 pages: everybody waits for two syncs, and a page that
//! every batch changes is copied each time. Here a connection of its own does it beside the writer. That alone would
//! never reach the end of a log that grows meanwhile, and the file would grow without bound: once it is long, the writer
//! copies the few pages that are left, between two transactions, and SQLite begins the log anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sea_orm::{DatabaseConnection, DbErr};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tracing::warn;

use super::sql;

/// How long the log may grow before it is copied again.
const INTERVAL: Duration = Duration::from_millis(250);
/// Pages, of 4 KiB, of a log that is to begin anew.
const LONG: i32 = 16 * 1024;
/// Pages that the writer may be left with.
const REST: i32 = 256;
/// How often to try to leave so few.
const PASSES_MAX: usize = 8;

/// See the module's documentation. Ends when dropped.
#[derive(Debug)]
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    written: Notify,
    is_long: AtomicBool,
}

/// Where the log stands: its pages, and how many of them are copied.
struct Log {
    pages: i32,
    copied: i32,
}

impl Checkpoints {
    /// Copies through this connection, which must not copy by itself.
    pub(super) fn start(connection: DatabaseConnection) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(connection, shared.clone())).abort_handle();
        Checkpoints { shared, task }
    }

    /// Something is written.
    pub(super) fn written(&self) {
        self.shared.written.notify_one();
    }

    /// To be called before each transaction that writes, with the connection that will.
    pub(super) async fn before_write(&self, writer: &DatabaseConnection) {
        self.written();
        if self.shared.is_long.swap(false, Ordering::Relaxed) {
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

async fn run(connection: DatabaseConnection, shared: Arc<Shared>) {
    let mut is_failing = false;
    loop {
        shared.written.notified().await;
        tokio::time::sleep(INTERVAL).await;
        let passed = pass(&connection, &shared).await;
        if let Err(error) = &passed
            && !is_failing
        {
            warn!(error = %super::chain(error), "SQLite's log can't be copied, and grows");
        }
        is_failing = passed.is_err();
    }
}

async fn pass(connection: &DatabaseConnection, shared: &Shared) -> Result<(), DbErr> {
    for _ in 0..PASSES_MAX {
        let log = copy(connection).await?;
        if log.pages < LONG {
            break;
        }
        if log.pages - log.copied <= REST {
            shared.is_long.store(true, Ordering::Relaxed);
            break;
        }
    }
    Ok(())
}

/// Copies what nobody needs where it was, without making anybody wait.
async fn copy(connection: &DatabaseConnection) -> Result<Log, DbErr> {
    let row = sql::query_one(connection, "PRAGMA wal_checkpoint(PASSIVE)", []).await?;
    let column = |name| row.as_ref().map_or(Ok(0), |row| row.try_get("", name));
    Ok(Log {
        pages: column("log")?,
        copied: column("checkpointed")?,
    })
}
