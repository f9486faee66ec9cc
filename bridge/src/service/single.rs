//! The commands that are executed one by one: positions and groups.

use schema::{ConversationId, Gid, Uid, v1};
use sea_orm::DatabaseTransaction;

use super::batch::Executor;
use super::command::{Command, too_many_members};
use super::job::{Caller, Delivery, Job, Outcome};
use super::refused::Refused;
use crate::code::Code;
use crate::store::devices::{self, Cursor};
use crate::store::members::{self, Role};
use crate::store::views::{self, Membership};
use crate::store::{self, conversations, messages, users};

/// A refusal comes as `Ok(Err(…))`: the transaction goes on with the other commands.
type Decided<T> = Result<Result<T, Refused>, store::Error>;

impl Executor {
    /// Executes a command other than a send, for the first time.
    pub(super) async fn execute_first(
        &mut self,
        tx: &DatabaseTransaction,
        job: &Job,
    ) -> Result<Outcome, store::Error> {
        let caller = &job.caller;
        let session = job.door.session();
        let decided = match &job.command {
            Command::Ack(conversation, seq) => acknowledge(tx, caller, conversation, *seq).await?,
            Command::Read(conversation, seq) => {
                read(tx, caller, conversation, *seq, session).await?
            }
            Command::GroupCreate { gid, name, members } => {
                self.create_group(tx, caller, gid.as_ref(), name, members)
                    .await?
            }
            Command::GroupAdd(gid, uids) => self.add_members(tx, caller, gid, uids).await?,
            Command::GroupRemove(gid, uids) => self.remove_members(tx, caller, gid, uids).await?,
            Command::GroupLeave(gid) => self.leave(tx, caller, gid).await?,
            Command::Send(_) | Command::Sync(_) => {
                unreachable!("sends go together, and a sync is answered without a transaction")
            }
        };
        Ok(decided.unwrap_or_else(Outcome::from))
    }

    async fn create_group(
        &mut self,
        tx: &DatabaseTransaction,
        caller: &Caller,
        gid: Option<&Gid>,
        name: &str,
        others: &[Uid],
    ) -> Decided<Outcome> {
        if let Some(refused) = refuse_unknown(tx, others).await? {
            return Ok(Err(refused));
        }
        let gid = match gid {
            Some(gid) => gid.clone(),
            None => new_gid(self.ids.next(std::time::SystemTime::now()).0),
        };
        let conversation = ConversationId::Group(gid.clone()).to_string();
        if views::group(tx, &gid).await?.is_some() {
            let reason = "a group of that gid exists";
            return Ok(Err(Refused::new(Code::AlreadyExists, reason)));
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
        tx: &DatabaseTransaction,
        caller: &Caller,
        gid: &Gid,
        uids: &[Uid],
    ) -> Decided<Outcome> {
        let (id, last_seq, roles) = match managed_group(tx, caller, gid).await? {
            Ok(group) => group,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Some(refused) = refuse_unknown(tx, uids).await? {
            return Ok(Err(refused));
        }
        let is_new = |uid: &&Uid| !roles.iter().any(|(member, _)| member == *uid);
        let new: Vec<&Uid> = uids.iter().filter(is_new).collect();
        if roles.len() + new.len() > self.limits.group_members_max {
            return Ok(Err(too_many_members(&self.limits)));
        }
        let new = new.into_iter().map(|uid| (uid, Role::Member));
        members::add(tx, id, last_seq, new).await?;
        self.announce(tx, gid, &[]).await
    }

    async fn remove_members(
        &mut self,
        tx: &DatabaseTransaction,
        caller: &Caller,
        gid: &Gid,
        uids: &[Uid],
    ) -> Decided<Outcome> {
        let (id, _, roles) = match managed_group(tx, caller, gid).await? {
            Ok(group) => group,
            Err(refused) => return Ok(Err(refused)),
        };
        for uid in uids {
            match roles.iter().find(|(member, _)| member == uid) {
                Some((_, Role::Owner)) => {
                    let reason = "nobody removes the owner";
                    return Ok(Err(Refused::new(Code::PermissionDenied, reason)));
                }
                Some(_) => {}
                None => {
                    let reason = format!("{uid} is not a member of the group");
                    return Ok(Err(Refused::not_found(reason)));
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
        tx: &DatabaseTransaction,
        caller: &Caller,
        gid: &Gid,
    ) -> Decided<Outcome> {
        let name = ConversationId::Group(gid.clone()).to_string();
        let Some(membership) = views::membership(tx, &caller.uid, &name).await? else {
            return Ok(Err(Refused::not_found("there is no such group")));
        };
        if Role::parse(&membership.role) == Role::Owner {
            let reason = "the owner can't leave the group";
            return Ok(Err(Refused::new(Code::Conflict, reason)));
        }
        members::remove(tx, membership.conversation_id, &caller.uid).await?;
        let gone = std::slice::from_ref(&caller.uid);
        self.announce(tx, gid, gone).await
    }

    /// Answers with the group as it stands now, and tells its members and those who are out.
    async fn announce(
        &mut self,
        tx: &DatabaseTransaction,
        gid: &Gid,
        gone: &[Uid],
    ) -> Decided<Outcome> {
        let conversation = ConversationId::Group(gid.clone()).to_string();
        self.catalog.stage_change(&conversation);
        let Some(group) = views::group(tx, gid).await? else {
            return Ok(Err(Refused::not_found("there is no such group")));
        };
        let members: Vec<Uid> = group
            .members
            .iter()
            .filter_map(|member| member.uid.parse().ok())
            .collect();
        let event = v1::event::Event::Group(group.clone());
        let everybody = members.iter().chain(gone);
        Ok(Ok(Outcome {
            deliveries: vec![Delivery::event(event, everybody, 0)],
            result: Ok(v1::Ok {
                conversation,
                group: Some(group),
                ..Default::default()
            }),
        }))
    }
}

async fn acknowledge(
    tx: &DatabaseTransaction,
    caller: &Caller,
    conversation: &ConversationId,
    seq: u32,
) -> Decided<Outcome> {
    let name = conversation.to_string();
    let membership = match reachable(tx, caller, &name, seq).await? {
        Ok(membership) => membership,
        Err(refused) => return Ok(Err(refused)),
    };
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
    let stands_at = devices::cursor(tx, device, conversation_id).await?;
    Ok(Ok(Outcome::ok(v1::Ok {
        conversation: name,
        seq: stands_at.unwrap_or(membership.start_seq),
        ..Default::default()
    })))
}

async fn read(
    tx: &DatabaseTransaction,
    caller: &Caller,
    conversation: &ConversationId,
    seq: u32,
    session: u64,
) -> Decided<Outcome> {
    let name = conversation.to_string();
    let before = match reachable(tx, caller, &name, seq).await? {
        Ok(membership) => membership,
        Err(refused) => return Ok(Err(refused)),
    };
    let ok = |membership: &Membership| v1::Ok {
        conversation: name.clone(),
        seq: membership.last_read_seq,
        ..Default::default()
    };
    if seq <= before.last_read_seq {
        return Ok(Ok(Outcome::ok(ok(&before))));
    }
    let id = before.conversation_id;
    members::set_read(tx, id, &caller.uid, before.last_read_seq, seq).await?;
    let Some(after) = views::membership(tx, &caller.uid, &name).await? else {
        return Ok(Err(Refused::not_found("there is no such conversation")));
    };
    let event = v1::event::Event::Conversation(v1::ConversationState {
        conversation: name.clone(),
        last_seq: after.last_seq,
        last_read_seq: after.last_read_seq,
        unread: after.unread,
        first_pushed_seq: 0,
    });
    Ok(Ok(Outcome {
        result: Ok(ok(&after)),
        deliveries: vec![Delivery::event(event, [&caller.uid], session)],
    }))
}

/// The caller's membership, if there is a message `seq`.
async fn reachable(
    tx: &DatabaseTransaction,
    caller: &Caller,
    conversation: &str,
    seq: u32,
) -> Decided<Membership> {
    Ok(
        match views::membership(tx, &caller.uid, conversation).await? {
            None => Err(Refused::not_found("there is no such conversation")),
            Some(membership) if seq > membership.last_seq => {
                Err(Refused::invalid("seq is beyond the newest message"))
            }
            Some(membership) => Ok(membership),
        },
    )
}

/// A group whose members the caller may change: its conversation, newest seq and members.
async fn managed_group(
    tx: &DatabaseTransaction,
    caller: &Caller,
    gid: &Gid,
) -> Decided<(i64, u32, Vec<(Uid, Role)>)> {
    let name = ConversationId::Group(gid.clone()).to_string();
    let Some(membership) = views::membership(tx, &caller.uid, &name).await? else {
        return Ok(Err(Refused::not_found("there is no such group")));
    };
    if Role::parse(&membership.role) == Role::Member {
        let reason = "only the group's owner and admins may change its members";
        return Ok(Err(Refused::new(Code::PermissionDenied, reason)));
    }
    let id = membership.conversation_id;
    // Under the lock that gives places: nobody comes in between a message and its delivery.
    let locked = conversations::lock(tx, &[id]).await?;
    let last_seq = locked.first().map_or(0, |(_, last_seq)| *last_seq);
    Ok(Ok((id, last_seq, members::roles(tx, id).await?)))
}

async fn refuse_unknown(
    tx: &DatabaseTransaction,
    uids: &[Uid],
) -> Result<Option<Refused>, store::Error> {
    let existing = users::existing(tx, uids).await?;
    let unknown = uids.iter().find(|uid| !existing.contains(uid));
    Ok(unknown.map(|uid| Refused::not_found(format!("there is no user {uid}"))))
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
