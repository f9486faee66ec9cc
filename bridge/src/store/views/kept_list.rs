//! A user's list of conversations out of what is kept in Redis (see [`crate::recent`]), and what is kept there.
//!
//! Each conversation is kept by itself, with where the user stood when it was read: of a list of fifty in which one has changed,
//! one is read. Why it is what the database would say: of what it shows, all is a function of the member's row, of
//! the conversation's, and of messages, and each transaction that changes one of these changes the standing, too. What the standing
//! says nothing of: the archiver, which takes rows and mentions away, but not those of the newest messages, so that what
//! tells of others is not kept; and time, which is looked at here.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::SystemTime;

use prost::Message as _;
use schema::{Uid, cache, v1};
use sea_orm::ConnectionTrait;

use super::conversation_list::{Places, Row, rows_of};
use super::recent::as_of;
use crate::recent::Shelf;
use crate::store::Store;
use crate::store::archives::NEWEST_KEPT;

/// Of who is in more conversations nothing is kept.
const CONVERSATIONS_MAX: usize = 1000;
/// With more bytes than that, only the places of further ones are.
const BYTES_MAX: usize = 256 * 1024;

/// What is known of a user's list without the database, and what was read instead.
pub(super) struct Kept<'a> {
    /// `None`: nothing is kept.
    shelf: Option<&'a Shelf<Uid, ()>>,
    /// Something was there.
    was_there: bool,
    known: HashMap<i64, cache::Listed>,
    /// What may be kept of what was read, without its standing.
    read: HashMap<i64, cache::Listed>,
}

impl<'a> Kept<'a> {
    /// Asks Redis, where there is one.
    pub(super) async fn find(store: &'a Store, uid: &Uid) -> Self {
        let shelf = store.recent().map(|recent| &recent.lists);
        let found: Option<cache::List> = match shelf {
            Some(shelf) => shelf.find(uid).await,
            None => None,
        };
        let was_there = found.is_some();
        let entries = found.unwrap_or_default().conversations.into_iter();
        Kept {
            shelf,
            was_there,
            known: entries.map(|listed| (listed.id, listed)).collect(),
            read: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Forgets what is another one now.
    pub(super) fn compare(&mut self, rows: &[Row]) {
        if self.known.is_empty() {
            return;
        }
        let now = standings(rows);
        self.known.retain(|id, listed| {
            listed.standing.is_some() && listed.standing.as_ref() == now.get(id)
        });
    }

    /// See [`PageKey`](super::PageKey).
    pub(super) fn activity(&self, id: i64) -> Option<i64> {
        self.known.get(&id).map(|listed| listed.activity)
    }

    pub(super) fn conversation(&self, id: i64) -> Option<v1::Conversation> {
        let listed = self.known.get(&id)?;
        let bytes = Some(&listed.conversation).filter(|bytes| !bytes.is_empty())?;
        let mut conversation = v1::Conversation::decode(bytes.clone()).ok()?;
        let message = conversation.last_message.take();
        conversation.last_message = message.map(|message| as_of(SystemTime::now(), message));
        Some(conversation)
    }

    /// Notes the place of a conversation that was looked up, if no more is known of it.
    pub(super) fn was_found_at(&mut self, id: i64, activity: i64) {
        if self.shelf.is_some() {
            self.read.entry(id).or_insert_with(|| cache::Listed {
                id,
                activity,
                ..Default::default()
            });
        }
    }

    /// Notes what a conversation is.
    pub(super) fn was_read(&mut self, id: i64, activity: i64, conversation: &v1::Conversation) {
        if self.shelf.is_some() {
            let conversation = match is_lasting(conversation) {
                true => conversation.encode_to_vec().into(),
                false => bytes::Bytes::new(),
            };
            let listed = cache::Listed {
                id,
                activity,
                conversation,
                ..Default::default()
            };
            self.read.insert(id, listed);
        }
    }

    /// Keeps what was noted, if it is news and worth the while, of conversations in which the user still stands where `before`
    /// says, which was read before all else.
    pub(super) async fn keep<C: ConnectionTrait>(self, db: &C, uid: &Uid, before: &[Row]) {
        let Some(shelf) = self.shelf else {
            return;
        };
        if self.was_there {
            shelf.used(self.read.is_empty());
        }
        if before.len() > CONVERSATIONS_MAX {
            return;
        }
        let Kept {
            known, mut read, ..
        } = self;
        let is_news = |listed: &cache::Listed| known.get(&listed.id) != Some(listed);
        let news = before.iter().filter_map(|row| {
            let listed = read.remove(&row.id)?;
            lasting(row, listed).filter(is_news)
        });
        let mut news: Vec<cache::Listed> = news.collect();
        if news.is_empty() || !(self.was_there || shelf.is_wanted(uid, ())) {
            return;
        }
        let ids: Vec<i64> = news.iter().map(|listed| listed.id).collect();
        // Who has asked gets his answer all the same.
        let Ok(after) = rows_of(db, uid, &ids, Places::None).await else {
            return;
        };
        let after = standings(&after);
        news.retain(|listed| listed.standing.as_ref() == after.get(&listed.id));
        let mut list = known.clone();
        list.extend(news.into_iter().map(|listed| (listed.id, listed)));
        let mut conversations: Vec<cache::Listed> = list.into_values().collect();
        cut(&mut conversations);
        if conversations
            .iter()
            .any(|listed| known.get(&listed.id) != Some(listed))
        {
            shelf.keep(uid, &cache::List { conversations });
        }
    }
}

/// Leaves those that are first in the list as they are, and only the places of the others.
fn cut(conversations: &mut [cache::Listed]) {
    conversations.sort_unstable_by_key(|listed| Reverse(listed.activity));
    let mut bytes = 0;
    for listed in conversations {
        bytes += listed.conversation.len();
        if bytes > BYTES_MAX {
            listed.conversation.clear();
        }
    }
}

fn standings(rows: &[Row]) -> HashMap<i64, cache::Standing> {
    rows.iter().map(|row| (row.id, row.standing)).collect()
}

/// The entry with its standing, if it holds as long as the user stands there. Of a place alone that is known where it is that of
/// the newest message, which stays a row.
fn lasting(row: &Row, read: cache::Listed) -> Option<cache::Listed> {
    let is_newest = || read.activity.cast_unsigned() == row.standing.last_msg_id;
    let holds = !read.conversation.is_empty() || read.activity == row.id || is_newest();
    holds.then_some(cache::Listed {
        standing: Some(row.standing),
        ..read
    })
}

/// Whether none of the messages that it tells of, or that it counts as mentions, may go to a file.
fn is_lasting(conversation: &v1::Conversation) -> bool {
    let Some(state) = &conversation.state else {
        return false;
    };
    let stays = |seq: u32| seq.saturating_add(NEWEST_KEPT) > state.last_seq;
    let newest = conversation.last_message.as_ref();
    newest.is_none_or(|message| stays(message.seq))
        && (state.mentions == 0 || stays(state.last_read_seq.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql;

    fn bob() -> Uid {
        "bob".parse().unwrap()
    }

    async fn run(store: &Store, text: &str) {
        sql::execute(store.writer(), text, []).await.unwrap();
    }

    /// Bob is in a conversation with ten messages, of which the newest has the id 110.
    async fn bobs_store() -> (Store, tempfile::TempDir) {
        let (store, folder) = Store::fresh().await;
        for text in [
            "INSERT INTO conversations (id, name, last_seq, last_msg_id, created_at) VALUES (7, 'g:g', 10, 110, 0)",
            "INSERT INTO members (conversation_id, uid, role, start_seq, visible_seq, last_ack_seq, last_ack_msgid,
                last_read_seq, sent, sent_read) VALUES (7, 'bob', 'member', 0, 0, 0, 0, 2, 1, 0)",
        ] {
            run(&store, text).await;
        }
        (store, folder)
    }

    async fn bobs_rows(store: &Store) -> Vec<Row> {
        rows_of(store.reader(), &bob(), &[7], Places::None)
            .await
            .unwrap()
    }

    fn kept(standing: cache::Standing) -> Kept<'static> {
        let listed = cache::Listed {
            id: 7,
            standing: Some(standing),
            activity: 110,
            ..Default::default()
        };
        Kept {
            shelf: None,
            was_there: true,
            known: HashMap::from([(7, listed)]),
            read: HashMap::new(),
        }
    }

    #[tokio::test]
    async fn an_entry_counts_only_while_the_user_stands_there() {
        let (store, _folder) = bobs_store().await;
        for text in [
            "UPDATE conversations SET last_seq = 11",
            "UPDATE conversations SET changes = changes + 1",
            "UPDATE conversations SET last_msg_id = 111",
            "UPDATE members SET changes = changes + 1",
            "UPDATE members SET visible_seq = 1",
            "UPDATE members SET last_read_seq = 3",
            "UPDATE members SET sent = 2",
            "UPDATE members SET sent_read = 1",
            "DELETE FROM members",
        ] {
            let before = bobs_rows(&store).await;
            let mut kept = kept(before[0].standing);
            kept.compare(&before);
            assert_eq!(kept.activity(7), Some(110));
            run(&store, text).await;
            kept.compare(&bobs_rows(&store).await);
            assert_eq!(kept.activity(7), None, "{text}");
        }
    }

    /// The newest messages stay rows; what is shown instead of them, and what mentions the user, may not.
    #[tokio::test]
    async fn what_may_go_to_a_file_is_not_kept() {
        let (store, _folder) = bobs_store().await;
        let row = &bobs_rows(&store).await[0];
        for (activity, text, is_kept) in [
            (110, "", true),
            (109, "", false),
            (109, "read", true),
            (7, "", true),
        ] {
            let read = cache::Listed {
                id: 7,
                activity,
                conversation: text.as_bytes().into(),
                ..Default::default()
            };
            assert_eq!(lasting(row, read).is_some(), is_kept, "{activity} {text}");
        }
        for (newest, mentions, last_read_seq, stays) in [
            (None, 0, 0, true),
            (Some(200), 0, 0, true),
            (Some(151), 0, 0, true),
            (Some(150), 0, 0, false),
            (Some(200), 1, 149, false),
            (Some(200), 1, 150, true),
        ] {
            let conversation = v1::Conversation {
                state: Some(v1::ConversationState {
                    last_seq: 200,
                    last_read_seq,
                    mentions,
                    ..Default::default()
                }),
                last_message: newest.map(|seq| v1::Message {
                    seq,
                    ..Default::default()
                }),
                ..Default::default()
            };
            assert_eq!(is_lasting(&conversation), stays, "{conversation:?}");
        }
    }

    /// With too much, those with the latest activity are left.
    #[test]
    fn the_first_of_the_list_are_kept_whole() {
        let listed = |activity: i64| cache::Listed {
            id: activity,
            activity,
            conversation: vec![1; BYTES_MAX / 3].into(),
            ..Default::default()
        };
        let mut all: Vec<_> = [3, 5, 1, 4].map(listed).into();
        cut(&mut all);
        let whole = |listed: &cache::Listed| (listed.id, !listed.conversation.is_empty());
        let whole: Vec<_> = all.iter().map(whole).collect();
        assert_eq!(whole, [(5, true), (4, true), (3, true), (1, false)]);
    }
}
