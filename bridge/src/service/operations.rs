//! What happens to messages that have their place: recall, edit, reactions, deleting for oneself.

use schema::v1;

use super::Limits;
use super::batch::Executor;
use super::command::{self, not_yet};
use super::job::{Caller, Settled};
use super::refused::Refused;
use super::single::Failed;
use crate::store::Transaction;

/// What changes messages.
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
    /// Executes an operation on messages.
    pub(super) async fn operate(
        &mut self,
        _tx: &Transaction,
        _caller: &Caller,
        command: &Command,
        _session: u64,
    ) -> Result<Settled, Failed> {
        match *command {}
    }
}
