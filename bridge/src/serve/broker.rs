//! `tidings broker`: the edge in a process of its own. What it needs to know of accounts and chats, it asks the bridges that
//! have joined.

use std::time::Duration;

use anyhow::ensure;
use broker::Broker;

use super::certificates::Certificates;
use super::doors::{Bound, Ports};
use super::process::{self, Parts};
use super::{broker_options, rules};
use crate::http;
use crate::settings::Settings;

/// Runs until SIGTERM or SIGINT. SIGHUP reads the certificates again.
///
/// # Errors
/// What keeps the broker from starting, or ends it.
pub async fn broker(settings: Settings) -> anyhow::Result<()> {
    process::run(Box::pin(Server::start(&settings)), &settings.shutdown).await
}

/// The running parts.
struct Server {
    broker: Broker,
    ports: Ports,
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
        let mut bound = Bound::new(settings, certificates).await?;
        bound.open_link(&broker, settings, &secret).await?;
        // Clients who come before the first bridge wait for it, within limits.
        bound.open_mqtt(&broker, settings).await?;
        let sessions = broker.handle();
        let entrance = sessions.entrance();
        let router = http::broker_router(sessions, &settings.http.metrics_from);
        let ports = bound.serve(router, entrance, settings);
        Ok(Server { broker, ports })
    }
}

impl Parts for Server {
    fn announce(&self) {
        self.ports.announce();
    }

    async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.broker.failed() => error.into(),
            error = self.ports.failed() => error,
        }
    }

    fn reload(&self) {
        self.ports.reload();
    }

    async fn move_off(&self, over: Duration) {
        self.broker.move_off(over).await;
    }

    async fn stop(self, limit: Duration) {
        self.ports.close();
        self.broker.stop(limit / 2).await;
        self.ports.stop().await;
    }
}
