//! The chat service: one pipeline that takes commands from both doors, decides them in batches, stores what they say,
//! answers, and fans out.
//!
//! Reading order: [`command`] (what can be asked), `job` (a command under way), `pipeline` (rounds) between `intake` and
//! `announcer`, `batch`, `single` and `notes` (the transaction), `catalog` (who is where, in memory), `cursors` (what
//! devices have acknowledged), `retains` (what is kept of plain topics), [`presence`] (who is connected), `feeds` and
//! `catch_up` (from subscribing to live delivery: what a device missed), `briefing` (what the edge has to know first).
//!
//! Invariants: an answer leaves only after the commit that it speaks of; deliveries leave in the order of their
//! commits; only the pipeline's task writes conversations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use broker::link::{BridgeLink, LinkClosed};
use schema::v1;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::code::Code;
use crate::store::{self, Store, messages};

pub mod changes;
pub mod command;
pub mod contacts;
pub mod conversations;
pub mod device_settings;
pub mod groups;
pub mod operations;
pub mod presence;
pub mod questions;
pub mod refused;
pub mod sync;
pub mod users;

mod announce;
mod announcer;
mod batch;
mod briefing;
mod catalog;
mod catch_up;
mod changed_messages;
mod cursors;
mod feeds;
mod ids;
mod intake;
mod job;
mod notes;
mod packed;
mod parcels;
mod patience;
mod pipeline;
mod retains;
mod single;

pub use job::Caller;

use announcer::Announcer;
use batch::Executor;
use catalog::Catalog;
use job::{Door, Job};
use pipeline::{Pipeline, Unheard};
use presence::Presence;
use refused::Refused;

/// Commands from HTTP that may wait for the pipeline; past that they are refused as `unavailable`.
const HTTP_QUEUE: usize = 1024;
/// Members of all conversations kept in memory together.
const CATALOG_WEIGHT_MAX: usize = 1_000_000;
/// Frames taken off the link ahead of the pipeline; the link's window is the real bound.
const FRAME_QUEUE: usize = 64;
/// Events of tasks in the background that may wait for the pipeline; those tasks wait then.
const EVENTS: usize = 256;
/// Rounds that may wait to be announced.
const ANNOUNCEMENTS: usize = 1;

/// What the operator can set about commands.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a message's text or body.
    pub text_max: usize,
    /// Missed messages of one conversation that are pushed to a device when it comes back.
    pub catch_up_max: u32,
    /// Members of a group.
    pub group_members_max: usize,
    /// Devices of a user that receive.
    pub devices_max: u32,
    /// Grants that a user gives.
    pub grants_max: u32,
    /// Bytes of a topic filter.
    pub topic_length_max: usize,
    /// Levels of a topic filter.
    pub topic_levels_max: usize,
    /// How long answers to commands other than sends are kept.
    pub answers_kept: std::time::Duration,
}

/// Gives commands to the pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    jobs: mpsc::Sender<Job>,
    is_stalled: Arc<AtomicBool>,
    limits: Limits,
    presence: Presence,
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
    /// Starts the pipeline on a database and a link, whose edge is told first what it has to know.
    ///
    /// # Errors
    /// [`Error::Store`] when the database can't be read, [`Error::Link`] when the edge is gone.
    pub async fn start(
        store: Store,
        mut link: BridgeLink,
        limits: Limits,
    ) -> Result<(Self, Running), Error> {
        let newest = messages::newest_id(store.reader()).await?;
        let mut tasks = JoinSet::new();
        let ended = CancellationToken::new();
        let (taken, frames) = mpsc::channel(FRAME_QUEUE);
        tasks.spawn(intake::run(
            link.receiver,
            limits.clone(),
            taken,
            ended.clone(),
        ));
        briefing::send(&store, &mut link.sender).await?;
        let catalog = Catalog::new(CATALOG_WEIGHT_MAX);
        let executor = Executor::new(store, catalog, newest, limits.clone());
        let (jobs, job_queue) = mpsc::channel(HTTP_QUEUE);
        let (announcements, rounds) = mpsc::channel(ANNOUNCEMENTS);
        let is_stalled = Arc::new(AtomicBool::new(false));
        let stop = CancellationToken::new();
        let presence = Presence::default();
        let (_events, notices) = mpsc::channel(EVENTS);
        let pipeline = Pipeline::new(
            executor,
            announcements,
            presence.clone(),
            notices,
            is_stalled.clone(),
        );
        tasks.spawn({
            let stop = stop.clone();
            async move {
                if let Err(Unheard) = pipeline.run(frames, job_queue, stop).await {
                    tracing::debug!("the announcer has ended before the pipeline, and says why");
                }
                Ok(())
            }
        });
        tasks.spawn({
            let ended = ended.drop_guard();
            async move {
                let outcome = Announcer::new(link.sender).run(rounds).await;
                drop(ended);
                outcome
            }
        });
        let service = Service {
            jobs,
            is_stalled,
            limits,
            presence,
        };
        Ok((service, Running { tasks, stop }))
    }

    /// Executes a command as if it had come by MQTT, and waits for its answer.
    pub async fn execute(&self, caller: Caller, up: v1::Up) -> v1::Reply {
        let client_msg_id = up.client_msg_id.clone();
        let result = match command::check(&caller.uid, up, &self.limits) {
            Ok(command) => {
                let (door, answer) = oneshot::channel();
                let job = Job {
                    caller,
                    door: Door::Http(door),
                    client_msg_id: client_msg_id.clone(),
                    command,
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

    /// Whether the last attempt to store something failed, and is being repeated.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.is_stalled.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
