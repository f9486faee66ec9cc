//! Messages that are taken back.

use super::super::archived;
use super::super::batch::Executor;
use super::super::job::{Caller, Settled};
use super::super::refused::Refused;
use super::super::send::SYSTEM;
use super::super::single::Failed;
use super::{changed, is_within, lock_row, no_such_message, ok, there};
use crate::code::Code;
use crate::store::members::{self, Role};
use crate::store::operations::{self, Gone};
use crate::store::views::Seen;
use crate::store::{self, Transaction};

impl Executor {
    pub(super) async fn recall(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        msg_id: u64,
        session: u64,
    ) -> Result<Settled, Failed> {
        let Some(seen) = lock_row(tx, caller, msg_id).await? else {
            let rates = &self.limits.rates;
            let found = archived::find(rates, tx, &caller.uid, &[msg_id]).await?;
            let Some(found) = found.into_iter().next() else {
                return Err(no_such_message());
            };
            self.check_recall(tx, caller, &archived::seen(&found))
                .await?;
            return self.recall_archived(tx, found, session).await;
        };
        self.check_recall(tx, caller, &seen).await?;
        if seen.message.gone == Gone::Recalled.as_str() {
            return Ok(Settled::ok(ok(seen.message)));
        }
        let place = there(&seen)?;
        operations::note_changes(tx, &[place]).await?;
        let gone = [(place, seen.message.mentions.as_slice())];
        operations::blank(tx, Gone::Recalled, &gone).await?;
        changed(&self.limits.rates, tx, caller, msg_id, session).await
    }

    async fn check_recall(
        &self,
        tx: &Transaction,
        caller: &Caller,
        seen: &Seen,
    ) -> Result<(), Failed> {
        let is_own = seen.message.sender == caller.uid.as_str();
        let may_recall = seen.message.kind != SYSTEM
            && (is_own && is_within(self.limits.recall_within, seen.message.msg_id)
                || manages(tx, seen, is_own).await?);
        if !may_recall {
            let reason = "the message can't be recalled by you, or no longer";
            return Err(Refused::new(Code::PermissionDenied, reason).into());
        }
        Ok(())
    }
}

/// Whether the message is in a group where the caller ranks above its sender, or takes back an own one among those who
/// may do so at any time.
async fn manages(tx: &Transaction, seen: &Seen, is_own: bool) -> Result<bool, store::Error> {
    if seen.role == Role::Member || !seen.message.conversation.starts_with("g:") {
        return Ok(false);
    }
    if is_own || seen.role == Role::Owner {
        return Ok(true);
    }
    let sender = members::role(tx, seen.conversation_id, &seen.message.sender).await?;
    // Who has left is nobody any more.
    Ok(matches!(sender, None | Some(Role::Member)))
}
