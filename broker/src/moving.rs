//! Moving sessions off before the server stops: a few at a time, so that other servers are not overrun by all of them at
//! once. Who comes meanwhile is sent elsewhere as well.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::{Instant, interval_at};
use tracing::info;

use crate::closed::Closed;
use crate::codec::ReasonCode;
use crate::options::Elsewhere;
use crate::registry::Registry;

/// How often some are asked to go.
const STEP: Duration = Duration::from_millis(100);

/// Whether sessions are being moved off, and what they are told.
#[derive(Debug)]
pub(crate) struct Moving {
    has_begun: AtomicBool,
    reason: ReasonCode,
    reference: Option<ByteString>,
}

impl Moving {
    pub(crate) fn new(elsewhere: &Elsewhere) -> Self {
        Moving {
            has_begun: AtomicBool::new(false),
            reason: if elsewhere.is_for_good {
                ReasonCode::ServerMoved
            } else {
                ReasonCode::UseAnotherServer
            },
            reference: elsewhere.reference.as_deref().map(ByteString::from),
        }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// Why whoever comes now is not let in.
    pub(crate) fn refusal(&self) -> Option<ReasonCode> {
        self.has_begun().then_some(self.reason)
    }

    /// The server to use instead [MQTT 5, 4.11], for packets with that reason.
    pub(crate) fn reference(&self, reason: ReasonCode) -> Option<ByteString> {
        self.reference.clone().filter(|_| reason == self.reason)
    }

    /// Asks all sessions to go, spread evenly over that time. Returns when all have been asked, or have left before.
    pub(crate) async fn run(&self, registry: &Registry, over: Duration) {
        info!(?over, "moving sessions to other servers");
        self.has_begun.store(true, Ordering::Release);
        // In the order of a hash map, which is as good as none.
        let mut waiting = registry.ids();
        let begin = Instant::now();
        let all = waiting.len();
        let mut steps = interval_at(begin, STEP);
        while !waiting.is_empty() {
            let now = steps.tick().await;
            let passed = (now + STEP - begin).as_secs_f64() / over.as_secs_f64();
            // Of a number of sessions that memory holds.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss
            )]
            let left = (all as f64 * (1.0 - passed)).max(0.0) as usize;
            let going = waiting.split_off(left.min(waiting.len()));
            registry.drain(&going, Closed::Moved(self.reason));
        }
    }
}
