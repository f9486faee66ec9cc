//! The node among those on its database: the number that is part of the ids which it gives, and what it alone looks after.
//!
//! A number is the node's until a time that it puts off again and again. A node that can't do that gives no more ids when
//! the time has come, as if the database were away, and goes on when it has its number again, or another one.

mod identity;
mod keeper;
mod work;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use schema::MsgId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::duty::{Duty, Held};
use crate::auth::token::random_hex;
use crate::clock;
use crate::store::nodes::Listed;
use crate::store::{self, Store};

pub use keeper::Kept;
pub(crate) use work::Busy;
use work::Work;

/// How much of this node's clock may be set back unnoticed.
const CLOCK_SET_BACK: Duration = Duration::from_secs(1);

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

    /// The same with another number.
    #[cfg(test)]
    pub(crate) fn of_number(number: u32) -> Self {
        let number = Number {
            number,
            ..Number::default()
        };
        let (_, tenure) = watch::channel(Tenure {
            number,
            until: None,
        });
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

    /// Takes a number on a database where there may be others, and keeps it; by what it finds in the data folder it has that
    /// of before, where it was ended without a word. On SQLite there are no others.
    ///
    /// # Errors
    /// [`Error`] when there is none to be had.
    pub async fn join(store: &Store, data_dir: &Path) -> Result<(Self, Kept), Error> {
        if !store.is_shared() {
            return Ok((Node::sole(), Kept::nothing()));
        }
        keeper::start(store, data_dir).await
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
        self.work.begin(clock::millis(now))
    }

    /// No id that is given by a transaction under way, or by a later one, is smaller.
    fn floor(&self, now: SystemTime) -> u64 {
        let oldest = self.work.oldest(clock::millis(now));
        let oldest = clock::from_millis(oldest).checked_sub(CLOCK_SET_BACK);
        MsgId::at(oldest.unwrap_or(SystemTime::UNIX_EPOCH)).0
    }
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
