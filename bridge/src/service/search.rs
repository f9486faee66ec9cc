//! Looking for messages.
//!
//! The index (`indexer`) says which messages may hold what is looked for, newest first. Each of them is read as it is
//! now: whether the user may see it, and whether it holds the words. So what the index says too much is never shown, and
//! it need not be told of who may see what.

use std::collections::HashMap;

use prost::Message as _;
use schema::{ConversationId, Uid, v1};

use super::refused::Refused;
use super::{command, dates};
use crate::code::Code;
use crate::store::search::Wanted;
use crate::store::views::{self, Room};
use crate::store::{self, Store, search};

pub(super) mod words;

/// Longest query, in characters.
const QUERY_MAX: usize = 128;
/// Messages of a page: what is given without being asked, and at most.
const MESSAGES_DEFAULT: u32 = 20;
const MESSAGES_MAX: u32 = 100;
/// A page ends with the message that makes it reach this many bytes.
const PAGE_BYTES: usize = 128 * 1024;
/// What is looked at for one page, in messages and in bytes of them. Where that is not enough, the page has what was
/// found by then, and the next one goes on.
const LOOKED_AT_MAX: usize = 5_000;
const LOOKED_AT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Messages that the index is asked for at once.
const STEP: u32 = 200;
/// Messages that are read at once.
const READ_STEP: usize = 50;
/// Conversations that the index is asked for at once.
const ROOMS_STEP: usize = 256;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Folded; one at least.
    words: Vec<String>,
    conversation: Option<ConversationId>,
    sender: Option<Uid>,
    /// Messages with this id or a greater one,
    from: u64,
    /// and a smaller one than this.
    below: u64,
    limit: usize,
}

/// Checks what is looked for.
///
/// # Errors
/// [`InvalidArgument`](Code::InvalidArgument).
pub(super) fn check(asked: &v1::Search) -> Result<Asked, Refused> {
    if asked.query.chars().nth(QUERY_MAX).is_some() {
        return Err(Refused::invalid("the query has more than 128 characters"));
    }
    let words = words::words_of(&asked.query);
    if words.is_empty() {
        return Err(Refused::invalid("the query is empty"));
    }
    let conversation = match asked.conversation.as_str() {
        "" => None,
        name => Some(command::conversation(name)?),
    };
    let sender = match asked.sender.as_str() {
        "" => None,
        name => Some(command::uid(name)?),
    };
    let first_id =
        |time: &Option<schema::Timestamp>| time.as_ref().map(dates::first_id).transpose();
    let below = first_id(&asked.before)?.unwrap_or(i64::MAX.cast_unsigned());
    let page = Some(asked.page).filter(|page| *page > 0);
    Ok(Asked {
        words,
        conversation,
        sender,
        from: first_id(&asked.after)?.unwrap_or_default(),
        below: page.unwrap_or(u64::MAX).min(below),
        limit: match asked.limit {
            0 => MESSAGES_DEFAULT as usize,
            limit @ 1..=MESSAGES_MAX => limit as usize,
            _ => return Err(Refused::invalid("search.limit is more than 100")),
        },
    })
}

/// The refusal where no index is kept.
pub(super) fn switched_off() -> Refused {
    let reason = "search is switched off on this server";
    Refused::new(Code::PermissionDenied, reason)
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
    let Some(rooms) = rooms(store, uid, asked.conversation.as_ref()).await? else {
        return Ok(Err(Refused::not_found("there is no such conversation")));
    };
    let looking = Looking {
        store,
        uid,
        asked,
        tokens: words::query_tokens(&asked.words),
        rooms,
        found: v1::SearchPage::default(),
        bytes: 0,
        looked_at: 0,
        looked_at_bytes: 0,
    };
    Ok(Ok(v1::Ok {
        answer: Some(v1::ok::Answer::Found(looking.run().await?)),
        ..Default::default()
    }))
}

/// Where to look; `None`: the user is not in the conversation, or there is none.
async fn rooms(
    store: &Store,
    uid: &Uid,
    conversation: Option<&ConversationId>,
) -> Result<Option<HashMap<i64, Room>>, store::Error> {
    let Some(conversation) = conversation else {
        return views::rooms(store.reader(), uid).await.map(Some);
    };
    let name = conversation.to_string();
    let membership = views::membership(store.reader(), uid, &name).await?;
    Ok(membership.map(|membership| {
        let visible_seq = membership.visible_seq;
        HashMap::from([(membership.conversation_id, Room { name, visible_seq })])
    }))
}

/// A search under way.
struct Looking<'a> {
    store: &'a Store,
    uid: &'a Uid,
    asked: &'a Asked,
    tokens: Vec<String>,
    rooms: HashMap<i64, Room>,
    found: v1::SearchPage,
    /// Of what was found.
    bytes: usize,
    looked_at: usize,
    looked_at_bytes: usize,
}

/// Whether a page can take more.
#[derive(PartialEq, Eq)]
enum Page {
    Open,
    Full,
}

impl Looking<'_> {
    async fn run(mut self) -> Result<v1::SearchPage, store::Error> {
        let mut below = self.asked.below;
        loop {
            let candidates = self.candidates(below).await?;
            let is_end = candidates.len() < STEP as usize;
            for step in candidates.chunks(READ_STEP) {
                if self.look_at(step).await? == Page::Full {
                    return Ok(self.found);
                }
                below = step.last().copied().unwrap_or(below);
                let is_tired =
                    self.looked_at >= LOOKED_AT_MAX || self.looked_at_bytes >= LOOKED_AT_BYTES_MAX;
                if is_tired {
                    self.found.next = below;
                    return Ok(self.found);
                }
            }
            if is_end {
                return Ok(self.found);
            }
        }
    }

    /// The newest messages below an id that may be what is looked for, newest first: [`STEP`], or all that there are.
    async fn candidates(&self, below: u64) -> Result<Vec<u64>, store::Error> {
        let rooms = self.rooms.keys().copied();
        let rooms: Vec<String> = rooms.map(words::conversation_token).collect();
        let mut candidates = Vec::new();
        for rooms in rooms.chunks(ROOMS_STEP) {
            let wanted = Wanted {
                all: &self.tokens,
                any: rooms,
                from: self.asked.from,
                below,
                limit: STEP,
            };
            candidates.extend(search::find(self.store.reader(), &wanted).await?);
        }
        candidates.sort_unstable_by(|one, other| other.cmp(one));
        candidates.truncate(STEP as usize);
        Ok(candidates)
    }

    /// Adds those of the messages to the page that are what is looked for.
    async fn look_at(&mut self, candidates: &[u64]) -> Result<Page, store::Error> {
        let db = self.store.reader();
        let mut places = views::visible(db, self.uid, &self.rooms, candidates).await?;
        if let Some(sender) = &self.asked.sender {
            places.retain(|place| place.sender == sender.as_str());
        }
        let ids: Vec<u64> = places.iter().map(|place| place.msg_id).collect();
        let mut messages = views::messages_by_id(db, self.uid, &ids).await?;
        self.looked_at += candidates.len();
        for place in places {
            let (Some(mut message), Some(room)) = (
                messages.remove(&place.msg_id),
                self.rooms.get(&place.conversation_id),
            ) else {
                continue;
            };
            let size = message.encoded_len();
            self.looked_at_bytes += size;
            if !words::holds(&words::text_of(&message), &self.asked.words) {
                continue;
            }
            let found = &mut self.found;
            if let Some(last) = found.messages.last()
                && (found.messages.len() >= self.asked.limit || self.bytes >= PAGE_BYTES)
            {
                found.next = last.msg_id;
                return Ok(Page::Full);
            }
            message.conversation.clone_from(&room.name);
            self.bytes += size;
            found.messages.push(message);
        }
        Ok(Page::Open)
    }
}

#[cfg(test)]
pub(super) mod tests;
