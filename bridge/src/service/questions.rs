//! What needs no transaction: questions, and notices that are not stored. They are executed beside the pipeline, by
//! tasks that only read.

use schema::{Uid, v1};

use super::command::not_yet;
use super::job::{Caller, Settled};
use super::presence::Presence;
use super::refused::Refused;
use super::{operations, schedule, sync};
use crate::store::{self, Store};

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// A page of a conversation.
    Page(sync::Sync),
    /// What a message said.
    Revisions(u64),
    /// The caller's messages that wait to be sent.
    Scheduled,
}

/// What answering needs. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) store: Store,
    #[expect(dead_code, reason = "presence is asked for soon")]
    pub(super) presence: Presence,
}

/// Checks what `caller` asks.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(_caller: &Uid, asked: v1::up::Command) -> Result<Question, Refused> {
    use v1::up::Command as Asked;
    match asked {
        Asked::Sync(asked) => sync::check(&asked).map(Question::Page),
        Asked::GetRevisions(asked) => Ok(Question::Revisions(asked.msg_id)),
        Asked::GetScheduled(_) => Ok(Question::Scheduled),
        _ => Err(not_yet()),
    }
}

/// The answer, and who else hears of it.
///
/// # Errors
/// [`store::Error`] when the database can't answer.
pub(super) async fn answer(
    context: &Context,
    caller: &Caller,
    question: &Question,
) -> Result<Settled, store::Error> {
    let uid = &caller.uid;
    let result = match question {
        Question::Page(asked) => sync::page(&context.store, uid, asked).await?,
        Question::Revisions(msg_id) => operations::revisions(&context.store, uid, *msg_id)
            .await?
            .map(|list| answered(v1::ok::Answer::Revisions(list))),
        Question::Scheduled => {
            let list = schedule::list(&context.store, uid).await?;
            Ok(answered(v1::ok::Answer::Scheduled(list)))
        }
    };
    Ok(result.map_or_else(Settled::from, Settled::ok))
}

fn answered(answer: v1::ok::Answer) -> v1::Ok {
    v1::Ok {
        answer: Some(answer),
        ..Default::default()
    }
}
