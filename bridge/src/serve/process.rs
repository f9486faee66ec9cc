//! The life of a process: start, signals, end.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::settings::ShutdownOptions;

/// What runs in a process.
pub(crate) trait Parts {
    /// Tells whoever has started the process that it is ready.
    fn announce(&self);
    /// Returns when a part can't go on.
    fn failed(&mut self) -> impl Future<Output = anyhow::Error> + Send;
    /// Reads again what operators may have replaced, and logs what can't be used.
    fn reload(&self);
    /// Has clients go to other servers, over so long.
    fn move_off(&self, over: Duration) -> impl Future<Output = ()> + Send;
    /// Ends all parts in good order.
    fn stop(self, limit: Duration) -> impl Future<Output = ()> + Send;
}

/// Starts the parts, says so, and runs them until SIGTERM or SIGINT, or until one of them fails. SIGHUP has them read again what
/// may have changed.
pub(super) async fn run<P: Parts>(
    start: impl Future<Output = anyhow::Result<P>>,
    options: &ShutdownOptions,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be handled")?;
    let mut hang_up = signal(SignalKind::hangup()).context("SIGHUP can't be handled")?;
    let mut parts = tokio::select! {
        started = start => started?,
        _ = terminate.recv() => return Ok(()),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    parts.announce();
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = tokio::signal::ctrl_c() => break Ok(()),
            _ = hang_up.recv() => parts.reload(),
            error = parts.failed() => break Err(error),
        }
    };
    if let (Ok(()), Some(over)) = (&outcome, options.drain) {
        tokio::select! {
            () = parts.move_off(over) => {}
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    info!("stopping");
    let limit = options.timeout;
    match tokio::time::timeout(limit, parts.stop(limit)).await {
        Ok(()) => {}
        Err(_) => warn!("stopped without waiting longer; nothing acknowledged is lost"),
    }
    outcome
}
