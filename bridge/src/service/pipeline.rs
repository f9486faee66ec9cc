//! The pipeline's loop. A round takes what is waiting, executes it in one transaction, and announces what came of it:
//! answers, deliveries, and sessions that go live. While the database is away a round is repeated until it succeeds;
//! meanwhile the link's window fills, and clients wait for their PUBACKs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use broker::link::{FrameReceiver, FrameSender, LinkClosed};
use schema::link::{
    self, DownFrame, FromEdge, Subscribed, ToEdge, UpFrame, Uplink, from_edge, to_edge,
};
use schema::wire::encode_down;
use schema::{Format, Uid, v1};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::batch::Executor;
use super::catch_up::{self, Backlog, Reached, Step, Target};
use super::command::{self, Command, Sync};
use super::cursors::Cursors;
use super::job::{Caller, Door, Job, Outcome};
use super::refused::{Code, Refused};
use crate::clock;
use crate::store::devices::{self, Behind, Cursor};
use crate::store::views::{self, Range};
use crate::store::{self, Store};

/// Commands executed in one transaction.
const BATCH_MAX: usize = 512;
/// Catch-ups and syncs that read at the same time; more wait.
const READERS: usize = 16;
/// Syncs that may wait for their page; past that they are refused.
const SYNCS_MAX: usize = 256;
/// Steps of catch-ups that wait for the pipeline.
const STEP_QUEUE: usize = 64;
/// A session that lacks no more than this at the end of its catch-up gets it from the pipeline itself, and is live.
const JOIN_MAX: u32 = 64;
/// Bytes of a sync's page.
const SYNC_BYTES: usize = 128 * 1024;
/// Waiting between attempts while the database is away.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub(super) struct Pipeline {
    executor: Executor,
    sender: FrameSender<DownFrame>,
    is_stalled: Arc<AtomicBool>,
    cursors: Cursors,
    feeds: HashMap<u64, Feed>,
    catch_ups: catch_up::Context,
    steps: mpsc::Receiver<Step>,
    syncs: Arc<Semaphore>,
    answered: (mpsc::Sender<Answered>, mpsc::Receiver<Answered>),
}

/// A sync's job with its outcome.
type Answered = (Door, String, Result<v1::Ok, Refused>);

/// A frame's number and items.
pub(super) type Taken = (u64, Vec<FromEdge>);

/// A session that is catching up.
#[derive(Debug)]
struct Feed {
    epoch: u32,
    drained: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a round has to do.
#[derive(Debug, Default)]
struct Round {
    jobs: Vec<Job>,
    subscribed: Vec<Target>,
    steps: Vec<Step>,
    /// Answers that need no transaction.
    items: Vec<ToEdge>,
    last_frame: Option<u64>,
}

/// Hands frames to the pipeline, and the link's flow what they say of it.
pub(super) async fn take_frames(
    mut receiver: FrameReceiver<UpFrame>,
    frames: mpsc::Sender<Taken>,
    stop: CancellationToken,
) -> Result<(), LinkClosed> {
    loop {
        let taken = tokio::select! {
            taken = receiver.recv() => taken?,
            () = stop.cancelled() => return Ok(()),
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
        is_stalled: Arc<AtomicBool>,
    ) -> Self {
        let (steps_in, steps) = mpsc::channel(STEP_QUEUE);
        let catch_ups = catch_up::Context {
            store: executor.store.clone(),
            steps: steps_in,
            readers: Arc::new(Semaphore::new(READERS)),
            max: executor.limits.catch_up_max,
        };
        Pipeline {
            executor,
            sender,
            is_stalled,
            cursors: Cursors::default(),
            feeds: HashMap::new(),
            catch_ups,
            steps,
            syncs: Arc::new(Semaphore::new(SYNCS_MAX)),
            answered: mpsc::channel(SYNCS_MAX),
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
        loop {
            let mut round = Round::default();
            let cursors_due = self.cursors.due_at();
            tokio::select! {
                Some(frame) = frames.recv() => self.take_frame(frame, &mut round),
                Some(job) = jobs.recv() => self.take_job(job, &mut round),
                Some(step) = self.steps.recv() => round.steps.push(step),
                Some(answered) = self.answered.1.recv() => answer(answered, &mut round.items),
                () = sleep_until(cursors_due) => {}
                () = flow.woken() => {}
                () = stop.cancelled() => break,
            }
            self.take_waiting(&mut frames, &mut jobs, &mut round);
            self.finish(round).await?;
        }
        let mut rest = Round::default();
        self.take_waiting(&mut frames, &mut jobs, &mut rest);
        self.finish(rest).await?;
        let cursors = self.cursors.take();
        self.execute(&[], cursors).await;
        Ok(())
    }

    /// Takes what is there without waiting, as far as a batch goes.
    fn take_waiting(
        &mut self,
        frames: &mut mpsc::Receiver<Taken>,
        jobs: &mut mpsc::Receiver<Job>,
        round: &mut Round,
    ) {
        while round.jobs.len() < BATCH_MAX {
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

    fn take_frame(&mut self, (number, items): Taken, round: &mut Round) {
        round.last_frame = Some(number);
        for FromEdge { item } in items {
            match item {
                Some(from_edge::Item::Uplink(uplink)) => self.take_uplink(uplink, round),
                Some(from_edge::Item::Acked(acked)) => self.cursors.note(acked),
                Some(from_edge::Item::Subscribed(subscribed)) => {
                    // A session that subscribes anew starts anew.
                    self.feeds.remove(&subscribed.session);
                    round.subscribed.extend(target(subscribed));
                }
                Some(from_edge::Item::Drained(drained)) => {
                    if let Some(feed) = self.feeds.get(&drained.session)
                        && feed.epoch == drained.epoch
                    {
                        feed.drained.notify_one();
                    }
                }
                Some(from_edge::Item::Gone(gone)) => {
                    self.feeds.remove(&gone.session);
                    round
                        .subscribed
                        .retain(|target| target.session != gone.session);
                }
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

    fn take_job(&mut self, job: Job, round: &mut Round) {
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
        let (store, readers) = (self.executor.store.clone(), self.catch_ups.readers.clone());
        let (uid, sync, answered) = (job.caller.uid, sync.clone(), self.answered.0.clone());
        tokio::spawn(async move {
            // The semaphore is never closed; a permit less would do no harm.
            let _permit = readers.acquire().await.ok();
            let result = page(&store, &uid, &sync).await.unwrap_or_else(|error| {
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

    /// Executes a round's jobs and announces everything that came of it.
    async fn finish(&mut self, round: Round) -> Result<(), LinkClosed> {
        let Round {
            jobs,
            mut subscribed,
            steps,
            mut items,
            last_frame,
        } = round;
        // Whoever asks where a cursor stands gets what has been acknowledged by now.
        let is_asked = !subscribed.is_empty()
            || steps.iter().any(|step| matches!(step, Step::End(..)))
            || jobs
                .iter()
                .any(|job| matches!(job.command, Command::Ack(..)));
        let cursors = if is_asked || self.cursors.is_due() {
            self.cursors.take()
        } else {
            Vec::new()
        };
        let outcomes = self.execute(&jobs, cursors).await;
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            answer((job.door, job.client_msg_id, outcome.result), &mut items);
            let deliveries = outcome.deliveries.into_iter();
            items.extend(deliveries.map(super::job::Delivery::into_item));
        }
        // After the deliveries of what has been committed, so that what follows continues them without a gap.
        for step in steps {
            match step {
                Step::Page(target, messages) => items.push(catch_up_item(&target, messages)),
                Step::End(target, reached) => self.end_catch_up(target, reached, &mut items).await,
            }
        }
        self.start_feeds(&mut subscribed, &mut items).await;
        if let Some(number) = last_frame {
            self.sender.flow().done(number);
        }
        self.sender.send(items).await?;
        self.sender.report().await
    }

    /// Executes jobs, however long the database is away.
    async fn execute(&mut self, jobs: &[Job], cursors: Vec<Cursor>) -> Vec<Outcome> {
        if jobs.is_empty() && cursors.is_empty() {
            return Vec::new();
        }
        let is_stalled = self.is_stalled.clone();
        let mut patience = Patience::new(&is_stalled);
        loop {
            match self.executor.run(jobs, &cursors).await {
                Ok(outcomes) => {
                    patience.end();
                    return outcomes;
                }
                // Exists: another node was faster with the same client_msg_id or conversation; it is found next time.
                Err(error @ (store::Error::Unavailable(_) | store::Error::Exists(_))) => {
                    patience.wait_after(&error).await;
                }
                Err(error @ store::Error::Internal(_)) => {
                    error!(error = %store::chain(&error), jobs = jobs.len(), "a batch failed");
                    return self.execute_separately(jobs, cursors).await;
                }
            }
        }
    }

    /// After a batch failed for a reason that waiting does not mend: the one command that is to blame is refused, the
    /// others are executed.
    async fn execute_separately(&mut self, jobs: &[Job], cursors: Vec<Cursor>) -> Vec<Outcome> {
        let is_single = jobs.len() <= 1;
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            let refused = || Refused::new(Code::Internal, "the command could not be executed");
            let outcome = if is_single {
                refused().into()
            } else {
                let alone = Box::pin(self.execute(std::slice::from_ref(job), Vec::new()));
                alone.await.pop().unwrap_or_else(|| refused().into())
            };
            outcomes.push(outcome);
        }
        if !is_single {
            Box::pin(self.execute(&[], cursors)).await;
        }
        outcomes
    }

    /// Sessions that have subscribed: those that miss nothing are live at once.
    async fn start_feeds(&mut self, subscribed: &mut Vec<Target>, items: &mut Vec<ToEdge>) {
        if subscribed.is_empty() {
            return;
        }
        let is_stalled = self.is_stalled.clone();
        let mut patience = Patience::new(&is_stalled);
        let behind = loop {
            match self.register(subscribed).await {
                Ok(behind) => break behind,
                Err(error) => patience.wait_after(&error).await,
            }
        };
        patience.end();
        let mut by_device: HashMap<(String, String), Vec<Behind>> = HashMap::new();
        for behind in behind {
            let device = (behind.uid.clone(), behind.device.clone());
            by_device.entry(device).or_default().push(behind);
        }
        for target in subscribed.drain(..) {
            let device = (target.uid.to_string(), target.device.clone());
            match by_device.get(&device) {
                None => items.push(live_item(&target)),
                Some(behind) => self.start_catch_up(target, behind.clone()),
            }
        }
    }

    /// Makes new devices known; returns where all of them are behind.
    async fn register(&self, targets: &[Target]) -> Result<Vec<Behind>, store::Error> {
        let store = &self.executor.store;
        let mut wanted: Vec<devices::Device<'_>> = targets
            .iter()
            .map(|target| (&target.uid, target.device.as_str()))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let known = devices::known(store.reader(), &wanted).await?;
        let is_known = |(uid, device): &devices::Device<'_>| {
            known.iter().any(|(u, d)| u == uid.as_str() && d == device)
        };
        let now = clock::millis(SystemTime::now());
        let tx = store.begin().await?;
        let (old, new): (Vec<_>, Vec<_>) = wanted.iter().copied().partition(is_known);
        devices::touch(&tx, &old, now).await?;
        for device in new {
            devices::add(&tx, device, now, self.executor.limits.devices_max).await?;
        }
        let behind = devices::behind(&tx, &wanted).await?;
        tx.commit().await.map_err(store::Error::from)?;
        Ok(behind)
    }

    fn start_catch_up(&mut self, target: Target, behind: Vec<Behind>) {
        let drained = Arc::new(Notify::new());
        let (session, epoch) = (target.session, target.epoch);
        let run = catch_up::run(self.catch_ups.clone(), target, behind, drained.clone());
        let task = tokio::spawn(run).abort_handle();
        let feed = Feed {
            epoch,
            drained,
            task,
        };
        self.feeds.insert(session, feed);
    }

    /// A catch-up has sent what was missing when it began: what has come since is small, or it goes on.
    async fn end_catch_up(&mut self, target: Target, reached: Reached, items: &mut Vec<ToEdge>) {
        let is_current = |feed: &Feed| feed.epoch == target.epoch;
        if !self.feeds.get(&target.session).is_some_and(is_current) {
            return;
        }
        self.feeds.remove(&target.session);
        self.cursors.note_all(reached.cursors);
        let is_stalled = self.is_stalled.clone();
        let mut patience = Patience::new(&is_stalled);
        let (store, max) = (&self.executor.store, self.catch_ups.max);
        let rest = loop {
            match read_rest(store, &target, &reached.positions, max).await {
                Ok(rest) => break rest,
                Err(error) => patience.wait_after(&error).await,
            }
        };
        patience.end();
        match rest {
            Rest::Little(messages) => {
                if !messages.is_empty() {
                    items.push(catch_up_item(&target, messages));
                }
                items.push(live_item(&target));
            }
            Rest::Much(behind) => self.start_catch_up(target, behind),
        }
    }
}

/// Waiting for a database that is away, for what must succeed in the end.
struct Patience<'a> {
    is_stalled: &'a AtomicBool,
    wait: Duration,
}

impl<'a> Patience<'a> {
    fn new(is_stalled: &'a AtomicBool) -> Self {
        Patience {
            is_stalled,
            wait: RETRY_MIN,
        }
    }

    /// Waits for a while, longer each time.
    async fn wait_after(&mut self, error: &store::Error) {
        if !self.is_stalled.swap(true, Ordering::Relaxed) {
            warn!(error = %store::chain(error), "the database is away: commands and subscriptions wait");
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(RETRY_MAX);
    }

    /// It has succeeded.
    fn end(self) {
        if self.is_stalled.swap(false, Ordering::Relaxed) {
            info!("the database is back");
        }
    }
}

/// What is missing at the end of a catch-up.
enum Rest {
    Little(Vec<link::Missed>),
    Much(Vec<Behind>),
}

async fn read_rest(
    store: &Store,
    target: &Target,
    positions: &[(i64, u32)],
    max: u32,
) -> Result<Rest, store::Error> {
    let device = (&target.uid, target.device.as_str());
    let mut behind = devices::behind(store.reader(), &[device]).await?;
    // At QoS 0 nothing is acknowledged: what has been sent is known only here.
    for conversation in &mut behind {
        let reached = positions
            .iter()
            .find(|(id, _)| *id == conversation.conversation_id);
        if let Some((_, seq)) = reached {
            conversation.after_seq = conversation.after_seq.max(*seq);
        }
    }
    behind.retain(|conversation| conversation.last_seq > conversation.after_seq);
    let missing = |conversation: &Behind| conversation.last_seq - conversation.after_seq;
    if behind.iter().map(missing).sum::<u32>() > JOIN_MAX {
        return Ok(Rest::Much(behind));
    }
    let mut backlog = Backlog::new(target, behind, max);
    let mut messages = Vec::new();
    loop {
        let page = backlog.next_page(store).await?;
        if page.is_empty() {
            return Ok(Rest::Little(messages));
        }
        messages.extend(page);
    }
}

/// The page that a sync asks for.
async fn page(
    store: &Store,
    uid: &Uid,
    sync: &Sync,
) -> Result<Result<v1::Ok, Refused>, store::Error> {
    let name = sync.conversation.to_string();
    let Some(membership) = views::membership(store.reader(), uid, &name).await? else {
        return Ok(Err(Refused::not_found("there is no such conversation")));
    };
    let range = Range {
        after_seq: sync.after_seq,
        before_seq: sync.before_seq,
        limit: sync.limit,
        bytes_max: SYNC_BYTES,
    };
    let (id, start) = (membership.conversation_id, membership.start_seq);
    let page = views::history(store.reader(), id, &name, start, range).await?;
    Ok(Ok(v1::Ok {
        conversation: name.clone(),
        seq: membership.last_seq,
        batch: Some(v1::Batch {
            conversation: name,
            messages: page.messages,
            last_seq: membership.last_seq,
            more: page.more,
        }),
        ..Default::default()
    }))
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn target(subscribed: Subscribed) -> Option<Target> {
    Some(Target {
        session: subscribed.session,
        epoch: subscribed.epoch,
        uid: subscribed.uid.parse().ok()?,
        device: subscribed.device,
    })
}

/// The answer as the wire has it.
pub(super) fn reply(client_msg_id: String, result: Result<v1::Ok, Refused>) -> v1::Reply {
    let result = match result {
        Ok(ok) => v1::reply::Result::Ok(ok),
        Err(refused) => v1::reply::Result::Error(refused.to_wire()),
    };
    v1::Reply {
        client_msg_id,
        result: Some(result),
    }
}

/// Sends an answer through the door that the command came in by.
fn answer((door, client_msg_id, result): Answered, items: &mut Vec<ToEdge>) {
    let reason = match &result {
        Ok(_) => 0,
        Err(refused) => refused.code.mqtt_reason(),
    };
    let reply = reply(client_msg_id, result);
    match door {
        Door::Edge { session, token } => items.push(ToEdge {
            item: Some(to_edge::Item::Answer(link::Answer {
                session,
                token,
                reason: reason.into(),
                reply: encode_down(v1::down::Content::Reply(reply)),
            })),
        }),
        Door::Http(door) => {
            if door.send(reply).is_err() {
                debug!("an HTTP client did not wait for its answer");
            }
        }
    }
}

fn catch_up_item(target: &Target, messages: Vec<link::Missed>) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::CatchUp(link::CatchUp {
            session: target.session,
            epoch: target.epoch,
            messages,
        })),
    }
}

fn live_item(target: &Target) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::Live(link::Live {
            session: target.session,
            epoch: target.epoch,
        })),
    }
}
