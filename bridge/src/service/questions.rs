//! What needs no transaction: questions, and notices that are not stored. They are executed beside the pipeline, by
//! tasks that only read.

use schema::{Uid, v1};

use super::command::not_yet;
use super::job::{Caller, Settled};
use super::presence::Presence;
use super::refused::Refused;
use super::{conversations, sync};
use crate::store::{self, Store};

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// A page of a conversation.
    Page(sync::Sync),
    /// The caller's conversations.
    Conversations(conversations::Asked),
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
        Asked::GetConversations(asked) => {
            conversations::check_list(asked).map(Question::Conversations)
        }
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
        Question::Conversations(asked) => {
            Ok(conversations::list(&context.store, uid, asked).await?)
        }
    };
    Ok(result.map_or_else(Settled::from, Settled::ok))
}
