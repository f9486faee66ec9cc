//! One transaction for many commands: the only place where a message gets its seq.
//!
//! Sends that follow each other are executed together, with a few statements for all of them; any other command is
//! executed by itself, in its turn. Either all of the batch is committed or nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use schema::link::ToEdge;
use schema::{ConversationId, MsgId, Uid, v1};

use super::Limits;
use super::catalog::{Catalog, Conversation};
use super::command::{Command, Send};
use super::ids::MsgIds;
use super::job::{Delivery, Job, Outcome};
use super::notes::Notes;
use super::refused::Refused;
use crate::clock;
use crate::code::Code;
use crate::store::members::Role;
use crate::store::{self, Store, Transaction, answers, conversations, members, messages, users};

/// What executing needs, and keeps between transactions.
#[derive(Debug)]
pub(super) struct Executor {
    pub(super) store: Store,
    pub(super) catalog: Catalog,
    pub(super) ids: MsgIds,
    pub(super) limits: Limits,
}

/// First answers, by uid and `client_msg_id`: of earlier transactions, and of this one so far.
type Answers = HashMap<(String, String), v1::Ok>;

impl Executor {
    /// Stores the notes and executes the jobs in their order; returns an outcome for each job.
    ///
    /// # Errors
    /// [`store::Error`]; nothing was changed then, and the same call can be made again.
    pub(super) async fn run(
        &mut self,
        jobs: &[Job],
        notes: &Notes,
    ) -> Result<Vec<Outcome>, store::Error> {
        let outcomes = self.transact(jobs, notes).await;
        match &outcomes {
            Ok(_) => self.catalog.commit(),
            Err(_) => self.catalog.rollback(),
        }
        outcomes
    }

    async fn transact(
        &mut self,
        jobs: &[Job],
        notes: &Notes,
    ) -> Result<Vec<Outcome>, store::Error> {
        let tx = self.store.begin().await?;
        notes.store(&tx).await?;
        let mut answers = earlier_answers(&tx, jobs).await?;
        let mut outcomes = Vec::with_capacity(jobs.len());
        let both_send = |a: &Job, b: &Job| {
            matches!(
                (&a.command, &b.command),
                (Command::Send(_), Command::Send(_))
            )
        };
        for run in jobs.chunk_by(both_send) {
            match run {
                [job] if !matches!(job.command, Command::Send(_)) => {
                    outcomes.push(self.execute(&tx, job, &mut answers).await?);
                }
                sends => outcomes.extend(self.send_all(&tx, sends, &mut answers).await?),
            }
        }
        tx.commit().await.map_err(store::Error::from)?;
        Ok(outcomes)
    }

    async fn execute(
        &mut self,
        tx: &Transaction,
        job: &Job,
        answers: &mut Answers,
    ) -> Result<Outcome, store::Error> {
        let key = job
            .idempotency_key()
            .map(|(uid, id)| (uid.to_owned(), id.to_owned()));
        if let Some(first) = key.as_ref().and_then(|key| answers.get(key)) {
            let mut outcome = Outcome::ok(first.clone());
            if matches!(job.command, Command::Grant(..)) {
                // Nothing new, but the answer comes after whatever the edge was told first.
                outcome.precondition = Some(ToEdge::default());
            }
            return Ok(outcome);
        }
        let outcome = self.execute_first(tx, job).await?;
        if let (Some(key), Ok(ok)) = (key, &outcome.result) {
            let reply = v1::Reply {
                client_msg_id: job.client_msg_id.clone(),
                result: Some(v1::reply::Result::Ok(ok.clone())),
            };
            let id = self.ids.next(SystemTime::now());
            answers::add(tx, id.0, &job.caller.uid, &reply).await?;
            answers.insert(key, ok.clone());
        }
        Ok(outcome)
    }

    /// The sends of `jobs`, in their order.
    async fn send_all(
        &mut self,
        tx: &Transaction,
        jobs: &[Job],
        answers: &mut Answers,
    ) -> Result<Vec<Outcome>, store::Error> {
        self.load_conversations(tx, jobs).await?;
        let mut outcomes = Vec::with_capacity(jobs.len());
        let mut places = self.lock_places(tx, jobs).await?;
        let mut stored: Vec<(i64, v1::Message)> = Vec::with_capacity(jobs.len());
        let mut sent: HashMap<(i64, &Uid), u32> = HashMap::new();
        for job in jobs {
            let Command::Send(send) = &job.command else {
                continue;
            };
            let key = job.idempotency_key();
            let key = key.map(|(uid, id)| (uid.to_owned(), id.to_owned()));
            if let Some(first) = key.as_ref().and_then(|key| answers.get(key)) {
                outcomes.push(Outcome::ok(first.clone()));
                continue;
            }
            let conversation = match self.writable(&job.caller.uid, send) {
                Ok(conversation) => conversation,
                Err(refused) => {
                    outcomes.push(refused.into());
                    continue;
                }
            };
            let place = places.entry(conversation.id).or_default();
            *place += 1;
            let msg_id = self.ids.next(SystemTime::now());
            let message = message(job, send, &conversation, *place, msg_id);
            let ok = stored_ok(msg_id, &message.conversation, message.seq);
            if let Some(key) = key {
                answers.insert(key, ok.clone());
            }
            *sent.entry((conversation.id, &job.caller.uid)).or_default() += 1;
            let members = conversation.members();
            let session = job.door.session();
            outcomes.push(Outcome {
                result: Ok(ok),
                deliveries: vec![Delivery::message(
                    conversation.id,
                    &message,
                    members,
                    session,
                )],
                precondition: None,
            });
            stored.push((conversation.id, message));
        }
        messages::add(tx, stored.iter().map(|(id, message)| (*id, message))).await?;
        let touched = sent.keys().map(|(id, _)| *id).collect::<HashSet<_>>();
        let last_seqs = places.into_iter().filter(|(id, _)| touched.contains(id));
        conversations::set_last_seqs(tx, last_seqs).await?;
        let sent = sent.iter().map(|((id, uid), more)| (*id, *uid, *more));
        members::count_sent(tx, sent).await?;
        Ok(outcomes)
    }

    /// Reads the conversations that the sends go to and are not known here, and makes the 1:1 ones that don't exist.
    async fn load_conversations(
        &mut self,
        tx: &Transaction,
        jobs: &[Job],
    ) -> Result<(), store::Error> {
        let mut missing: HashMap<&str, &ConversationId> = HashMap::new();
        for job in jobs {
            if let Command::Send(send) = &job.command
                && self.catalog.get(&send.name).is_none()
            {
                missing.insert(&send.name, &send.conversation);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = missing.keys().copied().collect();
        for found in conversations::lookup(tx, &names).await? {
            missing.remove(found.name.as_str());
            self.catalog.stage(found.into());
        }
        for (name, id) in missing {
            if let ConversationId::Direct(one, other) = id {
                self.make_direct(tx, name, one, other).await?;
            }
        }
        Ok(())
    }

    async fn make_direct(
        &mut self,
        tx: &Transaction,
        name: &str,
        one: &Uid,
        other: &Uid,
    ) -> Result<(), store::Error> {
        let mut people = vec![one.clone(), other.clone()];
        people.dedup();
        if users::existing(tx, &people).await?.len() < people.len() {
            return Ok(());
        }
        let id = self.make_conversation(tx, name).await?;
        let roles = people.iter().map(|uid| (uid, Role::Member));
        members::add(tx, id, 0, roles).await?;
        self.catalog
            .stage(Conversation::new(id, name.to_owned(), people));
        Ok(())
    }

    pub(super) async fn make_conversation(
        &mut self,
        tx: &Transaction,
        name: &str,
    ) -> Result<i64, store::Error> {
        let now = SystemTime::now();
        let id = self.ids.next(now).0.cast_signed();
        conversations::add(tx, id, name, clock::millis(now)).await?;
        Ok(id)
    }

    /// The newest seq of each conversation that the sends go to. Its row is locked, so that no other node gives
    /// places in it before this transaction has ended.
    async fn lock_places(
        &self,
        tx: &Transaction,
        jobs: &[Job],
    ) -> Result<HashMap<i64, u32>, store::Error> {
        let known = jobs.iter().filter_map(|job| match &job.command {
            Command::Send(send) => self.catalog.get(&send.name),
            _ => None,
        });
        let mut ids: Vec<i64> = known.map(|conversation| conversation.id).collect();
        // In one order on all nodes, so that two transactions don't wait for each other.
        ids.sort_unstable();
        ids.dedup();
        Ok(conversations::lock(tx, &ids).await?.into_iter().collect())
    }

    /// The conversation, if the caller may write there.
    fn writable(&self, caller: &Uid, send: &Send) -> Result<Arc<Conversation>, Refused> {
        match (self.catalog.get(&send.name), &send.conversation) {
            (Some(conversation), _) if conversation.has(caller) => Ok(conversation.clone()),
            (Some(_), _) => Err(Refused::new(
                Code::PermissionDenied,
                "you are not a member of the group",
            )),
            (None, ConversationId::Direct(..)) => Err(Refused::not_found("there is no such user")),
            (None, ConversationId::Group(_)) => Err(Refused::not_found("there is no such group")),
        }
    }
}

/// The message that a send becomes at its place.
fn message(
    job: &Job,
    send: &Send,
    conversation: &Conversation,
    seq: u32,
    msg_id: MsgId,
) -> v1::Message {
    v1::Message {
        msg_id: msg_id.0,
        conversation: conversation.name.clone(),
        seq,
        sender: job.caller.uid.to_string(),
        sender_device: job.caller.device.clone(),
        client_msg_id: job.client_msg_id.clone(),
        client_seq: send.client_seq,
        kind: send.kind.clone(),
        content: Some(send.content.clone()),
        reply_to: send.reply_to,
        mentions: send.mentions.clone(),
        sent_at: Some(msg_id.timestamp()),
    }
}

/// The answer to a send: the same whenever it is asked for.
fn stored_ok(msg_id: MsgId, conversation: &str, seq: u32) -> v1::Ok {
    v1::Ok {
        msg_id: msg_id.0,
        conversation: conversation.to_owned(),
        seq,
        sent_at: Some(msg_id.timestamp()),
        ..Default::default()
    }
}

async fn earlier_answers(tx: &Transaction, jobs: &[Job]) -> Result<Answers, store::Error> {
    let keys = || jobs.iter().filter_map(Job::idempotency_key);
    let mut found = Answers::new();
    for earlier in messages::find_by_client_ids(tx, keys()).await? {
        let ok = stored_ok(MsgId(earlier.msg_id), &earlier.conversation, earlier.seq);
        found.insert((earlier.sender, earlier.client_msg_id), ok);
    }
    for (uid, reply) in answers::find(tx, keys()).await? {
        if let Some(v1::reply::Result::Ok(ok)) = reply.result {
            found.insert((uid, reply.client_msg_id), ok);
        }
    }
    Ok(found)
}
