//! What needs no transaction: questions, and notices that are not stored. They are executed beside the pipeline, by
//! tasks that only read.

use schema::{Gid, Uid, v1};

use super::command::{self, not_yet};
use super::groups;
use super::job::{Caller, Settled};
use super::presence::Presence;
use super::refused::Refused;
use super::sync;
use crate::store::{self, Store};

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// A page of a conversation.
    Page(sync::Sync),
    /// A group and its members.
    Group(Gid),
    /// Who waits to be let into a group.
    GroupRequests(Gid),
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
        Asked::GetGroup(asked) => command::gid(&asked.gid).map(Question::Group),
        Asked::GetGroupRequests(asked) => command::gid(&asked.gid).map(Question::GroupRequests),
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
        Question::Group(gid) => return groups::questions::group(&context.store, uid, gid).await,
        Question::GroupRequests(gid) => {
            return groups::questions::requests(&context.store, uid, gid).await;
        }
    };
    Ok(result.map_or_else(Settled::from, Settled::ok))
}
