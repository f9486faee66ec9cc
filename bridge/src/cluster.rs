//! Several nodes on one database: what they tell each other beside it.
//!
//! The database is the truth, and what goes over the [`Bus`] only a hint: a node that misses some of it has its sessions catch
//! up from the database, and asks the others for what is only in their memory. So the bus promises nothing but to say when
//! something may have been missed ([`Heard::Missed`]).
//!
//! All nodes publish to one channel of Redis and hear all of it. What is told is collected in `outgoing`, leaves in frames
//! (`frame`) by the `publisher`, and is heard by the `subscriber`, who counts in `others` whether frames are missing, and
//! puts what it hears into the `inbox` for the pipeline.

pub mod decisions;
pub mod duty;
pub mod node;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use schema::bus::{self, Notice, notice};
use schema::link::{self, Published};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use decisions::{Decided, Decisions};
use node::Node;

use crate::clock;
use crate::redis::{self, Redis};
use crate::settings::RedisOptions;

mod frame;
mod inbox;
mod others;
mod outgoing;
mod publisher;
mod subscriber;

pub use inbox::Hearing;

use inbox::Inbox;
use outgoing::Outgoing;

/// How often a node says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// What the channel is called, behind the prefix.
const CHANNEL: &str = "bus";

/// What came over the bus.
#[derive(Debug)]
pub enum Heard {
    /// Another node tells something.
    Notice {
        /// The node's number.
        node: u32,
        /// What it tells.
        notice: notice::Notice,
    },
    /// Something that others have told may not have arrived. It comes also when the bus is there again, or for the first
    /// time.
    Missed,
    /// A node is gone: its sessions are no longer there. It comes also before what a node says that was started anew.
    Left {
        /// The node's number.
        node: u32,
    },
}

/// The other nodes, and what is shared with them beside the database.
#[derive(Debug)]
pub struct Peers {
    /// Tells them something.
    pub bus: Bus,
    /// What they tell.
    pub hearing: Hearing,
    /// `None`: there are none.
    pub redis: Option<Redis>,
    /// What this node is among them.
    pub node: Node,
    /// Tells them what they have to hear of.
    pub decisions: Decisions,
    /// What they have decided that users may do.
    pub granted: mpsc::Receiver<link::Grant>,
}

impl Peers {
    /// Of a node that has no others.
    #[must_use]
    pub fn none() -> Self {
        Peers {
            bus: Bus { shared: None },
            hearing: Hearing::nothing(),
            redis: None,
            node: Node::sole(),
            decisions: Decisions::default(),
            granted: Decided::nothing().grants,
        }
    }

    /// Of a node, as the settings have it. The future is what keeps the connections going.
    ///
    /// # Errors
    /// That the URL is none.
    pub fn join(options: &RedisOptions, node: Node) -> Result<(Self, Keeping), redis::Error> {
        if !options.is_set() {
            let alone = Peers {
                node,
                ..Self::none()
            };
            return Ok((alone, Box::pin(async {})));
        }
        let (redis, keeper) = Redis::new(options)?;
        let shared = Arc::new(Shared::new(node.clone()));
        let (inbox, hearing) = Inbox::new();
        let publishing = publisher::run(shared.clone(), redis.clone());
        let subscribing = subscriber::run(shared.clone(), redis.clone(), inbox);
        let keeping = Box::pin(async {
            tokio::join!(keeper.run(), publishing, subscribing);
        });
        let peers = Peers {
            bus: Bus {
                shared: Some(shared),
            },
            hearing,
            redis: Some(redis),
            node,
            ..Self::none()
        };
        Ok((peers, keeping))
    }
}

/// Ends with what it is kept in.
pub type Keeping = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells the other nodes of a cluster. Cheap to clone; where there is no cluster, it does nothing.
#[derive(Clone, Debug, Default)]
pub struct Bus {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    node: Node,
    /// Of this life of the node.
    boot: u64,
    outgoing: Outgoing,
    /// What this node says comes back to it.
    is_up: watch::Sender<bool>,
    /// A frame that is on its way back to here, and when it left.
    sample: Mutex<Option<(u64, Instant)>>,
    /// Nodes that are heard.
    heard: Mutex<Vec<u32>>,
    counts: Counts,
    /// Where a test hears what is told.
    #[cfg(test)]
    to_test: Option<tokio::sync::mpsc::Sender<Notice>>,
}

/// A life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    node: u32,
    boot: u64,
}

/// What tells a life of a node that begins now from its earlier ones, and from those of others.
fn boot(now: SystemTime) -> u64 {
    const RANDOM_BITS: u32 = 20;
    let random = getrandom::u32().unwrap_or_default() >> (u32::BITS - RANDOM_BITS);
    clock::millis(now).cast_unsigned() << RANDOM_BITS | u64::from(random)
}

#[derive(Debug, Default)]
struct Counts {
    frames_sent: AtomicU64,
    told: AtomicU64,
    untold: AtomicU64,
    frames_heard: AtomicU64,
    heard: AtomicU64,
    unheard: AtomicU64,
    missed: AtomicU64,
    garbage: AtomicU64,
    put_behind: AtomicU64,
    lag_micros: AtomicU64,
}

/// How it is with the bus, for who watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// What this node says comes back to it.
    pub is_up: bool,
    /// Frames that were published.
    pub frames_sent: u64,
    /// Notices that were told.
    pub told: u64,
    /// Notices that found no room, or were too old when Redis was back.
    pub untold: u64,
    /// Frames of others.
    pub frames_heard: u64,
    /// Notices of others.
    pub heard: u64,
    /// Those of them that were left out, since the pipeline has more to do than it can.
    pub unheard: u64,
    /// How often something may not have arrived.
    pub missed: u64,
    /// What was heard and makes no sense.
    pub garbage: u64,
    /// How often users had to catch up with what was not heard in time.
    pub put_behind: u64,
    /// Other nodes that are heard.
    pub nodes: u64,
    /// How long a frame takes to come back to the node that says it.
    pub lag: Duration,
}

impl Counts {
    fn add(count: &AtomicU64, more: u64) {
        count.fetch_add(more, Ordering::Relaxed);
    }
}

impl Bus {
    /// Of the node with that number, with what it tells.
    #[cfg(test)]
    pub(crate) fn of_node(node: u32) -> (Self, tokio::sync::mpsc::Receiver<Notice>) {
        let (to_test, told) = tokio::sync::mpsc::channel(10_000);
        let shared = Shared {
            node: Node::of_number(node),
            to_test: Some(to_test),
            ..Shared::new(Node::sole())
        };
        let shared = Some(Arc::new(shared));
        (Bus { shared }, told)
    }

    /// Whether there are no other nodes to be told.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.shared.is_none()
    }

    /// The number of this node, which no other one has at the same time; 0 of one that is alone.
    #[must_use]
    pub fn node(&self) -> u32 {
        self.shared.as_ref().map_or(0, |shared| shared.me().node)
    }

    /// Tells the other nodes, in the order of the calls; never waits. What finds no room is missed by the others, who see
    /// that by the number of the next frame.
    pub fn tell(&self, notice: notice::Notice) {
        if let Some(shared) = &self.shared {
            shared.tell(&Notice {
                notice: Some(notice),
            });
        }
    }

    /// Tells the other nodes what was published on a plain topic; tells whether there was room for it. Where they can't be
    /// told at all it is for here only, and that counts as told.
    pub(crate) fn publish(&self, published: Published) -> bool {
        let Some(shared) = &self.shared else {
            return true;
        };
        if !shared.is_heard() {
            Counts::add(&shared.counts.untold, 1);
            return true;
        }
        shared.tell_passing(&Notice {
            notice: Some(notice::Notice::Published(Box::new(published))),
        })
    }

    /// Tells the other nodes what users are to get there; gives it back.
    #[must_use]
    pub(crate) fn deliver(
        &self,
        deliver: link::Deliver,
        previous: u64,
        about: Option<link::Position>,
    ) -> link::Deliver {
        let Some(shared) = &self.shared else {
            return deliver;
        };
        // Another node has other sessions.
        let except_session = deliver.except_session;
        let mut notice = Notice {
            notice: Some(notice::Notice::Deliver(bus::Deliver {
                deliver: Some(link::Deliver {
                    except_session: 0,
                    ..deliver
                }),
                previous,
                about,
            })),
        };
        shared.tell(&notice);
        let Some(notice::Notice::Deliver(told)) = notice.notice.take() else {
            unreachable!("it was put in here")
        };
        link::Deliver {
            except_session,
            ..told.deliver.unwrap_or_default()
        }
    }

    /// Something can't be told: others learn by the next number that they miss it.
    pub(crate) fn admit_loss(&self) {
        if let Some(shared) = &self.shared {
            shared.outgoing.lose();
        }
    }

    /// Returns when what was told has left, or can't.
    pub async fn flush(&self) {
        if let Some(shared) = &self.shared {
            shared.outgoing.until_empty().await;
        }
    }

    /// Whether this node hears what it says itself: others are heard then, too. It changes to `false` some time after
    /// the truth does. `None`: there are no others.
    #[must_use]
    pub fn is_up(&self) -> Option<watch::Receiver<bool>> {
        let shared = self.shared.as_ref();
        shared.map(|shared| shared.is_up.subscribe())
    }

    /// So many users have to catch up with what was not heard in time.
    pub(crate) fn count_put_behind(&self, users: usize) {
        if let Some(shared) = &self.shared {
            Counts::add(&shared.counts.put_behind, users as u64);
        }
    }

    /// Whether another node is heard.
    #[must_use]
    pub fn hears(&self, node: u32) -> bool {
        let heard = |shared: &Arc<Shared>| shared.heard.lock().contains(&node);
        self.shared.as_ref().is_some_and(heard)
    }

    /// How it is; `None`: the node is alone.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        let shared = self.shared.as_ref()?;
        let counts = &shared.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Some(Figures {
            is_up: *shared.is_up.borrow(),
            frames_sent: read(&counts.frames_sent),
            told: read(&counts.told),
            untold: read(&counts.untold),
            frames_heard: read(&counts.frames_heard),
            heard: read(&counts.heard),
            unheard: read(&counts.unheard),
            missed: read(&counts.missed),
            garbage: read(&counts.garbage),
            put_behind: read(&counts.put_behind),
            nodes: shared.heard.lock().len() as u64,
            lag: Duration::from_micros(read(&counts.lag_micros)),
        })
    }
}

impl Shared {
    fn new(node: Node) -> Self {
        Shared {
            node,
            boot: boot(SystemTime::now()),
            outgoing: Outgoing::default(),
            is_up: watch::Sender::default(),
            sample: Mutex::default(),
            heard: Mutex::default(),
            counts: Counts::default(),
            #[cfg(test)]
            to_test: None,
        }
    }

    /// The number may be another one after the node had none for a while.
    fn me(&self) -> Identity {
        Identity {
            node: self.node.last_number(),
            boot: self.boot,
        }
    }

    fn tell(&self, notice: &Notice) {
        #[cfg(test)]
        if let Some(to_test) = &self.to_test {
            let _ = to_test.try_send(notice.clone());
        }
        self.count(self.outgoing.push(notice));
    }

    fn tell_passing(&self, notice: &Notice) -> bool {
        let is_told = self.outgoing.push_passing(notice);
        self.count(is_told);
        is_told
    }

    fn count(&self, is_told: bool) {
        let counts = &self.counts;
        let count = match is_told {
            true => &counts.told,
            false => &counts.untold,
        };
        Counts::add(count, 1);
    }

    fn is_heard(&self) -> bool {
        *self.is_up.borrow()
    }

    /// Others can be heard from now on, or can't; tells whether it was otherwise before. Only then is anybody woken by it.
    fn turn(&self, is_up: bool) -> bool {
        self.is_up
            .send_if_modified(|was_up| std::mem::replace(was_up, is_up) != is_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_a_turn_is_not_woken_without_one() {
        let shared = Shared::new(Node::sole());
        let mut is_up = shared.is_up.subscribe();
        is_up.mark_unchanged();
        assert!(shared.turn(true));
        assert!(is_up.has_changed().is_ok_and(|it| it));
        is_up.mark_unchanged();
        assert!(!shared.turn(true), "each frame of its own says so");
        assert!(is_up.has_changed().is_ok_and(|it| !it));
        assert!(shared.turn(false));
        assert!(is_up.has_changed().is_ok_and(|it| it));
    }
}
