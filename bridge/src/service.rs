//! The chat service: one pipeline that takes commands from both doors, decides them in batches, stores what they say,
//! answers, and fans out.
//!
//! Reading order: [`command`] (what can be asked), `job` (a command under way), `pipeline` (rounds; `patience` while the
//! database is away) between `intake` and `announcer` with `links`, `batch`, [`send`], `places`, `single` and `notes` (the
//! transaction), `effects` (what follows it), `alarm` with [`schedule`] and `expiry` (what waits for its time), `catalog` (who is
//! where, in memory), `cursors` (what devices have acknowledged), `retains` (what is kept of plain topics), [`presence`] (who is
//! connected), [`appearance`] and `watchers` (what others see of that), `receipts` (what those who have written hear of
//! readers), `feeds` and `catch_up` (from subscribing to live delivery: what a device missed), `parcels` and `packed` (how that
//! travels), `briefing` (what the edge has to know first), `outlet` with `arrivals` (what users get leaves in order, wherever
//! it was stored), `heard` (what other nodes tell), `tail` (what was not heard of them), `crossing` and `reviews` (plain topics and
//! rights among nodes), `indexer` (makes messages findable), `gate` with [`rates`] and [`words`] (what commands may come in
//! at all), [`erasure`] (what a deleted account leaves), [`archiver`] and `archived` (messages that leave the database).
//!
//! Invariants: an answer leaves only after the commit that it speaks of; deliveries leave in the order of their
//! commits; only the pipeline's task writes conversations, but for the archiver, who takes old messages away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use broker::link::LinkClosed;
use futures_util::FutureExt as _;
use schema::bus::Due;
use schema::bus::notice::Notice;
use schema::v1;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::node::Node;
use crate::cluster::{Bus, Peers};
use crate::code::Code;
use crate::redis::Redis;
use crate::store::{self, Store, messages};

pub mod appearance;
pub mod archiver;
pub mod changes;
pub mod command;
pub mod contacts;
pub mod conversations;
pub mod dates;
pub mod device_settings;
pub mod directory;
pub mod erasure;
pub mod forward;
pub mod groups;
pub mod media;
pub mod operations;
pub mod presence;
pub mod questions;
pub mod rates;
pub mod refused;
pub mod schedule;
pub mod search;
pub mod send;
pub mod status;
pub mod sync;
pub mod typing;
pub mod users;
pub mod words;

mod alarm;
mod announce;
mod announcer;
pub(crate) mod archived;
mod arrivals;
mod batch;
mod briefing;
mod catalog;
mod catch_up;
mod changed_messages;
mod crossing;
mod cursors;
mod direct_rules;
mod effects;
mod expiry;
mod feeds;
mod gate;
mod heard;
mod ids;
mod indexer;
mod intake;
mod job;
mod links;
mod notes;
mod outlet;
mod packed;
mod parcels;
mod patience;
mod pipeline;
mod places;
mod receipts;
mod retains;
mod reviews;
mod single;
mod system_messages;
mod tail;
mod watchers;

pub use job::Caller;
pub use links::{Asides, Doorkeeper, Ended, Links};

use announcer::Announcer;
use appearance::Pace;
use archiver::Archiver;
use batch::Executor;
use catalog::Catalog;
use command::Command;
use crossing::Crossing;
use expiry::Expiry;
use gate::Admitted;
use indexer::{Behind, Indexer};
use job::{Door, Job};
use outlet::Outlet;
use pipeline::{Others, Pipeline, Unheard};
use presence::Presence;
use rates::Rates;
use receipts::Teller;
use refused::Refused;
use tail::{Lookup, Tail};
use watchers::Watchers;
use words::Words;

/// Commands from HTTP that may wait for the pipeline; past that they are refused as `unavailable`.
const HTTP_QUEUE: usize = 1024;
/// Members of all conversations kept in memory together.
const CATALOG_WEIGHT_MAX: usize = 1_000_000;
/// Frames taken off the link ahead of the pipeline; the link's window is the real bound.
const FRAME_QUEUE: usize = 64;
/// Events of tasks in the background that may wait for the pipeline; those tasks wait then.
const EVENTS: usize = 256;
/// Rounds' acknowledgements and readings that may wait to be taken in.
const MOVES: usize = 16;
/// Conversations with gaps that have lasted too long, whose readers are still to be looked up; others wait longer.
const OVERDUE: usize = 1024;
/// What was found of other nodes' messages that may wait for the pipeline.
const FINDINGS: usize = 256;
/// Rounds that may wait to be announced.
const ANNOUNCEMENTS: usize = 1;

/// What the operator can set about commands.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a message's text or body.
    pub text_max: usize,
    /// How long after it was sent a message can be recalled by its sender.
    pub recall_within: std::time::Duration,
    /// How long after it was sent a message can be edited.
    pub edit_within: std::time::Duration,
    /// How long a message that expires may be there.
    pub expires_max: std::time::Duration,
    /// Missed messages of one conversation that are pushed to a device when it comes back.
    pub catch_up_max: u32,
    /// Members of a group.
    pub group_members_max: usize,
    /// Contacts of a user, own requests and blocks included.
    pub contacts_max: u32,
    /// Requests for contact that wait, of a user and for a user.
    pub contact_requests_max: u32,
    /// Devices of a user that receive.
    pub devices_max: u32,
    /// Grants that a user gives.
    pub grants_max: u32,
    /// Bytes of a topic filter.
    pub topic_length_max: usize,
    /// Levels of a topic filter.
    pub topic_levels_max: usize,
    /// The shortest time between two changes of a user that others are told.
    pub presence_interval: std::time::Duration,
    /// How long a user may be away before others are told.
    pub presence_grace: std::time::Duration,
    /// How long answers to commands other than sends are kept.
    pub answers_kept: std::time::Duration,
    /// Whether messages are indexed, and can be looked for.
    pub search: bool,
    /// When they leave the database.
    pub ages: archiver::Ages,
    /// How often users may do what.
    pub rates: Rates,
    /// What they may not write.
    pub words: Words,
}

/// Gives commands to the pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    store: Store,
    jobs: mpsc::Sender<Job>,
    is_stalled: Arc<AtomicBool>,
    limits: Limits,
    presence: Presence,
    behind: Behind,
    archived: archiver::Counts,
    /// Told when an account was deleted.
    erasures: Arc<Notify>,
    redis: Option<Redis>,
    bus: Bus,
    node: Node,
}

/// Why the service can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database could not be read at start.
    #[error("the service can't start")]
    Store(#[from] store::Error),
    /// The link to the edge broke.
    #[error("the link between edge and bridge broke")]
    Link(#[from] LinkClosed),
    /// A task of ours panicked.
    #[error("a task of the service panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// The pipeline's tasks.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<Result<(), LinkClosed>>,
    stop: CancellationToken,
}

impl Running {
    /// Returns when the service can't go on.
    pub async fn failed(&mut self) -> Error {
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Err(error)) => return Error::Link(error),
                Err(error) => return Error::Panicked(error),
                Ok(Ok(())) => {}
            }
        }
        std::future::pending().await
    }

    /// Executes what has arrived, stores what devices have acknowledged, and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::warn!(%error, "the link broke while stopping");
            }
        }
    }
}

impl Service {
    /// Starts the pipeline on a database, among its peers, and on links to edges, which are told first what they have to
    /// know.
    ///
    /// # Errors
    /// [`Error::Store`] when the database can't be read.
    pub async fn start(
        store: Store,
        links: impl Into<Links>,
        limits: Limits,
        peers: Peers,
    ) -> Result<(Self, Running), Error> {
        let node = peers.node;
        let newest = messages::newest_id(store.reader()).await?;
        let mut tasks = JoinSet::new();
        let ended = CancellationToken::new();
        let (taken, frames) = mpsc::channel(FRAME_QUEUE);
        let links = links.into();
        let (is_only, asides) = (links.is_only, links.asides.clone());
        tasks.spawn(intake::run(links, limits.clone(), taken, ended.clone()));
        let catalog = Catalog::new(CATALOG_WEIGHT_MAX);
        let pace = Pace {
            interval: limits.presence_interval,
            grace: limits.presence_grace,
        };
        let presence = Presence::new(pace, peers.bus.clone());
        let bus = peers.bus;
        let (events, notices) = mpsc::channel(EVENTS);
        let (moves, moved) = mpsc::channel(MOVES);
        let stop = CancellationToken::new();
        let teller = Teller::new(store.clone(), presence.clone(), events.clone());
        let watchers = Watchers {
            store: store.clone(),
            presence: presence.clone(),
            events: events.clone(),
        };
        tasks.spawn(teller.run(moved, stop.clone()).map(Ok));
        tasks.spawn(watchers.run(stop.clone()).map(Ok));
        tasks.spawn(presence.clone().tell_rosters(stop.clone()).map(Ok));
        presence.greet();
        let mut executor =
            Executor::new(store.clone(), node.clone(), catalog, newest, limits.clone());
        executor.decisions = peers.decisions.clone();
        let (jobs, job_queue) = mpsc::channel(HTTP_QUEUE);
        let (announcements, rounds) = mpsc::channel(ANNOUNCEMENTS);
        let is_stalled = Arc::new(AtomicBool::new(false));
        let sender = schedule::Sender {
            store: executor.store().clone(),
            bell: executor.alarms.schedule.bell(),
            jobs: jobs.clone(),
            events,
            limits: limits.clone(),
        };
        let expiry = Expiry {
            store: executor.store().clone(),
            bell: executor.alarms.expiry.bell(),
            jobs: jobs.clone(),
        };
        let erasures = executor.alarms.erasure.clone();
        let (overdue, asked) = mpsc::channel(OVERDUE);
        let (found, findings) = mpsc::channel(FINDINGS);
        let lookup = Lookup {
            store: store.clone(),
            presence: presence.clone(),
            overdue: asked,
            found: found.clone(),
        };
        let missed = Arc::new(Notify::new());
        let tail = Tail {
            store: store.clone(),
            bus: bus.clone(),
            presence: presence.clone(),
            missed: missed.clone(),
            found,
        };
        let begin = Tail::begin(&store).await?;
        let outlet = Outlet::new(bus.clone(), overdue, &begin);
        let announcer = Announcer::new(is_only, asides, outlet);
        tasks.spawn(in_background(lookup.run(stop.clone())));
        tasks.spawn(in_background(tail.run(stop.clone())));
        let others = Others {
            hearing: peers.hearing,
            missed,
            found: findings,
        };
        let crossing = Crossing::new(bus.clone(), peers.decisions, peers.granted);
        let pipeline = Pipeline::new(
            executor,
            announcements,
            presence.clone(),
            notices,
            moves,
            is_stalled.clone(),
            (bus.clone(), others, crossing),
        );
        let behind = Behind::default();
        if limits.search {
            let duty = node.duty("search");
            let indexer = Indexer::new(store.clone(), pipeline.commits(), behind.clone(), duty);
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(indexer.run()).await;
                Ok(())
            });
        } else {
            indexer::drop_all(&store).await?;
        }
        tasks.spawn({
            let stop = stop.clone();
            async move {
                if let Err(Unheard) = pipeline.run(frames, job_queue, stop).await {
                    tracing::debug!("the announcer has ended before the pipeline, and says why");
                }
                Ok(())
            }
        });
        tasks.spawn(in_background(
            sender.run(node.duty("schedule"), stop.clone()),
        ));
        tasks.spawn(in_background(expiry.run(node.duty("expiry"), stop.clone())));
        tasks.spawn({
            let ended = ended.drop_guard();
            async move {
                let outcome = announcer.run(rounds).await;
                drop(ended);
                outcome
            }
        });
        let archiver = Archiver::new(store.clone(), limits.ages);
        let archived = archiver.counts();
        let duty = node.duty("archive");
        tasks.spawn(in_background(archiver.run(duty, stop.clone())));
        tasks.spawn({
            let eraser = erasure::Eraser::new(store.clone(), jobs.clone(), erasures.clone());
            let (duty, stop) = (node.duty("erasure"), stop.clone());
            async move {
                eraser.run(duty, stop).await;
                Ok(())
            }
        });
        let service = Service {
            store,
            jobs,
            is_stalled,
            limits,
            presence,
            behind,
            archived,
            erasures,
            redis: peers.redis,
            bus,
            node,
        };
        Ok((service, Running { tasks, stop }))
    }

    /// Executes a command as if it had come by MQTT, and waits for its answer.
    pub async fn execute(&self, caller: Caller, up: v1::Up) -> v1::Reply {
        let client_msg_id = up.client_msg_id.clone();
        let result = match gate::admit(&caller.uid, up, &self.limits) {
            Ok(Admitted { command, flagged }) => {
                self.fetch_archived(&caller, &command).await;
                let (door, answer) = oneshot::channel();
                let job = Job {
                    caller,
                    door: Door::Http(door),
                    client_msg_id: client_msg_id.clone(),
                    command,
                    flagged,
                };
                match self.jobs.try_send(job) {
                    Ok(()) => match answer.await {
                        Ok(reply) => return reply,
                        Err(_) => Err(Refused::new(Code::Unavailable, "the server is stopping")),
                    },
                    Err(_) => Err(Refused::new(Code::Unavailable, "too much is waiting")),
                }
            }
            Err(refused) => Err(refused),
        };
        announce::reply(client_msg_id, result)
    }

    /// What is forwarded may be in files, which the pipeline does not wait for.
    async fn fetch_archived(&self, caller: &Caller, command: &Command) {
        if let Command::Send(send) = command
            && let Some(forward) = send.special.as_deref().and_then(|it| it.forward.as_ref())
        {
            // Rare and large: each command would carry its room along.
            Box::pin(archived::fetch(&self.store, &caller.uid, &forward.msg_ids)).await;
        }
    }

    /// Commands from HTTP that the pipeline has not taken yet.
    #[must_use]
    pub fn jobs_waiting(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }

    /// Who is connected.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The age of the oldest message that search does not find yet.
    #[must_use]
    pub fn search_behind(&self) -> std::time::Duration {
        self.behind.since(std::time::SystemTime::now())
    }

    /// What this node has moved to files, and deleted for its age.
    #[must_use]
    pub fn archiver(&self) -> archiver::Figures {
        self.archived.figures()
    }

    /// How often users may do what.
    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.limits.rates
    }

    /// What they may not write.
    #[must_use]
    pub fn words(&self) -> &Words {
        &self.limits.words
    }

    /// What this server is among others on its database.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What nodes share beside the database; `None`: there are no others.
    #[must_use]
    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    /// Tells other nodes.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Has the data of accounts that were deleted just now erased without delay.
    pub fn erase_deleted(&self) {
        self.erasures.notify_one();
        self.bus.tell(Notice::Due(Due::Erasure.into()));
    }

    /// Whether the last attempt to store something failed, and is being repeated.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Relaxed)
    }
}

/// A task that ends only when it is told to.
async fn in_background(task: impl Future<Output = ()>) -> Result<(), LinkClosed> {
    task.await;
    Ok(())
}

#[cfg(test)]
mod tests;
