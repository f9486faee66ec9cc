//! Pages of a conversation.

use std::collections::HashMap;

use schema::{Uid, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

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

/// One page of the conversation `conversation_id`, whose wire name the messages get as `name`. Only messages above
/// `visible_seq` are shown.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn history<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    name: &str,
    visible_seq: u32,
    range: Range,
) -> Result<Page, Error> {
    let mut page = Page::default();
    let mut unread = Unread {
        after: range.after_seq.unwrap_or_default().max(visible_seq),
        before: range.before_seq.unwrap_or(u32::MAX),
        order: match range.after_seq {
            Some(_) => Order::OldestFirst,
            None => Order::NewestFirst,
        },
    };
    let limit = range.limit.max(1) as usize;
    let mut bytes = 0;
    loop {
        // One more than the page takes, to learn whether there is more.
        let step = (limit - page.messages.len() + 1).min(STEP);
        let rows = unread.next_rows(db, conversation_id, step).await?;
        for row in &rows {
            let is_full = page.messages.len() >= limit || bytes >= range.bytes_max;
            if is_full && !page.messages.is_empty() {
                page.more = true;
                return Ok(page.in_order(unread.order));
            }
            let message = message(row, name)?;
            bytes += size(&message);
            unread.shrink(message.seq);
            page.messages.push(message);
        }
        if rows.len() < step {
            return Ok(page.in_order(unread.order));
        }
    }
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
        "SELECT {MESSAGE_COLUMNS} FROM v JOIN messages x ON x.msg_id = v.msg_id WHERE {}",
        visible_to("v.uid")
    );
    let found = sql::select_from_rows(db, &["msg_id", "uid"], &text, rows).await?;
    let by_id = |row: &QueryResult| message(row, "").map(|message| (message.msg_id, message));
    Ok(found.iter().map(by_id).collect::<Result<_, _>>()?)
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
struct Unread {
    after: u32,
    before: u32,
    order: Order,
}

impl Unread {
    async fn next_rows<C: ConnectionTrait>(
        &self,
        db: &C,
        conversation_id: i64,
        limit: usize,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let order = match self.order {
            Order::OldestFirst => "ASC",
            Order::NewestFirst => "DESC",
        };
        let text = format!(
            "SELECT {MESSAGE_COLUMNS} FROM messages x
            WHERE x.conversation_id = ? AND x.seq > ? AND x.seq < ?
            ORDER BY x.seq {order} LIMIT {limit}"
        );
        let values = [
            conversation_id.into(),
            bound(self.after).into(),
            bound(self.before).into(),
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
        _ => 0,
    }
}
