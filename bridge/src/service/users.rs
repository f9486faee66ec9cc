//! A user's own profile, settings and status, and what a device has set for itself.

use schema::v1;

use super::Limits;
use super::batch::Executor;
use super::command::{self, not_yet};
use super::device_settings::{self, DeviceSet};
use super::job::{Caller, Settled};
use super::refused::Refused;
use super::single::Failed;
use crate::store::Transaction;

/// What changes the caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Changes settings of the device.
    Device(DeviceSet),
}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument) or [`TooLarge`](crate::code::Code::TooLarge).
pub(super) fn check(asked: v1::up::Command, _limits: &Limits) -> Result<command::Command, Refused> {
    use v1::up::Command as Asked;
    let command = match asked {
        Asked::DeviceSet(asked) => Command::Device(asked.into()),
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
        _session: u64,
    ) -> Result<Settled, Failed> {
        match command {
            Command::Device(asked) => device_settings::set(tx, caller, *asked).await,
        }
    }
}
