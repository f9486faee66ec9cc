//! How a user sees a conversation: pinned, muted, archived, a draft, marked unread, cleared, deleted.

use schema::v1;

use super::Limits;
use super::batch::Executor;
use super::command::{self, not_yet};
use super::job::{Caller, Settled};
use super::refused::Refused;
use super::single::Failed;
use crate::store::Transaction;

/// What changes how the caller sees a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(
    _asked: v1::up::Command,
    _limits: &Limits,
) -> Result<command::Command, Refused> {
    Err(not_yet())
}

impl Executor {
    /// Executes a change of how the caller sees a conversation.
    pub(super) async fn change_conversation(
        &mut self,
        _tx: &Transaction,
        _caller: &Caller,
        command: &Command,
        _session: u64,
    ) -> Result<Settled, Failed> {
        match *command {}
    }
}
