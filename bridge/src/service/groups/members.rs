//! Members come, go, and are called something.

use schema::{Gid, Uid, v1};

use super::group::{Change, Group, conflict, unchanged};
use super::{Command, rules, text};
use crate::service::batch::Executor;
use crate::service::command::{gid, too_many_members, uid};
use crate::service::direct_rules;
use crate::service::job::Settled;
use crate::service::refused::Refused;
use crate::service::single::{Failed, check_existence};
use crate::service::system_messages::happened;
use crate::store::Transaction;
use crate::store::groups::joining;
use crate::store::members::{self, Role};

/// Longest name of a member, in characters.
const NICKNAME_MAX: usize = 64;

pub(super) fn check_nickname(asked: v1::GroupNickname) -> Result<Command, Refused> {
    let user = match asked.user.as_str() {
        "" => None,
        user => Some(uid(user)?),
    };
    let nickname = text(asked.nickname.trim(), NICKNAME_MAX, "a nickname")?;
    Ok(Command::Nickname(gid(&asked.gid)?, user, nickname))
}

/// Those of the users who come where the caller takes them along. Whoever takes no messages from the caller is not taken
/// into a group either; of somebody who has blocked the caller silently nothing is said.
pub(super) async fn who_comes(
    tx: &Transaction,
    caller: &Uid,
    uids: &[Uid],
) -> Result<Vec<Uid>, Failed> {
    let pair = |uid| (caller.min(uid), caller.max(uid));
    let pairs: Vec<(&Uid, &Uid)> = uids.iter().map(pair).collect();
    let rules = direct_rules::load(tx, &pairs).await?;
    let mut coming = Vec::with_capacity(uids.len());
    for uid in uids {
        let ruling = rules.get(&pair(uid)).copied().unwrap_or_default();
        if ruling.deaf_to(caller, pair(uid))?.is_none() {
            coming.push(uid.clone());
        }
    }
    Ok(coming)
}

impl Executor {
    pub(super) async fn add_members(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        uids: &[Uid],
    ) -> Result<Settled, Failed> {
        let (group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_policy(group.settings.invite, role, "add members")?;
        check_existence(tx, uids).await?;
        let is_new = |uid: &&Uid| group.role(uid).is_none();
        let new: Vec<Uid> = uids.iter().filter(is_new).cloned().collect();
        let new = who_comes(tx, caller, &new).await?;
        if new.is_empty() {
            return unchanged(tx, &group).await;
        }
        self.let_in(tx, caller, group, new, "members_added").await
    }

    /// Lets users in who are there and not in the group, under what is told of it.
    pub(super) async fn let_in(
        &mut self,
        tx: &Transaction,
        actor: &Uid,
        mut group: Group,
        new: Vec<Uid>,
        what: &str,
    ) -> Result<Settled, Failed> {
        if group.members.len() + new.len() > self.limits.group_members_max {
            return Err(too_many_members(&self.limits).into());
        }
        let visible_seq = match group.settings.history_visible {
            true => 0,
            false => group.last_seq,
        };
        let as_members = new.iter().map(|uid| (uid, Role::Member));
        members::add(tx, group.id, group.last_seq, visible_seq, as_members).await?;
        joining::drop_requests(tx, group.id, &new).await?;
        let in_it = new.iter().map(|uid| (uid.clone(), Role::Member));
        group.members.extend(in_it);
        let change = Change {
            happened: vec![happened(what, &new)],
            about: new,
            ..Change::default()
        };
        self.tell_change(tx, actor, &group, change).await
    }

    pub(super) async fn remove_members(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        uids: &[Uid],
    ) -> Result<Settled, Failed> {
        let (mut group, role) = Group::of_member(tx, caller, gid).await?;
        // Who may remove nobody does not learn who is there.
        rules::check_above(role, Role::Member)?;
        for uid in uids {
            rules::check_above(role, group.role_of_other(uid)?)?;
        }
        group.take_out(tx, uids).await?;
        let change = Change {
            gone: uids.to_vec(),
            happened: vec![happened("members_removed", uids)],
            ..Change::default()
        };
        self.tell_change(tx, caller, &group, change).await
    }

    pub(super) async fn leave(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
    ) -> Result<Settled, Failed> {
        let (mut group, role) = Group::of_member(tx, caller, gid).await?;
        if role == Role::Owner {
            if group.members.len() > 1 {
                return Err(conflict(
                    "someone else has to own the group before its owner leaves",
                ));
            }
            return self.end_group(tx, &group).await;
        }
        let gone = vec![caller.clone()];
        group.take_out(tx, &gone).await?;
        let change = Change {
            happened: vec![happened("member_left", &gone)],
            gone,
            ..Change::default()
        };
        self.tell_change(tx, caller, &group, change).await
    }

    pub(super) async fn name_member(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        user: &Uid,
        nickname: &str,
    ) -> Result<Settled, Failed> {
        let (group, role) = Group::of_member(tx, caller, gid).await?;
        if user != caller {
            rules::check_manages(role)?;
            group.role_of_other(user)?;
        }
        members::set_nickname(tx, group.id, user, nickname).await?;
        let change = Change {
            about: vec![user.clone()],
            ..Change::default()
        };
        self.tell_change(tx, caller, &group, change).await
    }
}
