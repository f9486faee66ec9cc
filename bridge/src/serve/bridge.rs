//! `tidings bridge`: everything but the edge, joined to a broker that has the clients.

use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use broker::net::Entrance;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::accounts::Accounts;
use super::broker_options;
use super::certificates::Certificates;
use super::chat::{Chat, Opened};
use super::doors::{Bound, Ports};
use super::process::{self, Parts};
use crate::auth::{Kick, Sessions};
use crate::http::{self, Api};
use crate::join::{Joiner, Refused, Target};
use crate::service::presence::Presence;
use crate::service::{Asides, Links};
use crate::settings::Settings;

/// Runs until SIGTERM or SIGINT. SIGHUP reads the certificate and the list of words again.
///
/// # Errors
/// What keeps the bridge from starting, or ends it.
pub async fn bridge(settings: Settings) -> anyhow::Result<()> {
    process::run(Box::pin(Server::start(&settings)), &settings.shutdown).await
}

/// The running parts.
struct Server {
    joining: JoinHandle<Option<Refused>>,
    /// The broker is to be asked to give its sessions to others.
    leaving: CancellationToken,
    asides: Asides,
    chat: Chat,
    ports: Ports,
}

impl Server {
    async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let address = settings.link.broker_address();
        let target = Target {
            address: address.context("link.broker is empty: which broker is to be joined?")?,
            secret: settings.link.read_secret()?,
            ca: settings.link.ca.clone(),
            shares: settings.redis.is_set(),
        };
        let certificates = Certificates::load_https(settings)?;
        let leaving = CancellationToken::new();
        let (joiner, links, joined) = Joiner::new(target, leaving.clone())?;
        let asides = Asides::default();
        let presence: Arc<OnceLock<Presence>> = Arc::default();
        let opened = Opened::open(settings, kick(asides.clone(), presence.clone())).await?;
        let accounts = Arc::new(Accounts(opened.auth.clone()));
        let links = Links::several(links, asides.clone(), accounts);
        let chat = opened.start(links).await?;
        presence.get_or_init(|| chat.service.presence().clone());

        let bound = Bound::new(settings, certificates).await?;
        let api = Api::new(
            chat.store.clone(),
            chat.auth.clone(),
            chat.service.clone(),
            http::Edge::Apart(joined),
            &settings.http.metrics_from,
        );
        let entrance = Entrance::new(&broker_options(settings).network);
        let ports = bound.serve(http::router(api), entrance, settings);
        Ok(Server {
            joining: tokio::spawn(joiner.run()),
            leaving,
            asides,
            chat,
            ports,
        })
    }
}

/// Has the broker end sessions.
fn kick(asides: Asides, presence: Arc<OnceLock<Presence>>) -> Kick {
    Arc::new(move |uid, which| {
        asides.kick(uid, which.into());
        // What the broker has, as far as this bridge knows: of a session without a connection it does not.
        presence.get().is_some_and(|presence| {
            let connections = presence.of(uid).connections;
            connections.iter().any(|connection| match which {
                Sessions::OfDevice(device) => connection.device == device,
                Sessions::All | Sessions::OfLogin(_) => true,
            })
        })
    })
}

impl Parts for Server {
    fn announce(&self) {
        self.ports.announce();
    }

    async fn failed(&mut self) -> anyhow::Error {
        let refused = async {
            match (&mut self.joining).await {
                Ok(Some(refused)) => refused.into(),
                Ok(None) => pending().await,
                Err(error) => anyhow::Error::new(error).context("a task of the link panicked"),
            }
        };
        tokio::select! {
            error = refused => error,
            error = self.chat.failed() => error.into(),
            error = self.ports.failed() => error,
        }
    }

    fn reload(&self) {
        self.ports.reload();
        self.chat.words.reload_and_log();
    }

    /// The clients stay where they are.
    async fn move_off(&self, _: Duration) {}

    /// The broker gives its sessions to other bridges, or keeps them for the next one; what they have said so far is executed.
    async fn stop(mut self, limit: Duration) {
        self.ports.close();
        self.leaving.cancel();
        self.asides.leave();
        if !self.joining.is_finished() && timeout(limit / 2, &mut self.joining).await.is_err() {
            warn!("the broker did not let this bridge go in time");
            self.joining.abort();
        }
        self.chat.stop().await;
        self.ports.stop().await;
    }
}
