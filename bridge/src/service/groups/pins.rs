//! Messages that are pinned for everybody.

use std::time::SystemTime;

use schema::{Gid, Uid, v1};

use super::group::{Change, Group, unchanged};
use super::{Command, rules};
use crate::clock;
use crate::code::Code;
use crate::service::batch::Executor;
use crate::service::command::gid;
use crate::service::job::Settled;
use crate::service::refused::Refused;
use crate::service::single::Failed;
use crate::service::system_messages::happened;
use crate::store::groups::pins;
use crate::store::views::PINS_MAX;
use crate::store::{Transaction, members};

pub(super) fn check(asked: &v1::GroupPin) -> Result<Command, Refused> {
    let gid = gid(&asked.gid)?;
    Ok(match asked.unpin {
        true => Command::Unpin(gid, asked.msg_id),
        false => Command::Pin(gid, asked.msg_id),
    })
}

impl Executor {
    pub(super) async fn pin(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        msg_id: u64,
    ) -> Result<Settled, Failed> {
        let (group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_policy(group.settings.pin, role, "pin messages")?;
        let visible_seq = members::visible_seq(tx, group.id, caller).await?;
        if !pins::can_be_pinned(tx, group.id, msg_id, caller, visible_seq).await? {
            return Err(Refused::not_found("there is no such message in the group").into());
        }
        let pinned = pins::list(tx, group.id, PINS_MAX).await?;
        if pinned.contains(&msg_id) {
            return unchanged(tx, &group).await;
        }
        if pinned.len() >= PINS_MAX {
            let reason = format!("a group has at most {PINS_MAX} pinned messages");
            return Err(Refused::new(Code::TooLarge, reason).into());
        }
        pins::add(tx, group.id, msg_id, clock::millis(SystemTime::now())).await?;
        self.tell_pin(tx, caller, &group, "message_pinned", msg_id)
            .await
    }

    pub(super) async fn unpin(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        gid: &Gid,
        msg_id: u64,
    ) -> Result<Settled, Failed> {
        let (group, role) = Group::of_member(tx, caller, gid).await?;
        rules::check_policy(group.settings.pin, role, "pin messages")?;
        if !pins::remove(tx, group.id, msg_id).await? {
            return unchanged(tx, &group).await;
        }
        self.tell_pin(tx, caller, &group, "message_unpinned", msg_id)
            .await
    }

    async fn tell_pin(
        &mut self,
        tx: &Transaction,
        caller: &Uid,
        group: &Group,
        what: &str,
        msg_id: u64,
    ) -> Result<Settled, Failed> {
        let happened = v1::System {
            msg_id,
            ..happened(what, [])
        };
        let change = Change {
            happened: vec![happened],
            ..Change::default()
        };
        self.tell_change(tx, caller, group, change).await
    }
}
