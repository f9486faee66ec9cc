//! Keeps a node's number, and what it looks after.

use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

use super::identity::Identity;
use super::{Error, Node, Number, Tenure, name, random_boot};
use crate::cluster::duty::Held;
use crate::store::{self, Store, leases, messages, nodes};

/// How long a number is kept without being put off: longer than a database takes to start anew.
const LEASE: Duration = Duration::from_secs(10);
/// The same for what a node looks after: another one takes it over within this time.
const DUTY_LEASE: Duration = Duration::from_secs(5);
/// How often both are put off.
const RENEW: Duration = Duration::from_secs(1);
/// How long the database may take for it.
const LIMIT: Duration = Duration::from_secs(3);
/// How often the node's clock is compared with the database's, and by how much they may differ.
const CLOCK_LOOK: Duration = Duration::from_secs(60);
const CLOCK_DRIFT: Duration = Duration::from_secs(1);
/// Attempts to take a number, where others take theirs at the same time.
const CLAIMS_MAX: usize = 64;

/// A node's number being kept. Dropped, it is given back as well, but nobody waits for that.
#[derive(Debug)]
pub struct Kept(Option<(JoinHandle<()>, DropGuard)>);

impl Kept {
    pub(super) fn nothing() -> Self {
        Kept(None)
    }

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
    /// Kept open, so that no other process on this data folder passes for this node.
    _identity: Option<Identity>,
}

/// Takes a number, and keeps it.
pub(super) async fn start(store: &Store, data_dir: &Path) -> Result<(Node, Kept), Error> {
    let boot = random_boot();
    let mut identity = Identity::open(data_dir);
    let before = identity.as_mut().and_then(Identity::boot);
    let again = match &before {
        Some(before) => claim_again(store, before, &boot).await?,
        None => None,
    };
    let tenure = match again {
        Some(tenure) => tenure,
        None => claim(store, &boot).await?,
    };
    info!(node = tenure.number.number, "this node has its number");
    if let Some(identity) = &mut identity {
        identity.note(&boot);
    }
    let (sender, receiver) = watch::channel(tenure);
    let node = Node::new(boot, receiver);
    let keeper = Keeper {
        store: store.clone(),
        node: node.clone(),
        tenure: sender,
        clock_looked_at: None,
        _identity: identity,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(keeper.run(stop.clone()));
    Ok((node, Kept(Some((task, stop.drop_guard())))))
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

/// Takes the number that this node had when it was ended, if nobody else has it by now.
async fn claim_again(store: &Store, before: &str, boot: &str) -> Result<Option<Tenure>, Error> {
    let asked = Instant::now();
    let number = nodes::succeed(store.writer(), before, boot, &name(), LEASE).await?;
    match number {
        Some(number) => Ok(Some(begin(store, number, asked).await?)),
        None => Ok(None),
    }
}

async fn claim(store: &Store, boot: &str) -> Result<Tenure, Error> {
    for _ in 0..CLAIMS_MAX {
        let asked = Instant::now();
        if let Some(number) = nodes::claim(store.writer(), boot, &name(), LEASE).await? {
            return begin(store, number, asked).await;
        }
    }
    Err(Error::Full)
}

/// A number that is this node's since `asked`.
async fn begin(store: &Store, number: u32, asked: Instant) -> Result<Tenure, Error> {
    // Nobody else gives ids under it any more.
    let after = messages::newest_id(store.writer()).await?;
    Ok(Tenure {
        number: Number { number, after },
        until: Some(asked + LEASE),
    })
}
