//! Contacts: requests, notes on them, blocks.

use schema::{Uid, v1};

use super::batch::Executor;
use super::command::{self, not_yet};
use super::job::{Caller, Settled};
use super::refused::Refused;
use super::single::Failed;
use crate::store::Transaction;

/// What changes a contact.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(_caller: &Uid, _asked: v1::up::Command) -> Result<command::Command, Refused> {
    Err(not_yet())
}

impl Executor {
    /// Executes a change of a contact.
    pub(super) async fn change_contact(
        &mut self,
        _tx: &Transaction,
        _caller: &Caller,
        command: &Command,
        _session: u64,
    ) -> Result<Settled, Failed> {
        match *command {}
    }
}
