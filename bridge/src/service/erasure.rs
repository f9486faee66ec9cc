//! What a deleted account leaves behind is removed in steps, each a transaction of its own between those of others, so
//! that nobody waits for a user who has written a million messages. A row in `erasures` stays until all is done: after
//! a crash the steps begin anew, and find only what is left.
//!
//! Messages stay, without content, since their places count. The user's name stays too, for who reads an old
//! conversation, and with the account's row, so that nobody else can have it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schema::link::{PlainMessage, ToEdge, to_edge};
use schema::{ConversationId, Uid, v1};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::batch::Executor;
use super::briefing;
use super::command::Command;
use super::job::{Caller, Delivery, Door, Job, Settled};
use super::single::Failed;
use crate::clock;
use crate::cluster::duty::Duty;
use crate::store::erasure::{self, Erasure, Place};
use crate::store::grants::{self, Grant};
use crate::store::members::{self, Role};
use crate::store::{
    self, Store, Transaction, archives, conversations, operations, retained, views,
};

/// How often accounts are looked for that another process has deleted.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long after the deletion it is looked once more whether anything is left: commands that were under way then have
/// been executed.
const SETTLED_AFTER: Duration = Duration::from_secs(15);
/// Retained messages that are looked at in one step.
const RETAINED: u32 = 256;

/// A part of what an account leaves, in the order in which they are removed: who is in no conversation can't send any
/// more when messages are blanked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Memberships,
    Own,
    Messages,
    Reactions,
    /// What has gone to files before it could be one of those two.
    Files,
    Contacts,
    Grants,
    Retained,
}

const PARTS: [Part; 8] = [
    Part::Memberships,
    Part::Own,
    Part::Messages,
    Part::Reactions,
    Part::Files,
    Part::Contacts,
    Part::Grants,
    Part::Retained,
];

/// Some of a part, or where there is none the note that nothing is left. The answer's `conversation` says where the next
/// step begins; empty: the part is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    uid: Uid,
    part: Option<Part>,
    after: String,
}

impl Executor {
    /// Executes a step.
    pub(super) async fn erase(&mut self, tx: &Transaction, step: &Step) -> Result<Settled, Failed> {
        let uid = &step.uid;
        let goes_on = match step.part {
            Some(Part::Memberships) => return self.leave_a_conversation(tx, uid).await,
            Some(Part::Grants) => return self.end_a_grant(tx, uid).await,
            Some(Part::Retained) => {
                return self.drop_a_retained_message(tx, uid, &step.after).await;
            }
            Some(Part::Messages) => {
                let after = step.after.parse().unwrap_or_default();
                let next = erasure::blank_messages(tx, uid, after).await?;
                return Ok(next.map_or_else(done, |next| more(next.to_string())));
            }
            Some(Part::Files) => return erase_from_a_file(tx, uid, &step.after).await,
            Some(Part::Own) => erasure::remove_own(tx, uid).await?,
            Some(Part::Reactions) => erasure::remove_reactions(tx, uid).await?,
            Some(Part::Contacts) => erasure::remove_contacts(tx, uid).await?,
            // The account's row goes when its files are written anew.
            None if archives::holds(tx, uid).await? => true,
            None => {
                erasure::remove(tx, uid).await?;
                false
            }
        };
        Ok(if goes_on {
            more("more".to_owned())
        } else {
            done()
        })
    }

    async fn leave_a_conversation(
        &mut self,
        tx: &Transaction,
        uid: &Uid,
    ) -> Result<Settled, Failed> {
        let Some(mut place) = erasure::place(tx, uid).await? else {
            return Ok(done());
        };
        let id = place.conversation_id;
        // Under the lock that gives places: nothing comes in between a message and its delivery.
        conversations::lock(tx, &[id]).await?;
        let Some(role) = members::role(tx, id, uid.as_str()).await? else {
            return Ok(more(place.name));
        };
        place.role = role;
        members::remove(tx, id, uid).await?;
        conversations::count_change(tx, id).await?;
        self.stage_change(&place.name);
        let mut settled = more(place.name.clone());
        if let Ok(ConversationId::Group(_)) = place.name.parse() {
            settled
                .deliveries
                .extend(leave_group(tx, uid, &place).await?);
        }
        Ok(settled)
    }

    /// Ends one grant that the user has given or got, and tells the edge.
    async fn end_a_grant(&mut self, tx: &Transaction, uid: &Uid) -> Result<Settled, Failed> {
        let given = grants::given(tx, uid).await?.into_iter().next();
        let grant = match given {
            Some(grant) => Some(grant),
            None => grants::received(tx, uid, 1).await?.into_iter().next(),
        };
        let Some(grant) = grant else {
            return Ok(done());
        };
        let ended = Grant {
            read: false,
            write: false,
            ..grant
        };
        self.set_grant(tx, &ended).await?;
        Ok(Settled {
            precondition: Some(briefing::grant(ended)),
            ..more("more".to_owned())
        })
    }

    /// Drops the first retained message on the user's topics after that key, and tells the edge.
    async fn drop_a_retained_message(
        &mut self,
        tx: &Transaction,
        uid: &Uid,
        after: &str,
    ) -> Result<Settled, Failed> {
        let page = retained::page(tx, after, RETAINED, 0).await?;
        let prefix = format!("dev/{uid}/");
        let mut messages = page.messages.into_iter();
        let Some(message) = messages.find(|message| message.topic.starts_with(&prefix)) else {
            return Ok(page.next.map_or_else(done, more));
        };
        let nothing = PlainMessage {
            topic: message.topic,
            ..Default::default()
        };
        retained::set(tx, std::slice::from_ref(&nothing)).await?;
        self.effects.retained.push(nothing.clone());
        let item = to_edge::Item::Retained(nothing);
        Ok(Settled {
            precondition: Some(ToEdge { item: Some(item) }),
            // There may be more on this page. At its beginning, the first page has to be asked for again.
            ..if after.is_empty() {
                more(START.to_owned())
            } else {
                more(after.to_owned())
            }
        })
    }
}

/// Takes away what the user has left in the next file after that key: nobody is shown it from now on, and the file is written
/// anew soon.
async fn erase_from_a_file(tx: &Transaction, uid: &Uid, after: &str) -> Result<Settled, Failed> {
    let key = after
        .split_once(' ')
        .and_then(|(conversation, seq)| Some((conversation.parse().ok()?, seq.parse().ok()?)));
    let now = clock::millis(SystemTime::now());
    let Some((file, taken)) = archives::erase(tx, uid, key.unwrap_or_default(), now).await? else {
        return Ok(done());
    };
    operations::note_changes(tx, &taken).await?;
    Ok(more(format!("{} {}", file.0, file.1)))
}

/// Finds the group an owner if it needs one, or ends it; returns what its members are told.
async fn leave_group(
    tx: &Transaction,
    uid: &Uid,
    place: &Place,
) -> Result<Option<Delivery>, Failed> {
    let id = place.conversation_id;
    let heir = match place.role {
        Role::Owner => erasure::pass_ownership_on(tx, id).await?,
        Role::Admin | Role::Member => None,
    };
    let Ok(ConversationId::Group(gid)) = place.name.parse() else {
        return Ok(None);
    };
    let Some(mut group) = views::group(tx, &gid).await? else {
        return Ok(None);
    };
    let everybody = group.members.iter().map(|member| member.uid.parse());
    let everybody: Vec<Uid> = everybody.filter_map(Result::ok).collect();
    if everybody.is_empty() {
        erasure::dissolve(tx, id, SystemTime::now()).await?;
        return Ok(None);
    }
    group.member_count = u32::try_from(everybody.len()).unwrap_or(u32::MAX);
    let is_heir = |member: &v1::GroupMember| {
        heir.as_ref()
            .is_some_and(|heir| member.uid == heir.as_str())
    };
    group.members.retain(is_heir);
    group.members.push(v1::GroupMember {
        uid: uid.to_string(),
        ..Default::default()
    });
    group.partial = true;
    let event = v1::event::Event::Group(group);
    Ok(Some(Delivery::event(event, &everybody, 0)))
}

/// Before every key, and not empty.
const START: &str = " ";

fn more(after: String) -> Settled {
    Settled::ok(v1::Ok {
        conversation: after,
        ..Default::default()
    })
}

fn done() -> Settled {
    Settled::ok(v1::Ok::default())
}

/// The task that has the steps executed.
pub(super) struct Eraser {
    store: Store,
    jobs: mpsc::Sender<Job>,
    wake: Arc<Notify>,
}

/// The pipeline takes no steps any more, or can't execute one.
struct Stuck;

impl Eraser {
    pub(super) fn new(store: Store, jobs: mpsc::Sender<Job>, wake: Arc<Notify>) -> Self {
        Eraser { store, jobs, wake }
    }

    /// Erases what there is to erase until `stop`, while it is this node's duty. It may end anywhere, as by a crash.
    pub(super) async fn run(self, duty: Duty, stop: CancellationToken) {
        let work = duty.while_held(|| self.work());
        stop.run_until_cancelled(work).await;
    }

    async fn work(&self) {
        loop {
            self.erase_all().await;
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    async fn erase_all(&self) {
        let erasures = match erasure::list(self.store.reader()).await {
            Ok(erasures) => erasures,
            Err(error) => {
                warn!(error = %store::chain(&error), "can't look for deleted accounts");
                return;
            }
        };
        for erasure in erasures {
            if let Err(Stuck) = self.erase_account(&erasure).await {
                warn!(user.id = %erasure.uid, "a deleted account can't be erased now");
            }
        }
    }

    async fn erase_account(&self, erasure: &Erasure) -> Result<(), Stuck> {
        let uid = &erasure.uid;
        let age = SystemTime::now().duration_since(erasure.at);
        for part in PARTS {
            let mut after = String::new();
            loop {
                after = self.execute(uid, Some(part), after).await?;
                if after.is_empty() {
                    break;
                }
            }
        }
        if age.is_ok_and(|age| age >= SETTLED_AFTER) {
            let is_left = self.execute(uid, None, String::new()).await?;
            if is_left.is_empty() {
                info!(user.id = %uid, "the data of a deleted account is erased");
            }
        }
        Ok(())
    }

    /// Returns where the next step begins.
    async fn execute(&self, uid: &Uid, part: Option<Part>, after: String) -> Result<String, Stuck> {
        let (door, answer) = oneshot::channel();
        let job = Job {
            caller: Caller {
                uid: uid.clone(),
                device: String::new(),
            },
            door: Door::Http(door),
            client_msg_id: String::new(),
            command: Command::Erase(Step {
                uid: uid.clone(),
                part,
                after,
            }),
            flagged: None,
        };
        self.jobs.send(job).await.map_err(|_| Stuck)?;
        match answer.await.map(|reply| reply.result) {
            Ok(Some(v1::reply::Result::Ok(ok))) => Ok(ok.conversation),
            _ => Err(Stuck),
        }
    }
}
