//! The commands that are executed one by one, each by the module of its noun; positions and grants are here.

use schema::{ConversationId, Uid, v1};

use super::batch::Executor;
use super::briefing;
use super::command::{Command, too_many_grants};
use super::conversations;
use super::effects::Effects;
use super::job::{Caller, Job, Settled};
use super::receipts::Read;
use super::refused::Refused;
use crate::store::devices::{self, Cursor};
use crate::store::grants::{self, Grant};
use crate::store::views::Membership;
use crate::store::{self, Transaction, members, messages, users};

/// Why a command came to nothing. A refusal comes before the command's first write, since the transaction goes on with
/// the other commands; a failure of the database ends it.
pub(super) enum Failed {
    Refused(Refused),
    Store(store::Error),
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Failed::Refused(refused)
    }
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Self {
        Failed::Store(error)
    }
}

impl Executor {
    /// Executes a command other than a send, for the first time.
    pub(super) async fn execute_first(
        &mut self,
        tx: &Transaction,
        job: &Job,
    ) -> Result<Settled, store::Error> {
        let caller = &job.caller;
        let session = job.door.session();
        let executed = match &job.command {
            Command::Ack(conversation, seq) => {
                let effects = &mut self.effects;
                acknowledge(tx, caller, conversation, *seq, effects).await
            }
            Command::Read(conversation, seq) => {
                let effects = &mut self.effects;
                read(tx, caller, conversation, *seq, session, effects).await
            }
            Command::Grant(grant) => self.grant(tx, grant).await,
            Command::Group(command) => self.change_group(tx, caller, command).await,
            Command::Operation(command) => self.operate(tx, caller, command, session).await,
            Command::Schedule(new) => self.schedule(tx, job, new).await,
            Command::Conversation(command) => {
                self.change_conversation(tx, caller, command, session).await
            }
            Command::Changes(asked) => self.changes(tx, caller, asked).await,
            Command::User(command) => self.change_user(tx, caller, command, session).await,
            Command::Contact(command) => self.change_contact(tx, caller, command, session).await,
            Command::Erase(step) => self.erase(tx, step).await,
            Command::Send(_) | Command::Ask(_) => {
                unreachable!("sends go together, and questions are answered without a transaction")
            }
        };
        match executed {
            Ok(outcome) => Ok(outcome),
            Err(Failed::Refused(refused)) => Ok(refused.into()),
            Err(Failed::Store(error)) => Err(error),
        }
    }

    async fn grant(&mut self, tx: &Transaction, grant: &Grant) -> Result<Settled, Failed> {
        check_existence(tx, std::slice::from_ref(&grant.user)).await?;
        // Nobody else gives the last one.
        users::lock(tx, [&grant.owner]).await?;
        let others = grants::count_others(tx, &grant.owner, &grant.user, &grant.filter).await?;
        let is_taken_back = !grant.read && !grant.write;
        if !is_taken_back && others >= self.limits.grants_max.into() {
            return Err(too_many_grants(&self.limits).into());
        }
        self.set_grant(tx, grant).await?;
        Ok(Settled {
            precondition: Some(briefing::grant(grant.clone())),
            ..Settled::ok(v1::Ok::default())
        })
    }

    /// Sets what a user may do, and lets other nodes know.
    pub(super) async fn set_grant(
        &mut self,
        tx: &Transaction,
        grant: &Grant,
    ) -> Result<(), store::Error> {
        grants::set(tx, grant).await?;
        let decision = briefing::link_grant(grant.clone());
        let decision = self.decisions.grant(tx, decision).await?;
        self.effects.decisions.push(decision);
        Ok(())
    }
}

async fn acknowledge(
    tx: &Transaction,
    caller: &Caller,
    conversation: &ConversationId,
    seq: u32,
    effects: &mut Effects,
) -> Result<Settled, Failed> {
    let name = conversation.to_string();
    let membership = reachable(tx, caller, &name, seq).await?;
    let conversation_id = membership.conversation_id;
    if let Some(msg_id) = messages::id_at(tx, conversation_id, seq).await? {
        let cursor = Cursor {
            uid: caller.uid.clone(),
            device: caller.device.clone(),
            conversation_id,
            seq,
            msg_id,
        };
        devices::move_cursors(tx, std::slice::from_ref(&cursor)).await?;
        effects.moves.cursors.push(cursor);
    }
    let device = (&caller.uid, caller.device.as_str());
    Ok(Settled::ok(v1::Ok {
        conversation: name,
        seq: devices::acknowledged(tx, device, conversation_id).await?,
        ..Default::default()
    }))
}

async fn read(
    tx: &Transaction,
    caller: &Caller,
    conversation: &ConversationId,
    seq: u32,
    session: u64,
    effects: &mut Effects,
) -> Result<Settled, Failed> {
    let name = conversation.to_string();
    members::lock(tx, &caller.uid, &name).await?;
    let before = reachable(tx, caller, &name, seq).await?;
    let is_news = seq > before.last_read_seq || before.wishes.marked_unread;
    if !is_news {
        return Ok(Settled::ok(conversations::ok(&before)));
    }
    let (id, from) = (before.conversation_id, before.last_read_seq);
    let range = (from, seq.max(from));
    members::set_read(tx, id, &caller.uid, range, before.last_seq).await?;
    effects.moves.reads.push(Read {
        conversation_id: id,
        uid: caller.uid.clone(),
        from_seq: from,
    });
    let after = conversations::standing(tx, caller, &name).await?;
    Ok(conversations::moved(caller, &after, session))
}

/// The caller's membership, if there is a message `seq`.
pub(super) async fn reachable(
    tx: &Transaction,
    caller: &Caller,
    conversation: &str,
    seq: u32,
) -> Result<Membership, Failed> {
    let membership = conversations::standing(tx, caller, conversation).await?;
    if seq > membership.last_seq {
        return Err(Refused::invalid("seq is beyond the newest message").into());
    }
    Ok(membership)
}

/// Refuses where one of the users does not exist.
pub(super) async fn check_existence(tx: &Transaction, uids: &[Uid]) -> Result<(), Failed> {
    let existing = users::existing(tx, uids).await?;
    match uids.iter().find(|uid| !existing.contains(uid)) {
        Some(uid) => Err(Refused::not_found(format!("there is no user {uid}")).into()),
        None => Ok(()),
    }
}
