//! Pages of a conversation.

use std::collections::HashMap;

use prost::Message as _;
use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::archived::{self, View};
use super::reactions::{self, REACTED};
use super::seen::{is_reacted, with_reactions};
use super::{MESSAGE_COLUMNS, message, visible_to};
use crate::store::archives::Order;
use crate::store::{Error, Store, sql};

/// Messages are read in steps of so many, so that a page of large ones stops at its byte limit without
/// having loaded all of them.
const STEP: usize = 64;

/// Which messages a page is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Messages with a greater seq, oldest first. `None`: the newest ones.
    pub after_seq: Option<u32>,
    /// Messages with a smaller seq.
    pub before_seq: Option<u32>,
    /// So many at most.
    pub limit: u32,
    /// The page ends with the message whose content reaches this many bytes; it has one message at least.
    pub bytes_max: usize,
}

impl Range {
    pub(super) fn order(&self) -> Order {
        match self.after_seq {
            Some(_) => Order::OldestFirst,
            None => Order::NewestFirst,
        }
    }
}

/// Part of a conversation, ordered by seq.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The messages.
    pub messages: Vec<v1::Message>,
    /// Whether the range holds more than this.
    pub more: bool,
}

/// One page of the conversation `conversation_id` as `uid` sees it; the messages get its wire name, `name`. Only messages
/// above `visible_seq` are shown, and none that the user has deleted. Those that are in files are read from there.
///
/// # Errors
/// [`Error`] when the database or the archive can't answer.
pub async fn history(
    store: &Store,
    uid: &Uid,
    conversation_id: i64,
    name: &str,
    visible_seq: u32,
    range: Range,
) -> Result<Page, Error> {
    let mut reacted = Vec::new();
    let mut unread = Unread {
        view: View {
            uid,
            conversation_id,
            name,
        },
        after: range.after_seq.unwrap_or_default().max(visible_seq),
        before: range.before_seq.unwrap_or(u32::MAX),
        order: range.order(),
    };
    let mut page = unread.page(store, range, &mut reacted).await?;
    reactions::add_to(store.reader(), &mut page.messages, &reacted).await?;
    Ok(page)
}

/// The messages that exist of those ids and are there for `uid`, by id. Their conversation's name is left empty. Whether
/// `uid` is a member, and from where on he sees the conversation, the caller knows.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn messages_by_id<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    ids: &[u64],
) -> Result<HashMap<u64, v1::Message>, Error> {
    by_id(db, uid, ids, "").await
}

/// The same of conversations that `uid` is in now, and of what he sees of them.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn members_messages_by_id<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    ids: &[u64],
) -> Result<HashMap<u64, v1::Message>, Error> {
    let members = "JOIN members m ON m.conversation_id = x.conversation_id AND m.uid = v.uid AND m.visible_seq < x.seq";
    by_id(db, uid, ids, members).await
}

async fn by_id<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    ids: &[u64],
    members: &str,
) -> Result<HashMap<u64, v1::Message>, Error> {
    let mut rows = sql::Rows::new(2);
    for id in ids {
        rows.push([id.cast_signed().into(), uid.as_str().into()]);
    }
    let text = format!(
        "SELECT {MESSAGE_COLUMNS}, {REACTED} FROM v JOIN messages x ON x.msg_id = v.msg_id {members} WHERE {}",
        visible_to("v.uid")
    );
    let found = sql::select_from_rows(db, &["msg_id", "uid"], &text, rows).await?;
    let messages = found.iter().map(|row| message(row, ""));
    let mut messages: Vec<v1::Message> = messages.collect::<Result<_, _>>()?;
    let reacted = with_reactions(&found, messages.iter())?;
    reactions::add_to(db, &mut messages, &reacted).await?;
    let by_id = |message: v1::Message| (message.msg_id, message);
    Ok(messages.into_iter().map(by_id).collect())
}

/// A page that messages are put on, in its order, until it is full.
pub(super) struct Filling {
    page: Page,
    range: Range,
    bytes: usize,
}

impl Filling {
    pub(super) fn new(range: Range) -> Self {
        Filling {
            page: Page::default(),
            range,
            bytes: 0,
        }
    }

    /// How many messages there is room for.
    fn room(&self) -> usize {
        let limit = self.range.limit.max(1) as usize;
        limit - self.page.messages.len()
    }

    /// Puts the message on the page; `false`: it was full.
    pub(super) fn takes(&mut self, message: v1::Message) -> bool {
        let is_full = self.room() == 0 || self.bytes >= self.range.bytes_max;
        if is_full && !self.page.messages.is_empty() {
            self.page.more = true;
            return false;
        }
        self.bytes += size(&message);
        self.page.messages.push(message);
        true
    }

    pub(super) fn page(mut self) -> Page {
        if self.range.order() == Order::NewestFirst {
            self.page.messages.reverse();
        }
        self.page
    }
}

/// The part of the range that is still to be read; both bounds are exclusive.
struct Unread<'a> {
    view: View<'a>,
    after: u32,
    before: u32,
    order: Order,
}

/// A message, and whether there are reactions to be looked up.
type Read = (v1::Message, bool);

impl Unread<'_> {
    /// Reads the page, and notes which of its messages have reactions.
    async fn page(
        &mut self,
        store: &Store,
        range: Range,
        reacted: &mut Vec<u64>,
    ) -> Result<Page, Error> {
        let mut filling = Filling::new(range);
        loop {
            // One more than the page takes, to learn whether there is more.
            let step = (filling.room() + 1).min(STEP);
            let (messages, is_end) = self.next(store, step).await?;
            for (message, is_reacted) in messages {
                let msg_id = message.msg_id;
                if !filling.takes(message) {
                    return Ok(filling.page());
                }
                if is_reacted {
                    reacted.push(msg_id);
                }
            }
            if is_end {
                return Ok(filling.page());
            }
        }
    }

    /// The next messages, and whether those are all. The rows are read before the files: what goes from there to here
    /// meanwhile is met twice, and not missed.
    async fn next(&mut self, store: &Store, limit: usize) -> Result<(Vec<Read>, bool), Error> {
        let rows = self.rows(store.reader(), limit).await?;
        let is_all = rows.len() < limit;
        match self.order {
            Order::OldestFirst => {
                let before = rows.first().map_or(self.before, |(row, _)| row.seq);
                if let Some(messages) = self.in_gap(store, (self.after, before), limit).await? {
                    return Ok((messages, false));
                }
                self.after = rows.last().map_or(self.after, |(row, _)| row.seq);
                Ok((rows, is_all))
            }
            Order::NewestFirst => {
                self.before = rows.last().map_or(self.before, |(row, _)| row.seq);
                if !is_all {
                    return Ok((rows, false));
                }
                let range = (self.after, self.before);
                let older = self.in_gap(store, range, limit).await?;
                let is_end = older.is_none();
                let older = older.unwrap_or_default();
                Ok((rows.into_iter().chain(older).collect(), is_end))
            }
        }
    }

    /// Messages in a gap of the rows; `None`: there are no files for it. Most gaps are none, or what the user has deleted.
    async fn in_gap(
        &mut self,
        store: &Store,
        (after, before): (u32, u32),
        limit: usize,
    ) -> Result<Option<Vec<Read>>, Error> {
        if after.saturating_add(1) >= before {
            return Ok(None);
        }
        let range = (after, before);
        let found = archived::some_between(store, self.view, range, self.order, limit).await?;
        let Some((end, messages)) = found else {
            return Ok(None);
        };
        match self.order {
            Order::OldestFirst => self.after = end,
            Order::NewestFirst => self.before = end,
        }
        let messages = messages.into_iter().map(|message| (message, false));
        Ok(Some(messages.collect()))
    }

    async fn rows<C: ConnectionTrait>(&self, db: &C, limit: usize) -> Result<Vec<Read>, DbErr> {
        let order = match self.order {
            Order::OldestFirst => "ASC",
            Order::NewestFirst => "DESC",
        };
        let text = format!(
            "SELECT {MESSAGE_COLUMNS}, {REACTED} FROM messages x WHERE {} AND {}
            ORDER BY x.conversation_id {order}, x.seq {order} LIMIT {limit}",
            sql::between(db.get_database_backend(), "x.conversation_id", "x.seq"),
            visible_to("?")
        );
        let uid = self.view.uid.as_str();
        let id = self.view.conversation_id;
        let values = [
            id.into(),
            bound(self.after).into(),
            id.into(),
            bound(self.before).into(),
            uid.into(),
            uid.into(),
        ];
        let rows = sql::query(db, &text, values).await?;
        let read = |row: &QueryResult| {
            let message = message(row, self.view.name)?;
            let is_reacted = is_reacted(row)? && message.gone.is_empty();
            Ok((message, is_reacted))
        };
        rows.iter().map(read).collect()
    }
}

/// Seqs are signed in the database, and stay far below its limit.
fn bound(seq: u32) -> i32 {
    i32::try_from(seq).unwrap_or(i32::MAX)
}

fn size(message: &v1::Message) -> usize {
    match &message.content {
        Some(v1::message::Content::Text(text)) => text.len(),
        Some(v1::message::Content::Body(body)) => body.len(),
        Some(_) => message.encoded_len(),
        None => 0,
    }
}
