//! `tidings broker`: the edge in a process of its own. What it needs to know of accounts and chats, it asks the bridges that
//! have joined.

use std::time::Duration;

use anyhow::ensure;
use broker::Broker;
use tokio::task::JoinSet;

use super::certificates::Certificates;
use super::doors::{Addresses, HttpServer};
use super::process::{self, Parts};
use super::{broker_options, rules};
use crate::http;
use crate::settings::Settings;

/// Runs until SIGTERM or SIGINT. SIGHUP reads the certificates again.
///
/// # Errors
/// What keeps the broker from starting, or ends it.
pub async fn broker(settings: Settings) -> anyhow::Result<()> {
    let start = async {
        let server = Server::start(&settings).await?;
        server.addresses.announce();
        Ok(server)
    };
    process::run(Box::pin(start), &settings.shutdown).await
}

/// The running parts.
struct Server {
    broker: Broker,
    http: HttpServer,
    addresses: Addresses,
    certificates: Certificates,
    /// Look whether certificates were replaced; they end with this.
    _watchers: JoinSet<()>,
}

impl Server {
    async fn start(settings: &Settings) -> anyhow::Result<Self> {
        ensure!(
            !settings.link.listen.is_empty(),
            "link.listen is empty: no bridge could join"
        );
        let secret = settings.link.read_secret()?;
        let certificates = Certificates::load_with_link(settings)?;
        let broker = Broker::start_apart(broker_options(settings), rules(settings)?);
        let mut addresses = Addresses::default();
        let ports = addresses.bind_http(settings, &certificates).await?;
        addresses
            .open_link(&broker, settings, &certificates, &secret)
            .await?;
        // Clients who come before the first bridge wait for it, within limits.
        addresses
            .open_mqtt(&broker, settings, &certificates)
            .await?;
        let sessions = broker.handle();
        let entrance = sessions.entrance();
        let router = http::broker_router(sessions, &settings.http.metrics_from);
        let http = HttpServer::start(ports, router, entrance, settings);
        let mut watchers = JoinSet::new();
        certificates.follow(&mut watchers);
        Ok(Server {
            broker,
            http,
            addresses,
            certificates,
            _watchers: watchers,
        })
    }
}

impl Parts for Server {
    async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.broker.failed() => error.into(),
            error = self.http.failed() => error,
        }
    }

    fn reload(&self) {
        self.certificates.reload();
    }

    async fn move_off(&self, over: Duration) {
        self.broker.move_off(over).await;
    }

    async fn stop(self, limit: Duration) {
        self.http.close();
        self.broker.stop(limit / 2).await;
        self.http.stop().await;
    }
}
