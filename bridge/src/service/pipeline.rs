//! The pipeline's loop. A round takes what is waiting, executes it in one transaction, and hands on what is to be
//! announced: answers, deliveries, and sessions that go live. While the database is away a round is repeated until it
//! succeeds; meanwhile the link's window fills, and clients wait for their PUBACKs.
//!
//! Three tasks share the work, so that the database is seldom without any: while a round is executed, `intake` takes the
//! next frames apart and `announcer` says what the round before has come to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use schema::bus::notice::Notice;
use schema::bus::{Changed, changed};
use schema::link::{self, Passes, Publish, ToEdge, from_edge, to_edge};
use schema::{MsgId, Uid, v1};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::announce::{answer, catch_up_item};
use super::announcer::{Abroad, Announcement};
use super::appearance::Status;
use super::batch::Executor;
use super::catch_up::{Step, Target};
use super::command::Command;
use super::crossing::{self, Crossing};
use super::cursors::Cursors;
use super::effects::Effects;
use super::feeds::{self, Feeds};
use super::intake::{Intake, Joined, Taken};
use super::job::{Delivery, Door, Job, Outcome, Settled};
use super::notes::Notes;
use super::outlet::Found;
use super::patience::Patience;
use super::presence::Presence;
use super::questions;
use super::receipts::Moves;
use super::refused::Refused;
use super::retains::Retains;
use super::typing::Writers;
use super::users;
use crate::clock;
use crate::cluster::{Bus, Hearing};
use crate::code::Code;
use crate::store;
use crate::store::{answers, devices, looks, retained};

/// Commands executed in one transaction. A commit costs as much as some hundred of them.
const BATCH_MAX: usize = 2048;
/// Sessions that begin to receive in one transaction.
const SUBSCRIBED_MAX: usize = 512;
/// Attempts of a batch that meets rows which exist already, before it is taken apart.
const CONFLICTS_MAX: u32 = 5;
/// Commands from HTTP that a round takes before those from the edge, so that neither door waits for the other.
const HTTP_FIRST: usize = 64;
/// Topics whose retained messages are stored in one transaction.
const RETAINED_MAX: usize = 512;
/// Publishes on plain topics that other nodes are told of after one transaction.
const PUBLISHES_MAX: usize = 2048;
/// How often answers that are no longer kept, and retained messages that have run out, are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);
/// Catch-ups that read at the same time; more wait.
const READERS: usize = 16;
/// Questions that read at the same time: fewer than there are connections, so that others get at the database, too.
const QUESTION_READERS: usize = 3;
/// Questions of a user that may be under way; past that they are refused.
const QUESTIONS_OF_USER_MAX: usize = 32;
/// Questions that may wait for their answer; past that they are refused.
const QUESTIONS_MAX: usize = 256;

/// See the module's documentation.
pub(super) struct Pipeline {
    pub(super) executor: Executor,
    announcements: mpsc::Sender<Announcement>,
    pub(super) is_stalled: Arc<AtomicBool>,
    cursors: Cursors,
    pub(super) presence: Presence,
    feeds: Feeds,
    steps: mpsc::Receiver<Step>,
    /// Bounds how many questions wait for their answer, and how many of them read at the same time.
    questions: Arc<Semaphore>,
    question_readers: Arc<Semaphore>,
    /// Questions under way, by who has asked them.
    asking: HashMap<Uid, usize>,
    context: questions::Context,
    answered: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    /// What others have to tell users, beside any command.
    events: mpsc::Receiver<Delivery>,
    /// Counts transactions with commands.
    commits: watch::Sender<u64>,
    /// Who has moved, for those who have written.
    moves: mpsc::Sender<Moves>,
    /// Tells other nodes.
    pub(super) bus: Bus,
    pub(super) others: Others,
    /// What crosses between the nodes of plain topics and rights.
    pub(super) crossing: Crossing,
}

/// What comes of other nodes.
#[derive(Debug)]
pub(super) struct Others {
    /// What they tell.
    pub(super) hearing: Hearing,
    /// Rung when something may have been missed.
    pub(super) missed: Arc<Notify>,
    /// What was found where something was missed.
    pub(super) found: mpsc::Receiver<Found>,
}

#[cfg(test)]
impl Others {
    /// There are none.
    pub(super) fn of_nobody(hearing: Hearing) -> Self {
        Others {
            hearing,
            missed: Arc::default(),
            found: mpsc::channel(1).1,
        }
    }
}

/// Who has asked a question, its door and `client_msg_id`, and its answer.
type Answer = (Uid, Door, String, Settled);

/// Nobody hears any more what rounds have come to.
#[derive(Debug)]
pub(super) struct Unheard;

/// What a round has to do.
#[derive(Default)]
pub(super) struct Round {
    jobs: Vec<Job>,
    subscribed: Vec<Target>,
    /// Sessions that no longer receive.
    gone: Vec<u64>,
    steps: Vec<Step>,
    retains: Retains,
    /// What was published on plain topics, for other nodes.
    publishes: Vec<Publish>,
    /// Answers that need no transaction.
    pub(super) items: Vec<ToEdge>,
    /// What users get to know beside any command.
    told: Vec<Delivery>,
    /// What is known of other nodes' messages.
    pub(super) abroad: Abroad,
    /// The last frame, and the link that has brought it.
    last_frame: Option<(u64, u64)>,
    /// A new link.
    joined: Option<Joined>,
    /// The edge has asked for its briefing.
    brief: bool,
    /// Whoever has to do with the sessions of users next looks into the database for what has been heard by now.
    hands_over: bool,
}

impl Round {
    /// A session begins anew: what it did before in this round no longer counts.
    fn forget(&mut self, session: u64) {
        self.subscribed.retain(|target| target.session != session);
        self.gone.retain(|gone| *gone != session);
    }

    fn is_empty(&self) -> bool {
        self.last_frame.is_none()
            && self.joined.is_none()
            && self.jobs.is_empty()
            && self.steps.is_empty()
            && self.items.is_empty()
            && self.told.is_empty()
    }
}

impl Pipeline {
    pub(super) fn new(
        executor: Executor,
        announcements: mpsc::Sender<Announcement>,
        presence: Presence,
        events: mpsc::Receiver<Delivery>,
        moves: mpsc::Sender<Moves>,
        is_stalled: Arc<AtomicBool>,
        (bus, others, crossing): (Bus, Others, Crossing),
    ) -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        let (feeds, steps) = Feeds::new(
            executor.store().clone(),
            presence.clone(),
            readers,
            executor.limits.catch_up_max,
            executor.limits.devices_max,
            is_stalled.clone(),
            bus.is_alone(),
        );
        let context = questions::Context {
            store: executor.store().clone(),
            presence: presence.clone(),
            search: executor.limits.search,
            writers: Writers::default(),
        };
        Pipeline {
            executor,
            announcements,
            is_stalled,
            cursors: Cursors::default(),
            presence,
            feeds,
            steps,
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            question_readers: Arc::new(Semaphore::new(QUESTION_READERS)),
            asking: HashMap::new(),
            context,
            answered: mpsc::channel(QUESTIONS_MAX),
            events,
            commits: watch::Sender::default(),
            moves,
            bus,
            others,
            crossing,
        }
    }

    /// Counts the transactions with commands, for who has something to do after them.
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    /// Rounds until `stop`; then what has arrived is executed and stored.
    pub(super) async fn run(
        mut self,
        mut frames: mpsc::Receiver<Taken>,
        mut jobs: mpsc::Receiver<Job>,
        stop: CancellationToken,
    ) -> Result<(), Unheard> {
        let mut prune = tokio::time::interval(PRUNE_INTERVAL);
        loop {
            let mut round = Round::default();
            let notes_due = self
                .cursors
                .due_at()
                .into_iter()
                .chain(self.presence.due_at());
            let review_at = self.crossing.reviews.due_at();
            tokio::select! {
                Some(taken) = frames.recv() => self.take(taken, &mut round),
                Some(job) = jobs.recv() => self.take_job(job, &mut round),
                Some(step) = self.steps.recv() => round.steps.push(step),
                Some(answered) = self.answered.1.recv() => self.tell_answered(answered, &mut round),
                Some(event) = self.events.recv() => round.told.push(event),
                Some(heard) = self.others.hearing.recv() => self.take_heard(heard, &mut round),
                Some(found) = self.others.found.recv() => round.abroad.found.push(found),
                Some(grant) = self.crossing.granted.recv() => self.take_grant(&grant, &mut round),
                () = crossing::until_alone(&mut self.crossing.is_up) => {
                    round.items.extend(self.crossing.forget_shared());
                }
                () = clock::sleep_until(notes_due.min()) => {}
                () = clock::sleep_until(review_at) => {}
                _ = prune.tick() => self.prune().await,
                () = stop.cancelled() => break,
            }
            self.take_waiting(&mut frames, &mut jobs, &mut round);
            self.execute_round(round).await?;
            self.review().await?;
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
            && round.subscribed.len() < SUBSCRIBED_MAX
            && round.retains.len() < RETAINED_MAX
            && round.publishes.len() < PUBLISHES_MAX
        {
            if let Ok(taken) = frames.try_recv() {
                self.take(taken, round);
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
            self.tell_answered(answered, round);
        }
        while let Ok(event) = self.events.try_recv() {
            round.told.push(event);
        }
        while let Ok(found) = self.others.found.try_recv() {
            round.abroad.found.push(found);
        }
        while let Some(heard) = self.others.hearing.try_recv() {
            self.take_heard(heard, round);
        }
        while let Ok(grant) = self.crossing.granted.try_recv() {
            self.take_grant(&grant, round);
        }
    }

    fn take(&mut self, taken: Taken, round: &mut Round) {
        match taken {
            Taken::Frame(intake) => self.take_frame(intake, round),
            Taken::Lost => self.forget_sessions(round),
            Taken::Joined(joined) => {
                self.forget_sessions(round);
                round.joined = Some(joined);
            }
        }
    }

    /// The edge's sessions are no longer ours. What they have sent is executed all the same; nobody hears of it.
    fn forget_sessions(&mut self, round: &mut Round) {
        self.feeds.end_all();
        self.presence.end_all();
        round.subscribed.clear();
        round.gone.clear();
        round.last_frame = None;
        round.joined = None;
        round.brief = false;
    }

    pub(super) fn take_frame(&mut self, intake: Intake, round: &mut Round) {
        round.last_frame = Some((intake.link, intake.number));
        for answered in intake.refused {
            answer(answered, &mut round.items);
        }
        for job in intake.jobs {
            self.take_job(job, round);
        }
        for notice in intake.notices {
            self.take_notice(notice, round);
        }
    }

    fn take_notice(&mut self, notice: from_edge::Item, round: &mut Round) {
        match notice {
            from_edge::Item::Uplink(_) => error!("an uplink is no notice"),
            from_edge::Item::Acked(acked) => self.cursors.note(acked),
            from_edge::Item::Subscribed(subscribed) => {
                // A session that subscribes anew starts anew.
                self.feeds.reset(subscribed.session);
                round.forget(subscribed.session);
                round.subscribed.extend(feeds::target(subscribed));
            }
            from_edge::Item::Drained(drained) => self.feeds.drained(&drained),
            // One that has just subscribed still makes its device known, and ends after that.
            from_edge::Item::Gone(gone) => round.gone.push(gone.session),
            from_edge::Item::Connected(connected) => {
                self.presence.connected(connected, SystemTime::now());
            }
            from_edge::Item::Disconnected(disconnected) => {
                if disconnected.handed_over {
                    round.hands_over = true;
                    round.gone.push(disconnected.session);
                }
                self.presence.disconnected(disconnected, SystemTime::now());
            }
            from_edge::Item::Retain(retain) => round.retains.note(retain),
            from_edge::Item::Publish(publish) => round.publishes.push(*publish),
            from_edge::Item::Shared(shared) => self.crossing.set_shared(shared),
            from_edge::Item::Brief(_) => round.brief = true,
            from_edge::Item::Authenticate(_) => error!("nobody here knows accounts"),
        }
    }

    pub(super) fn take_job(&mut self, job: Job, round: &mut Round) {
        if !matches!(job.command, Command::Ask(_)) {
            round.jobs.push(job);
            return;
        }
        let Job {
            caller,
            door,
            client_msg_id,
            command,
            ..
        } = job;
        let Command::Ask(question) = command else {
            unreachable!("everything else has been taken")
        };
        let asking = self.asking.entry(caller.uid.clone()).or_default();
        if *asking >= QUESTIONS_OF_USER_MAX {
            let refused = Refused::new(Code::RateLimited, "too many questions at once");
            answer((door, client_msg_id, Err(refused)), &mut round.items);
            return;
        }
        *asking += 1;
        let Ok(slot) = self.questions.clone().try_acquire_owned() else {
            self.has_answer(&caller.uid);
            let refused = Refused::new(Code::Unavailable, "too many questions are waiting");
            answer((door, client_msg_id, Err(refused)), &mut round.items);
            return;
        };
        let (context, readers) = (self.context.clone(), self.question_readers.clone());
        let answered = self.answered.0.clone();
        tokio::spawn(async move {
            // The semaphore is never closed; a permit less would do no harm.
            let _permit = readers.acquire().await.ok();
            let settled = questions::answer(&context, &caller, &question)
                .await
                .unwrap_or_else(|error| {
                    warn!(error = %store::chain(&error), "a question could not be answered");
                    let reason = match error {
                        store::Error::Archive(_) => "archived messages can't be read now",
                        _ => "this can't be read now",
                    };
                    Refused::new(Code::Unavailable, reason).into()
                });
            let answer = (caller.uid, door, client_msg_id, settled);
            if answered.send(answer).await.is_err() {
                warn!("a question was answered after the service had ended");
            }
            drop(slot);
        });
    }

    /// The answer to a question, and then what others hear of it.
    fn tell_answered(&mut self, (uid, door, id, settled): Answer, round: &mut Round) {
        self.has_answer(&uid);
        answer((door, id, settled.result), &mut round.items);
        round.told.extend(settled.deliveries);
    }

    fn has_answer(&mut self, uid: &Uid) {
        if let Some(asking) = self.asking.get_mut(uid) {
            *asking -= 1;
            if *asking == 0 {
                self.asking.remove(uid);
            }
        }
    }

    /// Drops what is no longer kept. That it fails once does no harm.
    async fn prune(&self) {
        let (db, now) = (self.executor.store().writer(), SystemTime::now());
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
        if let Err(error) = self.note_visible(now).await {
            warn!(error = %store::chain(&error), "connected users could not be noted");
        }
    }

    /// So that a user who is connected for weeks was not last seen before that after a crash. In one transaction, since
    /// the pipeline waits for each.
    async fn note_visible(&self, now: SystemTime) -> Result<(), store::Error> {
        let visible = self.presence.visible(now);
        if visible.is_empty() {
            return Ok(());
        }
        let note = || async {
            let tx = self.executor.store().begin().await?;
            looks::seen(&tx, &visible).await?;
            Ok::<_, store::Error>(tx.commit().await?)
        };
        store::repeat(note).await
    }

    /// Executes a round's jobs and hands on everything that is to be announced of it.
    pub(super) async fn execute_round(&mut self, round: Round) -> Result<(), Unheard> {
        let Round {
            jobs,
            subscribed,
            gone,
            steps,
            mut retains,
            publishes,
            items: mut first,
            told,
            abroad,
            last_frame,
            joined,
            brief,
            hands_over,
        } = round;
        if joined.is_some() {
            let announcement = Announcement {
                joined,
                ..Announcement::default()
            };
            self.hand_on(announcement).await?;
        }
        // Whoever asks where a cursor stands, or which device was seen last, gets what has been heard by now.
        let is_asked = hands_over
            || !subscribed.is_empty()
            || steps.iter().any(|step| matches!(step, Step::End(..)))
            || jobs
                .iter()
                .any(|job| matches!(job.command, Command::Ack(..)));
        let mut notes = self.due_notes(is_asked);
        notes.retained = retains.take_messages();
        // A client has its SUBACK before the round with its subscription.
        let asks_for_device =
            |job: &Job| matches!(job.command, Command::User(users::Command::Device(_)));
        if !subscribed.is_empty() && jobs.iter().any(asks_for_device) {
            self.feeds.introduce(&subscribed).await;
        }
        let mut done = self.execute(&jobs, notes).await;
        let is_untold = self.executor.take_untold();
        if is_untold {
            self.make_up(&mut first);
        }
        if !jobs.is_empty() {
            self.commits.send_modify(|commits| *commits += 1);
        }
        self.presence.written();
        first.extend(done.effects.statuses.iter().map(passes_item));
        self.apply(std::mem::take(&mut done.effects)).await;
        first.extend(retains.answers(&done.unstored));
        // What is retained is known elsewhere by then: whoever subscribes there gets one or the other, if not both.
        let publishes = publishes.into_iter();
        first.extend(publishes.filter_map(|publish| self.crossing.publish(publish)));
        let mut announcement = Announcement {
            first,
            told,
            abroad,
            executed: jobs.into_iter().zip(done.outcomes).collect(),
            ..Announcement::default()
        };
        if !(steps.is_empty() && subscribed.is_empty()) {
            // What is durable does not wait for what has still to be read.
            self.hand_on(std::mem::take(&mut announcement)).await?;
        }
        // After the deliveries of what has been committed, so that what follows continues them without a gap.
        let last = &mut announcement.last;
        for step in steps {
            match step {
                Step::Page(target, messages) => last.push(catch_up_item(&target, messages)),
                Step::Failed(target) => self.feeds.fail(&target, last),
                Step::End(target, reached) => {
                    self.feeds.end_catch_up(target, &reached, last).await;
                    self.cursors.note_all(reached.cursors);
                }
            }
        }
        self.feeds.start(subscribed, last).await;
        for session in gone {
            self.feeds.end(session);
        }
        announcement.last_frame = last_frame;
        self.hand_on(announcement).await?;
        match brief || is_untold {
            true => self.brief().await,
            false => Ok(()),
        }
    }

    /// Something was committed, and can't be told any more: all who are connected catch up, and ask what has changed; other
    /// nodes look in the database.
    fn make_up(&self, items: &mut Vec<ToEdge>) {
        warn!("a commit had happened that seemed to have failed: everybody catches up");
        self.bus.admit_loss();
        let users = self.presence.users_here();
        let outdated = v1::event::Event::Outdated(v1::Outdated {});
        items.push(Delivery::event(outdated, &users, 0).into_item());
        let uids = users.iter().map(Uid::to_string).collect();
        items.push(ToEdge {
            item: Some(to_edge::Item::Behind(link::Behind { uids })),
        });
    }

    /// What has been committed shows.
    async fn apply(&mut self, effects: Effects) {
        self.crossing.retained(effects.retained);
        for decision in effects.decisions {
            self.crossing.decisions.tell(decision);
        }
        for name in effects.changed {
            let what = Some(changed::What::Conversation(name));
            self.bus.tell(Notice::Changed(Changed { what }));
        }
        for due in effects.due {
            self.bus.tell(Notice::Due(due.into()));
        }
        for (uid, session, status) in effects.statuses {
            let now = SystemTime::now();
            self.presence.set_status(&uid, session, status, now);
        }
        for uid in effects.restyled {
            self.presence.restyled(&uid);
        }
        if !effects.moves.is_empty() {
            // Whoever tells others of it takes it at once, and ends only with the service.
            let _ = self.moves.send(effects.moves).await;
        }
    }

    /// Another node has decided what a user may do.
    fn take_grant(&mut self, grant: &link::Grant, round: &mut Round) {
        round.items.extend(self.crossing.heard_grant(grant));
    }

    /// Tells the edge what had to be read again.
    async fn review(&mut self) -> Result<(), Unheard> {
        let store = self.executor.store();
        let last = self.crossing.reviews.run(store).await;
        if last.is_empty() {
            return Ok(());
        }
        self.hand_on(Announcement {
            last,
            ..Announcement::default()
        })
        .await
    }

    pub(super) async fn hand_on(&self, announcement: Announcement) -> Result<(), Unheard> {
        let handed = self.announcements.send(announcement).await;
        handed.map_err(|_| Unheard)
    }

    /// The cursors and departures that have waited for long enough, or all of them.
    fn due_notes(&mut self, all: bool) -> Notes {
        let mut notes = Notes::default();
        if all || self.cursors.is_due() {
            notes.cursors = self.cursors.take();
        }
        if all || self.presence.is_due() {
            notes.departures = self.presence.take();
            notes.last_seen = self.presence.take_last_seen();
        }
        notes
    }

    /// Executes jobs and stores notes, however long the database is away.
    async fn execute(&mut self, jobs: &[Job], mut notes: Notes) -> Done {
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
                    let mut effects = std::mem::take(&mut self.executor.effects);
                    effects.moves.cursors.append(&mut notes.cursors);
                    effects.retained.append(&mut notes.retained);
                    return Done {
                        outcomes,
                        effects,
                        unstored: HashSet::new(),
                    };
                }
                Err(error @ (store::Error::Unavailable(_) | store::Error::Conflict(_))) => {
                    patience.wait_after(&error).await;
                }
                // Another node was faster with the same client_msg_id or conversation; it is found the next time.
                Err(error @ (store::Error::Exists(_) | store::Error::Stale))
                    if conflicts < CONFLICTS_MAX =>
                {
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

    /// After a batch failed for a reason that waiting does not mend: its notes are stored one by one, and its commands in
    /// halves, until the one that is to blame is found and refused. Cursors that can't be written are given up: what they
    /// stand for is delivered again.
    async fn execute_separately(&mut self, jobs: &[Job], notes: Notes) -> Done {
        let mut parts = notes.apart();
        if jobs.len() + parts.len() == 1 {
            let refused = Refused::new(Code::Internal, "the command could not be executed");
            let unstored = parts.pop().into_iter().flat_map(|part| part.retained);
            return Done {
                outcomes: jobs
                    .iter()
                    .map(|_| Settled::from(refused.clone()).into())
                    .collect(),
                effects: Effects::default(),
                unstored: unstored.map(|message| message.topic).collect(),
            };
        }
        // Where there are notes, the commands may all be good.
        let middle = if parts.is_empty() { jobs.len() / 2 } else { 0 };
        let mut done = Done::default();
        for part in parts {
            let alone = Box::pin(self.execute(&[], part)).await;
            done.unstored.extend(alone.unstored);
            done.effects.append(alone.effects);
        }
        for half in [&jobs[..middle], &jobs[middle..]] {
            let half = Box::pin(self.execute(half, Notes::default())).await;
            done.outcomes.extend(half.outcomes);
            done.effects.append(half.effects);
        }
        done
    }
}

/// Tells the edge what a session passes for, which the next bridge has to know.
fn passes_item((_, session, status): &(Uid, u64, Status)) -> ToEdge {
    ToEdge {
        item: Some(to_edge::Item::Passes(Passes {
            session: *session,
            status: status.as_str().to_owned(),
        })),
    }
}

/// What came of a round's transaction.
#[derive(Debug, Default)]
struct Done {
    /// One for each job.
    outcomes: Vec<Outcome>,
    effects: Effects,
    /// Topics whose retained message could not be stored.
    unstored: HashSet<String>,
}
