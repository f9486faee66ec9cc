//! Pages that clients ask for. They only read, and so need no turn in the pipeline.

use schema::{Uid, v1};

use super::command::Sync;
use super::refused::Refused;
use crate::store::views::{self, Range};
use crate::store::{self, Store};

/// Bytes of a page.
const PAGE_BYTES: usize = 128 * 1024;

/// The page that a sync asks for.
pub(super) async fn page(
    store: &Store,
    uid: &Uid,
    sync: &Sync,
) -> Result<Result<v1::Ok, Refused>, store::Error> {
    let name = sync.conversation.to_string();
    let Some(membership) = views::membership(store.reader(), uid, &name).await? else {
        return Ok(Err(Refused::not_found("there is no such conversation")));
    };
    let range = Range {
        after_seq: sync.after_seq,
        before_seq: sync.before_seq,
        limit: sync.limit,
        bytes_max: PAGE_BYTES,
    };
    let (id, start) = (membership.conversation_id, membership.start_seq);
    let page = views::history(store.reader(), id, &name, start, range).await?;
    Ok(Ok(v1::Ok {
        conversation: name.clone(),
        seq: membership.last_seq,
        batch: Some(v1::Batch {
            conversation: name,
            messages: page.messages,
            last_seq: membership.last_seq,
            more: page.more,
        }),
        ..Default::default()
    }))
}
