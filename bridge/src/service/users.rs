//! A user's own profile, settings and status, and what a device has set for itself.

use schema::v1;

use super::Limits;
use super::batch::Executor;
use super::command::{self, not_yet};
use super::job::{Caller, Settled};
use super::refused::Refused;
use super::single::Failed;
use super::status;
use crate::store::Transaction;

/// What changes the caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Sets what the caller and the device want to pass for.
    Status(status::Set),
}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(asked: v1::up::Command, _limits: &Limits) -> Result<command::Command, Refused> {
    let command = match asked {
        v1::up::Command::Presence(asked) => Command::Status(status::check(asked)?),
        _ => return Err(not_yet()),
    };
    Ok(command::Command::User(command))
}

impl Executor {
    /// Executes a change of the caller.
    pub(super) async fn change_user(
        &mut self,
        tx: &Transaction,
        caller: &Caller,
        command: &Command,
        session: u64,
    ) -> Result<Settled, Failed> {
        match command {
            Command::Status(set) => self.set_status(tx, caller, set, session).await,
        }
    }
}
