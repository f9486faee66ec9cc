//! The commands that are executed one by one: positions, groups and grants.

use schema::{ConversationId, Gid, Uid, v1};

use super::batch::Executor;
use super::briefing;
use super::command::{Command, too_many_grants, too_many_members};
use super::job::{Caller, Delivery, Job, Settled};
use super::refused::Refused;
use crate::code::Code;
use crate::store::devices::{self, Cursor};
use crate::store::grants::{self, Grant};
use crate::store::members::{self, Role};
use crate::store::views::{self, Membership};
use crate::store::{self, Transaction, conversations, messages, users};

/// Why a command came to nothing. A refusal comes before the command's first write, since the transaction goes on with
/// the other commands; a failure of the database ends it.
enum Failed {
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
            Command::Ack(conversation, seq) => acknowledge(tx, caller, conversation, *seq).await,
            Command::Read(conversation, seq) => read(tx, caller, conversation, *seq, session).await,
            Command::GroupCreate { gid, name, members } => {
                self.create_group(tx, caller, gid.as_ref(), name, members)
                    .await
            }
            Command::GroupAdd(gid, uids) => self.add_members(tx, caller, gid, uids).await,
            Command::GroupRemove(gid, uids) => self.remove_members(tx, caller, gid, uids).await,
            Command::GroupLeave(gid) => self.leave(tx, caller, gid).await,
            Command::Grant(grant) => self.grant(tx, grant).await,
            Command::Send(_) | Command::Sync(_) => {
                unreachable!("sends go together, and a sync is answered without a transaction")
            }
        };
        match executed {
            Ok(outcome) => Ok(outcome),
            Err(Failed::Refused(refused)) => Ok(refused.into()),
            Err(Failed::Store(error)) => Err(error),
        }
    }

    async fn create_group(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        gid: Option<&Gid>,
        name: &str,
        others: &[Uid],
    ) -> Result<Settled, Failed> {
        check_existence(tx, others).await?;
        let gid = match gid {
            Some(gid) => gid.clone(),
            None => new_gid(self.ids.next(std::time::SystemTime::now()).0),
        };
        let conversation = ConversationId::Group(gid.clone()).to_string();
        if views::group(tx, &gid).await?.is_some() {
            let reason = "a group of that gid exists";
            return Err(Refused::new(Code::AlreadyExists, reason).into());
        }
        let id = self.make_conversation(tx, &conversation).await?;
        conversations::add_group(tx, id, gid.as_str(), name).await?;
        let everybody = std::iter::once((&caller.uid, Role::Owner))
            .chain(others.iter().map(|uid| (uid, Role::Member)));
        members::add(tx, id, 0, everybody).await?;
        self.announce(tx, &gid, &[]).await
    }

    async fn add_members(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        gid: &Gid,
        uids: &[Uid],
    ) -> Result<Settled, Failed> {
        let (id, last_seq, roles) = managed_group(tx, caller, gid).await?;
        check_existence(tx, uids).await?;
        let is_new = |uid: &&Uid| !roles.iter().any(|(member, _)| member == *uid);
        let new: Vec<&Uid> = uids.iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(Settled::ok(self.group_ok(tx, gid).await?));
        }
        if roles.len() + new.len() > self.limits.group_members_max {
            return Err(too_many_members(&self.limits).into());
        }
        let new = new.into_iter().map(|uid| (uid, Role::Member));
        members::add(tx, id, last_seq, new).await?;
        self.announce(tx, gid, &[]).await
    }

    async fn remove_members(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        gid: &Gid,
        uids: &[Uid],
    ) -> Result<Settled, Failed> {
        let (id, _, roles) = managed_group(tx, caller, gid).await?;
        for uid in uids {
            match roles.iter().find(|(member, _)| member == uid) {
                Some((_, Role::Owner)) => {
                    let reason = "nobody removes the owner";
                    return Err(Refused::new(Code::PermissionDenied, reason).into());
                }
                Some(_) => {}
                None => {
                    let reason = format!("{uid} is not a member of the group");
                    return Err(Refused::not_found(reason).into());
                }
            }
        }
        for uid in uids {
            members::remove(tx, id, uid).await?;
        }
        self.announce(tx, gid, uids).await
    }

    async fn leave(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        gid: &Gid,
    ) -> Result<Settled, Failed> {
        let name = ConversationId::Group(gid.clone()).to_string();
        let Some(membership) = views::membership(tx, &caller.uid, &name).await? else {
            return Err(Refused::not_found("there is no such group").into());
        };
        if Role::parse(&membership.role) == Role::Owner {
            let reason = "the owner can't leave the group";
            return Err(Refused::new(Code::Conflict, reason).into());
        }
        members::remove(tx, membership.conversation_id, &caller.uid).await?;
        let gone = std::slice::from_ref(&caller.uid);
        self.announce(tx, gid, gone).await
    }

    async fn grant(&self, tx: &Transaction, grant: &Grant) -> Result<Settled, Failed> {
        check_existence(tx, std::slice::from_ref(&grant.user)).await?;
        let others = grants::count_others(tx, &grant.owner, &grant.user, &grant.filter).await?;
        let is_taken_back = !grant.read && !grant.write;
        if !is_taken_back && others >= self.limits.grants_max.into() {
            return Err(too_many_grants(&self.limits).into());
        }
        grants::set(tx, grant).await?;
        Ok(Settled {
            precondition: Some(briefing::grant(grant.clone())),
            ..Settled::ok(v1::Ok::default())
        })
    }

    /// Answers with the group as it stands now, and tells its members and those who are out.
    async fn announce(
        &mut self,
        tx: &Transaction,
        gid: &Gid,
        gone: &[Uid],
    ) -> Result<Settled, Failed> {
        let ok = self.group_ok(tx, gid).await?;
        self.catalog.stage_change(&ok.conversation);
        let group = ok.group.clone().unwrap_or_default();
        let members: Vec<Uid> = group
            .members
            .iter()
            .filter_map(|member| member.uid.parse().ok())
            .collect();
        let everybody = members.iter().chain(gone);
        let event = v1::event::Event::Group(group);
        Ok(Settled {
            deliveries: vec![Delivery::event(event, everybody, 0)],
            precondition: None,
            result: Ok(ok),
        })
    }

    async fn group_ok(&self, tx: &Transaction, gid: &Gid) -> Result<v1::Ok, Failed> {
        let Some(group) = views::group(tx, gid).await? else {
            return Err(Refused::not_found("there is no such group").into());
        };
        Ok(v1::Ok {
            conversation: group.conversation.clone(),
            group: Some(group),
            ..Default::default()
        })
    }
}

async fn acknowledge(
    tx: &Transaction,
    caller: &Caller,
    conversation: &ConversationId,
    seq: u32,
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
        devices::move_cursors(tx, &[cursor]).await?;
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
) -> Result<Settled, Failed> {
    let name = conversation.to_string();
    let before = reachable(tx, caller, &name, seq).await?;
    let ok = |membership: &Membership| v1::Ok {
        conversation: name.clone(),
        seq: membership.last_read_seq,
        ..Default::default()
    };
    if seq <= before.last_read_seq {
        return Ok(Settled::ok(ok(&before)));
    }
    let id = before.conversation_id;
    members::set_read(tx, id, &caller.uid, before.last_read_seq, seq).await?;
    let Some(after) = views::membership(tx, &caller.uid, &name).await? else {
        return Err(Refused::not_found("there is no such conversation").into());
    };
    let event = v1::event::Event::Conversation(v1::ConversationState {
        conversation: name.clone(),
        last_seq: after.last_seq,
        last_read_seq: after.last_read_seq,
        unread: after.unread,
        first_pushed_seq: 0,
    });
    Ok(Settled {
        result: Ok(ok(&after)),
        deliveries: vec![Delivery::event(event, [&caller.uid], session)],
        precondition: None,
    })
}

/// The caller's membership, if there is a message `seq`.
async fn reachable(
    tx: &Transaction,
    caller: &Caller,
    conversation: &str,
    seq: u32,
) -> Result<Membership, Failed> {
    match views::membership(tx, &caller.uid, conversation).await? {
        None => Err(Refused::not_found("there is no such conversation").into()),
        Some(membership) if seq > membership.last_seq => {
            Err(Refused::invalid("seq is beyond the newest message").into())
        }
        Some(membership) => Ok(membership),
    }
}

/// A group whose members the caller may change: its conversation, newest seq and members.
async fn managed_group(
    tx: &Transaction,
    caller: &Caller,
    gid: &Gid,
) -> Result<(i64, u32, Vec<(Uid, Role)>), Failed> {
    let name = ConversationId::Group(gid.clone()).to_string();
    let Some(membership) = views::membership(tx, &caller.uid, &name).await? else {
        return Err(Refused::not_found("there is no such group").into());
    };
    if Role::parse(&membership.role) == Role::Member {
        let reason = "only the group's owner and admins may change its members";
        return Err(Refused::new(Code::PermissionDenied, reason).into());
    }
    let id = membership.conversation_id;
    // Under the lock that gives places: nobody comes in between a message and its delivery.
    let locked = conversations::lock(tx, &[id]).await?;
    let last_seq = locked.first().map_or(0, |(_, last_seq)| *last_seq);
    Ok((id, last_seq, members::roles(tx, id).await?))
}

/// Refuses where one of the users does not exist.
async fn check_existence(tx: &Transaction, uids: &[Uid]) -> Result<(), Failed> {
    let existing = users::existing(tx, uids).await?;
    match uids.iter().find(|uid| !existing.contains(uid)) {
        Some(uid) => Err(Refused::not_found(format!("there is no user {uid}")).into()),
        None => Ok(()),
    }
}

/// A gid that nobody has: the time-ordered id in base 36.
fn new_gid(mut id: u64) -> Gid {
    let mut digits = Vec::new();
    while id > 0 {
        let digit = u32::try_from(id % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        id /= 36;
    }
    let text: String = digits.into_iter().rev().collect();
    text.parse().expect("digits of base 36 make a name")
}
