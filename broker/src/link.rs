//! Frames between the edge and the bridge, carried by rumqttd's router.
//!
//! The router's cost is per publish, not per byte, and it remembers every topic that it has ever seen. So uplinks and
//! deliveries travel packed, many to a publish, on two topics that never change: the router holds two filters and two
//! topics however many users there are. `ARCHITECTURE.md` has the measurement.
//!
//! A router log that rolls over drops what a slow reader has not read. [`FrameSender`] keeps at most `WINDOW` frames
//! and `WINDOW_BYTES` ahead of what the receiver is done with, less than the log holds; frames are numbered, so that a
//! drop would be noticed all the same ([`LinkClosed::Gap`]).

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use prost::Message;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::protocol::{Packet, Publish};
use rumqttd::{Notification, Router, RouterConfig};
use schema::link::{DownFrame, FromEdge, ToEdge, UpFrame};
use tokio::sync::Notify;

/// Frames, and their bytes, that a sender may be ahead of its receiver. A frame that is larger by itself goes alone.
const WINDOW: u64 = 16;
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Frames that a receiver may be done with before it says so, unless they can be so large that fewer fill the window.
const REPORT_AFTER: u64 = 4;
const REPORT_EACH_BYTES: usize = WINDOW_BYTES / 4;
/// A frame is sent when its items have reached this size, in bytes. A single item can be larger.
const FRAME_BYTES: usize = 64 * 1024;
/// The router's log per topic. A segment is closed when it has reached its size, so that one holds at least 1 MiB or a
/// single larger frame: 8 of them hold the window and what precedes it in its first segment.
const LOG_SEGMENT_BYTES: usize = 1024 * 1024;
const LOG_SEGMENTS: usize = 8;

const UP_TOPIC: &str = "tidings/link/up";
const DOWN_TOPIC: &str = "tidings/link/down";

/// Why no more frames can be sent or received. The process has to start anew: nothing that was acknowledged is lost.
#[derive(Debug, thiserror::Error)]
pub enum LinkClosed {
    /// The router's thread is gone.
    #[error("the router is gone")]
    Router(#[source] Box<LinkError>),
    /// The router dropped a frame.
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

impl From<LinkError> for LinkClosed {
    fn from(error: LinkError) -> Self {
        LinkClosed::Router(Box::new(error))
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
    /// The last frame sent from here that the peer is done with.
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

    /// Notes that the frame and all before it need nothing more here.
    pub fn done(&self, number: u64) {
        self.done.fetch_max(number, Ordering::AcqRel);
        if self.is_report_due() {
            self.wake();
        }
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
    link: LinkTx,
    topic: Bytes,
    flow: Arc<Flow>,
    /// The last frame sent.
    sent: u64,
    /// Sizes of the frames that the peer is not done with, oldest first.
    ahead: VecDeque<usize>,
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
    /// [`LinkClosed`] when the router is gone.
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

    /// Tells the peer how far we are, if it would not learn it soon otherwise. It needs no credit, so that two ends
    /// that wait for each other get on.
    ///
    /// # Errors
    /// [`LinkClosed`] when the router is gone.
    pub async fn report(&mut self) -> Result<(), LinkClosed> {
        if self.flow.is_report_due() {
            self.publish(0, Vec::new()).await?;
        }
        Ok(())
    }

    /// Makes the peer say soon how far it is, even if nothing else is to be sent, by sending as many frames as it
    /// counts. Returns the last frame before those, for [`Flow::peer_done`].
    ///
    /// # Errors
    /// [`LinkClosed`] when the router is gone.
    pub async fn urge(&mut self) -> Result<u64, LinkClosed> {
        let last = self.sent;
        for _ in 1..REPORT_AFTER {
            self.send_frame(Vec::new()).await?;
        }
        Ok(last)
    }

    async fn send_frame(&mut self, items: Vec<F::Item>) -> Result<(), LinkClosed> {
        while !self.has_credit() {
            self.report().await?;
            self.flow.clone().woken().await;
        }
        self.sent += 1;
        let size = self.publish(self.sent, items).await?;
        self.ahead.push_back(size);
        Ok(())
    }

    fn has_credit(&mut self) -> bool {
        let unfinished = self.sent - self.flow.peer_done.load(Ordering::Acquire);
        while self.ahead.len() as u64 > unfinished {
            self.ahead.pop_front();
        }
        let bytes: usize = self.ahead.iter().sum();
        unfinished < WINDOW && bytes < WINDOW_BYTES
    }

    /// Returns the frame's size.
    async fn publish(&mut self, number: u64, items: Vec<F::Item>) -> Result<usize, LinkClosed> {
        let done = self.flow.done.load(Ordering::Acquire);
        self.flow.reported.store(done, Ordering::Release);
        let payload = F::new(number, done, items).encode_to_vec();
        let size = payload.len();
        let publish = Publish::new(self.topic.clone(), payload.into(), false);
        self.link.send(Packet::Publish(publish, None)).await?;
        Ok(size)
    }
}

/// The receiving half of an end.
pub struct FrameReceiver<F> {
    link: LinkRx,
    last: u64,
    flow: Arc<Flow>,
    frame: PhantomData<F>,
}

impl<F: Frame> FrameReceiver<F> {
    /// The next frame's number and items. Call [`Flow::done`] with the number when they are dealt with.
    ///
    /// # Errors
    /// [`LinkClosed`] when the router is gone, or a frame is missing.
    pub async fn recv(&mut self) -> Result<(u64, Vec<F::Item>), LinkClosed> {
        loop {
            let forward = match self.link.next().await? {
                Some(Notification::Forward(forward)) => forward,
                // The router stops sending to a full link until it hears that there is room again.
                Some(Notification::Unschedule) => {
                    self.link.wake().await?;
                    continue;
                }
                _ => continue,
            };
            let payload = forward.publish.payload;
            self.flow.largest.fetch_max(payload.len(), Ordering::AcqRel);
            let (number, done, items) = F::decode(payload)?.into_parts();
            self.flow.peer_done.fetch_max(done, Ordering::AcqRel);
            self.flow.wake();
            if number == 0 {
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

/// Starts rumqttd's router in a thread of its own, and connects both ends to it. Blocks for that long.
pub(crate) fn start_router() -> Result<(EdgeLink, BridgeLink), LinkClosed> {
    let config = RouterConfig {
        // The two ends.
        max_connections: 2,
        // Read from the log at once, of the 16 frames that can be there.
        max_outgoing_packet_count: WINDOW,
        max_segment_size: LOG_SEGMENT_BYTES,
        max_segment_count: LOG_SEGMENTS,
        initialized_filters: Some(vec![UP_TOPIC.to_owned(), DOWN_TOPIC.to_owned()]),
        ..Default::default()
    };
    let router = Router::new(0, config).spawn();
    let connect = |name: &str, subscription: &str| -> Result<(LinkTx, LinkRx), LinkClosed> {
        let (mut tx, mut rx, _) = LinkBuilder::new(name, router.clone()).build()?;
        tx.subscribe(subscription)?;
        // SUBACK: from here on nothing that is published can be missed.
        while !matches!(rx.recv()?, Some(Notification::DeviceAck(_))) {}
        Ok((tx, rx))
    };
    let (edge_tx, edge_rx) = connect("edge", DOWN_TOPIC)?;
    let (bridge_tx, bridge_rx) = connect("bridge", UP_TOPIC)?;
    let (sender, receiver) = end(edge_tx, edge_rx, UP_TOPIC);
    let edge = EdgeLink { sender, receiver };
    let (sender, receiver) = end(bridge_tx, bridge_rx, DOWN_TOPIC);
    Ok((edge, BridgeLink { sender, receiver }))
}

fn end<S: Frame, R: Frame>(
    tx: LinkTx,
    rx: LinkRx,
    topic: &'static str,
) -> (FrameSender<S>, FrameReceiver<R>) {
    let flow = Arc::new(Flow::default());
    let sender = FrameSender {
        link: tx,
        topic: Bytes::from_static(topic.as_bytes()),
        flow: flow.clone(),
        sent: 0,
        ahead: VecDeque::new(),
        frame: PhantomData,
    };
    let receiver = FrameReceiver {
        link: rx,
        last: 0,
        flow,
        frame: PhantomData,
    };
    (sender, receiver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schema::link::{Gone, from_edge};

    fn gone(session: u64) -> FromEdge {
        FromEdge {
            item: Some(from_edge::Item::Gone(Gone { session })),
        }
    }

    /// Frames larger than a segment of the router's log.
    #[tokio::test]
    async fn large_frames_arrive() {
        let (edge, bridge) = start_router().unwrap();
        let (mut edge_sender, mut edge_receiver) = (edge.sender, edge.receiver);
        let (mut sender, mut receiver) = (bridge.sender, bridge.receiver);
        let large = |number: u32| FromEdge {
            item: Some(from_edge::Item::Uplink(schema::link::Uplink {
                token: number,
                payload: vec![0; LOG_SEGMENT_BYTES + 1].into(),
                ..Default::default()
            })),
        };
        let send = async {
            for number in 0..40 {
                edge_sender.send(vec![large(number)]).await.unwrap();
            }
        };
        let receive = async {
            for expected in 0..40 {
                let (number, items) = receiver.recv().await.unwrap();
                assert!(items == [large(expected)]);
                sender.flow().done(number);
                sender.report().await.unwrap();
            }
        };
        let reports = async { while edge_receiver.recv().await.is_ok() {} };
        tokio::select! {
            _ = async { tokio::join!(send, receive) } => {}
            () = reports => {}
        }
    }

    /// A peer that is done with a single frame says so only when it is urged.
    #[tokio::test]
    async fn an_urged_peer_says_that_it_is_done() {
        let (edge, bridge) = start_router().unwrap();
        let (mut edge_sender, mut edge_receiver) = (edge.sender, edge.receiver);
        let (mut sender, mut receiver) = (bridge.sender, bridge.receiver);
        let flow = sender.flow().clone();
        sender.send(vec![ToEdge::default()]).await.unwrap();
        let number = sender.urge().await.unwrap();
        let edge = async {
            let flow = edge_sender.flow().clone();
            loop {
                let (number, _) = edge_receiver.recv().await.unwrap();
                flow.done(number);
                edge_sender.report().await.unwrap();
            }
        };
        let told = async {
            while flow.peer_done() < number {
                flow.woken().await;
            }
        };
        tokio::select! {
            () = told => {}
            () = edge => {}
            _ = receiver.recv() => {}
        }
        assert!(flow.peer_done() >= number && number > 0);
    }

    /// The receiver is slow for far more frames than the window: all arrive, in order.
    #[tokio::test]
    async fn a_slow_receiver_misses_nothing() {
        let (edge, bridge) = start_router().unwrap();
        let (mut edge_sender, mut edge_receiver) = (edge.sender, edge.receiver);
        let frames = 10 * WINDOW;
        let send = async {
            for session in 0..frames {
                edge_sender.send(vec![gone(session)]).await.unwrap();
            }
        };
        let (mut sender, mut receiver) = (bridge.sender, bridge.receiver);
        let receive = async {
            for expected in 0..frames {
                let (number, items) = receiver.recv().await.unwrap();
                assert_eq!(items, [gone(expected)]);
                sender.flow().done(number);
                sender.report().await.unwrap();
            }
        };
        let reports = async {
            loop {
                edge_receiver.recv().await.unwrap();
            }
        };
        tokio::select! {
            _ = async { tokio::join!(send, receive) } => {}
            () = reports => {}
        }
    }
}
