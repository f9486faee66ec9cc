//! The pipeline's loop. A round takes what is waiting, executes it in one transaction, and announces what came of it:
//! answers, deliveries, and sessions that go live. While the database is away a round is repeated until it succeeds;
//! meanwhile the link's window fills, and clients wait for their PUBACKs.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use broker::link::{FrameReceiver, FrameSender, LinkClosed};
use schema::link::{self, DownFrame, FromEdge, ToEdge, UpFrame, Uplink, from_edge};
use schema::{Format, MsgId, Uid};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::announce::{Answered, answer, catch_up_item};
use super::batch::Executor;
use super::catch_up::{Step, Target};
use super::command::{self, Command};
use super::cursors::Cursors;
use super::feeds::{self, Feeds};
use super::job::{Caller, Delivery, Door, Job, Outcome};
use super::notes::Notes;
use super::patience::Patience;
use super::presence::Presence;
use super::refused::Refused;
use super::retains::Retains;
use super::sync;
use crate::clock;
use crate::code::Code;
use crate::store;
use crate::store::{answers, devices, retained};

/// Commands executed in one transaction.
const BATCH_MAX: usize = 512;
/// Attempts of a batch that meets rows which exist already, before it is taken apart.
const CONFLICTS_MAX: u32 = 5;
/// Commands from HTTP that a round takes before those from the edge, so that neither door waits for the other.
const HTTP_FIRST: usize = 64;
/// Topics whose retained messages are stored in one transaction.
const RETAINED_MAX: usize = 512;
/// How often answers that are no longer kept, and retained messages that have run out, are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Catch-ups and syncs that read at the same time; more wait.
const READERS: usize = 16;
/// Syncs that may wait for their page; past that they are refused.
const SYNCS_MAX: usize = 256;

/// See the module's documentation.
pub(super) struct Pipeline {
    executor: Executor,
    sender: FrameSender<DownFrame>,
    is_stalled: Arc<AtomicBool>,
    cursors: Cursors,
    presence: Presence,
    feeds: Feeds,
    steps: mpsc::Receiver<Step>,
    /// Bounds how many catch-ups and syncs read at the same time.
    readers: Arc<Semaphore>,
    /// Bounds how many syncs wait for their page.
    syncs: Arc<Semaphore>,
    answered: (mpsc::Sender<Answered>, mpsc::Receiver<Answered>),
    /// Answers to HTTP that leave when the edge is done with the frame of that number.
    held: VecDeque<(u64, Answered)>,
}

/// A frame's number and items.
pub(super) type Taken = (u64, Vec<FromEdge>);

/// What a round has to do.
#[derive(Debug, Default)]
pub(super) struct Round {
    jobs: Vec<Job>,
    subscribed: Vec<Target>,
    /// Sessions that no longer receive.
    gone: Vec<u64>,
    steps: Vec<Step>,
    retains: Retains,
    /// Answers that need no transaction.
    items: Vec<ToEdge>,
    last_frame: Option<u64>,
}

impl Round {
    /// A session begins anew: what it did before in this round no longer counts.
    fn forget(&mut self, session: u64) {
        self.subscribed.retain(|target| target.session != session);
        self.gone.retain(|gone| *gone != session);
    }

    fn is_empty(&self) -> bool {
        self.last_frame.is_none() && self.jobs.is_empty() && self.steps.is_empty()
    }
}

/// Hands frames to the pipeline until that has ended: to its last answer it needs to hear that there is room for more.
pub(super) async fn take_frames(
    mut receiver: FrameReceiver<UpFrame>,
    frames: mpsc::Sender<Taken>,
    ended: CancellationToken,
) -> Result<(), LinkClosed> {
    loop {
        let taken = tokio::select! {
            taken = receiver.recv() => taken?,
            () = ended.cancelled() => return Ok(()),
        };
        if frames.send(taken).await.is_err() {
            return Ok(());
        }
    }
}

impl Pipeline {
    pub(super) fn new(
        executor: Executor,
        sender: FrameSender<DownFrame>,
        presence: Presence,
        is_stalled: Arc<AtomicBool>,
    ) -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        let (feeds, steps) = Feeds::new(
            executor.store.clone(),
            readers.clone(),
            executor.limits.catch_up_max,
            executor.limits.devices_max,
            is_stalled.clone(),
        );
        Pipeline {
            executor,
            sender,
            is_stalled,
            cursors: Cursors::default(),
            presence,
            feeds,
            steps,
            readers,
            syncs: Arc::new(Semaphore::new(SYNCS_MAX)),
            answered: mpsc::channel(SYNCS_MAX),
            held: VecDeque::new(),
        }
    }

    /// Rounds until `stop`; then what has arrived is executed and stored.
    pub(super) async fn run(
        mut self,
        mut frames: mpsc::Receiver<Taken>,
        mut jobs: mpsc::Receiver<Job>,
        stop: CancellationToken,
    ) -> Result<(), LinkClosed> {
        let flow = self.sender.flow().clone();
        let mut prune = tokio::time::interval(PRUNE_INTERVAL);
        loop {
            let mut round = Round::default();
            let notes_due = self
                .cursors
                .due_at()
                .into_iter()
                .chain(self.presence.due_at());
            tokio::select! {
                Some(frame) = frames.recv() => self.take_frame(frame, &mut round),
                Some(job) = jobs.recv() => self.take_job(job, &mut round),
                Some(step) = self.steps.recv() => round.steps.push(step),
                Some(answered) = self.answered.1.recv() => answer(answered, &mut round.items),
                () = sleep_until(notes_due.min()) => {}
                () = flow.woken() => {}
                _ = prune.tick() => self.prune().await,
                () = stop.cancelled() => break,
            }
            self.take_waiting(&mut frames, &mut jobs, &mut round);
            self.execute_round(round).await?;
        }
        loop {
            let mut rest = Round::default();
            self.take_waiting(&mut frames, &mut jobs, &mut rest);
            if rest.is_empty() {
                break;
            }
            self.execute_round(rest).await?;
        }
        let notes = self.due_notes(true);
        self.execute(&[], notes).await;
        self.release_answers(u64::MAX);
        Ok(())
    }

    /// Takes what is there without waiting, as far as a batch goes.
    fn take_waiting(
        &mut self,
        frames: &mut mpsc::Receiver<Taken>,
        jobs: &mut mpsc::Receiver<Job>,
        round: &mut Round,
    ) {
        while round.jobs.len() < HTTP_FIRST
            && let Ok(job) = jobs.try_recv()
        {
            self.take_job(job, round);
        }
        while round.jobs.len() < BATCH_MAX
            && round.subscribed.len() < BATCH_MAX
            && round.retains.len() < RETAINED_MAX
        {
            if let Ok(frame) = frames.try_recv() {
                self.take_frame(frame, round);
            } else if let Ok(job) = jobs.try_recv() {
                self.take_job(job, round);
            } else {
                break;
            }
        }
        while let Ok(step) = self.steps.try_recv() {
            round.steps.push(step);
        }
        while let Ok(answered) = self.answered.1.try_recv() {
            answer(answered, &mut round.items);
        }
    }

    pub(super) fn take_frame(&mut self, (number, items): Taken, round: &mut Round) {
        round.last_frame = Some(number);
        for FromEdge { item } in items {
            match item {
                Some(from_edge::Item::Uplink(uplink)) => self.take_uplink(uplink, round),
                Some(from_edge::Item::Acked(acked)) => self.cursors.note(acked),
                Some(from_edge::Item::Subscribed(subscribed)) => {
                    // A session that subscribes anew starts anew.
                    self.feeds.reset(subscribed.session);
                    round.forget(subscribed.session);
                    round.subscribed.extend(feeds::target(subscribed));
                }
                Some(from_edge::Item::Drained(drained)) => self.feeds.drained(&drained),
                Some(from_edge::Item::Gone(gone)) => {
                    // One that has just subscribed still makes its device known, and ends after that.
                    round.gone.push(gone.session);
                }
                Some(from_edge::Item::Connected(connected)) => {
                    self.presence.connected(connected, SystemTime::now());
                }
                Some(from_edge::Item::Disconnected(disconnected)) => {
                    self.presence.disconnected(disconnected, SystemTime::now());
                }
                Some(from_edge::Item::Retain(retain)) => round.retains.note(retain),
                None => {}
            }
        }
    }

    fn take_uplink(&mut self, uplink: Uplink, round: &mut Round) {
        let door = Door::Edge {
            session: uplink.session,
            token: uplink.token,
        };
        let format = match uplink.format() {
            link::Format::Json => Format::Json,
            link::Format::Protobuf | link::Format::Unspecified => Format::Protobuf,
        };
        let Ok(uid) = uplink.uid.parse::<Uid>() else {
            error!("the edge sent an uplink of a user who can't exist");
            return;
        };
        let (client_msg_id, checked) = match format.decode_up(uplink.payload) {
            Ok(up) => (
                up.client_msg_id.clone(),
                command::check(&uid, up, &self.executor.limits),
            ),
            Err(error) => (String::new(), Err(Refused::invalid(error.to_string()))),
        };
        match checked {
            Ok(command) => {
                let job = Job {
                    caller: Caller {
                        uid,
                        device: uplink.device,
                    },
                    door,
                    client_msg_id,
                    command,
                };
                self.take_job(job, round);
            }
            Err(refused) => answer((door, client_msg_id, Err(refused)), &mut round.items),
        }
    }

    pub(super) fn take_job(&mut self, job: Job, round: &mut Round) {
        let Command::Sync(sync) = &job.command else {
            round.jobs.push(job);
            return;
        };
        let Ok(slot) = self.syncs.clone().try_acquire_owned() else {
            let refused = Refused::new(Code::Unavailable, "too many syncs are waiting");
            answer(
                (job.door, job.client_msg_id, Err(refused)),
                &mut round.items,
            );
            return;
        };
        let (store, readers) = (self.executor.store.clone(), self.readers.clone());
        let (uid, sync, answered) = (job.caller.uid, sync.clone(), self.answered.0.clone());
        tokio::spawn(async move {
            // The semaphore is never closed; a permit less would do no harm.
            let _permit = readers.acquire().await.ok();
            let result = sync::page(&store, &uid, &sync)
                .await
                .unwrap_or_else(|error| {
                    warn!(error = %store::chain(&error), "a sync could not be answered");
                    Err(Refused::new(
                        Code::Unavailable,
                        "the page can't be read now",
                    ))
                });
            if answered
                .send((job.door, job.client_msg_id, result))
                .await
                .is_err()
            {
                warn!("a sync was answered after the service had ended");
            }
            drop(slot);
        });
    }

    /// Drops what is no longer kept. That it fails once does no harm.
    async fn prune(&self) {
        let (db, now) = (self.executor.store.writer(), SystemTime::now());
        if let Some(oldest) = now.checked_sub(self.executor.limits.answers_kept)
            && let Err(error) = answers::forget_before(db, MsgId::at(oldest).0).await
        {
            warn!(error = %store::chain(&error), "old answers could not be dropped");
        }
        if let Err(error) = retained::forget_expired(db, clock::millis(now)).await {
            warn!(error = %store::chain(&error), "old retained messages could not be dropped");
        }
        // So that a device which is connected for weeks does not pass for the one that was away longest after a crash.
        let connected = self.presence.devices();
        let devices: Vec<_> = connected
            .iter()
            .map(|(uid, device)| (uid, &**device))
            .collect();
        if let Err(error) = devices::touch(db, &devices, clock::millis(now)).await {
            warn!(error = %store::chain(&error), "connected devices could not be noted");
        }
    }

    /// Executes a round's jobs and announces everything that came of it.
    pub(super) async fn execute_round(&mut self, round: Round) -> Result<(), LinkClosed> {
        let Round {
            jobs,
            subscribed,
            gone,
            steps,
            mut retains,
            mut items,
            last_frame,
        } = round;
        // Whoever asks where a cursor stands, or which device was seen last, gets what has been heard by now.
        let is_asked = !subscribed.is_empty()
            || steps.iter().any(|step| matches!(step, Step::End(..)))
            || jobs
                .iter()
                .any(|job| matches!(job.command, Command::Ack(..)));
        let mut notes = self.due_notes(is_asked);
        notes.retained = retains.take_messages();
        let done = self.execute(&jobs, notes).await;
        items.extend(retains.answers(&done.unstored));
        let mut held = Vec::new();
        for (job, outcome) in jobs.into_iter().zip(done.outcomes) {
            // On the link it arrives before the answer; an answer to HTTP could overtake it.
            let is_held = outcome.precondition.is_some() && matches!(job.door, Door::Http(_));
            items.extend(outcome.precondition);
            let answered = (job.door, job.client_msg_id, outcome.result);
            if is_held {
                held.push(answered);
            } else {
                answer(answered, &mut items);
            }
            let deliveries = outcome.deliveries.into_iter();
            items.extend(deliveries.map(Delivery::into_item));
        }
        // After the deliveries of what has been committed, so that what follows continues them without a gap.
        for step in steps {
            match step {
                Step::Page(target, messages) => items.push(catch_up_item(&target, messages)),
                Step::Failed(target) => self.feeds.fail(&target, &mut items),
                Step::End(target, reached) => {
                    self.feeds.end_catch_up(target, &reached, &mut items).await;
                    self.cursors.note_all(reached.cursors);
                }
            }
        }
        self.feeds.start(subscribed, &mut items).await;
        for session in gone {
            self.feeds.end(session);
        }
        if let Some(number) = last_frame {
            self.sender.flow().done(number);
        }
        self.sender.send(items).await?;
        if !held.is_empty() {
            let number = self.sender.urge().await?;
            let held = held.into_iter().map(|answered| (number, answered));
            self.held.extend(held);
        }
        self.release_answers(self.sender.flow().peer_done());
        self.sender.report().await
    }

    /// The cursors and departures that have waited for long enough, or all of them.
    fn due_notes(&mut self, all: bool) -> Notes {
        let mut notes = Notes::default();
        if all || self.cursors.is_due() {
            notes.cursors = self.cursors.take();
        }
        if all || self.presence.is_due() {
            notes.departures = self.presence.take();
        }
        notes
    }

    /// Sends the answers that were held until the edge was done with that frame.
    fn release_answers(&mut self, done: u64) {
        while self.held.front().is_some_and(|(number, _)| *number <= done)
            && let Some((_, answered)) = self.held.pop_front()
        {
            // Only HTTP's are held, which are no items.
            answer(answered, &mut Vec::new());
        }
    }

    /// Executes jobs and stores notes, however long the database is away.
    async fn execute(&mut self, jobs: &[Job], notes: Notes) -> Done {
        if jobs.is_empty() && notes.is_empty() {
            return Done::default();
        }
        let is_stalled = self.is_stalled.clone();
        let mut patience = Patience::new(&is_stalled);
        let mut conflicts = 0;
        loop {
            match self.executor.run(jobs, &notes).await {
                Ok(outcomes) => {
                    patience.end();
                    return Done {
                        outcomes,
                        unstored: HashSet::new(),
                    };
                }
                Err(error @ store::Error::Unavailable(_)) => patience.wait_after(&error).await,
                // Another node was faster with the same client_msg_id or conversation; it is found the next time.
                Err(error @ store::Error::Exists(_)) if conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                    patience.wait_after(&error).await;
                }
                Err(error) => {
                    error!(error = %store::chain(&error), jobs = jobs.len(), "a batch failed");
                    return self.execute_separately(jobs, notes).await;
                }
            }
        }
    }

    /// After a batch failed for a reason that waiting does not mend: the one command that is to blame is refused, the
    /// others are executed, and so it is with notes. Cursors that can't be written are given up: what they stand for is
    /// delivered again.
    async fn execute_separately(&mut self, jobs: &[Job], notes: Notes) -> Done {
        let refused = || Refused::new(Code::Internal, "the command could not be executed");
        let mut parts = notes.apart();
        if jobs.len() + parts.len() == 1 {
            let unstored = parts.pop().into_iter().flat_map(|part| part.retained);
            return Done {
                outcomes: jobs.iter().map(|_| refused().into()).collect(),
                unstored: unstored.map(|message| message.topic).collect(),
            };
        }
        let mut done = Done::default();
        for part in parts {
            let alone = Box::pin(self.execute(&[], part)).await;
            done.unstored.extend(alone.unstored);
        }
        for job in jobs {
            let alone = Box::pin(self.execute(std::slice::from_ref(job), Notes::default()));
            let outcome = alone.await.outcomes.pop();
            done.outcomes
                .push(outcome.unwrap_or_else(|| refused().into()));
        }
        done
    }
}

/// What came of a round's transaction.
#[derive(Debug, Default)]
struct Done {
    /// One for each job.
    outcomes: Vec<Outcome>,
    /// Topics whose retained message could not be stored.
    unstored: HashSet<String>,
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
