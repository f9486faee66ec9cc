//! Pages of a conversation.

use std::collections::HashMap;

use prost::Message as _;
use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::reactions::{self, REACTED};
use super::seen::{is_reacted, with_reactions};
use super::{MESSAGE_COLUMNS, message, visible_to};
use crate::store::{Error, sql};

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

/// Part of a conversation, ordered by seq.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The messages.
    pub messages: Vec<v1::Message>,
    /// Whether the range holds more than this.
    pub more: bool,
}

/// One page of the conversation `conversation_id` as `uid` sees it; the messages get its wire name, `name`. Only messages
/// above `visible_seq` are shown, and none that the user has deleted.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn history<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    conversation_id: i64,
    name: &str,
    visible_seq: u32,
    range: Range,
) -> Result<Page, Error> {
    let mut reacted = Vec::new();
    let mut unread = Unread {
        uid,
        conversation_id,
        after: range.after_seq.unwrap_or_default().max(visible_seq),
        before: range.before_seq.unwrap_or(u32::MAX),
        order: match range.after_seq {
            Some(_) => Order::OldestFirst,
            None => Order::NewestFirst,
        },
    };
    let mut page = unread.page(db, name, range, &mut reacted).await?;
    reactions::add_to(db, &mut page.messages, &reacted).await?;
    Ok(page)
}

/// The messages that exist of those ids and are there for `uid`, by id. Their conversation's name is left empty.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn messages_by_id<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    ids: &[u64],
) -> Result<HashMap<u64, v1::Message>, Error> {
    let mut rows = sql::Rows::new(2);
    for id in ids {
        rows.push([id.cast_signed().into(), uid.as_str().into()]);
    }
    let text = format!(
        "SELECT {MESSAGE_COLUMNS}, {REACTED} FROM v JOIN messages x ON x.msg_id = v.msg_id WHERE {}",
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

impl Page {
    fn in_order(mut self, order: Order) -> Self {
        if order == Order::NewestFirst {
            self.messages.reverse();
        }
        self
    }
}

/// Which end of the range is read first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    OldestFirst,
    NewestFirst,
}

/// The part of the range that is still to be read; both bounds are exclusive.
struct Unread<'a> {
    uid: &'a Uid,
    conversation_id: i64,
    after: u32,
    before: u32,
    order: Order,
}

impl Unread<'_> {
    /// Reads the page, and notes which of its messages have reactions.
    async fn page<C: ConnectionTrait>(
        &mut self,
        db: &C,
        name: &str,
        range: Range,
        reacted: &mut Vec<u64>,
    ) -> Result<Page, DbErr> {
        let mut page = Page::default();
        let limit = range.limit.max(1) as usize;
        let mut bytes = 0;
        loop {
            // One more than the page takes, to learn whether there is more.
            let step = (limit - page.messages.len() + 1).min(STEP);
            let rows = self.next_rows(db, step).await?;
            for row in &rows {
                let is_full = page.messages.len() >= limit || bytes >= range.bytes_max;
                if is_full && !page.messages.is_empty() {
                    page.more = true;
                    return Ok(page.in_order(self.order));
                }
                let message = message(row, name)?;
                bytes += size(&message);
                self.shrink(message.seq);
                if is_reacted(row)? && message.gone.is_empty() {
                    reacted.push(message.msg_id);
                }
                page.messages.push(message);
            }
            if rows.len() < step {
                return Ok(page.in_order(self.order));
            }
        }
    }

    async fn next_rows<C: ConnectionTrait>(
        &self,
        db: &C,
        limit: usize,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let order = match self.order {
            Order::OldestFirst => "ASC",
            Order::NewestFirst => "DESC",
        };
        let text = format!(
            "SELECT {MESSAGE_COLUMNS}, {REACTED} FROM messages x
            WHERE x.conversation_id = ? AND x.seq > ? AND x.seq < ? AND {}
            ORDER BY x.seq {order} LIMIT {limit}",
            visible_to("?")
        );
        let values = [
            self.conversation_id.into(),
            bound(self.after).into(),
            bound(self.before).into(),
            self.uid.as_str().into(),
            self.uid.as_str().into(),
        ];
        sql::query(db, &text, values).await
    }

    fn shrink(&mut self, seen: u32) {
        match self.order {
            Order::OldestFirst => self.after = seen,
            Order::NewestFirst => self.before = seen,
        }
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
