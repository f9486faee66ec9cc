//! The router's life: started, watched, and replaced when it ends or hangs.
//!
//! Nothing stands between a panic and the router's thread, and rumqttd tells nobody that it is gone. So a third link,
//! the watch, publishes to itself: a router that does not bring that back in time counts as dead, as does one that
//! closes a link. Another one is started then, and all halves of both ends get their line to it; what they sent and
//! may not have arrived, they send again.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rumqttd::local::{LinkBuilder, LinkError, LinkRx, LinkTx};
use rumqttd::{Notification, Router, RouterConfig};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::line::{End, EndSupply, Rx, Tx};
use super::{DOWN_TOPIC, UP_TOPIC, WINDOW};

/// The router's log per topic. A segment is closed when it has reached its size, so that one holds at least 1 MiB or a
/// single larger frame: 8 of them hold the window and what precedes it in its first segment.
pub(super) const LOG_SEGMENT_BYTES: usize = 1024 * 1024;
const LOG_SEGMENTS: usize = 8;

const WATCH_TOPIC: &str = "tidings/link/watch";
/// How often the watch publishes.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// Intervals without an echo after which the router counts as dead. Counted rather than timed: where the whole process
/// has slept, that is one.
const SILENT_INTERVALS_MAX: u32 = 3;
/// What the watch publishes: nothing, but much of it. The log forgets by size, and a short publish takes 50 times its
/// size there; 512 of these fill it.
static PING: [u8; 16 * 1024] = [0; 16 * 1024];

/// How long a router may take to start. It takes a millisecond; this is for a machine that can't go on.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses before a router is started anew, each twice the last: what killed one may kill the next.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A router that has lived for so long was not killed by what killed the one before.
const SOUND_AFTER: Duration = Duration::from_secs(1);

/// Why no router could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system has no thread for it.
    #[error("no thread can be started")]
    Thread(#[source] io::Error),
    /// The router does not let us in.
    #[error("it takes no connection")]
    Link(#[source] Box<LinkError>),
    /// The router, or rumqttd's code that starts it, panicked.
    #[error("it panicked")]
    Panicked,
    /// It was not there after 5 s.
    #[error("it takes too long")]
    TooSlow,
}

impl From<LinkError> for StartError {
    fn from(error: LinkError) -> Self {
        StartError::Link(Box::new(error))
    }
}

/// How a router ends.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Death {
    #[error("its thread ended")]
    Ended,
    #[error("it does not answer")]
    Silent,
    #[error("it closed a link")]
    Broken,
}

/// How a router is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterState {
    /// Whether it works.
    pub is_healthy: bool,
    /// How often one had to be replaced.
    pub restarts: u64,
}

/// Whether the router works. Cheap to clone and to ask.
#[derive(Clone, Debug)]
pub struct RouterHealth(Arc<Health>);

#[derive(Debug)]
struct Health {
    is_healthy: AtomicBool,
    restarts: AtomicU64,
}

impl RouterHealth {
    fn new() -> Self {
        RouterHealth(Arc::new(Health {
            is_healthy: AtomicBool::new(true),
            restarts: AtomicU64::new(0),
        }))
    }

    /// False from when the router is known to be dead until another one has proved to work.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.0.is_healthy.load(Ordering::Acquire)
    }

    /// Routers that had to be replaced.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Ordering::Acquire)
    }

    pub(crate) fn state(&self) -> RouterState {
        RouterState {
            is_healthy: self.is_healthy(),
            restarts: self.restarts(),
        }
    }

    fn fell(&self) {
        self.0.is_healthy.store(false, Ordering::Release);
        self.0.restarts.fetch_add(1, Ordering::AcqRel);
    }

    fn answers(&self) {
        if !self.0.is_healthy.swap(true, Ordering::AcqRel) {
            tracing::info!("the router answers again");
        }
    }
}

/// What a router is connected with.
struct Started {
    edge: (Tx, Rx),
    bridge: (Tx, Rx),
    watch: (LinkTx, LinkRx),
}

/// Starts rumqttd's router in a thread of its own, and connects to it. Blocks for that long.
fn start() -> Result<Started, StartError> {
    let topics = [UP_TOPIC, DOWN_TOPIC, WATCH_TOPIC].map(str::to_owned);
    let config = RouterConfig {
        // The two ends, and the watch.
        max_connections: 3,
        // Read from the log at once, of the 16 frames that can be there.
        max_outgoing_packet_count: WINDOW,
        max_segment_size: LOG_SEGMENT_BYTES,
        max_segment_count: LOG_SEGMENTS,
        initialized_filters: Some(topics.to_vec()),
        ..Default::default()
    };
    let router = Router::new(0, config).spawn();
    let connect = |name: &str, subscription: &str| -> Result<(LinkTx, LinkRx), StartError> {
        let (mut tx, mut rx, _) = LinkBuilder::new(name, router.clone()).build()?;
        tx.subscribe(subscription)?;
        // SUBACK: from here on nothing that is published can be missed.
        while !matches!(rx.recv()?, Some(Notification::DeviceAck(_))) {}
        Ok((tx, rx))
    };
    let line = |(tx, rx), topic| (Tx::Router(Box::new(tx), topic), Rx::Router(Box::new(rx)));
    Ok(Started {
        edge: line(connect("edge", DOWN_TOPIC)?, UP_TOPIC),
        bridge: line(connect("bridge", UP_TOPIC)?, DOWN_TOPIC),
        watch: connect("watch", WATCH_TOPIC)?,
    })
}

/// Starts a router where it may block, panic or hang.
async fn start_apart() -> Result<Started, StartError> {
    let (started, outcome) = oneshot::channel();
    thread::Builder::new()
        .name("router-start".to_owned())
        // Whoever no longer waits for it has no use for it either.
        .spawn(move || drop(started.send(start())))
        .map_err(StartError::Thread)?;
    match timeout(START_TIMEOUT, outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(StartError::Panicked),
        Err(_) => Err(StartError::TooSlow),
    }
}

/// See the module's documentation. The link works as long as it [runs](RouterWatch::run).
pub(crate) struct RouterWatch {
    edge: EndSupply,
    bridge: EndSupply,
    router: Watched,
    health: RouterHealth,
    /// How long to wait before another start.
    pause: Duration,
}

/// The router that there is now.
struct Watched {
    tx: LinkTx,
    rx: LinkRx,
    /// Cancelled by a half that finds its line closed.
    broken: CancellationToken,
    started_at: Instant,
}

impl Watched {
    fn new((tx, rx): (LinkTx, LinkRx), broken: CancellationToken) -> Self {
        let started_at = Instant::now();
        Watched {
            tx,
            rx,
            broken,
            started_at,
        }
    }

    /// Returns when the router is dead.
    async fn died(&mut self, health: &RouterHealth) -> Death {
        // The first ping comes late enough that whoever asks for the health sees that a router was replaced.
        let mut ticks = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_intervals = 0;
        loop {
            tokio::select! {
                // An echo that is there counts, however late it is looked for; there are not many.
                biased;
                next = self.rx.next() => match next {
                    Ok(Some(Notification::Forward(_))) => {
                        silent_intervals = 0;
                        health.answers();
                    }
                    Ok(Some(Notification::Unschedule)) if self.rx.ready().is_err() => return Death::Ended,
                    Ok(_) => {}
                    Err(_) => return Death::Ended,
                },
                () = self.broken.cancelled() => return Death::Broken,
                _ = ticks.tick() => {
                    silent_intervals += 1;
                    if silent_intervals >= SILENT_INTERVALS_MAX {
                        return Death::Silent;
                    }
                    let ping = Bytes::from_static(&PING);
                    if self.tx.try_publish(WATCH_TOPIC, ping).is_err() {
                        return Death::Ended;
                    }
                }
            }
        }
    }
}

impl RouterWatch {
    /// Starts the first router, and connects the edge and the bridge to it. Blocks for that long.
    pub(super) fn start() -> Result<(Self, End, End), StartError> {
        let started = start()?;
        let broken = CancellationToken::new();
        let (edge, edge_end) = EndSupply::new(started.edge, &broken);
        let (bridge, bridge_end) = EndSupply::new(started.bridge, &broken);
        let watch = RouterWatch {
            edge,
            bridge,
            router: Watched::new(started.watch, broken),
            health: RouterHealth::new(),
            pause: PAUSE_MIN,
        };
        Ok((watch, edge_end, bridge_end))
    }

    pub(crate) fn health(&self) -> RouterHealth {
        self.health.clone()
    }

    /// Replaces each router that dies.
    pub(crate) async fn run(mut self) -> Infallible {
        loop {
            let death = self.router.died(&self.health).await;
            self.health.fell();
            tracing::error!(%death, "the router is dead; another one is started");
            if self.router.started_at.elapsed() >= SOUND_AFTER {
                self.pause = PAUSE_MIN;
            }
            self.replace().await;
        }
    }

    /// The old router may only hang. Nothing can end its thread, which keeps its memory, but nobody listens to it.
    async fn replace(&mut self) {
        let started = loop {
            sleep(self.pause).await;
            self.pause = PAUSE_MAX.min(self.pause * 2);
            match start_apart().await {
                Ok(started) => break started,
                Err(error) => {
                    let error: &(dyn Error + 'static) = &error;
                    tracing::warn!(error, "the router can't be started");
                }
            }
        };
        let broken = CancellationToken::new();
        self.edge.put(started.edge, &broken);
        self.bridge.put(started.bridge, &broken);
        self.router = Watched::new(started.watch, broken);
    }
}
