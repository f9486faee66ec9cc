//! What the edge knows is read again from the database where nodes may have changed it at the same time.
//!
//! Of two changes each node may hear the other's last. So a right that another node has changed is looked up; a topic that
//! was retained here and elsewhere within a moment is, when the moment has passed; and after something may have been missed all
//! retained messages are told anew. It happens between two rounds, so that what this node changes itself comes before
//! or after it, and a page at a time.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use schema::Uid;
use schema::link::{self, Briefing, Ready, ToEdge, to_edge};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::briefing;
use crate::clock;
use crate::store::{self, Store, grants, retained};

/// Within so long two changes of a topic may have crossed each other.
const MOMENT: Duration = Duration::from_secs(2);
/// Topics of which it is known that they have changed a moment ago; with more, any may have.
const RECENT_MAX: usize = 10_000;
/// Rights, and topics, that are looked up between two rounds.
const AT_ONCE: usize = 64;
/// The shortest time between two beginnings of all retained messages.
const BRIEFING_INTERVAL: Duration = Duration::from_secs(5);
/// After something may have been missed: what else was is noticed until then.
const BRIEFING_DELAY: Duration = Duration::from_millis(500);
/// After the database could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// Whose right, for whom, and for which filter.
type Right = (Uid, Uid, String);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Reviews {
    rights: BTreeSet<Right>,
    /// Topics to be looked up, and when.
    topics: HashMap<String, Instant>,
    /// What was retained here, and elsewhere.
    here: Recent,
    elsewhere: Recent,
    briefing: Briefed,
    /// Not before that.
    retry_at: Option<Instant>,
}

/// How far the edge is with being told all retained messages.
#[derive(Debug, Default)]
struct Briefed {
    /// When to begin anew.
    wanted_at: Option<Instant>,
    began_at: Option<Instant>,
    ended_at: Option<Instant>,
    /// What to ask the next page with.
    next: Option<String>,
}

impl Briefed {
    /// Whether pages of it may be on their way.
    fn is_recent(&self, now: Instant) -> bool {
        self.next.is_some() || self.ended_at.is_some_and(|at| now < at + MOMENT)
    }
}

/// Topics that have changed a moment ago.
#[derive(Debug, Default)]
struct Recent {
    topics: HashMap<String, Instant>,
}

impl Recent {
    fn insert(&mut self, topic: &str, now: Instant) {
        if self.topics.len() >= RECENT_MAX {
            self.topics.retain(|_, at| now < *at + MOMENT);
        }
        if self.topics.len() < RECENT_MAX {
            self.topics.insert(topic.to_owned(), now);
        }
    }

    fn may_contain(&self, topic: &str, now: Instant) -> bool {
        let known = self.topics.get(topic);
        self.topics.len() >= RECENT_MAX || known.is_some_and(|at| now < *at + MOMENT)
    }
}

impl Reviews {
    /// Another node has changed a right.
    pub(super) fn note_right(&mut self, grant: &link::Grant) {
        if let (Ok(owner), Ok(user)) = (grant.owner.parse(), grant.user.parse()) {
            self.rights.insert((owner, user, grant.filter.clone()));
        }
    }

    /// What is retained for the topic was changed here, which is committed.
    pub(super) fn note_here(&mut self, topic: &str, now: Instant) {
        self.here.insert(topic, now);
        if self.elsewhere.may_contain(topic, now) || self.briefing.is_recent(now) {
            self.topics.insert(topic.to_owned(), now + MOMENT);
        }
    }

    /// It was changed elsewhere, and the edge is told.
    pub(super) fn note_elsewhere(&mut self, topic: &str, now: Instant) {
        self.elsewhere.insert(topic, now);
        if self.here.may_contain(topic, now) {
            self.topics.insert(topic.to_owned(), now + MOMENT);
        }
    }

    /// Changes may have been missed.
    pub(super) fn note_missed(&mut self, now: Instant) {
        let last = self.briefing.began_at;
        let allowed = last.map_or(now, |at| at + BRIEFING_INTERVAL);
        let wanted_at = allowed.max(now + BRIEFING_DELAY);
        self.briefing.wanted_at.get_or_insert(wanted_at);
    }

    /// When there is something to be read.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let at_once = !self.rights.is_empty() || self.briefing.next.is_some();
        let at_once = at_once.then(Instant::now);
        let topics = self.topics.values().min().copied();
        let due = [at_once, topics, self.briefing.wanted_at];
        let due = due.into_iter().flatten().min()?;
        Some(self.retry_at.map_or(due, |retry| due.max(retry)))
    }

    /// Reads some of what is due; returns what the edge has to know.
    pub(super) async fn run(&mut self, store: &Store) -> Vec<ToEdge> {
        let mut items = Vec::new();
        let due = self.due_at();
        let now = Instant::now();
        let Some(due) = due.filter(|due| *due <= now) else {
            return items;
        };
        let is_known = self.retry_at.take().is_some();
        if let Err(error) = self.read(store, now, &mut items).await {
            let (error, since) = (store::chain(&error), now - due);
            match is_known {
                true => debug!(
                    error,
                    ?since,
                    "what other nodes have changed still can't be read"
                ),
                false => warn!(error, ?since, "what other nodes have changed can't be read"),
            }
            self.retry_at = Some(now + RETRY);
        }
        items
    }

    async fn read(
        &mut self,
        store: &Store,
        now: Instant,
        items: &mut Vec<ToEdge>,
    ) -> Result<(), store::Error> {
        let db = store.reader();
        for _ in 0..AT_ONCE {
            let Some((owner, user, filter)) = self.rights.first() else {
                break;
            };
            let grant = grants::lookup(db, owner, user, filter).await?;
            self.rights.pop_first();
            items.push(briefing::grant(grant));
        }
        let due = self.topics.iter().filter(|(_, at)| **at <= now);
        let due: Vec<String> = due.take(AT_ONCE).map(|(topic, _)| topic.clone()).collect();
        if !due.is_empty() {
            let millis = clock::millis(SystemTime::now());
            for message in retained::lookup(db, &due, millis).await? {
                self.topics.remove(&message.topic);
                self.elsewhere.insert(&message.topic, now);
                items.push(item(to_edge::Item::Retained(message)));
            }
        }
        self.brief(store, now, items).await
    }

    /// The next page of all retained messages.
    async fn brief(
        &mut self,
        store: &Store,
        now: Instant,
        items: &mut Vec<ToEdge>,
    ) -> Result<(), store::Error> {
        let briefing = &mut self.briefing;
        if briefing.wanted_at.is_some_and(|at| at <= now) {
            briefing.wanted_at = None;
            briefing.began_at = Some(now);
            briefing.next = Some(String::new());
            items.push(item(to_edge::Item::Briefing(Briefing {
                has_others: true,
                only_retained: true,
            })));
        }
        let Some(after) = &briefing.next else {
            return Ok(());
        };
        let millis = clock::millis(SystemTime::now());
        let page = retained::page(store.reader(), after, briefing::RETAINED, millis).await?;
        let messages = page.messages.into_iter().map(to_edge::Item::Retained);
        items.extend(messages.map(item));
        briefing.next = page.next;
        if briefing.next.is_none() {
            briefing.ended_at = Some(now);
            items.push(item(to_edge::Item::Ready(Ready {})));
        }
        Ok(())
    }
}

fn item(item: to_edge::Item) -> ToEdge {
    ToEdge { item: Some(item) }
}

#[cfg(test)]
mod tests {
    use schema::link::PlainMessage;

    use super::*;

    fn topics(items: Vec<ToEdge>) -> Vec<String> {
        let names = items.into_iter().map(|one| match one.item.unwrap() {
            to_edge::Item::Retained(message) => {
                format!("{} {}", message.topic, message.payload.len())
            }
            to_edge::Item::Grant(grant) => format!("{}/{}", grant.filter, grant.read),
            to_edge::Item::Briefing(_) => "begin".to_owned(),
            to_edge::Item::Ready(_) => "end".to_owned(),
            other => panic!("{other:?}"),
        });
        names.collect()
    }

    fn message(topic: &str) -> PlainMessage {
        PlainMessage {
            topic: topic.to_owned(),
            payload: "x".into(),
            ..PlainMessage::default()
        }
    }

    async fn run(reviews: &mut Reviews, store: &Store) -> Vec<String> {
        topics(reviews.run(store).await)
    }

    #[tokio::test]
    async fn what_may_have_crossed_is_read_again() {
        let (store, _folder) = Store::fresh().await;
        let stored = ["a", "b"].map(message);
        retained::set(store.writer(), &stored).await.unwrap();
        let mut reviews = Reviews::default();
        let now = Instant::now().checked_sub(MOMENT).unwrap();
        for (topic, here, elsewhere) in [("a", 0, 1), ("b", 3, 1), ("c", 1, 0), ("d", 5, 0)] {
            let after = |secs| now + Duration::from_secs(secs);
            if here <= elsewhere {
                reviews.note_here(topic, after(here));
                reviews.note_elsewhere(topic, after(elsewhere));
            } else {
                reviews.note_elsewhere(topic, after(elsewhere));
                reviews.note_here(topic, after(here));
            }
        }
        let mut crossed: Vec<&str> = reviews.topics.keys().map(String::as_str).collect();
        crossed.sort_unstable();
        assert_eq!(crossed, ["a", "c"], "the others were apart");
        assert!(run(&mut reviews, &store).await.is_empty(), "not yet");
        for at in reviews.topics.values_mut() {
            *at = Instant::now();
        }
        let mut found = run(&mut reviews, &store).await;
        found.sort_unstable();
        assert_eq!(found, ["a 1", "c 0"]);
        // What is changed here while that is on its way is read again.
        reviews.note_here("c", Instant::now());
        assert_eq!(reviews.topics.len(), 1);
    }

    #[tokio::test]
    async fn rights_are_looked_up() {
        let (store, _folder) = Store::fresh().await;
        let mut reviews = Reviews::default();
        for (filter, read) in [("a", true), ("b", false)] {
            let grant = grants::Grant {
                owner: "alice".parse().unwrap(),
                user: "bob".parse().unwrap(),
                filter: filter.to_owned(),
                read,
                write: false,
            };
            grants::set(store.writer(), &grant).await.unwrap();
            reviews.note_right(&link::Grant {
                owner: "alice".into(),
                user: "bob".into(),
                filter: filter.into(),
                read: true,
                write: true,
            });
        }
        assert_eq!(run(&mut reviews, &store).await, ["a/true", "b/false"]);
        assert_eq!(reviews.due_at(), None);
    }

    #[tokio::test]
    async fn all_is_told_anew_in_pages() {
        let (store, _folder) = Store::fresh().await;
        let stored: Vec<_> = (0..100).map(|n| message(&format!("t/{n}"))).collect();
        retained::set(store.writer(), &stored).await.unwrap();
        let mut reviews = Reviews::default();
        reviews.note_missed(Instant::now());
        reviews.briefing.wanted_at = Some(Instant::now());
        let mut told = run(&mut reviews, &store).await;
        assert_eq!((told.len(), &*told[0]), (65, "begin"));
        // What is changed here meanwhile may be overtaken by an older page.
        reviews.note_here("t/1", Instant::now());
        assert_eq!(reviews.topics.len(), 1);
        reviews.note_missed(Instant::now());
        while reviews.briefing.next.is_some() {
            told.extend(run(&mut reviews, &store).await);
        }
        assert_eq!((told.len(), told.last().unwrap().as_str()), (102, "end"));
        let again = reviews.briefing.wanted_at.unwrap();
        assert!(again > Instant::now() + BRIEFING_INTERVAL / 2);
    }
}
