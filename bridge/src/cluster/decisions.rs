//! What every node has to hear of, with Redis or without: who may no longer be here, and who may use what.
//!
//! A decision is written in the transaction that it speaks of, told over the bus, and read from the database every second by
//! all nodes. However often it comes, a node follows it once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use schema::Uid;
use schema::bus::notice::Notice;
use schema::bus::{Decision, decision::What};
use schema::link::{Grant, Kick};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::Bus;
use crate::auth::{Sessions, token};
use crate::store::decisions::{self, Written};
use crate::store::{self, Store, Transaction};

/// How often they are read.
const INTERVAL: Duration = Duration::from_secs(1);
/// How far back, in milliseconds: longer than a transaction takes after its time was taken.
const OVERLAP: i64 = 5_000;
/// The same for one that takes as long as it may.
const LONG_OVERLAP: i64 = 60_000;
/// How often it is looked for such.
const LONG_INTERVAL: Duration = Duration::from_secs(10);
/// How long they are kept for a node that can't reach the database.
const KEPT: Duration = Duration::from_secs(3600);
/// How often old ones are dropped.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// Decisions that wait to be followed. What finds no room comes again with the next look.
const QUEUE: usize = 1024;

/// See the module's documentation. Cheap to clone; where there are no other nodes, it does nothing.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    bus: Bus,
    known: Mutex<Known>,
    kicks: mpsc::Sender<Kick>,
    grants: mpsc::Sender<Grant>,
}

/// What other nodes have decided, to be followed here.
#[derive(Debug)]
pub struct Decided {
    /// Sessions that are to end.
    pub kicks: mpsc::Receiver<Kick>,
    /// Rights that have changed.
    pub grants: mpsc::Receiver<Grant>,
}

impl Decided {
    fn channels() -> (mpsc::Sender<Kick>, mpsc::Sender<Grant>, Self) {
        let (kicks, kicked) = mpsc::channel(QUEUE);
        let (grants, granted) = mpsc::channel(QUEUE);
        let decided = Decided {
            kicks: kicked,
            grants: granted,
        };
        (kicks, grants, decided)
    }

    /// Nobody else decides anything.
    #[must_use]
    pub fn nothing() -> Self {
        Self::channels().2
    }
}

/// A decision that is written, and takes effect with its transaction. `None`: there is nobody to be told.
#[derive(Debug, Default)]
#[must_use = "it has to be told after the commit"]
pub struct Made(Option<Decision>);

/// The ids that were met.
#[derive(Debug, Default)]
struct Known {
    /// When each was written, or at the earliest.
    ids: HashMap<u64, i64>,
    /// When the newest was written that the database had.
    newest: i64,
}

impl Known {
    /// Whether it is met for the first time.
    fn meet(&mut self, id: u64) -> bool {
        self.ids.insert(id, self.newest).is_none()
    }

    /// Notes when it was written.
    fn date(&mut self, id: u64, at: i64) {
        self.ids.entry(id).and_modify(|known| *known = at);
        self.newest = self.newest.max(at);
    }

    /// When those were written that are to be read.
    fn since(&self, overlap: i64) -> i64 {
        self.newest.saturating_sub(overlap)
    }

    /// Forgets those that are not read any more.
    fn forget_old(&mut self) {
        let since = self.since(2 * LONG_OVERLAP);
        self.ids.retain(|_, at| *at >= since);
    }
}

impl Decisions {
    /// Among other nodes, if there are any. Whatever is decided from now on comes.
    ///
    /// # Errors
    /// [`store::Error`] when the database can't be read.
    pub async fn open(store: &Store, bus: &Bus) -> Result<(Self, Decided), store::Error> {
        let (kicks, grants, decided) = Decided::channels();
        if bus.is_alone() {
            return Ok((Decisions::default(), decided));
        }
        let mut known = Known::default();
        for written in decisions::since(store.reader(), 0).await? {
            known.meet(written.id.cast_unsigned());
            known.date(written.id.cast_unsigned(), written.at);
        }
        known.forget_old();
        let shared = Arc::new(Shared {
            store: store.clone(),
            bus: bus.clone(),
            known: Mutex::new(known),
            kicks,
            grants,
        });
        let decisions = Decisions {
            shared: Some(shared),
        };
        Ok((decisions, decided))
    }

    /// Decides that sessions of a user end.
    ///
    /// # Errors
    /// [`store::Error`] when the database can't note it.
    pub async fn kick(
        &self,
        change: &Transaction,
        uid: &Uid,
        which: Sessions<'_>,
    ) -> Result<Made, store::Error> {
        let kick = Kick {
            uid: uid.to_string(),
            which: which.into(),
            age_ms: 0,
        };
        self.make(change, What::Kick(kick)).await
    }

    /// Decides what a user may do.
    ///
    /// # Errors
    /// [`store::Error`] when the database can't note it.
    pub async fn grant(&self, change: &Transaction, grant: Grant) -> Result<Made, store::Error> {
        self.make(change, What::Grant(grant)).await
    }

    async fn make(&self, change: &Transaction, what: What) -> Result<Made, store::Error> {
        if self.shared.is_none() {
            return Ok(Made(None));
        }
        let decision = Decision {
            id: token::random(),
            what: Some(what),
        };
        decisions::add(change, &decision).await?;
        Ok(Made(Some(decision)))
    }

    /// Tells others of it, now that it is committed.
    pub fn tell(&self, Made(decision): Made) {
        if let (Some(shared), Some(decision)) = (&self.shared, decision) {
            shared.known.lock().meet(decision.id);
            shared.bus.tell(Notice::Decision(decision));
        }
    }

    /// Another node has told it.
    pub fn heard(&self, decision: Decision) {
        if let Some(shared) = &self.shared {
            shared.follow(decision);
        }
    }

    /// Reads what others have decided, as long as it is polled.
    pub async fn read(self) {
        let Some(shared) = self.shared else { return };
        let mut is_behind = false;
        let mut pruned_at = Instant::now();
        let mut looked_far_at = pruned_at;
        loop {
            sleep(INTERVAL).await;
            let overlap = match looked_far_at.elapsed() >= LONG_INTERVAL {
                true => LONG_OVERLAP,
                false => OVERLAP,
            };
            if overlap == LONG_OVERLAP {
                looked_far_at = Instant::now();
            }
            match shared.read(overlap).await {
                Ok(()) => is_behind = false,
                Err(error) if is_behind => {
                    tracing::debug!(error = %store::chain(&error), "decisions still can't be read");
                }
                Err(error) => {
                    is_behind = true;
                    warn!(error = %store::chain(&error), "what other nodes have decided can't be read");
                }
            }
            if pruned_at.elapsed() >= PRUNE_INTERVAL {
                pruned_at = Instant::now();
                if let Err(error) = decisions::forget_older(shared.store.writer(), KEPT).await {
                    warn!(error = %store::chain(&error), "old decisions could not be dropped");
                }
            }
        }
    }
}

impl Shared {
    async fn read(&self, overlap: i64) -> Result<(), store::Error> {
        let since = self.known.lock().since(overlap);
        for Written { id, at, decision } in decisions::since(self.store.reader(), since).await? {
            match decision {
                Some(decision) => self.follow(decision),
                None => error!(id, "a decision is damaged"),
            }
            self.known.lock().date(id.cast_unsigned(), at);
        }
        self.known.lock().forget_old();
        Ok(())
    }

    /// Hands it on, if it is new here.
    fn follow(&self, decision: Decision) {
        let id = decision.id;
        let Some(what) = decision.what else { return };
        if !self.known.lock().meet(id) {
            return;
        }
        let is_taken = match what {
            What::Kick(kick) => self.kicks.try_send(kick).is_ok(),
            What::Grant(grant) => self.grants.try_send(grant).is_ok(),
        };
        if !is_taken {
            self.known.lock().ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kicked(decided: &mut Decided) -> Vec<String> {
        let mut uids = Vec::new();
        while let Ok(kick) = decided.kicks.try_recv() {
            uids.push(kick.uid);
        }
        uids
    }

    async fn kick(decisions: &Decisions, store: &Store, uid: &str) -> Made {
        let change = store.begin().await.unwrap();
        let uid = uid.parse().unwrap();
        let made = decisions.kick(&change, &uid, Sessions::All).await.unwrap();
        change.commit().await.unwrap();
        made
    }

    #[tokio::test]
    async fn what_others_decide_comes_once() {
        let (store, _folder) = Store::fresh().await;
        let (one_bus, mut told) = Bus::of_node(1);
        let (one, mut own) = Decisions::open(&store, &one_bus).await.unwrap();
        let _ = kick(&one, &store, "early").await;
        let (other_bus, _told) = Bus::of_node(2);
        let (other, mut decided) = Decisions::open(&store, &other_bus).await.unwrap();
        let shared = |decisions: &Decisions| decisions.shared.clone().unwrap();

        // By hint, then again from the database; and without a hint.
        one.tell(kick(&one, &store, "alice").await);
        let Some(Notice::Decision(heard)) = told.recv().await.unwrap().notice else {
            panic!("something else was told");
        };
        other.heard(heard.clone());
        other.heard(heard);
        assert_eq!(kicked(&mut decided), ["alice"]);
        let _ = kick(&one, &store, "bob").await;
        for expected in [vec!["bob"], vec![]] {
            shared(&other).read(OVERLAP).await.unwrap();
            assert_eq!(kicked(&mut decided), expected);
        }
        // Whoever has decided it does not hear of it, except where it was not told.
        shared(&one).read(OVERLAP).await.unwrap();
        assert!(!kicked(&mut own).contains(&"alice".to_owned()));
    }

    #[tokio::test]
    async fn what_finds_no_room_comes_again() {
        let (store, _folder) = Store::fresh().await;
        let (bus, _told) = Bus::of_node(1);
        let (other, mut decided) = Decisions::open(&store, &bus).await.unwrap();
        let (one, _) = Decisions::open(&store, &bus).await.unwrap();
        let change = store.begin().await.unwrap();
        for number in 0..=QUEUE {
            let uid = format!("u{number}").parse().unwrap();
            let _ = one.kick(&change, &uid, Sessions::All).await.unwrap();
        }
        change.commit().await.unwrap();
        let shared = other.shared.clone().unwrap();
        for expected in [QUEUE, 1, 0] {
            shared.read(OVERLAP).await.unwrap();
            assert_eq!(kicked(&mut decided).len(), expected);
        }
    }
}
