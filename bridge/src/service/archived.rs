//! What people do to messages that are in files. Where they stand is in the database, and so is what becomes of them; their
//! content is not, and nothing here waits for it.
//!
//! They can be recalled by those who may do that at any time, deleted for oneself, answered, pinned and forwarded. They
//! can't be edited, and nobody can react to them any more.

use std::time::{Duration, SystemTime};

use schema::{MsgId, Uid, v1};

use super::batch::Executor;
use super::job::{Delivery, Settled, position};
use super::operations::ok;
use super::rates::{Expensive, Rates};
use super::refused::Refused;
use super::single::Failed;
use crate::clock;
use crate::code::Code;
use crate::store::archives::{self, Found};
use crate::store::operations::{self, Gone, Revision};
use crate::store::views::{self, AtHand, Seen};
use crate::store::{self, Store, Transaction, conversations};

/// `archive.after` is not shorter, so that younger messages are not looked for. A client that repeats what it has sent has
/// long got its answer by then.
pub const AFTER_MIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Those of the messages that the caller can see and that are in files; where one of them is nowhere, maybe not all.
pub(super) async fn find(
    rates: &Rates,
    tx: &Transaction,
    caller: &Uid,
    msg_ids: &[u64],
) -> Result<Vec<Found>, Failed> {
    let old = old(msg_ids);
    if old.is_empty() {
        return Ok(Vec::new());
    }
    // All conversations of the caller are looked at.
    rates.check_expensive(caller, Expensive::Archived)?;
    Ok(archives::find(tx, caller, &old).await?)
}

fn old(msg_ids: &[u64]) -> Vec<u64> {
    let is_old = |msg_id: &&u64| {
        let age = SystemTime::now().duration_since(MsgId(**msg_id).time());
        age.is_ok_and(|age| age >= AFTER_MIN)
    };
    msg_ids.iter().filter(is_old).copied().collect()
}

/// The same message as a row would show it, without content.
pub(super) fn seen(found: &Found) -> Seen {
    Seen {
        message: found.message.clone(),
        conversation_id: found.place.conversation_id,
        role: found.role,
    }
}

/// The refusal of what can't be done to a message in a file.
pub(super) async fn refusal(rates: &Rates, tx: &Transaction, caller: &Uid, msg_id: u64) -> Failed {
    match find(rates, tx, caller, &[msg_id]).await {
        Ok(found) if found.is_empty() => Refused::not_found("there is no such message").into(),
        Ok(_) => {
            let reason = "the message is archived, and can't be changed any more";
            Refused::new(Code::Conflict, reason).into()
        }
        Err(failed) => failed,
    }
}

impl Executor {
    /// Takes back a message in a file: at once for all who read it, and soon in the file.
    pub(super) async fn recall_archived(
        &mut self,
        tx: &Transaction,
        found: Found,
        session: u64,
    ) -> Result<Settled, Failed> {
        let recalled = v1::Message {
            gone: Gone::Recalled.as_str().to_owned(),
            ..found.message.clone()
        };
        if found.message.gone == recalled.gone {
            return Ok(Settled::ok(ok(recalled)));
        }
        if !found.message.gone.is_empty() {
            let reason = format!("the message is {}", found.message.gone);
            return Err(Refused::new(Code::Conflict, reason).into());
        }
        let now = clock::millis(SystemTime::now());
        conversations::lock(tx, &[found.place.conversation_id]).await?;
        operations::note_changes(tx, &[found.place]).await?;
        archives::take_away(tx, found.place, Gone::Recalled, now).await?;
        let audience = archives::audience(tx, &found).await?;
        let event = v1::event::Event::Changed(Box::new(recalled.clone()));
        let about = position(found.place.conversation_id, &recalled);
        Ok(Settled {
            deliveries: vec![Delivery::event(event, &audience, session).about(about)],
            ..Settled::ok(ok(recalled))
        })
    }
}

/// The messages with their content, as far as it is in memory. Otherwise it is fetched beside the caller, who may come
/// again.
pub(super) async fn at_hand(
    store: &Store,
    tx: &Transaction,
    uid: &Uid,
    found: &[Found],
) -> Result<Result<Vec<v1::Message>, Refused>, store::Error> {
    let archive = store.archive()?;
    match views::archived_at_hand(tx, archive, uid, found).await? {
        AtHand::All(messages) => Ok(Ok(messages)),
        AtHand::NotYet(objects) => {
            archive.fetch_ahead(objects);
            let reason = "a message is archived, and is being fetched";
            Ok(Err(Refused::new(Code::Unavailable, reason)))
        }
    }
}

/// Fetches the content of those of the messages that are in files, so that it is at hand soon after. What can't be read
/// is missed later.
pub(super) async fn fetch(store: &Store, uid: &Uid, msg_ids: &[u64]) {
    let old = old(msg_ids);
    if old.is_empty() {
        return;
    }
    let Ok(found) = archives::find(store.reader(), uid, &old).await else {
        return;
    };
    for found in found {
        let (id, seq) = (found.place.conversation_id, found.place.seq);
        if let (Ok(archive), Ok(Some(file))) = (
            store.archive(),
            archives::with(store.reader(), id, seq).await,
        ) {
            archive.read(&file.object).await.ok();
        }
    }
}

/// A message in a file as it is now, and what it said before, newest first.
pub(super) async fn revisions(
    store: &Store,
    uid: &Uid,
    msg_id: u64,
) -> Result<Option<(v1::Message, Vec<Revision>)>, store::Error> {
    let Some(found) = archives::find(store.reader(), uid, &[msg_id]).await?.pop() else {
        return Ok(None);
    };
    let (id, seq) = (found.place.conversation_id, found.place.seq);
    let conversation = (id, found.message.conversation.as_str());
    let mut messages = views::archived_messages(store, uid, conversation, &[seq]).await?;
    let earlier = views::archived_revisions(store, id, seq).await?;
    Ok(messages.pop().map(|message| (message, earlier)))
}
