//! Pages that clients ask for. They only read, and so need no turn in the pipeline.

use schema::{ConversationId, Uid, v1};

use super::refused::Refused;
use super::{changed_messages, command, dates, packed};
use crate::store::views::{self, Range, Reader};
use crate::store::{self, Store};

/// Bytes of a page.
const PAGE_BYTES: usize = 128 * 1024;
/// Messages of a page: what is given without being asked, and at most.
const MESSAGES_DEFAULT: u32 = 100;
const MESSAGES_MAX: u32 = 500;

/// A page of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Only messages with this id or a greater one, oldest first; without the other bounds.
    pub first_id: Option<u64>,
    /// Only greater seqs, oldest first.
    pub after_seq: Option<u32>,
    /// Only smaller seqs.
    pub before_seq: Option<u32>,
    /// Instead of those: earlier messages that something has happened to after this value of `changes`.
    pub changed_after: Option<u32>,
    /// Messages at most.
    pub limit: u32,
    /// As zstd.
    pub zstd: bool,
}

/// Checks which page is asked for.
pub(super) fn check(sync: &v1::Sync) -> Result<Sync, Refused> {
    let limit = match sync.limit {
        0 => MESSAGES_DEFAULT,
        1..=MESSAGES_MAX => sync.limit,
        _ => return Err(Refused::invalid("sync.limit is more than 500")),
    };
    let first_id = sync.from_time.as_ref().map(dates::first_id).transpose()?;
    if first_id.is_some()
        && (sync.after_seq > 0 || sync.before_seq > 0 || sync.changed_after.is_some())
    {
        return Err(Refused::invalid("from_time goes without other bounds"));
    }
    let before_seq = Some(sync.before_seq).filter(|seq| *seq > 0);
    // `before_seq` alone asks for the page before it; everything else reads forward.
    let after_seq = (before_seq.is_none() || sync.after_seq > 0).then_some(sync.after_seq);
    Ok(Sync {
        conversation: command::conversation(&sync.conversation)?,
        first_id,
        after_seq,
        before_seq,
        changed_after: changed_messages::check(sync)?,
        limit,
        zstd: sync.zstd,
    })
}

/// The page that a sync asks for.
pub(super) async fn page(
    store: &Store,
    uid: &Uid,
    sync: &Sync,
) -> Result<Result<v1::Ok, Refused>, store::Error> {
    let name = sync.conversation.to_string();
    let Some(reader) = views::reader(store, uid, &name).await? else {
        return Ok(Err(Refused::not_found("there is no such conversation")));
    };
    let membership = &reader.membership;
    let mut batch = match sync.changed_after {
        Some(after) => {
            let limit = sync.limit;
            changed_messages::page(store, uid, membership, after, limit, PAGE_BYTES).await?
        }
        None => messages(store, uid, &reader, sync).await?,
    };
    if sync.zstd {
        batch = packed::batch(batch);
    }
    Ok(Ok(v1::Ok {
        conversation: name,
        seq: membership.last_seq,
        batch: Some(Box::new(batch)),
        ..Default::default()
    }))
}

async fn messages(
    store: &Store,
    uid: &Uid,
    reader: &Reader,
    sync: &Sync,
) -> Result<v1::Batch, store::Error> {
    let membership = &reader.membership;
    let after_seq = match sync.first_id {
        Some(first_id) => Some(dates::seq_before(store, membership, first_id).await?),
        None => sync.after_seq,
    };
    let range = Range {
        after_seq,
        before_seq: sync.before_seq,
        limit: sync.limit,
        bytes_max: PAGE_BYTES,
    };
    let page = views::page(store, uid, reader, range).await?;
    Ok(v1::Batch {
        conversation: membership.name.clone(),
        messages: page.messages,
        last_seq: membership.last_seq,
        more: page.more,
        ..Default::default()
    })
}
