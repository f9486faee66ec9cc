//! The conversations that a user is in, page by page: pinned ones first, then by latest activity.
//!
//! One statement says where the user stands in each of them, which unread counts and filters need. It also says what of the list
//! that was [kept](super::kept_list) still holds; the rest is read.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use prost::Message as _;
use schema::{Uid, cache, v1};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::conversation::{conversations, newest_visible};
use super::kept_list::Kept;
use super::{seq, unsigned};
use crate::store::{Error, Store, sql};

/// Conversations that are read at once.
const STEP: usize = 32;

/// Where a conversation stands in the list; the greatest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageKey {
    /// When it was pinned, in milliseconds since 1970; 0: it is not.
    pub pinned: i64,
    /// The id of its newest message, or of itself where there is none: ids of both kinds are made in the order of time.
    pub activity: i64,
}

/// Which conversations are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Only those with these names; empty: all.
    pub names: &'a [String],
    /// Only archived ones, or only others.
    pub archived: Option<bool>,
    /// Only those that come after this.
    pub after: Option<PageKey>,
    /// So many at most.
    pub limit: usize,
    /// The page ends with the conversation that reaches so many bytes.
    pub bytes_max: usize,
}

/// A page of the list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    /// The conversations in their order.
    pub conversations: Vec<v1::Conversation>,
    /// Unread messages in all conversations of the user.
    pub total_unread: u64,
    /// The place of the last one, where there are more.
    pub next: Option<PageKey>,
}

/// A member's row and its conversation's, as far as lists need them.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) standing: cache::Standing,
    name: String,
    pinned: i64,
    archived: bool,
    /// It has no message since the user has deleted it.
    is_deleted: bool,
    /// See [`PageKey`], if it was asked for.
    activity: Option<i64>,
}

/// A page of the user's conversations in their order. What the user has deleted is not listed.
///
/// # Errors
/// [`Error`] when the database can't answer.
pub async fn list(store: &Store, uid: &Uid, asked: Asked<'_>) -> Result<List, Error> {
    let mut listing = Listing {
        store,
        uid,
        kept: Kept::find(store, uid).await,
        at_hand: HashMap::new(),
    };
    let places = match asked.archived {
        // Few are missing.
        _ if !asked.names.is_empty() || !listing.kept.is_empty() => Places::None,
        None => Places::All,
        Some(archived) => Places::Archived(archived),
    };
    let rows = rows(store.reader(), uid, places).await?;
    listing.kept.compare(&rows);
    let names: HashSet<&str> = asked.names.iter().map(String::as_str).collect();
    let is_listed = |row: &&Row| {
        let is_named = names.is_empty() || names.contains(row.name.as_str());
        let is_wanted = asked.archived.is_none_or(|wanted| wanted == row.archived);
        !row.is_deleted && is_named && is_wanted
    };
    let listed = rows.iter().filter(is_listed).collect();
    let mut listed = listing.places(listed).await?;
    listed.retain(|(key, _)| asked.after.is_none_or(|after| *key < after));
    listed.sort_unstable_by_key(|(key, _)| Reverse(*key));

    let mut list = List {
        total_unread: rows.iter().map(|row| u64::from(row.unread())).sum(),
        ..List::default()
    };
    let (mut bytes, mut count) = (0, 0);
    for step in listed[..listed.len().min(asked.limit)].chunks(STEP) {
        let found = listing.conversations(step).await?;
        count += step.len();
        bytes += found
            .iter()
            .map(v1::Conversation::encoded_len)
            .sum::<usize>();
        list.conversations.extend(found);
        if bytes >= asked.bytes_max {
            break;
        }
    }
    if count > 0 && count < listed.len() {
        list.next = Some(listed[count - 1].0);
    }
    listing.kept.keep(store.reader(), uid, &rows).await;
    Ok(list)
}

/// A list that is being made.
struct Listing<'a> {
    store: &'a Store,
    uid: &'a Uid,
    kept: Kept<'a>,
    /// Conversations that are not on the page yet.
    at_hand: HashMap<i64, v1::Conversation>,
}

impl Listing<'_> {
    /// The place of each row; some may be left by now.
    async fn places<'a>(&mut self, rows: Vec<&'a Row>) -> Result<Vec<(PageKey, &'a Row)>, Error> {
        let kept = &self.kept;
        let is_missing = |row: &&&Row| row.activity.or_else(|| kept.activity(row.id)).is_none();
        let missing: Vec<i64> = rows.iter().filter(is_missing).map(|row| row.id).collect();
        let mut read: HashMap<i64, i64> = HashMap::new();
        if missing.len() <= STEP {
            // What has changed is mostly on the page that is asked for.
            self.read(&missing).await?;
            read.extend(self.at_hand.iter().map(|(id, it)| (*id, activity(*id, it))));
        } else {
            let rows = rows_of(self.store.reader(), self.uid, &missing, Places::All).await?;
            read.extend(rows.iter().filter_map(|row| Some((row.id, row.activity?))));
        }
        let mut places = Vec::with_capacity(rows.len());
        for row in rows {
            let found = row.activity.or_else(|| read.get(&row.id).copied());
            if let Some(activity) = found {
                self.kept.was_found_at(row.id, activity);
            }
            if let Some(activity) = found.or_else(|| self.kept.activity(row.id)) {
                let pinned = row.pinned;
                places.push((PageKey { pinned, activity }, row));
            }
        }
        Ok(places)
    }

    /// Those conversations; some may be left by now.
    async fn conversations(
        &mut self,
        step: &[(PageKey, &Row)],
    ) -> Result<Vec<v1::Conversation>, Error> {
        let mut missing = Vec::new();
        for (_, row) in step {
            if self.at_hand.contains_key(&row.id) {
                continue;
            }
            match self.kept.conversation(row.id) {
                Some(kept) => _ = self.at_hand.insert(row.id, kept),
                None => missing.push(row.id),
            }
        }
        self.read(&missing).await?;
        let in_order = step
            .iter()
            .filter_map(|(_, row)| self.at_hand.remove(&row.id));
        Ok(in_order.collect())
    }

    async fn read(&mut self, ids: &[i64]) -> Result<(), Error> {
        for conversation in conversations(self.store.reader(), self.uid, ids).await? {
            let id = conversation.membership.conversation_id;
            let conversation = v1::Conversation::from(conversation);
            let activity = activity(id, &conversation);
            self.kept.was_read(id, activity, &conversation);
            self.at_hand.insert(id, conversation);
        }
        Ok(())
    }
}

/// See [`PageKey`].
fn activity(id: i64, conversation: &v1::Conversation) -> i64 {
    let newest = conversation.last_message.as_ref();
    newest.map_or(id, |message| message.msg_id.cast_signed())
}

/// Of which conversations the places are read; never of what the user has deleted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Places {
    None,
    All,
    /// Of archived ones, or of the others.
    Archived(bool),
}

/// The rows of all the user's conversations.
async fn rows<C: ConnectionTrait>(db: &C, uid: &Uid, places: Places) -> Result<Vec<Row>, Error> {
    let text = format!("{} WHERE m.uid = ?", select(places));
    let rows = sql::query(db, &text, [uid.as_str().into()]).await?;
    Ok(rows.iter().map(Row::of).collect::<Result<_, _>>()?)
}

/// Those of some of them.
pub(super) async fn rows_of<C: ConnectionTrait>(
    db: &C,
    uid: &Uid,
    ids: &[i64],
    places: Places,
) -> Result<Vec<Row>, Error> {
    let mut members = sql::Rows::new(2);
    for id in ids {
        members.push([(*id).into(), uid.as_str().into()]);
    }
    let select = select(places);
    let text = format!("{select} WHERE (m.conversation_id, m.uid) {{in}}");
    let rows = sql::query_rows(db, &text, members).await?;
    Ok(rows.iter().map(Row::of).collect::<Result<_, _>>()?)
}

fn select(places: Places) -> String {
    let place = |of: &str| {
        let newest = newest_visible();
        format!("CASE WHEN c.last_seq > m.deleted_seq {of} THEN COALESCE(({newest}), c.id) END")
    };
    let activity = match places {
        // Null, and of the same type.
        Places::None => "NULLIF(c.id, c.id)".to_owned(),
        Places::All => place(""),
        Places::Archived(true) => place("AND m.archived"),
        Places::Archived(false) => place("AND NOT m.archived"),
    };
    format!(
        "SELECT c.id, c.name, c.last_seq, c.changes, c.last_msg_id, m.changes AS own_changes, m.visible_seq,
            m.last_read_seq, m.sent, m.sent_read, COALESCE(m.pinned_at, 0) AS pinned, m.archived, m.deleted_seq,
            {activity} AS activity
        FROM members m JOIN conversations c ON c.id = m.conversation_id"
    )
}

impl Row {
    fn of(row: &QueryResult) -> Result<Self, DbErr> {
        let standing = cache::Standing {
            last_seq: seq(row, "last_seq")?,
            changes: seq(row, "changes")?,
            last_msg_id: unsigned(row, "last_msg_id")?,
            own_changes: seq(row, "own_changes")?,
            visible_seq: seq(row, "visible_seq")?,
            last_read_seq: seq(row, "last_read_seq")?,
            sent: seq(row, "sent")?,
            sent_read: seq(row, "sent_read")?,
        };
        // -1: it was not deleted.
        let deleted_seq: i32 = row.try_get("", "deleted_seq")?;
        Ok(Row {
            id: row.try_get("", "id")?,
            name: row.try_get("", "name")?,
            pinned: row.try_get("", "pinned")?,
            archived: row.try_get("", "archived")?,
            is_deleted: deleted_seq >= standing.last_seq.cast_signed(),
            activity: row.try_get("", "activity")?,
            standing,
        })
    }

    fn unread(&self) -> u32 {
        let standing = &self.standing;
        super::conversation::unread(
            (standing.last_seq, standing.last_read_seq),
            (standing.sent, standing.sent_read),
        )
    }
}
