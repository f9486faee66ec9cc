//! Waiting for a condition, with one limit for all of them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

/// How long anything may take that should happen at once. Far above what it needs, so that a busy machine
/// fails no test; a test that passes never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at a condition.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Looks at `condition` until it holds.
pub async fn eventually(
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let holds = condition()
            .await
            .with_context(|| format!("waiting until {what}"))?;
        if holds {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("not within {PATIENCE:?}: {what}");
        }
        sleep(LOOK_AGAIN_AFTER).await;
    }
}
