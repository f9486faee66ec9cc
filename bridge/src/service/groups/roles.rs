//! Who stands where: admins, the owner, and those who may not send for now.

use std::time::{Duration, SystemTime};

use schema::{Gid, Uid, v1};

use super::group::{Change, Group, conflict, unchanged};
use super::{Command, rules};
use crate::clock;
use crate::service::batch::Executor;
use crate::service::command::{gid, uid};
use crate::service::job::Settled;
use crate::service::refused::Refused;
use crate::service::single::Failed;
use crate::service::system_messages::happened;
use crate::store::Transaction;
use crate::store::groups::Policy;
use crate::store::members::{self, Role};

pub(super) fn check_role(asked: &v1::GroupRole) -> Result<Command, Refused> {
    let role = match asked.role.as_str() {
        "admin" => Role::Admin,
        "member" => Role::Member,
        _ => return Err(Refused::invalid("role is admin or member")),
    };
    Ok(Command::Role(gid(&asked.gid)?, uid(&asked.user)?, role))
}

impl Executor {
    pub(super) async fn give_role(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        user: &Uid,
        role: Role,
    ) -> Result<Settled, Failed> {
        let (mut group, callers) = Group::of_member(tx, caller, gid).await?;
        rules::check_policy(Policy::Owner, callers, "make admins")?;
        match group.role_of_other(user)? {
            Role::Owner => return Err(conflict("the owner has to give the group away first")),
            had if had == role => return unchanged(tx, &group).await,
            Role::Admin | Role::Member => {}
        }
        group.set_role(tx, user, role).await?;
        let happened = v1::System {
            text: role.as_str().to_owned(),
            ..happened("admins_changed", [user])
        };
        let change = Change {
            about: vec![user.clone()],
            happened: vec![happened],
            ..Change::default()
        };
        self.tell_change(tx, caller, &group, change).await
    }

    pub(super) async fn transfer(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        user: &Uid,
    ) -> Result<Settled, Failed> {
        let (mut group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_policy(Policy::Owner, role, "give the group away")?;
        group.role_of_other(user)?;
        if user == caller {
            return unchanged(tx, &group).await;
        }
        group.set_role(tx, caller, Role::Admin).await?;
        group.set_role(tx, user, Role::Owner).await?;
        let change = Change {
            about: vec![user.clone(), caller.clone()],
            happened: vec![happened("owner_changed", [user])],
            ..Change::default()
        };
        self.tell_change(tx, caller, &group, change).await
    }

    pub(super) async fn mute(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        user: &Uid,
        secs: u32,
    ) -> Result<Settled, Failed> {
        let (group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_above(role, Role::Member)?;
        rules::check_above(role, group.role_of_other(user)?)?;
        let until = match secs {
            0 => 0,
            _ => clock::millis(SystemTime::now() + Duration::from_secs(secs.into())),
        };
        members::silence(tx, group.id, user, until).await?;
        let change = Change {
            about: vec![user.clone()],
            ..Change::default()
        };
        self.tell_change(tx, caller, &group, change).await
    }
}
