//! `tidings serve`: broker and bridge in one process.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use broker::{Broker, BrokerHandle, Refusal};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::{Auth, AuthError};
use crate::http::{self, Api};
use crate::service::{self, Service};
use crate::settings::Settings;
use crate::{data_dir, demo};

/// How long answers to commands other than sends are kept: longer than a phone is off between two tries.
const ANSWERS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps the server from starting, or ends it.
pub async fn serve(settings: Settings, is_demo: bool) -> anyhow::Result<()> {
    if is_demo {
        demo::check_loopback(&settings)?;
    }
    let store = data_dir::open_store(&settings).await?;

    // Accounts end sessions, and sessions ask accounts: the way back is filled in when both exist.
    let sessions: Arc<OnceLock<BrokerHandle>> = Arc::default();
    let kick = {
        let sessions = sessions.clone();
        Arc::new(move |uid: &schema::Uid, login: Option<&str>| {
            if let Some(sessions) = sessions.get() {
                sessions.kick(uid, login);
            }
        })
    };
    let auth = Auth::open(
        store.clone(),
        settings.auth.clone(),
        &settings.data_dir,
        kick,
    )
    .await?;
    let accounts = Arc::new(Accounts(auth.clone()));
    let (mut broker, link) = Broker::start(broker_options(&settings), accounts)?;
    sessions.get_or_init(|| broker.handle());
    let (service, mut running) = Service::start(store.clone(), link, limits(&settings)).await?;
    let follower = tokio::spawn(auth.clone().follow_revocations());
    if is_demo {
        demo::seed(&store, &auth, &service).await?;
    }

    let mut mqtt = Vec::new();
    for address in &settings.mqtt.listen {
        mqtt.push(broker.listen(*address).await?);
    }
    let listeners = http::bind(&settings.http.listen).await?;
    let http = listeners
        .iter()
        .map(tokio::net::TcpListener::local_addr)
        .collect::<Result<Vec<_>, _>>()?;
    let stop_http = CancellationToken::new();
    let router = http::router(Api::new(store, auth, service));
    let connections_max = settings.http.max_connections;
    let http_server = http::serve(listeners, router, connections_max, stop_http.clone());
    let mut server = tokio::spawn(http_server);
    announce(&mqtt, &http, is_demo);

    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be handled")?;
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
        error = broker.failed() => Err(error.into()),
        error = running.failed() => Err(error.into()),
        ended = &mut server => Err(anyhow::anyhow!("the HTTP server ended: {ended:?}")),
    };
    info!("stopping");
    stop_http.cancel();
    follower.abort();
    let drain = async {
        // Clients first. What they have sent is still executed; they have no PUBACK for it, and send it again. One that
        // does not read must not use up the time of the rest.
        broker.stop(settings.shutdown.timeout / 2).await;
        running.stop().await;
        if !server.is_finished() {
            server.await??;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(settings.shutdown.timeout, drain).await {
        Ok(drained) => drained?,
        Err(_) => warn!("stopped without waiting longer; nothing acknowledged is lost"),
    }
    outcome
}

fn announce(mqtt: &[SocketAddr], http: &[SocketAddr], is_demo: bool) {
    for address in mqtt {
        println!("listening mqtt {address}");
    }
    for address in http {
        println!("listening http {address}");
    }
    println!("ready");
    if is_demo {
        println!(
            "{}",
            demo::hint(mqtt.first().copied(), http.first().copied())
        );
    }
}

fn broker_options(settings: &Settings) -> broker::Options {
    let mqtt = &settings.mqtt;
    broker::Options {
        max_packet_size: mqtt.max_packet_size,
        connect_timeout: mqtt.connect_timeout,
        keep_alive_max_secs: mqtt
            .keep_alive_max
            .map_or(0, |max| u16::try_from(max.as_secs()).unwrap_or(u16::MAX)),
        receive_maximum: mqtt.receive_maximum,
        delivery_window: mqtt.delivery_window,
        session_queue: mqtt.session_queue,
        max_connections: mqtt.max_connections,
        write_timeout: mqtt.write_timeout,
    }
}

fn limits(settings: &Settings) -> service::Limits {
    service::Limits {
        text_max: settings.messages.text_max,
        catch_up_max: settings.messages.catch_up_max,
        group_members_max: settings.groups.members_max,
        devices_max: settings.devices.per_user_max,
        answers_kept: ANSWERS_KEPT,
    }
}

/// What the edge asks about clients.
struct Accounts(Auth);

impl broker::Authenticate for Accounts {
    fn authenticate<'a>(
        &'a self,
        username: &'a str,
        password: &'a [u8],
    ) -> Pin<Box<dyn Future<Output = Result<broker::Identity, Refusal>> + Send + 'a>> {
        Box::pin(async move {
            match self.0.authenticate(username, password).await {
                Ok(identity) => Ok(broker::Identity {
                    uid: identity.uid,
                    login: identity.login,
                    password_set_at: identity.password_set_at,
                    expires_at: identity.expires_at,
                }),
                Err(AuthError::Store(_) | AuthError::Busy(_)) => Err(Refusal::Unavailable),
                Err(_) => Err(Refusal::BadCredentials),
            }
        })
    }

    fn is_revoked(&self, identity: &broker::Identity) -> bool {
        let login = identity.login.as_deref();
        (self.0).is_revoked(&identity.uid, login, identity.password_set_at)
    }
}
