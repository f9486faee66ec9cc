//! A group while it is changed, and how its members hear of it.

use schema::{ConversationId, Gid, Uid, v1};

use crate::code::Code;
use crate::service::batch::Executor;
use crate::service::job::{Delivery, Settled};
use crate::service::refused::Refused;
use crate::service::single::Failed;
use crate::store::groups::{self, Known, Settings};
use crate::store::members::{self, Role};
use crate::store::views::{self, MEMBERS_TOLD};
use crate::store::{self, Transaction, conversations};

/// A group that is there. Its conversation's row is locked to the end of the transaction: nobody else changes the group,
/// and nobody comes in between a message and its delivery.
#[derive(Debug)]
pub(super) struct Group {
    /// Its conversation's key in the database.
    pub(super) id: i64,
    pub(super) gid: Gid,
    /// Its conversation's name on the wire.
    pub(super) conversation: String,
    /// Its newest message.
    pub(super) last_seq: u32,
    pub(super) settings: Settings,
    /// Who is in it, kept up to date with what is written.
    pub(super) members: Vec<(Uid, Role)>,
}

impl Group {
    /// A group that the caller is in, and the caller's role.
    ///
    /// # Errors
    /// [`Code::NotFound`], whether there is no such group or the caller is not in it.
    pub(super) async fn of_member(
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
    ) -> Result<(Self, Role), Failed> {
        let known = existing(tx, gid).await?.ok_or_else(no_such_group)?;
        let id = known.conversation_id;
        // Asked before the lock as well, so that strangers keep nobody waiting.
        let role = members::role(tx, id, caller.as_str()).await?;
        role.ok_or_else(no_such_group)?;
        let group = Group::lock(tx, gid, id).await?;
        let group = group.ok_or_else(no_such_group)?;
        let role = group.role(caller).ok_or_else(no_such_group)?;
        Ok((group, role))
    }

    /// The group of that conversation. `None`: there is none.
    pub(super) async fn lock(
        tx: &Transaction,
        gid: &Gid,
        id: i64,
    ) -> Result<Option<Self>, store::Error> {
        let locked = conversations::lock(tx, &[id]).await?;
        let Some(settings) = groups::settings(tx, id).await? else {
            return Ok(None);
        };
        Ok(Some(Group {
            id,
            gid: gid.clone(),
            conversation: ConversationId::Group(gid.clone()).to_string(),
            last_seq: locked.first().map_or(0, |(_, locked)| locked.last_seq),
            settings,
            members: members::roles(tx, id).await?,
        }))
    }

    /// The user's role; `None`: not a member.
    pub(super) fn role(&self, uid: &Uid) -> Option<Role> {
        let member = self.members.iter().find(|(member, _)| member == uid);
        member.map(|(_, role)| *role)
    }

    /// The role of another member.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub(super) fn role_of_other(&self, uid: &Uid) -> Result<Role, Refused> {
        self.role(uid)
            .ok_or_else(|| Refused::not_found(format!("{uid} is not a member of the group")))
    }

    /// Everybody who is in it.
    pub(super) fn uids(&self) -> impl Iterator<Item = &Uid> {
        self.members.iter().map(|(uid, _)| uid)
    }

    /// Gives a member a role.
    pub(super) async fn set_role(
        &mut self,
        tx: &Transaction,
        uid: &Uid,
        role: Role,
    ) -> Result<(), store::Error> {
        members::set_role(tx, self.id, uid, role).await?;
        for (member, had) in &mut self.members {
            if member == uid {
                *had = role;
            }
        }
        Ok(())
    }

    /// Takes members out.
    pub(super) async fn take_out(
        &mut self,
        tx: &Transaction,
        uids: &[Uid],
    ) -> Result<(), store::Error> {
        for uid in uids {
            members::remove(tx, self.id, uid).await?;
        }
        self.members.retain(|(member, _)| !uids.contains(member));
        Ok(())
    }
}

/// The group of that gid, if it has not been dissolved.
pub(super) async fn existing(tx: &Transaction, gid: &Gid) -> Result<Option<Known>, store::Error> {
    let known = groups::lookup(tx, gid).await?;
    Ok(known.filter(|known| !known.is_dissolved))
}

/// Also for who may not know of it.
pub(super) fn no_such_group() -> Refused {
    Refused::not_found("there is no such group")
}

/// The refusal of what is not there yet, or not any longer.
pub(super) fn conflict(reason: &str) -> Failed {
    Refused::new(Code::Conflict, reason).into()
}

/// What has been done to a group.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The members that it is about.
    pub(super) about: Vec<Uid>,
    /// Who is not in it any longer, and is told that last.
    pub(super) gone: Vec<Uid>,
    /// What stands in the conversation of it.
    pub(super) happened: Vec<v1::System>,
}

impl Executor {
    /// Counts a change, answers with the group as it stands now, and tells its members and those who are out.
    pub(super) async fn tell_change(
        &mut self,
        tx: &Transaction,
        actor: &Uid,
        group: &Group,
        change: Change,
    ) -> Result<Settled, Failed> {
        conversations::count_change(tx, group.id).await?;
        self.tell_group(tx, actor, group, change).await
    }

    /// The same for a group that is new.
    pub(super) async fn tell_group(
        &mut self,
        tx: &Transaction,
        actor: &Uid,
        group: &Group,
        change: Change,
    ) -> Result<Settled, Failed> {
        let conversation = (group.id, group.conversation.as_str());
        let messages = self
            .add_system_messages(tx, conversation, actor, change.happened)
            .await?;
        self.stage_change(&group.conversation);
        let mut now = group_now(tx, &group.gid, &change.about).await?;
        if now.partial {
            let gone = change.gone.iter().take(MEMBERS_TOLD);
            now.members.extend(gone.map(|uid| v1::GroupMember {
                uid: uid.to_string(),
                ..Default::default()
            }));
        }
        let event = v1::event::Event::Group(now.clone());
        let mut deliveries = vec![Delivery::event(event, group.uids(), 0)];
        if !change.gone.is_empty() {
            let event = v1::event::Event::Group(for_those_gone(&now, &change.gone));
            deliveries.push(Delivery::event(event, &change.gone, 0));
        }
        for (message, previous) in messages {
            let message = Delivery::message(group.id, &message, previous, group.uids(), 0);
            deliveries.push(message);
        }
        Ok(Settled {
            deliveries,
            ..group_settled(now)
        })
    }
}

/// What those hear of a group who are no longer in it: only that.
fn for_those_gone(group: &v1::Group, gone: &[Uid]) -> v1::Group {
    let gone = gone.iter().take(MEMBERS_TOLD);
    v1::Group {
        gid: group.gid.clone(),
        conversation: group.conversation.clone(),
        partial: true,
        members: gone
            .map(|uid| v1::GroupMember {
                uid: uid.to_string(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

/// The answer where nothing had to be changed.
pub(super) async fn unchanged(tx: &Transaction, group: &Group) -> Result<Settled, Failed> {
    Ok(group_settled(group_now(tx, &group.gid, &[]).await?))
}

async fn group_now(tx: &Transaction, gid: &Gid, about: &[Uid]) -> Result<v1::Group, Failed> {
    let group = views::group_about(tx, gid, about).await?;
    group.ok_or_else(|| no_such_group().into())
}

/// The answer that shows a group.
pub(super) fn group_settled(group: v1::Group) -> Settled {
    Settled::ok(v1::Ok {
        conversation: group.conversation.clone(),
        group: Some(Box::new(group)),
        ..Default::default()
    })
}
