//! What has happened to earlier messages of a conversation: a page that is asked for like others, by `sync`.

use schema::{Uid, v1};

use super::refused::Refused;
use crate::store::views::{self, Membership};
use crate::store::{self, Store};

/// Which value of the conversation's `changes` is asked about; `None`: new messages are.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument).
pub(super) fn check(sync: &v1::Sync) -> Result<Option<u32>, Refused> {
    let is_bounded = sync.after_seq > 0 || sync.before_seq > 0 || sync.from_time.is_some();
    if sync.changed_after.is_some() && is_bounded {
        let reason = "sync.changed_after does not go with other bounds";
        return Err(Refused::invalid(reason));
    }
    Ok(sync.changed_after)
}

/// What has happened after a value of the conversation's `changes`.
pub(super) async fn page(
    store: &Store,
    uid: &Uid,
    membership: &Membership,
    after: u32,
    limit: u32,
    bytes_max: usize,
) -> Result<v1::Batch, store::Error> {
    let page = views::changed_messages(store, uid, membership, after, limit, bytes_max).await?;
    Ok(v1::Batch {
        conversation: membership.name.clone(),
        messages: page.messages,
        last_seq: membership.last_seq,
        more: page.more,
        changes: page.changes,
        ..Default::default()
    })
}
