//! What has changed for a user since a version. Versions are given here, when they are asked for; see the migration
//! `m0003_chat_semantics`.

use schema::v1;

use super::batch::Executor;
use super::command::not_yet;
use super::job::{Caller, Settled};
use super::refused::Refused;
use super::single::Failed;
use crate::store::Transaction;

/// Since when, and how much at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {}

/// Checks what is asked.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument).
pub(super) fn check(_asked: &v1::GetChanges) -> Result<Asked, Refused> {
    Err(not_yet())
}

impl Executor {
    /// Numbers what has changed, and answers with what came after the version that was asked for.
    pub(super) async fn changes(
        &mut self,
        _tx: &Transaction,
        _caller: &Caller,
        _asked: &Asked,
    ) -> Result<Settled, Failed> {
        Err(not_yet().into())
    }
}
