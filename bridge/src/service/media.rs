//! Pictures, films, sounds and files of a conversation, newest first.

use prost::Message as _;
use schema::{ConversationId, Uid, v1};

use super::command;
use super::refused::Refused;
use crate::store::views::{self, MEDIA_KINDS};
use crate::store::{self, Store};

/// Messages of a page: what is given without being asked, and at most.
const MESSAGES_DEFAULT: u32 = 100;
const MESSAGES_MAX: u32 = 500;
/// A page ends with the message that makes it reach this many bytes.
const PAGE_BYTES: usize = 128 * 1024;
/// Messages are read in steps of so many: one may have 16 KiB of thumbnail.
const STEP: usize = 32;

/// Which media are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    conversation: ConversationId,
    /// One at least.
    kinds: Vec<String>,
    before_seq: u32,
    limit: u32,
}

/// Checks which media are asked for.
///
/// # Errors
/// [`InvalidArgument`](crate::code::Code::InvalidArgument).
pub(super) fn check(asked: v1::GetMedia) -> Result<Asked, Refused> {
    let is_known = |kind: &String| MEDIA_KINDS.contains(&kind.as_str());
    let mut kinds = asked.kinds;
    if !kinds.iter().all(is_known) {
        return Err(Refused::invalid("kinds are image, video, audio and file"));
    }
    if kinds.is_empty() {
        kinds = MEDIA_KINDS.map(str::to_owned).to_vec();
    }
    kinds.sort_unstable();
    kinds.dedup();
    Ok(Asked {
        conversation: command::conversation(&asked.conversation)?,
        kinds,
        before_seq: match asked.before_seq {
            0 => u32::MAX,
            seq => seq,
        },
        limit: match asked.limit {
            0 => MESSAGES_DEFAULT,
            limit @ 1..=MESSAGES_MAX => limit,
            _ => return Err(Refused::invalid("get_media.limit is more than 500")),
        },
    })
}

/// The page that is asked for.
///
/// # Errors
/// [`store::Error`] when the database can't answer.
pub(super) async fn page(
    store: &Store,
    uid: &Uid,
    asked: &Asked,
) -> Result<Result<v1::Ok, Refused>, store::Error> {
    let db = store.reader();
    let name = asked.conversation.to_string();
    let Some(membership) = views::membership(db, uid, &name).await? else {
        return Ok(Err(Refused::not_found("there is no such conversation")));
    };
    let id = membership.conversation_id;
    let bounds = (membership.visible_seq, asked.before_seq);
    // One more than the page takes, to learn whether there is more.
    let media = views::media(db, uid, id, bounds, &asked.kinds, asked.limit + 1).await?;
    let mut messages: Vec<v1::Message> = Vec::new();
    let (mut bytes, mut more) = (0, false);
    'page: for step in media.chunks(STEP) {
        let mut found = views::media_messages(store, uid, (id, &name), step).await?;
        for medium in step {
            // What has gone since is left out.
            let Some(mut message) = found.remove(&medium.seq) else {
                continue;
            };
            if messages.len() >= asked.limit as usize || bytes >= PAGE_BYTES {
                more = true;
                break 'page;
            }
            message.conversation.clone_from(&name);
            bytes += message.encoded_len();
            messages.push(message);
        }
    }
    Ok(Ok(v1::Ok {
        conversation: name.clone(),
        seq: membership.last_seq,
        batch: Some(Box::new(v1::Batch {
            conversation: name,
            messages,
            last_seq: membership.last_seq,
            more,
            ..Default::default()
        })),
        ..Default::default()
    }))
}

#[cfg(test)]
mod tests;
