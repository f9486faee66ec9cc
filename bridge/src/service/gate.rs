//! What every command from a user passes before anything else looks at it: limits, words, and the check of what it says.

use schema::{Uid, v1};

use super::Limits;
use super::command::{self, Command};
use super::refused::Refused;

/// A command that may be executed.
pub(super) struct Admitted {
    pub(super) command: Command,
    /// The words for which administrators are to see it.
    pub(super) flagged: Option<Box<str>>,
}

/// Lets a command in.
///
/// # Errors
/// The refusal that the caller gets.
pub(super) fn admit(caller: &Uid, mut up: v1::Up, limits: &Limits) -> Result<Admitted, Refused> {
    limits.rates.check(caller, &up)?;
    let flagged = limits.words.apply(&mut up)?;
    let command = command::check(caller, up, limits)?;
    if let Command::Send(send) = &command {
        limits.rates.check_conversation(caller, &send.name)?;
    }
    Ok(Admitted { command, flagged })
}
