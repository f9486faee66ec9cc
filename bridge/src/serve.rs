//! How the parts are put together: `tidings serve` is the edge and the chat service in one process, `tidings broker` the one and
//! `tidings bridge` the other.
//!
//! Reading order: [`serve`], [`broker()`] and [`bridge()`] (what runs in each of these), `process` (start, signals, end), `bridge` (the chat service), `doors` (where it listens) with
//! `certificates`, `accounts` (who may come in), `options` (what the settings say to each part).

mod accounts;
mod apart;
mod bridge;
mod certificates;
mod doors;
mod joined;
mod options;
mod process;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::broker::{Broker, BrokerHandle};
use tokio::task::JoinSet;

use self::accounts::{Accounts, kick};
use self::bridge::{Bridge, Opened};
use self::certificates::Certificates;
use self::doors::{Addresses, HttpServer};
pub(crate) use self::process::Parts;
use crate::demo;
use crate::http::{self, Api};
use crate::settings::Settings;

pub use self::apart::broker;
pub use self::joined::bridge;
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
    let start = async {
        let server = Server::start(&settings, is_demo).await?;
        server.addresses.announce();
        if is_demo {
            let (mqtt, http) = (&server.addresses.mqtt, &server.addresses.http);
            println!(
                "{}",
                demo::hint(mqtt.first().copied(), http.first().copied())
            );
        }
        Ok(server)
    };
    // Apart, for its futures are many and deep.
    process::run(Box::pin(start), &settings.shutdown).await
}

/// The running parts.
pub(crate) struct Server {
    broker: Broker,
    bridge: Bridge,
    http: HttpServer,
    addresses: Addresses,
    certificates: Certificates,
    /// Look whether certificates were replaced; they end with this.
    _watchers: JoinSet<()>,
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
        let bridge = tokio::select! {
            started = opened.start(link) => started?,
            error = broker.failed() => return Err(error.into()),
        };
        broker.ready().await?;
        if is_demo {
            bridge.seed_demo().await?;
        }

        // Clients may come in once every address is ours: HTTP's wait until it serves.
        let mut addresses = Addresses::default();
        let ports = addresses.bind_http(settings, &certificates).await?;
        addresses
            .open_mqtt(&broker, settings, &certificates)
            .await?;

        let sessions = broker.handle();
        let entrance = sessions.entrance();
        let api = Api::new(
            bridge.store.clone(),
            bridge.auth.clone(),
            bridge.service.clone(),
            http::Edge::Here(sessions),
            &settings.http.metrics_from,
        );
        let http = HttpServer::start(ports, http::router(api), entrance, settings);
        let mut watchers = JoinSet::new();
        certificates.follow(&mut watchers);
        Ok(Server {
            broker,
            bridge,
            http,
            addresses,
            certificates,
            _watchers: watchers,
        })
    }

    /// The way to its sessions.
    pub(crate) fn sessions(&self) -> BrokerHandle {
        self.broker.handle()
    }

    /// Where it listens for HTTP.
    pub(crate) fn http(&self) -> &[SocketAddr] {
        &self.addresses.http
    }
}

impl Parts for Server {
    async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.broker.failed() => error.into(),
            error = self.bridge.failed() => error.into(),
            error = self.http.failed() => error,
        }
    }

    fn reload(&self) {
        self.certificates.reload();
        self.bridge.words.reload_and_log();
    }

    async fn move_off(&self, over: Duration) {
        self.broker.move_off(over).await;
    }

    /// Clients first. What they have sent is still executed; they have no PUBACK for it, and send it again. One that does
    /// not read must not use up the time of the rest.
    async fn stop(self, limit: Duration) {
        self.http.close();
        self.broker.stop(limit / 2).await;
        self.bridge.stop().await;
        self.http.stop().await;
    }
}
