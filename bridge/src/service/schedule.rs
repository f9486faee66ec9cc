//! Messages that are to be sent later: stored at first, and sent by a task when their time has come.
//!
//! A message leaves the list in the transaction that sends it, so that it is sent once, whatever happens in between.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use schema::v1::send::Content;
use schema::{ConversationId, Timestamp, Uid, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::alarm::{Bell, Due, pause};
use super::batch::Executor;
use super::command::Command;
use super::job::{Caller, Delivery, Door, Job, Settled};
use super::refused::Refused;
use super::send::{self, Send};
use super::single::{Failed, check_existence};
use super::{Limits, archived};
use crate::clock;
use crate::cluster::duty::Duty;
use crate::code::Code;
use crate::store::scheduled::{self, Scheduled};
use crate::store::{self, Store, Transaction, conversations, users};

/// What the `client_msg_id` of a scheduled message begins with, when it is sent. No client may use such ones.
pub(super) const CLIENT_MSG_ID: &str = "scheduled:";
/// The longest time ahead.
const AHEAD_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Messages of a user that wait, and their bytes together: all of them are one answer.
const WAITING_MAX: usize = 100;
const WAITING_BYTES_MAX: u64 = 1024 * 1024;
/// Messages that are given to the pipeline at the same time.
const AT_ONCE: u32 = 64;

/// A message for later.
#[derive(Clone, Debug, PartialEq)]
pub struct New {
    /// When it is sent, in milliseconds since 1970.
    pub at: i64,
    /// The message as it would be sent now.
    pub send: Send,
    /// The same as it was asked for, without its time.
    pub asked: v1::Send,
}

/// When something is to be sent, in milliseconds since 1970; `None`: at once, since that time has come.
///
/// # Errors
/// [`Code::InvalidArgument`] where that is too far ahead.
pub(super) fn time(send_at: Timestamp, now: SystemTime) -> Result<Option<i64>, Refused> {
    let at = send_at.seconds.saturating_mul(1000);
    let at = at.saturating_add(i64::from(send_at.nanos) / 1_000_000);
    if at <= clock::millis(now) {
        return Ok(None);
    }
    if at > clock::millis(now + AHEAD_MAX) {
        return Err(Refused::invalid("send_at is more than a year ahead"));
    }
    Ok(Some(at))
}

impl Executor {
    /// Keeps a message for later that could be sent now.
    pub(super) async fn schedule(
        &mut self,
        tx: &Transaction,
        job: &Job,
        new: &New,
    ) -> Result<Settled, Failed> {
        let caller = &job.caller;
        // Nobody else takes the last place in the list.
        users::lock(tx, [&caller.uid]).await?;
        self.check_sendable(tx, job, &new.send).await?;
        let row_bytes = new.asked.encoded_len() as u64;
        let (count, bytes) = scheduled::waiting(tx, &caller.uid).await?;
        if count >= WAITING_MAX || bytes + row_bytes > WAITING_BYTES_MAX {
            let reason = "at most 100 messages of a user, and 1 MiB, wait to be sent";
            return Err(Refused::new(Code::TooLarge, reason).into());
        }
        let id = self.ids.next(SystemTime::now()).0;
        let row = Scheduled {
            id,
            uid: caller.uid.to_string(),
            device: caller.device.clone(),
            client_msg_id: format!("{CLIENT_MSG_ID}{id}"),
            send_at: new.at,
            send: new.asked.clone(),
        };
        scheduled::add(tx, &row).await?;
        self.alarms.schedule.stage(new.at);
        let waiting = to_wire(&caller.uid, &row, State::Waiting);
        Ok(told(caller, waiting, job.door.session()))
    }

    /// Gives up one of the caller's messages that waits.
    pub(super) async fn cancel_scheduled(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        id: u64,
        session: u64,
    ) -> Result<Settled, Failed> {
        let Some(row) = scheduled::find(tx, &caller.uid, id).await? else {
            return Err(Refused::not_found("there is no such message").into());
        };
        // It may have been sent since.
        if scheduled::take(tx, &[id]).await?.is_empty() {
            return Err(Refused::not_found("there is no such message").into());
        }
        let canceled = to_wire(&caller.uid, &row, State::Canceled);
        Ok(told(caller, canceled, session))
    }

    /// Refuses what could not be sent now. A 1:1 conversation is not made before there is a message in it.
    async fn check_sendable(
        &mut self,
        tx: &Transaction,
        job: &Job,
        send: &Send,
    ) -> Result<(), Failed> {
        let sends = [(job, send)];
        if let Some(refused) = self.look_up(tx, &sends).await?.refused.remove(&0) {
            return Err(refused.into());
        }
        self.forget_if_stale(tx, &send.name).await?;
        let exists = !conversations::lookup(tx, &[&send.name]).await?.is_empty();
        match &send.conversation {
            ConversationId::Direct(one, other) if !exists => {
                check_existence(tx, &[one.clone(), other.clone()]).await?;
            }
            _ => {
                self.load_conversations(tx, &sends).await?;
                self.writable(&job.caller.uid, send)?;
            }
        }
        Ok(())
    }
}

/// What has become of a message for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Sent,
    Canceled,
    Failed,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Sent => "sent",
            State::Canceled => "canceled",
            State::Failed => "failed",
        }
    }
}

/// The answer, and the same for the caller's other devices.
fn told(caller: &Caller, scheduled: v1::Scheduled, session: u64) -> Settled {
    let event = v1::event::Event::Scheduled(scheduled.clone());
    let ok = v1::Ok {
        conversation: scheduled.conversation.clone(),
        answer: Some(v1::ok::Answer::Scheduled(v1::ScheduledList {
            scheduled: vec![scheduled],
        })),
        ..Default::default()
    };
    Settled {
        deliveries: vec![Delivery::event(event, [&caller.uid], session)],
        ..Settled::ok(ok)
    }
}

/// The messages of a user that wait.
///
/// # Errors
/// [`store::Error`] when the database can't answer.
pub(super) async fn list(store: &Store, uid: &Uid) -> Result<v1::ScheduledList, store::Error> {
    let rows = scheduled::list(store.reader(), uid).await?;
    let waiting = rows.iter().map(|row| to_wire(uid, row, State::Waiting));
    Ok(v1::ScheduledList {
        scheduled: waiting.collect(),
    })
}

fn to_wire(uid: &Uid, row: &Scheduled, state: State) -> v1::Scheduled {
    use v1::{message, send};
    let asked = row.send.clone();
    let conversation = match asked.to.and_then(|to| to.to) {
        Some(v1::to::To::Conversation(name)) => name,
        Some(v1::to::To::Group(gid)) => format!("g:{gid}"),
        Some(v1::to::To::User(user)) => match user.parse() {
            Ok(user) => ConversationId::direct(uid.clone(), user).to_string(),
            Err(_) => String::new(),
        },
        None => String::new(),
    };
    let content = match asked.content {
        Some(send::Content::Text(text)) => Some(message::Content::Text(text)),
        Some(send::Content::Body(body)) => Some(message::Content::Body(body)),
        Some(send::Content::Media(media)) => Some(message::Content::Media(Box::new(media))),
        Some(send::Content::Location(place)) => Some(message::Content::Location(Box::new(place))),
        // It is copied when it is sent.
        Some(send::Content::Forward(_)) | None => None,
    };
    v1::Scheduled {
        id: row.id,
        send_at: Some(Timestamp::from_millis(row.send_at)),
        message: Some(v1::Message {
            conversation: conversation.clone(),
            sender: uid.to_string(),
            client_msg_id: row.client_msg_id.clone(),
            client_seq: asked.client_seq,
            kind: asked.kind,
            content,
            reply_to: asked.reply_to,
            mentions: asked.mentions,
            ..Default::default()
        }),
        conversation,
        state: state.as_str().to_owned(),
        error: None,
    }
}

/// Sends what is due.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) store: Store,
    pub(super) bell: Arc<Bell>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) events: mpsc::Sender<Delivery>,
    pub(super) limits: Limits,
}

/// A message that the pipeline has been given, and where its answer comes.
type Fired = (Uid, Scheduled, oneshot::Receiver<v1::Reply>);

impl Due for Sender {
    async fn next(&self) -> Result<Option<i64>, store::Error> {
        scheduled::next(self.store.reader()).await
    }
}

impl Sender {
    /// Sends until `stop`.
    pub(super) async fn run(self, mut duty: Duty, stop: CancellationToken) {
        while self.bell.rung(&stop, &self, &mut duty).await.is_some() {
            let is_done = match self.send_due().await {
                Ok(is_done) => is_done,
                Err(error) => {
                    debug!(error = %store::chain(&error), "scheduled messages wait for the database");
                    false
                }
            };
            if !is_done {
                pause(&stop).await;
            }
        }
    }

    /// Whether all that was taken up has been dealt with.
    async fn send_due(&self) -> Result<bool, store::Error> {
        let now = clock::millis(SystemTime::now());
        let mut fired: Vec<Fired> = Vec::new();
        for row in scheduled::due(self.store.reader(), now, AT_ONCE).await? {
            let Ok(uid) = row.uid.parse::<Uid>() else {
                error!(
                    scheduled.id = row.id,
                    "a message is scheduled by a user who can't exist"
                );
                self.give_up(&row).await?;
                continue;
            };
            if let Some(Content::Forward(forward)) = &row.send.content {
                // The pipeline does not wait for files.
                archived::fetch(&self.store, &uid, &forward.msg_ids).await;
            }
            match self.job(&uid, &row) {
                Ok((job, answer)) => {
                    // The pipeline has ended; there is another one after the next start.
                    if self.jobs.send(job).await.is_err() {
                        return Ok(false);
                    }
                    fired.push((uid, row, answer));
                }
                Err(refused) => self.fail(&uid, &row, refused.to_wire()).await?,
            }
        }
        let mut is_done = true;
        for (uid, row, answer) in fired {
            is_done &= match answer.await.map(|reply| reply.result) {
                Ok(Some(v1::reply::Result::Ok(ok))) => {
                    // Without an id it was canceled meanwhile.
                    if ok.msg_id != 0 {
                        self.tell(&uid, &row, State::Sent, None).await;
                    }
                    true
                }
                Ok(Some(v1::reply::Result::Error(error))) => {
                    self.fail(&uid, &row, error).await?;
                    true
                }
                Ok(None) | Err(_) => false,
            };
        }
        Ok(is_done)
    }

    fn job(
        &self,
        uid: &Uid,
        row: &Scheduled,
    ) -> Result<(Job, oneshot::Receiver<v1::Reply>), Refused> {
        // The operator's words may be others by now.
        let mut up = v1::Up {
            command: Some(v1::up::Command::Send(row.send.clone())),
            ..Default::default()
        };
        let flagged = self.limits.words.apply(&mut up)?;
        let Some(v1::up::Command::Send(asked)) = up.command else {
            unreachable!("words are replaced, commands are not")
        };
        let mut send = send::check_now(uid, asked, &self.limits)?;
        send.special.get_or_insert_default().scheduled = Some(row.id);
        let (door, answer) = oneshot::channel();
        let job = Job {
            // None of the user's devices has it yet.
            caller: Caller {
                uid: uid.clone(),
                device: String::new(),
            },
            door: Door::Http(door),
            client_msg_id: row.client_msg_id.clone(),
            command: Command::Send(send),
            flagged,
        };
        Ok((job, answer))
    }

    /// The message can't be sent, and its user is told.
    async fn fail(&self, uid: &Uid, row: &Scheduled, error: v1::Error) -> Result<(), store::Error> {
        // Most of those that were refused are gone already.
        self.give_up(row).await?;
        self.tell(uid, row, State::Failed, Some(error)).await;
        Ok(())
    }

    async fn give_up(&self, row: &Scheduled) -> Result<(), store::Error> {
        scheduled::take(self.store.writer(), &[row.id]).await?;
        Ok(())
    }

    async fn tell(&self, uid: &Uid, row: &Scheduled, state: State, error: Option<v1::Error>) {
        let scheduled = to_wire(uid, row, state);
        let event = v1::event::Event::Scheduled(v1::Scheduled { error, ..scheduled });
        // The pipeline is only gone when the service ends.
        let delivery = Delivery::event(event, [uid], 0);
        self.events.send(delivery).await.ok();
    }
}

/// Puts what waits into an answer that was kept without it.
pub(super) async fn complete(
    tx: &Transaction,
    uid: &Uid,
    list: &mut v1::ScheduledList,
) -> Result<(), store::Error> {
    for known in &mut list.scheduled {
        if let Some(row) = scheduled::find(tx, uid, known.id).await? {
            *known = to_wire(uid, &row, State::Waiting);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_past_is_now_and_a_year_is_the_most() {
        let now = clock::from_millis(1_800_000_000_000);
        let at = |millis: i64| time(Timestamp::from_millis(millis), now);
        let year = 365 * 24 * 3600 * 1000;
        assert_eq!(at(0), Ok(None));
        assert_eq!(at(1_800_000_000_000), Ok(None));
        assert_eq!(at(1_800_000_000_001), Ok(Some(1_800_000_000_001)));
        assert_eq!(
            at(1_800_000_000_000 + year),
            Ok(Some(1_800_000_000_000 + year))
        );
        assert!(at(1_800_000_000_001 + year).is_err());
        let never = Timestamp {
            seconds: i64::MAX,
            nanos: 999_999_999,
        };
        assert!(time(never, now).is_err());
        let before = Timestamp {
            seconds: i64::MIN,
            nanos: i32::MIN,
        };
        assert_eq!(time(before, now), Ok(None));
    }
}
