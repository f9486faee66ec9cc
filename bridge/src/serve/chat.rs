//! The chat service with what it is made of: database, accounts, pipeline.

use std::time::Duration;

use anyhow::Context as _;
use schema::link;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::options::limits;
use crate::auth::{Auth, Kick};
use crate::cluster::decisions::Decisions;
use crate::cluster::node::{Kept, Node};
use crate::cluster::{Keeping, Peers};
use crate::recent::Recent;
use crate::service::words::Words;
use crate::service::{self, Limits, Links, Service};
use crate::settings::Settings;
use crate::store::Store;
use crate::{data_dir, demo};

/// How long telling other nodes may take at the end.
const TELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Everything but the way to an edge.
pub(super) struct Opened {
    store: Store,
    pub(super) auth: Auth,
    limits: Limits,
    peers: Peers,
    keeping: Keeping,
    /// What other nodes have ended.
    kicked: mpsc::Receiver<link::Kick>,
    number: Kept,
}

/// The running chat service.
pub(super) struct Chat {
    pub(super) store: Store,
    pub(super) auth: Auth,
    pub(super) service: Service,
    pub(super) words: Words,
    running: service::Running,
    number: Kept,
    /// Learn of logins that other processes have ended, look whether the list of words was replaced, and keep the
    /// connections to Redis; they end with this.
    _watchers: JoinSet<()>,
}

impl Opened {
    /// Opens the database; `kick` ends sessions.
    pub(super) async fn open(settings: &Settings, kick: Kick) -> anyhow::Result<Self> {
        let store = data_dir::open_store(settings).await?;
        let store = store.with_checkpoints().await?;
        let store = store.with_archive(data_dir::open_archive(settings)?);
        let auth = Auth::open(store.clone(), settings, kick).await?;
        let limits = limits(settings);
        limits.words.reload().context("words.file can't be used")?;
        let (node, number) = Node::join(&store, &settings.data_dir).await?;
        let (peers, keeping) =
            Peers::join(&settings.redis, node).context("redis.url can't be used")?;
        let ttl = settings.redis.recent_ttl;
        let store = match &peers.redis {
            Some(redis) if !ttl.is_zero() => store.with_recent(Recent::new(redis, ttl)),
            _ => store,
        };
        let (decisions, decided) = Decisions::open(&store, &peers.bus).await?;
        let peers = Peers {
            decisions: decisions.clone(),
            granted: decided.grants,
            ..peers
        };
        Ok(Opened {
            auth: auth.among(decisions),
            store,
            limits,
            peers,
            keeping,
            kicked: decided.kicks,
            number,
        })
    }

    /// Starts the pipeline.
    pub(super) async fn start(self, links: impl Into<Links>) -> Result<Chat, service::Error> {
        let Opened {
            store,
            auth,
            limits,
            peers,
            keeping,
            kicked,
            number,
        } = self;
        let (words, rates) = (limits.words.clone(), limits.rates.clone());
        let redis = peers.redis.clone();
        let decisions = peers.decisions.clone();
        let (service, running) = Service::start(store.clone(), links, limits, peers).await?;
        let mut watchers = JoinSet::new();
        watchers.spawn(auth.clone().follow(kicked));
        watchers.spawn(decisions.read());
        watchers.spawn(words.clone().follow_file());
        if let Some(redis) = redis {
            watchers.spawn(rates.share(redis));
        }
        watchers.spawn(keeping);
        Ok(Chat {
            store,
            auth,
            service,
            words,
            running,
            number,
            _watchers: watchers,
        })
    }
}

impl Chat {
    /// Makes the demo's users and group.
    pub(super) async fn seed_demo(&self) -> Result<(), demo::DemoError> {
        demo::seed(&self.store, &self.auth, &self.service).await
    }

    /// Returns when it can't go on.
    pub(super) async fn failed(&mut self) -> service::Error {
        self.running.failed().await
    }

    /// Executes what has arrived, and ends.
    pub(super) async fn stop(self) {
        let bus = self.service.bus().clone();
        self.running.stop().await;
        // What has been done last is told to others; where that takes long, they find it.
        let _ = timeout(TELL_TIMEOUT, bus.flush()).await;
        self.number.give_back().await;
    }
}
