//! Messages that somebody deletes for himself.

use std::collections::HashSet;

use schema::v1;

use super::super::archived;
use super::super::conversations;
use super::super::job::{Caller, Delivery, Settled};
use super::super::rates::Rates;
use super::super::refused::Refused;
use super::super::single::Failed;
use super::no_such_message;
use crate::code::Code;
use crate::store::{Transaction, members, operations, views};

/// Messages that are deleted together.
const DELETED_MAX: usize = 500;

pub(super) fn check_deleted(mut msg_ids: Vec<u64>) -> Result<Vec<u64>, Refused> {
    if msg_ids.is_empty() {
        return Err(Refused::invalid("no message is named"));
    }
    if msg_ids.len() > DELETED_MAX {
        let reason = "at most 500 messages are deleted together";
        return Err(Refused::new(Code::TooLarge, reason));
    }
    msg_ids.sort_unstable();
    msg_ids.dedup();
    Ok(msg_ids)
}

/// Messages that the caller has not read count no longer as unread when they are deleted.
pub(super) async fn delete(
    rates: &Rates,
    tx: &Transaction,
    caller: &Caller,
    msg_ids: &[u64],
    session: u64,
) -> Result<Settled, Failed> {
    let uid = &caller.uid;
    let mut seen = views::seen(tx, uid, msg_ids).await?;
    if seen.len() < msg_ids.len() {
        let rows: HashSet<u64> = seen.iter().map(|seen| seen.message.msg_id).collect();
        let missing = msg_ids.iter().filter(|msg_id| !rows.contains(msg_id));
        let missing: Vec<u64> = missing.copied().collect();
        let found = archived::find(rates, tx, uid, &missing).await?;
        seen.extend(found.iter().map(archived::seen));
    }
    let Some(first) = seen.first().filter(|_| seen.len() == msg_ids.len()) else {
        return Err(no_such_message());
    };
    let (id, name) = (first.conversation_id, &first.message.conversation);
    if seen.iter().any(|seen| seen.conversation_id != id) {
        let reason = "the messages are not of one conversation";
        return Err(Refused::invalid(reason).into());
    }
    members::lock(tx, uid, name).await?;
    let Some(membership) = views::membership(tx, uid, name).await? else {
        return Err(no_such_message());
    };
    let is_unread = |message: &v1::Message| {
        message.seq > membership.last_read_seq && message.sender != uid.as_str()
    };
    let unread = seen.iter().filter(|seen| is_unread(&seen.message)).count();
    let seqs = seen.iter().map(|seen| seen.message.seq);
    operations::hide(tx, uid, id, seqs).await?;
    if unread > 0 {
        let unread = u32::try_from(unread).unwrap_or(u32::MAX);
        members::count_sent(tx, [(id, uid, unread)]).await?;
    }
    let event = v1::event::Event::Deleted(v1::MessagesDeleted {
        conversation: name.clone(),
        msg_ids: msg_ids.to_vec(),
    });
    let after = conversations::standing(tx, caller, name).await?;
    let mut settled = conversations::moved(caller, &after, session);
    let deleted = Delivery::event(event, [uid], session);
    settled.deliveries.insert(0, deleted);
    Ok(settled)
}
