//! Hears what is said, by all nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::PubSubStream;
use bytes::Bytes;
use futures_util::StreamExt as _;
use prost::Message as _;
use schema::bus::BusFrame;
use tokio::time::{Instant, interval, sleep};
use tracing::{debug, info, warn};

use super::inbox::Inbox;
use super::others::Others;
use super::{CHANNEL, Counts, HEARTBEAT, Heard, Identity, Shared, frame};
use crate::redis::{self, Redis};
use crate::store::chain;

/// A node that does not hear itself for so long does not hear others either.
const DEAFNESS: Duration = Duration::from_secs(2);
/// How often it is looked who is silent.
const LOOK: Duration = HEARTBEAT;
/// How often it is told that there is garbage on the channel.
const GARBAGE_TOLD: Duration = Duration::from_secs(60);

/// As long as it is polled.
pub(super) async fn run(shared: Arc<Shared>, redis: Redis, inbox: Inbox) {
    let mut subscriber = Subscriber {
        shared,
        inbox,
        others: Others::default(),
        heard_itself_at: Instant::now(),
        garbage_told_at: None,
    };
    let channel = redis.name(CHANNEL);
    let (first_pause, longest_pause) = redis::BACKOFF;
    let mut pause = first_pause;
    loop {
        match redis.subscribe(&channel).await {
            Ok(stream) => {
                if subscriber.hear(stream).await {
                    pause = first_pause;
                }
            }
            Err(error) => debug!(error = %chain(&error), "the bus can't be heard"),
        }
        sleep(redis::about(pause)).await;
        pause = (pause * 2).min(longest_pause);
    }
}

struct Subscriber {
    shared: Arc<Shared>,
    inbox: Inbox,
    others: Others,
    heard_itself_at: Instant,
    garbage_told_at: Option<Instant>,
}

impl Subscriber {
    /// Until nothing comes any more; tells whether anything has.
    async fn hear(&mut self, mut stream: PubSubStream) -> bool {
        let now = Instant::now();
        self.others.was_deaf(now);
        self.heard_itself_at = now;
        self.inbox.missed();
        let mut look = interval(LOOK);
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => self.take(Bytes::copy_from_slice(message.get_payload_bytes())),
                    None => break,
                },
                _ = look.tick() => {
                    let now = Instant::now();
                    if now.duration_since(self.heard_itself_at) > DEAFNESS {
                        break;
                    }
                    self.look(now);
                }
            }
        }
        let was_up = self.shared.turn(false);
        if was_up {
            warn!("other nodes are not heard any more: the database is asked instead");
        }
        was_up
    }

    fn look(&mut self, now: Instant) {
        self.inbox.settle();
        if !*self.shared.is_up.borrow() {
            return;
        }
        for node in self.others.silent(now) {
            info!(node, "another node is gone");
            self.gone(node);
        }
        self.note_others();
    }

    fn gone(&mut self, node: u32) {
        self.inbox.put(Heard::Left { node }, 0);
        // It may have stored something, and not have come to telling it.
        self.missed();
    }

    fn note_others(&self) {
        let mut heard = self.shared.heard.lock();
        // Whoever comes or goes is noted by itself.
        if heard.len() != self.others.len() {
            *heard = self.others.nodes().collect();
        }
    }

    fn missed(&mut self) {
        Counts::add(&self.shared.counts.missed, 1);
        self.inbox.missed();
    }

    fn take(&mut self, bytes: Bytes) {
        let Some(frame) = frame::decode(bytes) else {
            self.note_garbage();
            return;
        };
        let from = Identity {
            node: frame.node,
            boot: frame.boot,
        };
        if from.boot == self.shared.boot {
            self.hear_itself(frame.number);
        } else if from.node == self.shared.me().node {
            // Its lease has run out; what it has stored nevertheless is in the database.
            warn!(node = from.node, "another process passes for this node");
            self.missed();
        } else {
            self.take_frame(from, frame);
        }
    }

    fn hear_itself(&mut self, number: u64) {
        let now = Instant::now();
        self.heard_itself_at = now;
        let mut sample = self.shared.sample.lock();
        if let Some(said_at) = sample
            .take_if(|(said, _)| *said <= number)
            .map(|(_, at)| at)
        {
            let micros = now.duration_since(said_at).as_micros();
            let micros = u64::try_from(micros).unwrap_or(u64::MAX);
            self.shared
                .counts
                .lag_micros
                .store(micros, Ordering::Relaxed);
        }
        drop(sample);
        if self.shared.turn(true) {
            info!("other nodes can be heard");
        }
    }

    fn note_garbage(&mut self) {
        Counts::add(&self.shared.counts.garbage, 1);
        let is_told = |at: Instant| at.elapsed() < GARBAGE_TOLD;
        if !self.garbage_told_at.is_some_and(is_told) {
            self.garbage_told_at = Some(Instant::now());
            warn!("something on the bus was not said by a node; it is ignored");
        }
    }

    fn take_frame(&mut self, from: Identity, frame: BusFrame) {
        Counts::add(&self.shared.counts.frames_heard, 1);
        let node = from.node;
        let has_notices = !frame.notices.is_empty();
        let now = Instant::now();
        let verdict = self.others.take(from, frame.number, has_notices, now);
        if verdict.has_left {
            info!(node, "another node was started anew");
            self.gone(node);
        }
        if verdict.has_missed {
            debug!(
                node,
                frame.number, "something that another node has told is missing"
            );
            self.missed();
        }
        if !verdict.is_new {
            return;
        }
        self.note_others();
        for notice in frame.notices {
            let bytes = notice.encoded_len();
            // One that is none is of a later version.
            if let Some(notice) = notice.notice {
                Counts::add(&self.shared.counts.heard, 1);
                if !self.inbox.put(Heard::Notice { node, notice }, bytes) {
                    Counts::add(&self.shared.counts.unheard, 1);
                }
            }
        }
    }
}
