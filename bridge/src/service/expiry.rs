//! Messages that disappear: a task asks the pipeline to take their content away when their time has run out. Readers
//! see nothing of them from that moment on, however late the task is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use schema::{Uid, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::alarm::{Bell, Due, pause};
use super::batch::Executor;
use super::command::Command;
use super::job::{Caller, Delivery, Door, Job, Settled};
use super::operations;
use super::single::Failed;
use crate::clock;
use crate::cluster::duty::Duty;
use crate::store::operations::{Gone, Place, audience, blank, next_expiry, note_changes};
use crate::store::{self, Store, Transaction, conversations, views};

/// Messages that disappear in one transaction.
const AT_ONCE: u32 = 64;
/// People who hear of them before the next.
const AUDIENCE_MAX: usize = 16 * 1024;

impl Executor {
    /// Takes away the content of messages whose time has run out, some at a time.
    pub(super) async fn expire(&mut self, tx: &Transaction) -> Result<Settled, Failed> {
        let now = clock::millis(SystemTime::now());
        // Nobody changes them meanwhile.
        let found = views::expired(tx, now, AT_ONCE).await?;
        let ids: BTreeSet<i64> = found.iter().map(|found| found.conversation_id).collect();
        conversations::lock(tx, &Vec::from_iter(ids.iter().copied())).await?;
        let mut gone = Vec::new();
        let mut deliveries = Vec::new();
        let mut heard = 0;
        let expired = views::expired(tx, now, AT_ONCE).await?.into_iter();
        for expired in expired.filter(|expired| ids.contains(&expired.conversation_id)) {
            let place = Place {
                msg_id: expired.message.msg_id,
                conversation_id: expired.conversation_id,
                seq: expired.message.seq,
            };
            let audience = audience(tx, place.msg_id).await?;
            heard += audience.len();
            let event = v1::event::Event::Changed(Box::new(expired.message));
            deliveries.push(Delivery::event(event, &audience, 0));
            gone.push((place, expired.mentions));
            if heard >= AUDIENCE_MAX {
                break;
            }
        }
        let places: Vec<Place> = gone.iter().map(|(place, _)| *place).collect();
        note_changes(tx, &places).await?;
        let gone: Vec<(Place, &[String])> = gone
            .iter()
            .map(|(place, mentions)| (*place, mentions.as_slice()))
            .collect();
        blank(tx, Gone::Expired, &gone).await?;
        Ok(Settled {
            deliveries,
            ..Settled::ok(v1::Ok::default())
        })
    }
}

/// Tells the pipeline when messages disappear.
#[derive(Debug)]
pub(super) struct Expiry {
    pub(super) store: Store,
    pub(super) bell: Arc<Bell>,
    pub(super) jobs: mpsc::Sender<Job>,
}

impl Due for Expiry {
    async fn next(&self) -> Result<Option<i64>, store::Error> {
        next_expiry(self.store.reader()).await
    }
}

impl Expiry {
    /// Works until `stop`.
    pub(super) async fn run(self, mut duty: Duty, stop: CancellationToken) {
        while self.bell.rung(&stop, &self, &mut duty).await.is_some() {
            let (door, answer) = oneshot::channel();
            let job = Job {
                // Nobody asks for it, and nobody is told.
                caller: Caller {
                    uid: Uid::anonymous(),
                    device: String::new(),
                },
                door: Door::Http(door),
                client_msg_id: String::new(),
                command: Command::Operation(operations::Command::Expire),
                flagged: None,
            };
            // An error here means that the pipeline has ended, and the token says so next.
            let is_taken = self.jobs.send(job).await.is_ok();
            let reply = answer.await.map(|reply| reply.result);
            let is_done = is_taken && matches!(reply, Ok(Some(v1::reply::Result::Ok(_))));
            if !is_done {
                pause(&stop).await;
            }
        }
    }
}
