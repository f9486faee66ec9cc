//! Pages that clients ask for. They only read, and so need no turn in the pipeline.

use schema::{ConversationId, Uid, v1};

use super::refused::Refused;
use super::{changed_messages, command, packed};
use crate::store::views::{self, Membership, Range};
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
    let before_seq = Some(sync.before_seq).filter(|seq| *seq > 0);
    // `before_seq` alone asks for the page before it; everything else reads forward.
    let after_seq = (before_seq.is_none() || sync.after_seq > 0).then_some(sync.after_seq);
    Ok(Sync {
        conversation: command::conversation(&sync.conversation)?,
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
    let Some(membership) = views::membership(store.reader(), uid, &name).await? else {
        return Ok(Err(Refused::not_found("there is no such conversation")));
    };
    let mut batch = match sync.changed_after {
        Some(after) => {
            let limit = sync.limit;
            changed_messages::page(store, uid, &membership, after, limit, PAGE_BYTES).await?
        }
        None => messages(store, &membership, sync).await?,
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
    membership: &Membership,
    sync: &Sync,
) -> Result<v1::Batch, store::Error> {
    let range = Range {
        after_seq: sync.after_seq,
        before_seq: sync.before_seq,
        limit: sync.limit,
        bytes_max: PAGE_BYTES,
    };
    let (id, visible) = (membership.conversation_id, membership.visible_seq);
    let page = views::history(store.reader(), id, &membership.name, visible, range).await?;
    Ok(v1::Batch {
        conversation: membership.name.clone(),
        messages: page.messages,
        last_seq: membership.last_seq,
        more: page.more,
        ..Default::default()
    })
}
