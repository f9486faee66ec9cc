//! The node among those on its database: the number that is part of the ids which it gives, and what it alone looks after.
//!
//! A number is the node's until a time that it puts off again and again. A node that can't do that gives no more ids when
//! the time has come, as if the database were away, and goes on when it has its number again, or another one.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use schema::MsgId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use super::duty::{Duty, Held};
use crate::auth::token::random_hex;
use crate::clock;
use crate::store::nodes::Listed;
use crate::store::{self, Store, leases, messages, nodes};

/// How long a number is kept without being put off: longer than a database takes to start anew.
const LEASE: Duration = Duration::from_secs(10);
/// The same for what a node looks after: another one takes it over within this time.
const DUTY_LEASE: Duration = Duration::from_secs(5);
/// How often both are put off.
const RENEW: Duration = Duration::from_secs(1);
/// How long the database may take for it.
const LIMIT: Duration = Duration::from_secs(3);
/// How much of this node's clock may be set back unnoticed.
const CLOCK_SET_BACK: Duration = Duration::from_secs(1);
/// How often the node's clock is compared with the database's, and by how much they may differ.
const CLOCK_LOOK: Duration = Duration::from_secs(60);
const CLOCK_DRIFT: Duration = Duration::from_secs(1);
/// Attempts to take a number, where others take theirs at the same time.
const CLAIMS_MAX: usize = 64;

/// Nothing is under way.
const IDLE: i64 = i64::MAX;

/// Why a node can't have a number.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database can't say.
    #[error("the node can't take a number")]
    Store(#[from] store::Error),
    /// All numbers are taken.
    #[error("there are as many nodes on the database as there can be")]
    Full,
}

/// A number, and the ids that it may be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number {
    /// 0–1023.
    pub number: u32,
    /// Ids that are given under it are larger than this one; 0: any.
    pub after: u64,
}

/// What is known of the own number.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    number: Number,
    /// `None`: for ever.
    until: Option<Instant>,
}

/// This node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    boot: Arc<str>,
    since: SystemTime,
    tenure: watch::Receiver<Tenure>,
    work: Arc<Work>,
    duties: Arc<Mutex<Vec<Held>>>,
}

impl Node {
    /// The only one on its database, with number 0.
    #[must_use]
    pub fn sole() -> Self {
        let tenure = Tenure {
            number: Number::default(),
            until: None,
        };
        // What nobody can take away needs no sender.
        let (_, tenure) = watch::channel(tenure);
        Node::new(random_boot(), tenure)
    }

    fn new(boot: Arc<str>, tenure: watch::Receiver<Tenure>) -> Self {
        Node {
            boot,
            since: SystemTime::now(),
            tenure,
            work: Arc::default(),
            duties: Arc::default(),
        }
    }

    /// Takes a number on a database where there may be others, and keeps it. On SQLite there are none.
    ///
    /// # Errors
    /// [`Error`] when there is none to be had.
    pub async fn join(store: &Store) -> Result<(Self, Kept), Error> {
        if !store.is_shared() {
            return Ok((Node::sole(), Kept(None)));
        }
        let boot = random_boot();
        let tenure = claim(store, &boot).await?;
        info!(node = tenure.number.number, "this node has its number");
        let (sender, receiver) = watch::channel(tenure);
        let node = Node::new(boot, receiver);
        let keeper = Keeper {
            store: store.clone(),
            node: node.clone(),
            tenure: sender,
            clock_looked_at: None,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(keeper.run(stop.clone()));
        Ok((node, Kept(Some((task, stop.drop_guard())))))
    }

    /// The node's number now; `None`: it has none, and must not give any ids.
    #[must_use]
    pub fn number(&self) -> Option<Number> {
        let tenure = *self.tenure.borrow();
        tenure
            .until
            .is_none_or(|until| Instant::now() < until)
            .then_some(tenure.number)
    }

    /// The number that the node has or had last.
    #[must_use]
    pub fn last_number(&self) -> u32 {
        self.tenure.borrow().number.number
    }

    /// Tells this start of the node from all other nodes and starts.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// As administrators see it where there are no others.
    #[must_use]
    pub fn listed(&self) -> Listed {
        Listed {
            number: self.last_number(),
            name: name(),
            since: self.since,
            is_alive: true,
        }
    }

    /// Something that one node alone does at a time, under this name.
    #[must_use]
    pub fn duty(&self, name: &'static str) -> Duty {
        if self.tenure.borrow().until.is_none() {
            return Duty::always();
        }
        let (held, duty) = Held::new(name);
        let mut duties = self.duties.lock().unwrap_or_else(PoisonError::into_inner);
        duties.push(held);
        duty
    }

    /// A transaction begins that gives ids: none below those of this moment. Only one is under way at a time.
    pub(crate) fn begin(&self, now: SystemTime) -> Busy {
        let since = clock::millis(now);
        self.work.busy_since.store(since, Ordering::SeqCst);
        Busy {
            work: self.work.clone(),
            since,
        }
    }

    /// No id that is given by a transaction under way, or by a later one, is smaller.
    fn floor(&self, now: SystemTime) -> u64 {
        let since = self.work.busy_since.load(Ordering::SeqCst);
        let now = clock::millis(now).min(since).min(self.work.doubted_since());
        let oldest = clock::from_millis(now).checked_sub(CLOCK_SET_BACK);
        MsgId::at(oldest.unwrap_or(SystemTime::UNIX_EPOCH)).0
    }
}

/// What may be about to be stored with ids that were given some time ago. Times are in milliseconds since 1970.
#[derive(Debug)]
struct Work {
    /// When the transaction under way was begun.
    busy_since: AtomicI64,
    /// The same of one of which nobody knows whether the database will commit it, and how long it may.
    doubted: Mutex<Option<(i64, Instant)>>,
}

impl Default for Work {
    fn default() -> Self {
        Work {
            busy_since: AtomicI64::new(IDLE),
            doubted: Mutex::default(),
        }
    }
}

impl Work {
    fn doubted_since(&self) -> i64 {
        let doubted = *self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        doubted
            .filter(|(_, until)| Instant::now() < *until)
            .map_or(IDLE, |(since, _)| since)
    }
}

/// A transaction that gives ids is under way.
#[derive(Debug)]
pub(crate) struct Busy {
    work: Arc<Work>,
    since: i64,
}

impl Busy {
    /// The database did not say whether it has committed the transaction, and may still do so.
    pub(crate) fn doubt(&self) {
        let since = self.since.min(self.work.doubted_since());
        let doubted = Some((since, Instant::now() + nodes::GRACE));
        *self
            .work
            .doubted
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = doubted;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.work.busy_since.store(IDLE, Ordering::SeqCst);
    }
}

/// A node's number being kept. Dropped, it is given back as well, but nobody waits for that.
#[derive(Debug)]
pub struct Kept(Option<(JoinHandle<()>, DropGuard)>);

impl Kept {
    /// Gives it back: to be called when the node stores nothing more.
    pub async fn give_back(self) {
        let Some((task, stop)) = self.0 else { return };
        drop(stop);
        if let Err(error) = task.await {
            warn!(%error, "the node's number was not given back");
        }
    }
}

/// Keeps a node's number, and what it looks after.
#[derive(Debug)]
struct Keeper {
    store: Store,
    node: Node,
    tenure: watch::Sender<Tenure>,
    clock_looked_at: Option<Instant>,
}

impl Keeper {
    /// Keeps them until `stop`, and gives them back.
    async fn run(mut self, stop: CancellationToken) {
        loop {
            self.keep_number().await;
            self.keep_duties().await;
            self.look_at_clock().await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(RENEW) => {}
            }
        }
        self.give_back().await;
    }

    async fn keep_number(&self) {
        let tenure = *self.tenure.borrow();
        let (number, boot) = (tenure.number.number, self.node.boot());
        let asked = Instant::now();
        // Read before it is written: what begins in between has larger ids.
        let floor = self.node.floor(SystemTime::now());
        let renewed = nodes::renew(self.store.writer(), (number, boot), LEASE, floor);
        match timeout(LIMIT, renewed).await {
            Ok(Ok(true)) => self.note(tenure.number, asked),
            Ok(Ok(false)) => self.take_another().await,
            // The pipeline warns of it when the time has run out.
            Ok(Err(error)) => {
                debug!(node = number, error = %store::chain(&error), "the node's number can't be put off");
            }
            Err(_) => debug!(
                node = number,
                "the database is too slow to put off the node's number"
            ),
        }
    }

    async fn take_another(&self) {
        let lost = self.tenure.borrow().number.number;
        match timeout(LIMIT, claim(&self.store, self.node.boot())).await {
            Ok(Ok(tenure)) => {
                let number = tenure.number.number;
                warn!(
                    node = number,
                    lost, "the node was away for so long that another has its number"
                );
                self.tenure.send_replace(tenure);
            }
            Ok(Err(error)) => {
                error!(error = %store::chain(&error), lost, "the node has lost its number")
            }
            Err(_) => error!(
                lost,
                "the node has lost its number, and the database is slow"
            ),
        }
    }

    fn note(&self, number: Number, asked: Instant) {
        let until = Some(asked + LEASE);
        self.tenure.send_replace(Tenure { number, until });
    }

    async fn keep_duties(&self) {
        let names = self.with_duties(|duties| duties.iter().map(Held::name).collect::<Vec<_>>());
        for (place, name) in names.into_iter().enumerate() {
            let asked = Instant::now();
            let hold = leases::hold(self.store.writer(), name, self.node.boot(), DUTY_LEASE);
            let is_held = match timeout(LIMIT, hold).await {
                Ok(Ok(is_held)) => is_held,
                // It may still be ours for a while.
                Ok(Err(_)) | Err(_) => continue,
            };
            self.with_duties(|duties| duties[place].note(is_held.then_some(asked + DUTY_LEASE)));
        }
    }

    fn with_duties<T>(&self, look: impl FnOnce(&[Held]) -> T) -> T {
        let duties = self.node.duties.lock();
        look(&duties.unwrap_or_else(PoisonError::into_inner))
    }

    /// Ids have the node's time in them: messages that were sent one after the other through different nodes show other
    /// times than they should where clocks differ.
    async fn look_at_clock(&mut self) {
        if self
            .clock_looked_at
            .is_some_and(|at| at.elapsed() < CLOCK_LOOK)
        {
            return;
        }
        let before = SystemTime::now();
        let Ok(Ok(database)) = timeout(LIMIT, nodes::now(self.store.reader())).await else {
            return;
        };
        self.clock_looked_at = Some(Instant::now());
        let after = SystemTime::now();
        let drift = match database.duration_since(after) {
            Ok(behind) => behind,
            Err(_) => before.duration_since(database).unwrap_or_default(),
        };
        if drift > CLOCK_DRIFT {
            warn!(?drift, "the clocks of this node and of its database differ");
        }
    }

    async fn give_back(&self) {
        let tenure = *self.tenure.borrow();
        let db = self.store.writer();
        let given = async {
            leases::release(db, self.node.boot()).await?;
            nodes::release(db, (tenure.number.number, self.node.boot())).await
        };
        match timeout(LIMIT, given).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(error = %store::chain(&error), "the node's number could not be given back")
            }
            Err(_) => debug!("the database is too slow to take the node's number back"),
        }
    }
}

async fn claim(store: &Store, boot: &str) -> Result<Tenure, Error> {
    for _ in 0..CLAIMS_MAX {
        let asked = Instant::now();
        if let Some(number) = nodes::claim(store.writer(), boot, &name(), LEASE).await? {
            // Asked when nobody else gives ids under the number any more.
            let after = messages::newest_id(store.writer()).await?;
            return Ok(Tenure {
                number: Number { number, after },
                until: Some(asked + LEASE),
            });
        }
    }
    Err(Error::Full)
}

fn random_boot() -> Arc<str> {
    let mut boot = random_hex();
    boot.truncate(32);
    boot.into()
}

/// The machine's name and the process's number, by which somebody finds it.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.ok().or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.unwrap_or_default();
    let host: String = host.trim().chars().take(200).collect();
    format!("{host}:{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody takes what is below the floor for all that there will be while something with such an id may be stored.
    #[tokio::test]
    async fn the_floor_stays_below_what_is_under_way() {
        let node = Node::sole();
        let begun = SystemTime::now();
        let later = begun + Duration::from_secs(60);
        assert!(node.floor(later) > MsgId::at(begun).0);
        let busy = node.begin(begun);
        assert!(node.floor(later) < MsgId::at(begun).0);
        drop(busy);
        assert!(node.floor(later) > MsgId::at(begun).0);
        let busy = node.begin(begun);
        busy.doubt();
        drop(busy);
        drop(node.begin(later));
        assert!(node.floor(later) < MsgId::at(begun).0);
    }

    #[test]
    fn the_only_node_does_everything() {
        let node = Node::sole();
        assert_eq!(node.number(), Some(Number::default()));
        assert!(node.duty("anything").is_held() && node.listed().is_alive);
        assert_ne!(node.boot(), Node::sole().boot());
    }
}
