//! One transaction for many commands: the only place where a message gets its seq.
//!
//! Sends that follow each other are executed together, with a few statements for all of them; any other command is
//! executed by itself, in its turn. Either all of the batch is committed or nothing.
//!
//! That a client sends a message again is rare, so it is not looked for: the unique index on the sender's ids meets it,
//! and the batch is executed once more with its eyes open. Only before a send is refused it is looked for, since the
//! first answer counts also for one that would no longer be allowed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use schema::bus::Due;
use schema::link::ToEdge;
use schema::{ConversationId, MsgId, Uid, v1};
use tokio::sync::Notify;

use super::Limits;
use super::alarm::Alarm;
use super::catalog::{Catalog, Conversation};
use super::command::Command;
use super::direct_rules::{self, DirectRules};
use super::effects::Effects;
use super::ids::MsgIds;
use super::job::{Job, Key, Outcome, Place, Settled, stored_ok};
use super::notes::Notes;
use super::operations;
use super::places::Wish;
use super::refused::Refused;
use super::send::{LookedUp, Send, new_message, note_special};
use crate::clock;
use crate::cluster::decisions::Decisions;
use crate::cluster::node::Node;
use crate::code::Code;
use crate::store::members::Role;
use crate::store::{
    self, Store, Transaction, answers, conversations, flags, members, messages, users,
};

/// In how many more transactions repeated messages are looked for after the last one that was met.
const WARY_RUNS: u32 = 64;

/// How often a transaction is begun anew, without waiting, since it was decided by what was no longer so.
const STALE_MAX: u32 = 8;

/// What executing needs, and keeps between transactions.
#[derive(Debug)]
pub(super) struct Executor {
    store: Store,
    node: Node,
    pub(super) catalog: Catalog,
    pub(super) ids: MsgIds,
    pub(super) limits: Limits,
    /// Of the transaction under way, or the last one.
    pub(super) effects: Effects,
    pub(super) alarms: Alarms,
    /// Tells other nodes what they have to hear of.
    pub(super) decisions: Decisions,
    /// Transactions in which repeated messages are still looked for.
    wary: u32,
    /// Whether the last commit that failed has happened nobody knows.
    in_doubt: bool,
    /// It has: what it had to say was not said.
    is_untold: bool,
}

/// When there is work that waits for its time.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// Messages disappear.
    pub(super) expiry: Alarm,
    /// Messages are to be sent.
    pub(super) schedule: Alarm,
    /// Told when an account was deleted, which is to be erased.
    pub(super) erasure: Arc<Notify>,
}

/// User, `client_msg_id`, and the answer that the command had.
type Answer = (String, String, v1::Ok);

/// The first answers that count for the commands of a batch.
type Answers<'a> = HashMap<Key<'a>, First<'a>>;

#[derive(Clone, Copy)]
enum First<'a> {
    /// Of an earlier transaction.
    Earlier(&'a v1::Ok),
    /// Of this batch: that of the command with this index.
    Now(usize),
}

impl First<'_> {
    fn outcome(self, outcomes: &[Outcome]) -> Settled {
        match self {
            First::Earlier(ok) => Settled::ok(ok.clone()),
            First::Now(index) => match &outcomes[index] {
                Outcome::Stored(place) => Settled::ok(place.ok()),
                Outcome::Settled(settled) => Settled {
                    result: settled
                        .result
                        .as_ref()
                        .map(operations::kept)
                        .map_err(Clone::clone),
                    deliveries: Vec::new(),
                    precondition: None,
                },
            },
        }
    }
}

impl Executor {
    /// Executes on `store`, with ids after `newest` and of `node`.
    pub(super) fn new(
        store: Store,
        node: Node,
        catalog: Catalog,
        newest: u64,
        limits: Limits,
    ) -> Self {
        Executor {
            store,
            ids: MsgIds::new(newest, node.last_number().into()),
            node,
            catalog,
            limits,
            effects: Effects::default(),
            decisions: Decisions::default(),
            alarms: Alarms::default(),
            wary: 0,
            in_doubt: false,
            is_untold: false,
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Stores the notes and executes the jobs in their order; returns an outcome for each job.
    ///
    /// # Errors
    /// [`store::Error`]; nothing was changed then, and the same call can be made again.
    pub(super) async fn run(
        &mut self,
        jobs: &[Job],
        notes: &Notes,
    ) -> Result<Vec<Outcome>, store::Error> {
        self.wary = self.wary.saturating_sub(1);
        let mut stale = 0;
        loop {
            match self.attempt(jobs, notes).await {
                Err(store::Error::Exists(_)) if self.wary == 0 => self.wary = WARY_RUNS,
                // What was forgotten for it is read again.
                Err(store::Error::Stale) if stale < STALE_MAX => stale += 1,
                outcomes => return outcomes,
            }
        }
    }

    async fn attempt(&mut self, jobs: &[Job], notes: &Notes) -> Result<Vec<Outcome>, store::Error> {
        let outcomes = self.transact(jobs, notes).await;
        let Alarms {
            expiry, schedule, ..
        } = &mut self.alarms;
        match &outcomes {
            Ok(_) => {
                self.catalog.commit();
                let due = &mut self.effects.due;
                due.extend(expiry.commit().then_some(Due::Expiring));
                due.extend(schedule.commit().then_some(Due::Scheduled));
            }
            Err(_) => {
                self.catalog.rollback();
                expiry.rollback();
                schedule.rollback();
            }
        }
        outcomes
    }

    async fn transact(
        &mut self,
        jobs: &[Job],
        notes: &Notes,
    ) -> Result<Vec<Outcome>, store::Error> {
        self.effects = Effects::default();
        let number = self.node.number().ok_or_else(store::Error::no_number)?;
        self.ids.go_on_as(number.number.into(), number.after);
        let busy = self.node.begin(SystemTime::now());
        let tx = self.store.begin().await?;
        notes.store_unordered(&tx).await?;
        let earlier = self.earlier_answers(&tx, jobs).await?;
        let has_earlier = !earlier.is_empty();
        let first = earlier.iter().map(|(uid, client_msg_id, ok)| {
            let key = (uid.as_str(), client_msg_id.as_str());
            (key, First::Earlier(ok))
        });
        let mut answers: Answers = first.collect();
        let mut outcomes = Vec::with_capacity(jobs.len());
        let both_send = |a: &Job, b: &Job| a.send().is_some() && b.send().is_some();
        for run in jobs.chunk_by(both_send) {
            match run {
                [job] if job.send().is_none() => {
                    self.execute(&tx, job, &mut answers, &mut outcomes).await?;
                }
                sends => {
                    let sends = sends.iter().filter_map(|job| Some((job, job.send()?)));
                    let sends: Vec<(&Job, &Send)> = sends.collect();
                    self.send_all(&tx, &sends, &mut answers, &mut outcomes)
                        .await?;
                }
            }
        }
        notes.store_cursors(&tx).await?;
        if let Err(error) = tx.commit().await {
            busy.doubt();
            self.in_doubt = true;
            return Err(error.into());
        }
        self.is_untold |= self.in_doubt && has_earlier;
        Ok(outcomes)
    }

    /// Whether a commit that seemed to have failed had happened after all: commands were found executed when they were
    /// repeated, and only those who sent them hear of it.
    pub(super) fn take_untold(&mut self) -> bool {
        self.in_doubt = false;
        std::mem::take(&mut self.is_untold)
    }

    /// The answers that are known to commands like these: user, `client_msg_id`, answer.
    async fn earlier_answers(
        &mut self,
        tx: &Transaction,
        jobs: &[Job],
    ) -> Result<Vec<Answer>, store::Error> {
        let is_wary = self.wary > 0;
        let may_be_message = |job: &&Job| is_wary || job.send().is_none();
        let keys = jobs.iter().filter(may_be_message).filter_map(Job::key);
        let mut found = self.stored_answers(tx, keys).await?;
        let keys = jobs.iter().filter_map(Job::key);
        for (uid, reply) in answers::find(tx, keys).await? {
            if let Some(v1::reply::Result::Ok(ok)) = reply.result {
                found.push((uid, reply.client_msg_id, ok));
            }
        }
        Ok(found)
    }

    /// The answers to sends that have become messages.
    async fn stored_answers(
        &mut self,
        tx: &Transaction,
        keys: impl Iterator<Item = Key<'_>>,
    ) -> Result<Vec<Answer>, store::Error> {
        let mut found = Vec::new();
        for earlier in messages::find_by_client_ids(tx, keys).await? {
            // Whoever sends one again may have more.
            self.wary = WARY_RUNS;
            let ok = stored_ok(MsgId(earlier.msg_id), &earlier.conversation, earlier.seq);
            found.push((earlier.sender, earlier.client_msg_id, ok));
        }
        Ok(found)
    }

    async fn execute<'a>(
        &mut self,
        tx: &Transaction,
        job: &'a Job,
        answers: &mut Answers<'a>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), store::Error> {
        let key = job.key();
        if let Some(first) = key.and_then(|key| answers.get(&key)) {
            let mut settled = first.outcome(outcomes);
            if matches!(job.command, Command::Grant(..)) {
                // Nothing new, but the answer comes after whatever the edge was told first.
                settled.precondition = Some(ToEdge::default());
            }
            if matches!(job.command, Command::Operation(_) | Command::Schedule(_)) {
                operations::complete(tx, &job.caller, &mut settled).await?;
            }
            outcomes.push(settled.into());
            return Ok(());
        }
        let settled = self.execute_first(tx, job).await?;
        if let (Some(words), Ok(ok)) = (&job.flagged, &settled.result) {
            flags::set(tx, flagged(ok, words)).await?;
        }
        if let (Some(key), Ok(ok)) = (key, &settled.result) {
            let reply = v1::Reply {
                client_msg_id: job.client_msg_id.clone(),
                result: Some(v1::reply::Result::Ok(operations::kept(ok))),
            };
            let id = self.ids.next(SystemTime::now());
            answers::add(tx, id.0, &job.caller.uid, &reply).await?;
            answers.insert(key, First::Now(outcomes.len()));
        }
        outcomes.push(settled.into());
        Ok(())
    }

    async fn send_all<'a>(
        &mut self,
        tx: &Transaction,
        sends: &[(&'a Job, &'a Send)],
        answers: &mut Answers<'a>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), store::Error> {
        let mut looked_up = self.look_up(tx, sends).await?;
        let admissible = looked_up.admissible(sends);
        self.load_conversations(tx, &admissible).await?;
        let at = outcomes.len();
        let mut admitted = self.admit(sends, &mut looked_up, answers, at);
        let refused = sends.iter().zip(&admitted);
        let refused = refused.filter(|(_, admitted)| matches!(admitted, Admitted::Refused(_)));
        self.check_known(tx, refused.map(|((_, send), _)| *send))
            .await?;
        self.answer_repeated(tx, sends, &mut admitted).await?;
        let wishes: Vec<Wish> = admitted.iter().filter_map(Admitted::wish).collect();
        let mut taken = self.take_places(tx, &wishes).await?.into_iter();
        for (index, admitted) in admitted.into_iter().enumerate() {
            let outcome = match admitted {
                Admitted::New(writable) => {
                    let taken = taken.next().expect("there is a place for each wish");
                    Outcome::Stored(Place {
                        seq: taken.seq,
                        msg_id: taken.msg_id,
                        previous: taken.previous,
                        conversation: writable.conversation,
                        hidden_from: writable.hidden_from,
                        copied: looked_up.copied.remove(&index),
                    })
                }
                Admitted::Repeated(first) => first.outcome(outcomes).into(),
                Admitted::Stored(ok) => Settled::ok(*ok).into(),
                Admitted::Refused(refused) => Settled::from(refused).into(),
            };
            outcomes.push(outcome);
        }
        let outcomes = sends.iter().zip(&outcomes[at..]);
        let placed = outcomes.filter_map(|((job, send), outcome)| match outcome {
            Outcome::Stored(place) => Some((*job, *send, place)),
            Outcome::Settled(_) => None,
        });
        self.store_placed(tx, placed).await
    }

    /// Stores what has its place, and counts it for its sender, and for who does not get it.
    async fn store_placed<'a>(
        &mut self,
        tx: &Transaction,
        placed: impl Iterator<Item = (&'a Job, &'a Send, &'a Place)> + Clone,
    ) -> Result<(), store::Error> {
        let mut sent: HashMap<(i64, &Uid), u32> = HashMap::new();
        let (mut flagged, mut unheard) = (Vec::new(), Vec::new());
        for (job, send, place) in placed.clone() {
            let deaf = place.hidden_from.as_ref();
            unheard.extend(deaf.map(|uid| (place.conversation.id, uid, place.seq)));
            flagged.extend(job.flagged.as_deref().map(|words| (place.msg_id.0, words)));
            for uid in std::iter::once(&job.caller.uid).chain(&place.hidden_from) {
                *sent.entry((place.conversation.id, uid)).or_default() += 1;
            }
            if let Some(at) = place.expires_at(send) {
                self.alarms.expiry.stage(at);
            }
        }
        let new = placed.clone();
        let new = new.map(|(job, send, place)| new_message(job, send, place));
        messages::add(tx, new).await?;
        note_special(tx, placed).await?;
        if !flagged.is_empty() {
            flags::set(tx, flagged).await?;
        }
        for (id, uid, seq) in unheard {
            members::keep_deleted(tx, id, uid, seq).await?;
        }
        let sent = sent.iter().map(|((id, uid), more)| (*id, *uid, *more));
        members::count_sent(tx, sent).await
    }

    /// Decides which of the sends become messages. The outcome of the first will have the index `at`.
    fn admit<'a>(
        &self,
        sends: &[(&'a Job, &'a Send)],
        looked_up: &mut LookedUp,
        answers: &mut Answers<'a>,
        at: usize,
    ) -> Vec<Admitted<'a>> {
        let mut admitted = Vec::with_capacity(sends.len());
        for (index, (job, send)) in sends.iter().enumerate() {
            let key = job.key();
            if let Some(first) = key.and_then(|key| answers.get(&key)) {
                admitted.push(Admitted::Repeated(*first));
                continue;
            }
            if looked_up.settled.contains(&index) {
                admitted.push(Admitted::Stored(Box::default()));
                continue;
            }
            let writable = match looked_up.refused.remove(&index) {
                Some(refused) => Err(refused),
                None => self.writable(&job.caller.uid, send),
            };
            admitted.push(match writable {
                Ok(writable) => {
                    if let Some(key) = key {
                        answers.insert(key, First::Now(at + index));
                    }
                    Admitted::New(writable)
                }
                Err(refused) => Admitted::Refused(refused),
            });
        }
        admitted
    }

    /// Whether what is in memory of the conversations is still so: for what no place is taken by, which would tell.
    ///
    /// # Errors
    /// [`store::Error::Stale`] where it is not: it is forgotten then.
    async fn check_known(
        &mut self,
        tx: &Transaction,
        sends: impl Iterator<Item = &Send>,
    ) -> Result<(), store::Error> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let known = sends.filter_map(|send| self.catalog.get(&send.name));
        let known: HashMap<i64, i64> = known.map(|known| (known.id, known.revision)).collect();
        let ids: Vec<i64> = known.keys().copied().collect();
        let now = conversations::revisions(tx, &ids).await?;
        let is_stale = |id: &i64| now.get(id) != known.get(id);
        let stale: Vec<i64> = ids.into_iter().filter(is_stale).collect();
        if stale.is_empty() {
            return Ok(());
        }
        self.catalog.forget(&stale);
        Err(store::Error::Stale)
    }

    /// Gives those who would be refused the answer that they had when they were not.
    async fn answer_repeated(
        &mut self,
        tx: &Transaction,
        sends: &[(&Job, &Send)],
        admitted: &mut [Admitted<'_>],
    ) -> Result<(), store::Error> {
        let is_refused = |admitted: &Admitted<'_>| matches!(admitted, Admitted::Refused(_));
        let refused = sends.iter().zip(admitted.iter());
        let refused = refused.filter(|(_, admitted)| is_refused(admitted));
        let keys = refused.filter_map(|((job, _), _)| job.key());
        let stored = self.stored_answers(tx, keys).await?;
        let stored = stored
            .iter()
            .map(|(uid, client_msg_id, ok)| ((uid.as_str(), client_msg_id.as_str()), ok));
        let stored: HashMap<Key, &v1::Ok> = stored.collect();
        for ((job, _), admitted) in sends.iter().zip(admitted) {
            let ok = job.key().and_then(|key| stored.get(&key));
            if let (true, Some(ok)) = (is_refused(admitted), ok) {
                *admitted = Admitted::Stored(Box::new((*ok).clone()));
            }
        }
        Ok(())
    }

    /// Reads the conversations that the sends go to and are not known here, and makes the 1:1 ones that don't exist.
    pub(super) async fn load_conversations(
        &mut self,
        tx: &Transaction,
        sends: &[(&Job, &Send)],
    ) -> Result<(), store::Error> {
        let mut missing: HashMap<&str, &ConversationId> = HashMap::new();
        for (_, send) in sends {
            if self.catalog.get(&send.name).is_none() {
                missing.insert(&send.name, &send.conversation);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = missing.keys().copied().collect();
        let pairs: Vec<(&Uid, &Uid)> = missing.values().filter_map(|id| pair(id)).collect();
        // The revision is read before the rules: if they change in between, it is another one when a place is taken.
        let mut found = conversations::lookup(tx, &names).await?;
        let new = new_pairs(&missing, &found);
        if self.store.is_shared() && !new.is_empty() {
            // Nobody else makes the conversation, or changes what the two may write to each other, from here on.
            users::lock(tx, new.iter().flat_map(|(_, (one, other))| [*one, *other])).await?;
            let new: Vec<&str> = new.iter().map(|(name, _)| *name).collect();
            found.extend(conversations::lookup(tx, &new).await?);
        }
        let rules = direct_rules::load(tx, &pairs).await?;
        let rules_of = |id| pair(id).and_then(|pair| rules.get(&pair).copied());
        for found in found {
            let id = missing.remove(found.name.as_str());
            let rules = id.and_then(rules_of).unwrap_or_default();
            let conversation = Conversation::from(found).with_rules(rules);
            self.catalog.stage(conversation);
        }
        let may_begin = |(job, send): &&(&Job, &Send)| {
            pair(&send.conversation).is_some_and(|people| {
                let rules = rules.get(&people).copied().unwrap_or_default();
                rules.deaf_to(&job.caller.uid, people).is_ok()
            })
        };
        // What only refused messages are for is not made.
        let begun = sends.iter().filter(may_begin);
        let begun: HashSet<&str> = begun.map(|(_, send)| send.name.as_str()).collect();
        for (name, id) in missing {
            let Some(people) = pair(id) else { continue };
            let rules = rules_of(id).unwrap_or_default();
            if begun.contains(name) {
                self.make_direct(tx, name, people, rules).await?;
            } else {
                self.catalog.stage_apart(name, rules);
            }
        }
        Ok(())
    }

    /// Forgets a conversation of which the transaction has changed the members, or what they may, here and at other nodes.
    pub(super) fn stage_change(&mut self, name: &str) {
        self.catalog.stage_change(name);
        self.effects.changed.push(name.to_owned());
    }

    /// The conversation of that name as it is now, if there is one; its row is locked.
    pub(super) async fn locked_conversation(
        &mut self,
        tx: &Transaction,
        id: &ConversationId,
    ) -> Result<Option<Arc<Conversation>>, store::Error> {
        let name = id.to_string();
        self.forget_if_stale(tx, &name).await?;
        if self.catalog.get(&name).is_none() {
            let found = conversations::lookup(tx, &[&name]).await?;
            let pairs: Vec<(&Uid, &Uid)> = pair(id).into_iter().collect();
            let rules = direct_rules::load(tx, &pairs).await?;
            let rules = pair(id).and_then(|pair| rules.get(&pair).copied());
            for found in found {
                let conversation = Conversation::from(found);
                let rules = rules.unwrap_or_default();
                self.catalog.stage(conversation.with_rules(rules));
            }
        }
        Ok(self.catalog.get(&name).cloned())
    }

    /// Forgets what is in memory of a conversation where it is no longer so.
    pub(super) async fn forget_if_stale(
        &mut self,
        tx: &Transaction,
        name: &str,
    ) -> Result<(), store::Error> {
        let known = self.catalog.get(name).filter(|_| self.store.is_shared());
        let known = known.map(|known| (known.id, known.revision));
        if let Some((id, revision)) = known
            && conversations::revisions(tx, &[id]).await?.get(&id) != Some(&revision)
        {
            self.catalog.forget(&[id]);
        }
        Ok(())
    }

    async fn make_direct(
        &mut self,
        tx: &Transaction,
        name: &str,
        (one, other): (&Uid, &Uid),
        rules: DirectRules,
    ) -> Result<(), store::Error> {
        let mut people = vec![one.clone(), other.clone()];
        people.dedup();
        if users::existing(tx, &people).await?.len() < people.len() {
            return Ok(());
        }
        let id = self.make_conversation(tx, name).await?;
        let roles = people.iter().map(|uid| (uid, Role::Member));
        members::add(tx, id, 0, 0, roles).await?;
        let conversation = Conversation::new(id, name.to_owned(), people);
        self.catalog.stage(conversation.with_rules(rules));
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

    /// The conversation, if the caller may write there, and who does not hear it.
    pub(super) fn writable(&self, caller: &Uid, send: &Send) -> Result<Writable, Refused> {
        match (self.catalog.get(&send.name), &send.conversation) {
            // Its account is deleted.
            (Some(conversation), ConversationId::Direct(one, other))
                if one != other && conversation.members().len() < 2 =>
            {
                Err(Refused::not_found("there is no such user"))
            }
            (Some(conversation), _) if conversation.has(caller) => {
                if let Some(group) = &conversation.group {
                    group.check_send(caller, SystemTime::now)?;
                }
                Ok(Writable {
                    hidden_from: conversation.deaf_to(caller)?.cloned(),
                    conversation: conversation.clone(),
                })
            }
            (Some(_), _) => Err(Refused::new(
                Code::PermissionDenied,
                "you are not a member of the group",
            )),
            (None, ConversationId::Direct(one, other)) => {
                let rules = self.catalog.apart(&send.name);
                rules.deaf_to(caller, (one, other))?;
                Err(Refused::not_found("there is no such user"))
            }
            (None, ConversationId::Group(_)) => Err(Refused::not_found("there is no such group")),
        }
    }
}

/// Where a message goes.
pub(super) struct Writable {
    conversation: Arc<Conversation>,
    /// The member who does not get it.
    hidden_from: Option<Uid>,
}

/// What becomes of a send.
enum Admitted<'a> {
    New(Writable),
    Repeated(First<'a>),
    /// It is a message already.
    Stored(Box<v1::Ok>),
    Refused(Refused),
}

impl Admitted<'_> {
    /// The place that it needs.
    fn wish(&self) -> Option<Wish> {
        match self {
            Admitted::New(writable) => Some(Wish {
                conversation_id: writable.conversation.id,
                revision: Some(writable.conversation.revision),
            }),
            Admitted::Repeated(_) | Admitted::Stored(_) | Admitted::Refused(_) => None,
        }
    }
}

/// The message that a command was about, with the words for which administrators are to see it.
fn flagged<'a>(ok: &v1::Ok, words: &'a str) -> Option<(u64, &'a str)> {
    let msg_id = match &ok.answer {
        Some(v1::ok::Answer::Message(message)) => message.msg_id,
        _ => ok.msg_id,
    };
    (msg_id > 0).then_some((msg_id, words))
}

/// Those of the conversations of two that were not found, by name, with their users.
fn new_pairs<'a>(
    wanted: &HashMap<&'a str, &'a ConversationId>,
    found: &[conversations::Found],
) -> Vec<(&'a str, (&'a Uid, &'a Uid))> {
    let found: HashSet<&str> = found.iter().map(|found| found.name.as_str()).collect();
    let new = wanted.iter().filter(|(name, _)| !found.contains(*name));
    new.filter_map(|(name, id)| Some((*name, pair(id)?)))
        .collect()
}

/// The two users of a conversation of two.
fn pair(id: &ConversationId) -> Option<(&Uid, &Uid)> {
    match id {
        ConversationId::Direct(one, other) => Some((one, other)),
        ConversationId::Group(_) => None,
    }
}
