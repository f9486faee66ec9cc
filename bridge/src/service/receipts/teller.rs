//! Tells those who have written how far others are.
//!
//! One task, beside the pipeline: it reads where those who have moved stand now, and sends one event for all of a
//! conversation. Between two times it waits, longer after it had much to do, and what moves meanwhile goes together.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use schema::{Uid, v1};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Moves;
use super::collected::{Collected, Movers};
use super::memory::{Memory, News};
use crate::service::job::Delivery;
use crate::service::presence::Presence;
use crate::store::{self, Store, receipts};

/// The shortest time between two events of a conversation.
const INTERVAL: Duration = Duration::from_millis(500);
/// For each part of the time that telling took, so many pass without: at most a fifth of a core goes into it.
const PAUSE: u32 = 4;
/// What a position costs for each of those who are told, in the sessions that write it; the pause is so much longer.
const COST: Duration = Duration::from_micros(2);
/// Members who are told of at a time.
const MEMBERS_MAX: usize = 4000;
/// Positions of one event.
const EVENT_MAX: usize = 500;

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::service) struct Teller {
    store: Store,
    presence: Presence,
    events: mpsc::Sender<Delivery>,
    memory: Memory,
}

/// Ends with how long to wait until the next time.
type Telling = Pin<Box<dyn Future<Output = (Teller, Duration)> + Send>>;

impl Teller {
    pub(in crate::service) fn new(
        store: Store,
        presence: Presence,
        events: mpsc::Sender<Delivery>,
    ) -> Self {
        Teller {
            store,
            presence,
            events,
            memory: Memory::default(),
        }
    }

    /// Tells until `stop`. What has moved is taken in all the time, so that the pipeline never waits for the database.
    pub(in crate::service) async fn run(
        self,
        mut moves: mpsc::Receiver<Moves>,
        stop: CancellationToken,
    ) {
        let mut collected = Collected::default();
        let mut idle = Some(self);
        let mut telling: Option<Telling> = None;
        let mut next = Instant::now();
        loop {
            let is_due = idle.is_some() && !collected.is_empty();
            tokio::select! {
                Some(moves) = moves.recv() => collected.note(moves),
                () = sleep_until(next), if is_due => {
                    let taken = collected.take(MEMBERS_MAX);
                    telling = idle.take().map(|teller| -> Telling { Box::pin(teller.tell(taken)) });
                }
                Some((teller, pause)) = async { Some(telling.as_mut()?.await) } => {
                    idle = Some(teller);
                    telling = None;
                    next = Instant::now() + pause;
                }
                () = stop.cancelled() => break,
            }
        }
    }

    async fn tell(mut self, taken: Vec<(i64, Movers)>) -> (Self, Duration) {
        let started = Instant::now();
        let told = self.try_tell(taken).await.unwrap_or_else(|error| {
            // Whoever misses it can ask.
            warn!(error = %store::chain(&error), "receipts could not be told");
            0
        });
        let pause = INTERVAL.max(started.elapsed() * PAUSE) + COST * told;
        (self, pause)
    }

    /// Returns how many positions were told, each to how many.
    async fn try_tell(&mut self, mut taken: Vec<(i64, Movers)>) -> Result<u32, store::Error> {
        self.learn_names(&taken).await?;
        for (id, movers) in &mut taken {
            movers.retain(|uid, _| self.may_be_heard(*id, uid));
        }
        let blocked = self.blocked(&taken).await?;
        let members = taken
            .iter()
            .flat_map(|(id, movers)| movers.keys().map(|uid| (*id, uid)));
        let members: Vec<(i64, &Uid)> = members.collect();
        let positions = receipts::positions(self.store.reader(), members).await?;
        let mut told = 0;
        for (id, movers) in &taken {
            let positions = positions.get(id).map_or(&[][..], Vec::as_slice);
            if let Some(news) = self.memory.news(*id, movers, positions) {
                told += self.tell_news(*id, news, &blocked).await?;
            }
        }
        Ok(told)
    }

    async fn learn_names(&mut self, taken: &[(i64, Movers)]) -> Result<(), store::Error> {
        self.memory.shrink();
        let ids = taken.iter().map(|(id, _)| *id);
        let unknown = ids.filter(|id| self.memory.get(*id).is_none());
        let unknown: Vec<i64> = unknown.collect();
        for (id, name) in receipts::names(self.store.reader(), unknown).await? {
            if let Ok(name) = name.parse() {
                self.memory.learn(id, name);
            }
        }
        Ok(())
    }

    /// Whether there may be somebody who is told that this user has moved: nothing is read for who talks to nobody.
    fn may_be_heard(&self, conversation_id: i64, mover: &Uid) -> bool {
        let Some(known) = self.memory.get(conversation_id) else {
            return false;
        };
        let is_online = |uid| self.presence.is_online(uid);
        !known.is_direct() || known.counterpart(mover).is_some_and(is_online)
    }

    /// Those who have moved and have blocked the other one, with that one.
    async fn blocked(
        &self,
        taken: &[(i64, Movers)],
    ) -> Result<HashSet<(String, String)>, store::Error> {
        let pairs = taken.iter().flat_map(|(id, movers)| {
            let known = self.memory.get(*id);
            movers
                .keys()
                .filter_map(move |uid| Some((uid, known?.counterpart(uid)?)))
        });
        let pairs: Vec<(&Uid, &Uid)> = pairs.collect();
        let blocked = receipts::blocked(self.store.reader(), pairs).await?;
        Ok(blocked.into_iter().collect())
    }

    async fn tell_news(
        &self,
        conversation_id: i64,
        news: News,
        blocked: &HashSet<(String, String)>,
    ) -> Result<u32, store::Error> {
        let Some(known) = self.memory.get(conversation_id) else {
            return Ok(0);
        };
        let name = known.id.to_string();
        let mut told = 0;
        if known.is_direct() {
            for receipt in news.receipts {
                let mover = receipt.uid.parse::<Uid>().ok();
                let other = mover.and_then(|mover| known.counterpart(&mover));
                let is_blocked =
                    |other: &&Uid| blocked.contains(&(receipt.uid.clone(), other.to_string()));
                if let Some(other) = other.filter(|other| !is_blocked(other)) {
                    self.send(&name, vec![receipt], std::slice::from_ref(other))
                        .await;
                    told += 1;
                }
            }
            return Ok(told);
        }
        let db = self.store.reader();
        let senders = receipts::senders(db, conversation_id, news.after_seq, news.last_seq);
        let mut hearers = senders.await?;
        if let [alone] = news.receipts.as_slice() {
            hearers.retain(|uid| uid.as_str() != alone.uid);
        }
        hearers.retain(|uid| self.presence.is_online(uid));
        if hearers.is_empty() {
            return Ok(0);
        }
        for receipts in news.receipts.chunks(EVENT_MAX) {
            self.send(&name, receipts.to_vec(), &hearers).await;
            told += u32::try_from(receipts.len() * hearers.len()).unwrap_or(u32::MAX);
        }
        Ok(told)
    }

    async fn send(&self, conversation: &str, members: Vec<v1::Receipt>, to: &[Uid]) {
        let event = v1::event::Event::Receipts(v1::Receipts {
            conversation: conversation.to_owned(),
            members,
            ..Default::default()
        });
        // Nobody listens any more when the service ends.
        let _ = self.events.send(Delivery::event(event, to, 0)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use prost::Message as _;
    use schema::MsgId;
    use schema::link::Connected;

    use super::*;
    use crate::service::receipts::Read;
    use crate::store::devices::{Cursor, move_cursors};
    use crate::store::members::{self, Role};
    use crate::store::users::{self, User};
    use crate::store::{conversations, messages, sql};

    const MESSAGES: u32 = 20;

    struct Fixture {
        store: Store,
        teller: Option<Teller>,
        told: mpsc::Receiver<Delivery>,
        collected: Collected,
        _folder: tempfile::TempDir,
    }

    fn uid(name: &str) -> Uid {
        name.parse().unwrap()
    }

    fn read(conversation_id: i64, name: &str, from_seq: u32) -> Read {
        Read {
            conversation_id,
            uid: uid(name),
            from_seq,
        }
    }

    impl Fixture {
        /// The users are connected, but those whose names begin with `r`.
        async fn new(names: &[String]) -> Self {
            let (store, folder) = Store::fresh().await;
            let presence = Presence::default();
            let tx = store.begin().await.unwrap();
            for name in names {
                let user = User {
                    uid: uid(name),
                    kind: "person".to_owned(),
                    role: users::Role::User,
                    password_hash: String::new(),
                    created_at: SystemTime::UNIX_EPOCH,
                    password_changed_at: None,
                };
                users::add(&tx, &user).await.unwrap();
                let connected = Connected {
                    uid: name.clone(),
                    ..Default::default()
                };
                if !name.starts_with('r') {
                    presence.connected(connected, SystemTime::UNIX_EPOCH);
                }
            }
            tx.commit().await.unwrap();
            let (events, told) = mpsc::channel(8);
            Fixture {
                teller: Some(Teller::new(store.clone(), presence, events)),
                store,
                told,
                collected: Collected::default(),
                _folder: folder,
            }
        }

        /// A conversation in which `sender` has written.
        async fn conversation(&self, id: i64, name: &str, members: &[String], sender: &str) {
            let tx = self.store.begin().await.unwrap();
            conversations::add(&tx, id, name, 0).await.unwrap();
            let uids: Vec<Uid> = members.iter().map(|name| uid(name)).collect();
            let members = uids.iter().map(|uid| (uid, Role::Member));
            members::add(&tx, id, 0, 0, members).await.unwrap();
            let sender = uid(sender);
            let message = |seq: u32| messages::New {
                expires_at: None,
                hidden_from: None,
                msg_id: MsgId(id.cast_unsigned() * 1000 + u64::from(seq)),
                conversation_id: id,
                seq,
                sender: &sender,
                sender_device: "phone",
                client_msg_id: "",
                client_seq: 0,
                kind: "text",
                content: &[],
            };
            messages::add(&tx, (1..=MESSAGES).map(message))
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }

        /// Everybody is told of what was noted; returns each event's conversation, members, and to whom it went.
        async fn tell(&mut self) -> Vec<(String, usize, Vec<String>)> {
            let taken = self.collected.take(MEMBERS_MAX);
            let (teller, pause) = self.teller.take().unwrap().tell(taken).await;
            assert!(pause >= INTERVAL);
            self.teller = Some(teller);
            let mut told = Vec::new();
            while let Ok(delivery) = self.told.try_recv() {
                let down = v1::Down::decode(delivery.deliver.payload).unwrap();
                let Some(v1::down::Content::Event(event)) = down.content else {
                    panic!("not an event: {down:?}");
                };
                let Some(v1::event::Event::Receipts(receipts)) = event.event else {
                    panic!("no receipts: {event:?}");
                };
                let members = receipts.members.len();
                told.push((receipts.conversation, members, delivery.deliver.to));
            }
            told
        }
    }

    /// 500 members read 20 messages one by one: one event for all of it, to the one who wrote them.
    #[tokio::test]
    async fn ten_thousand_readings_are_one_event() {
        let mut names: Vec<String> = (0..500).map(|number| format!("r{number}")).collect();
        names.push("alice".to_owned());
        let mut fixture = Fixture::new(&names).await;
        fixture.conversation(1, "g:team", &names, "alice").await;
        let db = fixture.store.writer();
        let text = "UPDATE members SET last_read_seq = ? WHERE uid <> 'alice'";
        sql::execute(db, text, [MESSAGES.cast_signed().into()])
            .await
            .unwrap();
        for seq in 0..MESSAGES {
            let readers = names.iter().filter(|name| *name != "alice");
            fixture.collected.note(Moves {
                cursors: Vec::new(),
                reads: readers.map(|name| read(1, name, seq)).collect(),
            });
        }
        let expected = ("g:team".to_owned(), 500, vec!["alice".to_owned()]);
        assert_eq!(fixture.tell().await, [expected]);
        // What is known is not told again.
        fixture.collected.note(Moves {
            cursors: Vec::new(),
            reads: vec![read(1, "r1", 3)],
        });
        assert_eq!(fixture.tell().await, []);
    }

    /// Of two, the other one hears of it: not who is away, nor whom the reader has blocked. Notes to oneself are nobody's.
    #[tokio::test]
    async fn the_other_one_is_told_unless_blocked() {
        let names = ["alice", "bob", "carol", "robin"].map(str::to_owned);
        let mut fixture = Fixture::new(&names).await;
        let [alice, bob, carol, robin] = names;
        for (id, members) in [
            (1, vec![alice.clone(), bob]),
            (2, vec![alice.clone(), carol]),
            (3, vec![alice.clone(), robin]),
            (4, vec![alice]),
        ] {
            let (one, other) = (&members[0], members.last().unwrap());
            let name = format!("u:{one}:{other}");
            fixture.conversation(id, &name, &members, other).await;
        }
        let db = fixture.store.writer();
        let block =
            "INSERT INTO contacts VALUES ('alice', 'carol', 'none', '', x'', '', 2, 0, 0, -1)";
        sql::execute(db, block, []).await.unwrap();
        let cursors = [1, 2, 3, 4].map(|conversation_id| Cursor {
            uid: uid("alice"),
            device: "phone".to_owned(),
            conversation_id,
            seq: 5,
            msg_id: 5,
        });
        move_cursors(db, &cursors).await.unwrap();
        fixture.collected.note(Moves {
            cursors: cursors.to_vec(),
            reads: Vec::new(),
        });
        let expected = ("u:alice:bob".to_owned(), 1, vec!["bob".to_owned()]);
        assert_eq!(fixture.tell().await, [expected]);
    }
}
