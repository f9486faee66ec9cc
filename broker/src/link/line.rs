//! What frames travel on: lines, one after the other.
//!
//! A line is a way to a router that lives, or a connection to another process. It may break. Whoever makes lines puts the
//! next one in place; the halves of an end take it up, and send again over it what the other side has not dealt with.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rumqttd::Notification;
use rumqttd::local::{LinkRx, LinkTx};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Flow, LinkClosed};

/// Where a line takes frames.
pub(super) enum Tx {
    /// A router's topic.
    Router(Box<LinkTx>, &'static str),
    /// Whoever writes them to a connection.
    Connection(mpsc::Sender<Bytes>),
}

impl Tx {
    /// Hands a frame over without waiting; tells whether that was possible.
    fn try_send(&mut self, frame: Bytes) -> bool {
        match self {
            // A thousand events fit in the router's queue, of which the windows fill a few dozen: one that is full is no
            // longer read.
            Tx::Router(link, topic) => link.try_publish(*topic, frame).is_ok(),
            // The same holds here.
            Tx::Connection(frames) => frames.try_send(frame).is_ok(),
        }
    }
}

/// Where a line brings frames from.
pub(super) enum Rx {
    /// What a router forwards.
    Router(Box<LinkRx>),
    /// What is read from a connection.
    Connection(mpsc::Receiver<Bytes>),
}

impl Rx {
    /// The next frame; `None`: there will be none. May be dropped at any time without losing one.
    async fn next(&mut self) -> Option<Bytes> {
        let link = match self {
            Rx::Connection(frames) => return frames.recv().await,
            Rx::Router(link) => link,
        };
        loop {
            match link.next().await {
                Ok(Some(Notification::Forward(forward))) => return Some(forward.publish.payload),
                // The router stops sending to a full link until it hears that there is room again.
                Ok(Some(Notification::Unschedule)) if link.ready().is_err() => return None,
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

/// A half of an end has one of each kind.
struct Line<T> {
    half: T,
    /// Tells whoever has made the line that it is of no use.
    broken: CancellationToken,
}

/// A half of an end: its line that there is now, if it works.
pub(super) struct Lines<T> {
    current: Option<Line<T>>,
    newest: watch::Receiver<Mutex<Option<Line<T>>>>,
}

/// Where a half's next line is put. Only the latest counts.
struct Supply<T>(watch::Sender<Mutex<Option<Line<T>>>>);

impl<T> Supply<T> {
    fn new(first: Line<T>) -> (Self, Lines<T>) {
        let (supply, newest) = watch::channel(Mutex::new(None));
        let current = Some(first);
        (Supply(supply), Lines { current, newest })
    }

    fn put(&self, line: Line<T>) {
        self.0.send_replace(Mutex::new(Some(line)));
    }
}

impl<T> Lines<T> {
    /// Takes another line, if there is one; tells whether.
    pub(super) fn renew(&mut self) -> Result<bool, LinkClosed> {
        let is_new = self.newest.has_changed()?;
        if is_new {
            self.take_newest();
        }
        Ok(is_new)
    }

    fn take_newest(&mut self) {
        self.current = self.newest.borrow_and_update().lock().take();
    }

    fn give_up(&mut self) {
        if let Some(line) = self.current.take() {
            line.broken.cancel();
        }
    }
}

impl Lines<Tx> {
    /// Sends a frame if there is a line. Whether it arrives is not for the caller to know.
    pub(super) fn send(&mut self, frame: Bytes) {
        if let Some(line) = &mut self.current
            && !line.half.try_send(frame)
        {
            self.give_up();
        }
    }

    /// Publishes to another topic of the router.
    #[cfg(test)]
    pub(super) fn publish(&mut self, topic: &'static str, payload: Bytes) {
        match self.current.as_mut().map(|line| &mut line.half) {
            Some(Tx::Router(link, _)) => drop(link.try_publish(topic, payload)),
            _ => panic!("there is no router"),
        }
    }
}

impl Lines<Rx> {
    /// The next frame. May be dropped at any time without losing one.
    pub(super) async fn next(&mut self) -> Result<Bytes, LinkClosed> {
        loop {
            let Some(line) = &mut self.current else {
                self.newest.changed().await?;
                self.take_newest();
                continue;
            };
            let next = tokio::select! {
                // First, since what the old line still has comes again over the new one. It is rare.
                biased;
                changed = self.newest.changed() => {
                    changed?;
                    self.take_newest();
                    continue;
                }
                next = line.half.next() => next,
            };
            match next {
                Some(frame) => return Ok(frame),
                None => self.give_up(),
            }
        }
    }
}

/// The flow that both halves of an end share, and their lines.
pub(super) type End = (Arc<Flow>, (Lines<Tx>, Lines<Rx>));

/// Supplies an end with lines. Dropped, it ends the link.
pub(super) struct EndSupply {
    tx: Supply<Tx>,
    rx: Supply<Rx>,
    /// Dropped last, so that whoever it wakes finds the rest gone.
    waker: Waker,
}

struct Waker(Arc<Flow>);

impl Drop for Waker {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl EndSupply {
    pub(super) fn new((tx, rx): (Tx, Rx), broken: &CancellationToken) -> (Self, End) {
        let (tx, tx_lines) = Supply::new(line(tx, broken));
        let (rx, rx_lines) = Supply::new(line(rx, broken));
        let flow = Arc::<Flow>::default();
        let waker = Waker(flow.clone());
        (EndSupply { tx, rx, waker }, (flow, (tx_lines, rx_lines)))
    }

    pub(super) fn put(&self, (tx, rx): (Tx, Rx), broken: &CancellationToken) {
        self.rx.put(line(rx, broken));
        self.tx.put(line(tx, broken));
        // The sender may have nothing new to send.
        self.waker.0.wake();
    }
}

fn line<T>(half: T, broken: &CancellationToken) -> Line<T> {
    let broken = broken.clone();
    Line { half, broken }
}
