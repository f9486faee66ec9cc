//! What happens to messages that have their place: recall, edit, reactions, deleting for oneself.
//!
//! Who can't see a message is told the same as if there were none. Whoever sees it hears of its changes live, and finds
//! them later by the conversation's `changes`.

mod delete;
mod edit;
mod react;
mod recall;

use std::time::{Duration, SystemTime};

use schema::{MsgId, v1};

use super::Limits;
use super::archived;
use super::batch::Executor;
use super::command;
use super::job::{Caller, Delivery, Settled, position};
use super::rates::Rates;
use super::refused::Refused;
use super::schedule;
use super::send;
use super::single::Failed;
use crate::code::Code;
use crate::store::operations::{self, Place};
use crate::store::views::{self, Seen};
use crate::store::{self, Transaction};

pub use edit::Edit;
pub(super) use edit::revisions;

/// What changes messages.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Takes a message back.
    Recall(u64),
    /// Gives a message another text.
    Edit(Edit),
    /// Adds a reaction, or takes it back.
    React {
        /// The message.
        msg_id: u64,
        /// The reaction.
        emoji: String,
        /// Whether it is taken back.
        remove: bool,
    },
    /// Deletes messages, each named once, for the caller only.
    Delete(Vec<u64>),
    /// Gives up a message that waits to be sent.
    CancelScheduled(u64),
    /// Takes away the content of messages whose time has run out: only the server asks for it.
    Expire,
}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(asked: v1::up::Command, limits: &Limits) -> Result<command::Command, Refused> {
    use v1::up::Command as Asked;
    let command = match asked {
        Asked::Recall(asked) => Command::Recall(asked.msg_id),
        Asked::Edit(asked) => {
            // That a text must not be empty, while a caption may, is seen later.
            send::check_size(asked.text.len().max(1), limits)?;
            Command::Edit(Edit {
                msg_id: asked.msg_id,
                text: asked.text,
                mentions: asked.mentions,
            })
        }
        Asked::React(asked) => {
            react::check_emoji(&asked.emoji)?;
            Command::React {
                msg_id: asked.msg_id,
                emoji: asked.emoji,
                remove: asked.remove,
            }
        }
        Asked::DeleteMessages(asked) => Command::Delete(delete::check_deleted(asked.msg_ids)?),
        Asked::ScheduleCancel(asked) => Command::CancelScheduled(asked.id),
        other => unreachable!("no operation on messages: {other:?}"),
    };
    Ok(command::Command::Operation(command))
}

impl Executor {
    /// Executes an operation on messages.
    pub(super) async fn operate(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        command: &Command,
        session: u64,
    ) -> Result<Settled, Failed> {
        match command {
            Command::Recall(msg_id) => self.recall(tx, caller, *msg_id, session).await,
            Command::Edit(edit) => self.edit(tx, caller, edit, session).await,
            Command::React {
                msg_id,
                emoji,
                remove,
            } => react::react(self, tx, caller, *msg_id, (emoji, *remove), session).await,
            Command::Delete(msg_ids) => {
                delete::delete(&self.limits.rates, tx, caller, msg_ids, session).await
            }
            Command::CancelScheduled(id) => self.cancel_scheduled(tx, caller, *id, session).await,
            Command::Expire => self.expire(tx).await,
        }
    }

    /// Whether what the caller does to a message, which is locked, reaches the others. Of somebody whom the other one has blocked silently
    /// nothing comes, and nothing is said.
    async fn is_heard(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        message: &v1::Message,
        asks: Asks,
    ) -> Result<bool, Failed> {
        let id = command::conversation(&message.conversation)?;
        let Some(conversation) = self.locked_conversation(tx, &id).await? else {
            return Ok(true);
        };
        if let (Asks::ToWrite, Some(group)) = (asks, &conversation.group) {
            group.check_send(&caller.uid, SystemTime::now)?;
        }
        Ok(conversation.deaf_to(&caller.uid)?.is_none())
    }
}

/// What the caller wants of a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    ToWrite,
    ToReact,
}

fn is_within(time: Duration, msg_id: u64) -> bool {
    let sent = MsgId(msg_id).time();
    // A clock that was set back makes no message older.
    let age = SystemTime::now().duration_since(sent);
    !time.is_zero() && age.unwrap_or_default() < time
}

/// A message that the caller can see and that can be changed; nobody else changes it meanwhile.
async fn lock_and_see(
    rates: &Rates,
    tx: &Transaction,
    caller: &Caller,
    msg_id: u64,
) -> Result<Seen, Failed> {
    match lock_row(tx, caller, msg_id).await? {
        Some(seen) => Ok(seen),
        None => Err(archived::refusal(rates, tx, &caller.uid, msg_id).await),
    }
}

/// `None`: there is no such message, or it is in a file.
async fn lock_row(
    tx: &Transaction,
    caller: &Caller,
    msg_id: u64,
) -> Result<Option<Seen>, store::Error> {
    operations::lock(tx, msg_id).await?;
    Ok(views::seen(tx, &caller.uid, &[msg_id]).await?.pop())
}

fn no_such_message() -> Failed {
    Refused::not_found("there is no such message").into()
}

/// The place of a message that is not gone.
fn there(seen: &Seen) -> Result<Place, Refused> {
    if !seen.message.gone.is_empty() {
        let reason = format!("the message is {}", seen.message.gone);
        return Err(Refused::new(Code::Conflict, reason));
    }
    Ok(Place {
        msg_id: seen.message.msg_id,
        conversation_id: seen.conversation_id,
        seq: seen.message.seq,
    })
}

/// Answers with the message as it is now, and shows it to all who see it.
async fn changed(
    rates: &Rates,
    tx: &Transaction,
    caller: &Caller,
    msg_id: u64,
    session: u64,
) -> Result<Settled, Failed> {
    let Seen {
        message,
        conversation_id,
        ..
    } = lock_and_see(rates, tx, caller, msg_id).await?;
    let audience = operations::audience(tx, msg_id).await?;
    let event = v1::event::Event::Changed(Box::new(message.clone()));
    let about = position(conversation_id, &message);
    Ok(Settled {
        deliveries: vec![Delivery::event(event, &audience, session).about(about)],
        ..Settled::ok(ok(message))
    })
}

/// The answer to an operation on a message.
pub(super) fn ok(message: v1::Message) -> v1::Ok {
    v1::Ok {
        msg_id: message.msg_id,
        conversation: message.conversation.clone(),
        seq: message.seq,
        answer: Some(v1::ok::Answer::Message(Box::new(message))),
        ..Default::default()
    }
}

/// An answer as it is kept for the next time that the same is asked: without what people have written, since that may be
/// recalled.
pub(super) fn kept(ok: &v1::Ok) -> v1::Ok {
    let mut kept = ok.clone();
    match &mut kept.answer {
        Some(v1::ok::Answer::Message(_)) => kept.answer = None,
        Some(v1::ok::Answer::Scheduled(list)) => {
            for scheduled in &mut list.scheduled {
                scheduled.message = None;
            }
        }
        _ => {}
    }
    kept
}

/// Puts into an answer that was [`kept`] what it says now.
pub(super) async fn complete(
    tx: &Transaction,
    caller: &Caller,
    settled: &mut Settled,
) -> Result<(), store::Error> {
    let Ok(ok) = &mut settled.result else {
        return Ok(());
    };
    match &mut ok.answer {
        None if ok.msg_id != 0 => {
            let seen = views::seen(tx, &caller.uid, &[ok.msg_id]).await?.pop();
            let message = seen.map(|seen| Box::new(seen.message));
            ok.answer = message.map(v1::ok::Answer::Message);
        }
        Some(v1::ok::Answer::Scheduled(list)) => schedule::complete(tx, &caller.uid, list).await?,
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::limits;
    use crate::settings::Settings;

    #[test]
    fn what_can_not_be_done_is_refused_at_the_gate() {
        use v1::up::Command as Asked;
        let limits = limits(&Settings::defaults());
        let react = |emoji: &str| {
            Asked::React(v1::React {
                emoji: emoji.to_owned(),
                ..Default::default()
            })
        };
        let edit = |length: usize| {
            Asked::Edit(v1::Edit {
                text: "x".repeat(length),
                ..Default::default()
            })
        };
        let delete = |count: u64| {
            Asked::DeleteMessages(v1::DeleteMessages {
                msg_ids: (0..count).collect(),
            })
        };
        for (asked, expected) in [
            (react("👍"), "ok"),
            (react("👩‍👩‍👧‍👦"), "ok"),
            (react(""), "invalid_argument"),
            (react("two words"), "invalid_argument"),
            (react("a\0"), "invalid_argument"),
            (react(&"x".repeat(33)), "invalid_argument"),
            (edit(0), "ok"),
            (edit(64 * 1024), "ok"),
            (edit(64 * 1024 + 1), "too_large"),
            (delete(0), "invalid_argument"),
            (delete(500), "ok"),
            (delete(501), "too_large"),
        ] {
            let name = format!("{asked:.40?}");
            let found =
                check(asked, &limits).map_or_else(|refused| refused.code.as_str(), |_| "ok");
            assert_eq!(found, expected, "{name}");
        }
    }
}
