//! From the sessions to a bridge: one queue for all, packed into frames.

mod ledger;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use schema::link::{FromEdge, UpFrame, from_edge};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use self::ledger::Ledger;
use crate::link::{Flow, FrameSender, LinkClosed};

/// Bytes that may wait here before sessions are no longer read from and nobody comes in. What sessions still say comes on
/// top: acknowledgements within their windows, a will, and that they leave.
const QUEUE_MAX: usize = 4 * 1024 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Uplinks {
    /// Names the bridge; never 0, and never another's.
    pub(crate) number: u64,
    queue: Mutex<Queue>,
    /// Wakes the pump.
    flow: Arc<Flow>,
    /// Who wait until the bridge is done with everything.
    flushes: Mutex<Vec<oneshot::Sender<()>>>,
    /// Sessions wait here for room.
    room: Notify,
    /// What the bridge has not dealt with.
    ledger: Mutex<Ledger>,
    unstored: Arc<Unstored>,
    /// The bridge is to have no new sessions.
    leaving: CancellationToken,
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct Queue {
    items: Vec<FromEdge>,
    bytes: usize,
    /// The bridge is gone: nothing is taken any more.
    is_closed: bool,
}

/// Topics with retained messages that are not stored yet. A briefing may be older than they are.
#[derive(Debug, Default)]
pub(crate) struct Unstored(Mutex<HashMap<String, usize>>);

impl Unstored {
    pub(crate) fn contains(&self, topic: &str) -> bool {
        self.0.lock().contains_key(topic)
    }

    /// Counts the message that the item is about.
    pub(crate) fn begin(&self, item: &from_edge::Item) {
        if let Some(topic) = retained_topic(item) {
            *self.0.lock().entry(topic.to_owned()).or_default() += 1;
        }
    }

    fn end(&self, item: &from_edge::Item) {
        let Some(topic) = retained_topic(item) else {
            return;
        };
        let mut topics = self.0.lock();
        if let Some(count) = topics.get_mut(topic) {
            *count -= 1;
            if *count == 0 {
                topics.remove(topic);
            }
        }
    }
}

fn retained_topic(item: &from_edge::Item) -> Option<&str> {
    match item {
        from_edge::Item::Retain(retain) => Some(&retain.message.as_ref()?.topic),
        _ => None,
    }
}

impl Uplinks {
    /// A queue to a bridge that lives as long as the edge.
    pub(crate) fn new(number: u64, flow: Arc<Flow>, unstored: Arc<Unstored>) -> Self {
        Self::with_ledger(number, flow, unstored, Ledger::of_retained())
    }

    /// A queue to a bridge that may go away: what it has not dealt with then is for another one.
    pub(crate) fn kept(number: u64, flow: Arc<Flow>, unstored: Arc<Unstored>) -> Self {
        Self::with_ledger(number, flow, unstored, Ledger::of_all())
    }

    fn with_ledger(number: u64, flow: Arc<Flow>, unstored: Arc<Unstored>, ledger: Ledger) -> Self {
        Uplinks {
            number,
            queue: Mutex::default(),
            flow,
            flushes: Mutex::default(),
            room: Notify::new(),
            ledger: Mutex::new(ledger),
            unstored,
            leaving: CancellationToken::new(),
            gone: CancellationToken::new(),
        }
    }

    /// Queues items in their order, and leaves `items` empty; `false`: the bridge is gone, and they are left.
    pub(crate) fn push(&self, items: &mut Vec<FromEdge>) -> bool {
        if items.is_empty() {
            return true;
        }
        let bytes: usize = items.iter().map(Message::encoded_len).sum();
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return false;
        }
        queue.bytes += bytes;
        queue.items.append(items);
        drop(queue);
        self.flow.wake();
        true
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

    /// Waits until the bridge is done with what is queued now, or is gone.
    pub(crate) async fn flushed(&self) {
        let (done, is_done) = oneshot::channel();
        self.flushes.lock().push(done);
        self.flow.wake();
        tokio::select! {
            // The pump ends only with the bridge.
            _ = is_done => {}
            () = self.gone.cancelled() => {}
        }
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
                let kept = self.ledger.lock().note(&items);
                sender.send(items).await?;
                if !kept.is_empty() {
                    self.ledger.lock().sent(flow.sent(), kept);
                }
            }
            self.forget_done();
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

    fn forget_done(&self) {
        let done = self.ledger.lock().forget_done(self.flow.peer_done());
        for item in &done {
            self.unstored.end(item);
        }
    }
}

/// What concerns bridges that come and go.
impl Uplinks {
    /// The bridge has answered a publish; tells whether it was a command that has waited for that.
    pub(crate) fn answered(&self, session: u64, token: u32) -> bool {
        let answered = self.ledger.lock().answered(session, token);
        matches!(answered, Some(from_edge::Item::Uplink(_)))
    }

    /// Whether nothing waits to be sent or answered.
    pub(crate) fn has_answered_all(&self) -> bool {
        self.queue.lock().items.is_empty() && self.ledger.lock().is_empty()
    }

    /// Takes nothing any more; returns what the bridge has not dealt with, in its order.
    pub(crate) fn close(&self) -> Vec<from_edge::Item> {
        self.forget_done();
        let mut queue = self.queue.lock();
        queue.is_closed = true;
        queue.bytes = 0;
        let queued = std::mem::take(&mut queue.items);
        drop(queue);
        self.gone.cancel();
        self.room.notify_waiters();
        let mut rest = self.ledger.lock().take();
        rest.extend(queued.into_iter().filter_map(|queued| queued.item));
        rest
    }

    /// Returns when the bridge is gone.
    pub(crate) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether it is to have no new sessions.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled()
    }

    /// Returns when it is.
    pub(crate) async fn leaves(&self) {
        self.leaving.cancelled().await;
    }

    /// It is to have no new sessions, and those that it has are for others.
    pub(crate) fn leave(&self) {
        self.leaving.cancel();
    }
}
