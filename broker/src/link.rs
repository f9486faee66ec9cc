//! Frames between the edge and a bridge, carried by rumqttd's router, or by a connection to another process.
//!
//! The router's cost is per publish, not per byte, and it remembers every topic that it has ever seen. So uplinks and
//! deliveries travel packed, many to a publish, on two topics that never change: the router holds two filters and two
//! topics however many users there are. `ARCHITECTURE.md` has the measurement.
//!
//! A router log that rolls over drops what a slow reader has not read. [`FrameSender`] keeps at most `WINDOW` frames
//! and `WINDOW_BYTES` ahead of what the receiver is done with, less than the log holds; frames are numbered, so that a
//! drop would be noticed all the same ([`LinkClosed::Gap`]).
//!
//! A router can die, and a connection can break. A sender keeps each frame until the receiver is done with it, and sends it
//! again over the next `line`; a receiver passes over what it has had. `router` is about routers, [`remote`] about
//! connections; nobody else meets them.

mod line;
pub mod remote;
mod router;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use prost::Message;
use schema::link::{DownFrame, FromEdge, ToEdge, UpFrame};
use tokio::sync::{Notify, watch};

use line::{End, Lines, Rx, Tx};
pub(crate) use router::RouterWatch;
pub use router::{RouterHealth, RouterState, StartError};

/// Frames, and their bytes, that a sender may be ahead of its receiver. A frame that is larger by itself goes alone.
const WINDOW: u64 = 16;
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Frames that a receiver may be done with before it says so, unless they can be so large that fewer fill the window.
const REPORT_AFTER: u64 = 4;
const REPORT_EACH_BYTES: usize = WINDOW_BYTES / 4;
/// A frame is sent when its items have reached this size, in bytes. A single item can be larger.
const FRAME_BYTES: usize = 64 * 1024;
/// Where frames go to the bridge.
pub const UP_TOPIC: &str = "tidings/link/up";
/// Where frames go to the edge.
pub const DOWN_TOPIC: &str = "tidings/link/down";

/// Why no more frames can be sent or received. Nothing that was acknowledged is lost.
#[derive(Debug, thiserror::Error)]
pub enum LinkClosed {
    /// There never was a router.
    #[error("the router can't be started")]
    Start(#[from] StartError),
    /// Nobody makes lines for it any more.
    #[error("nobody carries frames any more")]
    Ended,
    /// A frame was dropped.
    #[error("frame {expected} is missing: got {got}")]
    Gap {
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// A frame is not what we send.
    #[error("a frame can't be decoded")]
    Undecodable(#[from] prost::DecodeError),
}

impl From<watch::error::RecvError> for LinkClosed {
    fn from(_: watch::error::RecvError) -> Self {
        LinkClosed::Ended
    }
}

/// A frame of one direction.
pub trait Frame: Message + Default {
    /// What it is filled with.
    type Item: Message;
    /// Builds a frame.
    fn new(number: u64, done: u64, items: Vec<Self::Item>) -> Self;
    /// Takes it apart: number, done, items.
    fn into_parts(self) -> (u64, u64, Vec<Self::Item>);
}

impl Frame for UpFrame {
    type Item = FromEdge;
    fn new(number: u64, done: u64, items: Vec<FromEdge>) -> Self {
        UpFrame {
            number,
            done,
            items,
        }
    }
    fn into_parts(self) -> (u64, u64, Vec<FromEdge>) {
        (self.number, self.done, self.items)
    }
}

impl Frame for DownFrame {
    type Item = ToEdge;
    fn new(number: u64, done: u64, items: Vec<ToEdge>) -> Self {
        DownFrame {
            number,
            done,
            items,
        }
    }
    fn into_parts(self) -> (u64, u64, Vec<ToEdge>) {
        (self.number, self.done, self.items)
    }
}

/// How far both directions of one end are; shared by its sender and its receiver.
#[derive(Debug, Default)]
pub struct Flow {
    /// The last frame sent from here.
    sent: AtomicU64,
    /// The last of those that the peer is done with.
    peer_done: AtomicU64,
    /// The last frame from the peer that we are done with.
    done: AtomicU64,
    /// The last of those that the peer has been told of.
    reported: AtomicU64,
    /// The largest frame received so far, in bytes.
    largest: AtomicUsize,
    wake: Notify,
}

impl Flow {
    /// Makes the sending task look again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for [`Flow::wake`], or for the peer to make room. For the sending task only.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The last frame sent from here that the peer has said to be done with.
    #[must_use]
    pub fn peer_done(&self) -> u64 {
        self.peer_done.load(Ordering::Acquire)
    }

    /// The last frame sent from here.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Notes that the frame and all before it need nothing more here.
    pub fn done(&self, number: u64) {
        self.done.fetch_max(number, Ordering::AcqRel);
        if self.is_report_due() {
            self.wake();
        }
    }

    /// Frames sent from here that the peer is not done with.
    pub(crate) fn ahead(&self) -> u64 {
        let done = self.peer_done.load(Ordering::Acquire);
        self.sent.load(Ordering::Acquire).saturating_sub(done)
    }

    /// Frames usually tell it in passing; this is for when nothing else is to be sent.
    fn is_report_due(&self) -> bool {
        let unreported = self.done.load(Ordering::Acquire) - self.reported.load(Ordering::Acquire);
        // Where few frames can fill the window, each counts.
        let is_large = self.largest.load(Ordering::Acquire) >= REPORT_EACH_BYTES;
        unreported >= REPORT_AFTER || (unreported > 0 && is_large)
    }
}

/// The sending half of an end.
pub struct FrameSender<F> {
    lines: Lines<Tx>,
    flow: Arc<Flow>,
    /// The frames that the peer is not done with, oldest first.
    ahead: VecDeque<Bytes>,
    frame: PhantomData<F>,
}

impl<F: Frame> FrameSender<F> {
    /// The flow that this sender shares with its receiver.
    #[must_use]
    pub fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    /// Sends items in their order, in as many frames as they need; waits while the peer is behind.
    ///
    /// # Errors
    /// [`LinkClosed::Ended`] when the link has ended.
    pub async fn send(&mut self, items: Vec<F::Item>) -> Result<(), LinkClosed> {
        let mut frame = Vec::new();
        let mut bytes = 0;
        for item in items {
            bytes += item.encoded_len();
            frame.push(item);
            if bytes >= FRAME_BYTES {
                self.send_frame(std::mem::take(&mut frame)).await?;
                bytes = 0;
            }
        }
        if !frame.is_empty() {
            self.send_frame(frame).await?;
        }
        Ok(())
    }

    /// Tells the peer how far we are, if it would not learn it soon otherwise, and sends again what may be lost. It
    /// needs no credit, so that two ends that wait for each other get on. To be called whenever [`Flow::woken`].
    ///
    /// # Errors
    /// [`LinkClosed::Ended`] when the link has ended.
    pub async fn report(&mut self) -> Result<(), LinkClosed> {
        self.renew()?;
        self.forget_done();
        if self.flow.is_report_due() {
            self.publish_report();
        }
        Ok(())
    }

    /// Makes the peer say soon how far it is, even if nothing else is to be sent, by sending as many frames as it
    /// counts. Returns the last frame before those, for [`Flow::peer_done`].
    ///
    /// # Errors
    /// [`LinkClosed::Ended`] when the link has ended.
    pub async fn urge(&mut self) -> Result<u64, LinkClosed> {
        let last = self.flow.sent.load(Ordering::Acquire);
        for _ in 1..REPORT_AFTER {
            self.send_frame(Vec::new()).await?;
        }
        Ok(last)
    }

    async fn send_frame(&mut self, items: Vec<F::Item>) -> Result<(), LinkClosed> {
        loop {
            self.renew()?;
            if self.has_credit() {
                break;
            }
            self.report().await?;
            self.flow.woken().await;
        }
        let number = self.flow.sent.fetch_add(1, Ordering::AcqRel) + 1;
        let frame = self.encode(number, items);
        self.ahead.push_back(frame.clone());
        self.lines.send(frame);
        Ok(())
    }

    /// Where there is another line, it gets everything that the last one may not have delivered.
    fn renew(&mut self) -> Result<(), LinkClosed> {
        if self.lines.renew()? {
            self.forget_done();
            // The last report may be lost as well.
            self.publish_report();
            for frame in &self.ahead {
                self.lines.send(frame.clone());
            }
        }
        Ok(())
    }

    fn has_credit(&mut self) -> bool {
        self.forget_done();
        let bytes: usize = self.ahead.iter().map(Bytes::len).sum();
        (self.ahead.len() as u64) < WINDOW && bytes < WINDOW_BYTES
    }

    fn forget_done(&mut self) {
        let unfinished = self.flow.ahead();
        while self.ahead.len() as u64 > unfinished {
            self.ahead.pop_front();
        }
    }

    fn publish_report(&mut self) {
        let report = self.encode(0, Vec::new());
        self.lines.send(report);
    }

    fn encode(&self, number: u64, items: Vec<F::Item>) -> Bytes {
        let done = self.flow.done.load(Ordering::Acquire);
        self.flow.reported.store(done, Ordering::Release);
        F::new(number, done, items).encode_to_vec().into()
    }
}

/// The receiving half of an end.
pub struct FrameReceiver<F> {
    lines: Lines<Rx>,
    last: u64,
    flow: Arc<Flow>,
    frame: PhantomData<F>,
}

impl<F: Frame> FrameReceiver<F> {
    /// The next frame's number and items. Call [`Flow::done`] with the number when they are dealt with. May be dropped
    /// while it waits.
    ///
    /// # Errors
    /// [`LinkClosed`] when the link has ended, or a frame is missing.
    pub async fn recv(&mut self) -> Result<(u64, Vec<F::Item>), LinkClosed> {
        loop {
            let payload = self.lines.next().await?;
            self.flow.largest.fetch_max(payload.len(), Ordering::AcqRel);
            let (number, done, items) = F::decode(payload)?.into_parts();
            self.flow.peer_done.fetch_max(done, Ordering::AcqRel);
            self.flow.wake();
            // A report, or a frame that has come over an earlier line already.
            if number <= self.last {
                continue;
            }
            if number != self.last + 1 {
                return Err(LinkClosed::Gap {
                    expected: self.last + 1,
                    got: number,
                });
            }
            self.last = number;
            return Ok((number, items));
        }
    }
}

/// The bridge's end of the link.
pub struct BridgeLink {
    /// To the edge.
    pub sender: FrameSender<DownFrame>,
    /// From the edge.
    pub receiver: FrameReceiver<UpFrame>,
}

/// The edge's end of the link.
pub(crate) struct EdgeLink {
    pub(crate) sender: FrameSender<UpFrame>,
    pub(crate) receiver: FrameReceiver<DownFrame>,
}

/// Starts a router, and connects both ends to it. Blocks for that long. The link works while the watch runs.
pub(crate) fn start_router() -> Result<(EdgeLink, BridgeLink, RouterWatch), LinkClosed> {
    let (watch, edge, bridge) = RouterWatch::start()?;
    let (sender, receiver) = halves(edge);
    let edge = EdgeLink { sender, receiver };
    let (sender, receiver) = halves(bridge);
    Ok((edge, BridgeLink { sender, receiver }, watch))
}

fn halves<S: Frame, R: Frame>((flow, (tx, rx)): End) -> (FrameSender<S>, FrameReceiver<R>) {
    let sender = FrameSender {
        lines: tx,
        flow: flow.clone(),
        ahead: VecDeque::new(),
        frame: PhantomData,
    };
    let receiver = FrameReceiver {
        lines: rx,
        last: 0,
        flow,
        frame: PhantomData,
    };
    (sender, receiver)
}

#[cfg(test)]
mod tests;
