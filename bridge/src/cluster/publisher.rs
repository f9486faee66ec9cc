//! Says what was told, and that the node lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::debug;

use super::{CHANNEL, Counts, HEARTBEAT, Shared, frame};
use crate::redis::{Error, Redis};
use crate::store::chain;

/// A pause after what could not be published, so that an error is not met again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// As long as it is polled.
pub(super) async fn run(shared: Arc<Shared>, redis: Redis) {
    let channel = redis.name(CHANNEL);
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut numbers = Numbers::default();
    loop {
        let is_due = tokio::select! {
            () = shared.outgoing.filled() => false,
            _ = heartbeat.tick() => true,
        };
        redis.until_there().await;
        let frames = numbers.frames(&shared, is_due);
        if frames.is_empty() {
            continue;
        }
        heartbeat.reset();
        let sample = (numbers.last, Instant::now());
        shared.sample.lock().get_or_insert(sample);
        let outcome = publish(&redis, &channel, &frames).await;
        shared.outgoing.is_done();
        match outcome {
            Ok(()) => Counts::add(&shared.counts.frames_sent, frames.len() as u64),
            Err(error) => {
                shared.sample.lock().take();
                // The others see it by the next number.
                debug!(error = %chain(&error), frames = frames.len(), "frames may not have left");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn publish(redis: &Redis, channel: &str, frames: &[Vec<u8>]) -> Result<(), Error> {
    let mut pipeline = redis::pipe();
    for frame in frames {
        pipeline.publish(channel, frame).ignore();
    }
    redis
        .run(async |mut connection| pipeline.exec_async(&mut connection).await)
        .await
}

/// Counts frames.
#[derive(Debug, Default)]
struct Numbers {
    last: u64,
}

impl Numbers {
    /// What is there to be said; nothing: a heartbeat, if one is due.
    fn frames(&mut self, shared: &Shared, is_due: bool) -> Vec<Vec<u8>> {
        let taken = shared.outgoing.take();
        Counts::add(&shared.counts.untold, taken.too_old);
        let mut frames = Vec::with_capacity(taken.frames.len());
        for notices in taken.frames {
            // A number that no frame has tells that something was left out.
            self.last += 1 + u64::from(notices.is_after_loss);
            let mut bytes = frame::head(shared.me(), self.last);
            bytes.extend_from_slice(&notices.bytes);
            frames.push(bytes);
        }
        if taken.is_lossy {
            self.last += 1;
        }
        if frames.is_empty() && (is_due || taken.is_lossy) {
            frames.push(frame::head(shared.me(), self.last));
        }
        frames
    }
}
