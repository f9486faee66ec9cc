//! How the parts are put together: `tidings serve` is the edge and the chat service in one process, `tidings broker` the one and
//! `tidings bridge` the other.
//!
//! Reading order: [`serve`], [`broker()`] and [`bridge()`] (what runs in each of these), `process` (start, signals, end),
//! `chat` (the chat service), `doors` (where it listens) with `certificates`, `accounts` (who may come in), `options` (what the
//! settings say to each part).

mod accounts;
mod bridge;
mod broker;
mod certificates;
mod chat;
mod doors;
mod options;
mod process;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::broker::{Broker, BrokerHandle};

use self::accounts::{Accounts, kick};
use self::certificates::Certificates;
use self::chat::{Chat, Opened};
use self::doors::{Bound, Ports};
pub(crate) use self::process::Parts;
use crate::demo;
use crate::http::{self, Api};
use crate::settings::Settings;

pub use self::bridge::bridge;
pub use self::broker::broker;
pub(crate) use self::options::rules;
pub use self::options::{broker_options, limits};

/// Runs until SIGTERM or SIGINT. SIGHUP reads the certificates and the list of words again.
///
/// # Errors
/// What keeps the server from starting, or ends it.
pub async fn serve(settings: Settings, is_demo: bool) -> anyhow::Result<()> {
    if is_demo {
        demo::check_loopback(&settings)?;
    }
    let start = Server::start(&settings, is_demo);
    // Apart, for its futures are many and deep.
    process::run(Box::pin(start), &settings.shutdown).await
}

/// The running parts.
pub(crate) struct Server {
    broker: Broker,
    chat: Chat,
    ports: Ports,
    is_demo: bool,
}

impl Server {
    pub(crate) async fn start(settings: &Settings, is_demo: bool) -> anyhow::Result<Self> {
        let certificates = Certificates::load(settings)?;
        let rules = rules(settings)?;
        let sessions: Arc<OnceLock<BrokerHandle>> = Arc::default();
        let opened = Opened::open(settings, kick(sessions.clone())).await?;
        let accounts = Arc::new(Accounts(opened.auth.clone()));
        let (mut broker, link) = Broker::start(broker_options(settings), rules, accounts)?;
        sessions.get_or_init(|| broker.handle());
        let chat = tokio::select! {
            started = opened.start(link) => started?,
            error = broker.failed() => return Err(error.into()),
        };
        broker.ready().await?;
        if is_demo {
            chat.seed_demo().await?;
        }

        // Clients may come in once every address is ours: HTTP's wait until it serves.
        let mut bound = Bound::new(settings, certificates).await?;
        bound.open_mqtt(&broker, settings).await?;

        let sessions = broker.handle();
        let entrance = sessions.entrance();
        let api = Api::new(
            chat.store.clone(),
            chat.auth.clone(),
            chat.service.clone(),
            http::Edge::Here(sessions),
            &settings.http.metrics_from,
        );
        let ports = bound.serve(http::router(api), entrance, settings);
        Ok(Server {
            broker,
            chat,
            ports,
            is_demo,
        })
    }

    /// The way to its sessions.
    pub(crate) fn sessions(&self) -> BrokerHandle {
        self.broker.handle()
    }

    /// Where it listens for HTTP.
    pub(crate) fn http(&self) -> &[SocketAddr] {
        self.ports.http()
    }
}

impl Parts for Server {
    fn announce(&self) {
        self.ports.announce();
        if self.is_demo {
            let (mqtt, http) = (self.ports.mqtt().first(), self.ports.http().first());
            println!("{}", demo::hint(mqtt.copied(), http.copied()));
        }
    }

    async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.broker.failed() => error.into(),
            error = self.chat.failed() => error.into(),
            error = self.ports.failed() => error,
        }
    }

    fn reload(&self) {
        self.ports.reload();
        self.chat.words.reload_and_log();
    }

    async fn move_off(&self, over: Duration) {
        self.broker.move_off(over).await;
    }

    /// Clients first. What they have sent is still executed; they have no PUBACK for it, and send it again. One that does
    /// not read must not use up the time of the rest.
    async fn stop(self, limit: Duration) {
        self.ports.close();
        self.broker.stop(limit / 2).await;
        self.chat.stop().await;
        self.ports.stop().await;
    }
}
