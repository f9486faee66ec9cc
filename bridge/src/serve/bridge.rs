//! The chat service with what it is made of: database, accounts, pipeline.

use anyhow::Context as _;
use broker::link::BridgeLink;
use tokio::task::JoinSet;

use super::options::limits;
use crate::auth::{Auth, Kick};
use crate::cluster::Peers;
use crate::cluster::node::{Kept, Node};
use crate::redis::{self, Redis};
use crate::service::words::Words;
use crate::service::{self, Limits, Service};
use crate::settings::Settings;
use crate::store::Store;
use crate::{data_dir, demo};

/// Everything but the way to an edge.
pub(super) struct Opened {
    store: Store,
    pub(super) auth: Auth,
    limits: Limits,
    peers: Peers,
    keeper: Option<redis::Keeper>,
    number: Kept,
}

/// The running chat service.
pub(super) struct Bridge {
    pub(super) store: Store,
    pub(super) auth: Auth,
    pub(super) service: Service,
    pub(super) words: Words,
    running: service::Running,
    number: Kept,
    /// Learn of logins that other processes have ended, look whether the list of words was replaced, and keep the
    /// connection to Redis; they end with this.
    _watchers: JoinSet<()>,
}

impl Opened {
    /// Opens the database; `kick` ends sessions.
    pub(super) async fn open(settings: &Settings, kick: Kick) -> anyhow::Result<Self> {
        let store = data_dir::open_store(settings).await?;
        let store = store.with_checkpoints().await?;
        let auth = Auth::open(store.clone(), settings, kick).await?;
        let limits = limits(settings);
        limits.words.reload().context("words.file can't be used")?;
        let (node, number) = Node::join(&store, &settings.data_dir).await?;
        let (peers, keeper) = peers(settings, node)?;
        Ok(Opened {
            store,
            auth,
            limits,
            peers,
            keeper,
            number,
        })
    }

    /// Starts the pipeline.
    pub(super) async fn start(self, link: BridgeLink) -> Result<Bridge, service::Error> {
        let Opened {
            store,
            auth,
            limits,
            peers,
            keeper,
            number,
        } = self;
        let (words, rates) = (limits.words.clone(), limits.rates.clone());
        let (service, running) = Service::start(store.clone(), link, limits, peers).await?;
        let mut watchers = JoinSet::new();
        watchers.spawn(auth.clone().follow_revocations());
        watchers.spawn(words.clone().follow_file());
        if let Some(keeper) = keeper {
            watchers.spawn(rates.share(keeper.redis().clone()));
            watchers.spawn(keeper.run());
        }
        Ok(Bridge {
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

impl Bridge {
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
        self.running.stop().await;
        self.number.give_back().await;
    }
}

/// The other nodes, as the settings have it, and who keeps the connection to Redis.
fn peers(settings: &Settings, node: Node) -> anyhow::Result<(Peers, Option<redis::Keeper>)> {
    let alone = Peers {
        node,
        ..Peers::none()
    };
    if !settings.redis.is_set() {
        return Ok((alone, None));
    }
    let (redis, keeper) = Redis::new(&settings.redis).context("redis.url can't be used")?;
    let peers = Peers {
        redis: Some(redis),
        ..alone
    };
    Ok((peers, Some(keeper)))
}
