//! From the sessions to the bridge: one queue for all, packed into frames.

use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use schema::link::{FromEdge, UpFrame};
use tokio::sync::{Notify, oneshot};

use crate::link::{Flow, FrameSender, LinkClosed};

/// Bytes that may wait here before sessions are no longer read from and nobody comes in. What sessions still say comes on
/// top: acknowledgements within their windows, a will, and that they leave.
const QUEUE_MAX: usize = 4 * 1024 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Uplinks {
    queue: Mutex<Queue>,
    /// Wakes the pump.
    flow: Arc<Flow>,
    /// Who wait until the bridge is done with everything.
    flushes: Mutex<Vec<oneshot::Sender<()>>>,
    /// Sessions wait here for room.
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: Vec<FromEdge>,
    bytes: usize,
}

impl Uplinks {
    pub(crate) fn new(flow: Arc<Flow>) -> Self {
        Uplinks {
            queue: Mutex::default(),
            flow,
            flushes: Mutex::default(),
            room: Notify::new(),
        }
    }

    /// Queues a session's items, in their order, and leaves `items` empty.
    pub(crate) fn push(&self, items: &mut Vec<FromEdge>) {
        if items.is_empty() {
            return;
        }
        let bytes: usize = items.iter().map(Message::encoded_len).sum();
        let mut queue = self.queue.lock();
        queue.bytes += bytes;
        queue.items.append(items);
        drop(queue);
        self.flow.wake();
    }

    /// Bytes that wait here.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue.lock().bytes
    }

    /// Whether sessions may read from their clients.
    pub(crate) fn has_room(&self) -> bool {
        self.queued_bytes() < QUEUE_MAX
    }

    /// Returns once there may be room again; ask [`Uplinks::has_room`] then.
    pub(crate) async fn room(&self) {
        let notified = self.room.notified();
        if !self.has_room() {
            notified.await;
        }
    }

    pub(crate) fn take(&self) -> Vec<FromEdge> {
        let mut queue = self.queue.lock();
        let was_full = queue.bytes >= QUEUE_MAX;
        queue.bytes = 0;
        let items = std::mem::take(&mut queue.items);
        drop(queue);
        if was_full {
            self.room.notify_waiters();
        }
        items
    }

    /// Frames that the bridge is not done with.
    pub(crate) fn frames_ahead(&self) -> u64 {
        self.flow.ahead()
    }

    /// Waits until the bridge is done with what is queued now.
    pub(crate) async fn flushed(&self) {
        let (done, is_done) = oneshot::channel();
        self.flushes.lock().push(done);
        self.flow.wake();
        // The pump ends only with the whole edge.
        let _ = is_done.await;
    }

    /// Sends what is queued, as fast as the bridge is done with it, until the link ends.
    pub(crate) async fn pump(
        self: Arc<Self>,
        mut sender: FrameSender<UpFrame>,
    ) -> Result<Infallible, LinkClosed> {
        let flow = sender.flow().clone();
        loop {
            flow.woken().await;
            loop {
                let items = self.take();
                if items.is_empty() {
                    break;
                }
                sender.send(items).await?;
            }
            sender.report().await?;
            let flushes = std::mem::take(&mut *self.flushes.lock());
            if !flushes.is_empty() {
                let last = sender.urge().await?;
                while flow.peer_done() < last {
                    flow.woken().await;
                    sender.report().await?;
                }
                for done in flushes {
                    // Whoever waited may have had enough.
                    let _ = done.send(());
                }
            }
        }
    }
}
