//! Pages out of the newest messages that are kept in Redis (see [`crate::recent`]), and what is kept there.
//!
//! Why such a page is what the database would have said: who asks has read the conversation's state with one statement, which
//! also says how far back he may see and whether he has deleted any of the newest messages for himself. The messages were read
//! between two looks at the state that said the same. It never comes back, and every transaction that stores a message or changes one
//! changes it, too; so they are the messages of that state, for everybody. What the state says nothing of: retention, which moves
//! what members may see past what it deletes; the archiver, which changes where messages are and not what they say; and time,
//! which is looked at here.

use std::time::SystemTime;

use prost::Message as _;
use schema::{Timestamp, Uid, cache, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::history::{Filling, Page, Range, history};
use super::{MESSAGE_COLUMNS, Membership, Reader, message, reactions, seq, unsigned};
use crate::clock;
use crate::recent::Recent;
use crate::store::operations::Gone;
use crate::store::{Error, Store, sql};

/// So many messages of a conversation are kept.
pub(super) const KEPT_MAX: u32 = 128;
/// Older ones are left out where they have more bytes than that.
const BYTES_MAX: usize = 64 * 1024;

/// Columns for [`state_of`], beside those of a membership: of the conversation `c` and its member `m`.
pub(super) fn state_columns() -> String {
    format!(
        "c.last_msg_id, CASE WHEN EXISTS (SELECT 1 FROM hidden_messages h
            WHERE h.uid = m.uid AND h.conversation_id = c.id AND h.seq > c.last_seq - {KEPT_MAX})
        THEN 1 ELSE 0 END AS hides"
    )
}

/// `None`: the newest messages are not the same for this member as for others.
pub(super) fn state_of(
    row: &QueryResult,
    membership: &Membership,
) -> Result<Option<cache::State>, DbErr> {
    let hides: i32 = row.try_get("", "hides")?;
    let state = cache::State {
        last_seq: membership.last_seq,
        changes: membership.changes,
        last_msg_id: unsigned(row, "last_msg_id")?,
    };
    Ok((hides == 0).then_some(state))
}

/// One page of a conversation, as [`history`] has it: of what is kept, as far as that reaches.
///
/// # Errors
/// [`Error`] when the database or the archive can't answer.
pub async fn page(store: &Store, uid: &Uid, reader: &Reader, range: Range) -> Result<Page, Error> {
    let Reader { membership, state } = reader;
    if let (Some(recent), Some(state)) = (store.recent(), state)
        && is_near_end(membership, range)
        && let Some(page) = kept_page(store, recent, (uid, membership), *state, range).await?
    {
        return Ok(page);
    }
    let (id, visible) = (membership.conversation_id, membership.visible_seq);
    history(store, uid, id, &membership.name, visible, range).await
}

/// What is missed again in the same state is kept from then on.
async fn kept_page(
    store: &Store,
    recent: &Recent,
    (uid, membership): (&Uid, &Membership),
    state: cache::State,
    range: Range,
) -> Result<Option<Page>, Error> {
    let id = membership.conversation_id;
    let shelf = &recent.messages;
    if let Some(kept) = shelf.find::<cache::Recent>(&id).await {
        let is_current = kept.state == Some(state);
        let page = is_current.then(|| cut(&kept, uid, membership, range));
        let page = page.flatten();
        shelf.used(page.is_some());
        if is_current {
            return Ok(page);
        }
    }
    if !shelf.is_wanted(&id, state) {
        return Ok(None);
    }
    let Some(read) = read(store.reader(), id, state).await? else {
        return Ok(None);
    };
    shelf.keep(&id, &read);
    Ok(cut(&read, uid, membership, range))
}

/// Whether the page may be among the newest messages.
fn is_near_end(membership: &Membership, range: Range) -> bool {
    let last = membership.last_seq;
    match range.after_seq {
        Some(after) => {
            after < last && after.max(membership.visible_seq) >= last.saturating_sub(KEPT_MAX)
        }
        None => range.before_seq.is_none_or(|before| before > last) && range.limit < KEPT_MAX,
    }
}

/// The newest messages, if the conversation is in this state before and after they are read.
async fn read<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
    state: cache::State,
) -> Result<Option<cache::Recent>, Error> {
    let text = format!(
        "SELECT {MESSAGE_COLUMNS}, x.hidden_from, {} FROM messages x
        WHERE x.conversation_id = ? AND x.seq > ? AND x.seq <= ? ORDER BY x.seq DESC",
        reactions::REACTED
    );
    let last = state.last_seq.cast_signed();
    let first = last.saturating_sub(KEPT_MAX.cast_signed());
    let values = [conversation_id.into(), first.into(), last.into()];
    let rows = sql::query(db, &text, values).await?;
    let mut messages: Vec<v1::Message> = rows
        .iter()
        .map(|row| message(row, ""))
        .collect::<Result<_, _>>()?;
    let reacted = super::seen::with_reactions(&rows, messages.iter())?;
    reactions::add_to(db, &mut messages, &reacted).await?;
    let mut entries = Vec::with_capacity(rows.len());
    let mut bytes = 0;
    for (row, message) in rows.iter().zip(messages) {
        let hidden_from: Option<String> = row.try_get("", "hidden_from")?;
        let entry = cache::Entry {
            seq: message.seq,
            hidden_from: hidden_from.unwrap_or_default(),
            message: message.encode_to_vec().into(),
        };
        bytes += entry.message.len();
        if bytes > BYTES_MAX && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    entries.reverse();
    if !is_whole(&entries, state) || self::state(db, conversation_id).await? != Some(state) {
        return Ok(None);
    }
    let after_seq = entries.first().map_or(0, |first| first.seq - 1);
    Ok(Some(cache::Recent {
        state: Some(state),
        after_seq,
        entries,
    }))
}

/// Whether there is a message at each place up to the last one.
fn is_whole(entries: &[cache::Entry], state: cache::State) -> bool {
    let seqs = entries.iter().rev().map(|entry| entry.seq);
    !entries.is_empty() && seqs.eq((0..=state.last_seq).rev().take(entries.len()))
}

async fn state<C: ConnectionTrait>(
    db: &C,
    conversation_id: i64,
) -> Result<Option<cache::State>, Error> {
    let text = "SELECT last_seq, changes, last_msg_id FROM conversations WHERE id = ?";
    let row = sql::query_one(db, text, [conversation_id.into()]).await?;
    let state = |row: &QueryResult| -> Result<_, DbErr> {
        Ok(cache::State {
            last_seq: seq(row, "last_seq")?,
            changes: seq(row, "changes")?,
            last_msg_id: unsigned(row, "last_msg_id")?,
        })
    };
    Ok(row.as_ref().map(state).transpose()?)
}

/// The member's page out of what is kept; `None`: it reaches further back, or an entry is damaged.
fn cut(kept: &cache::Recent, uid: &Uid, membership: &Membership, range: Range) -> Option<Page> {
    let after = range
        .after_seq
        .unwrap_or_default()
        .max(membership.visible_seq);
    let before = range.before_seq.unwrap_or(u32::MAX);
    let is_for_user = |entry: &&cache::Entry| {
        entry.seq > after && entry.seq < before && entry.hidden_from != uid.as_str()
    };
    let reaches = kept.after_seq <= after;
    let entries = kept.entries.iter().filter(is_for_user);
    let mut filling = Filling::new(range);
    let is_full = match range.after_seq {
        Some(_) if !reaches => return None,
        Some(_) => fill(&mut filling, entries, &membership.name)?,
        None => fill(&mut filling, entries.rev(), &membership.name)?,
    };
    (is_full || reaches).then(|| filling.page())
}

/// Whether the page is full; `None`: an entry is damaged.
fn fill<'a>(
    filling: &mut Filling,
    entries: impl Iterator<Item = &'a cache::Entry>,
    conversation: &str,
) -> Option<bool> {
    for entry in entries {
        let message = v1::Message::decode(entry.message.clone()).ok()?;
        let message = v1::Message {
            conversation: conversation.to_owned(),
            ..as_of(SystemTime::now(), message)
        };
        if !filling.takes(message) {
            return Some(true);
        }
    }
    Some(false)
}

/// The message without its content, if its time has run out since it was read.
pub(super) fn as_of(now: SystemTime, message: v1::Message) -> v1::Message {
    let now = Timestamp::from_millis(clock::millis(now));
    let has_run_out = |at: &Timestamp| (at.seconds, at.nanos) <= (now.seconds, now.nanos);
    if !message.gone.is_empty() || !message.expires_at.as_ref().is_some_and(has_run_out) {
        return message;
    }
    v1::Message {
        content: None,
        reply_to: 0,
        mentions: Vec::new(),
        forwarded: None,
        edited_at: None,
        reactions: Vec::new(),
        gone: Gone::Expired.as_str().to_owned(),
        ..message
    }
}

#[cfg(test)]
mod tests;
