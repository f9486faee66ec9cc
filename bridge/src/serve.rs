//! `tidings serve`: broker and bridge in one process.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use broker::net::{Tls, TlsSettings};
use broker::{Broker, BrokerHandle, Refusal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::auth::{self, Auth, AuthError, Kick, Sessions};
use crate::cluster::Peers;
use crate::http::{self, Api};
use crate::redis::{self, Redis};
use crate::service::rates::Rates;
use crate::service::words::Words;
use crate::service::{self, Service};
use crate::settings::{self, ClientCert, Settings};
use crate::store::chain;
use crate::{data_dir, demo};

/// How long answers to commands other than sends are kept: longer than a phone is off between two tries.
const ANSWERS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Runs until SIGTERM or SIGINT. SIGHUP reads the certificates and the list of words again.
///
/// # Errors
/// What keeps the server from starting, or ends it.
pub async fn serve(settings: Settings, is_demo: bool) -> anyhow::Result<()> {
    if is_demo {
        demo::check_loopback(&settings)?;
    }
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be handled")?;
    let mut hang_up = signal(SignalKind::hangup()).context("SIGHUP can't be handled")?;
    let mut server = tokio::select! {
        started = Server::start(&settings, is_demo) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    announce(&server.addresses, is_demo);
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = tokio::signal::ctrl_c() => break Ok(()),
            _ = hang_up.recv() => {
                server.reload_certificates();
                server.words.reload_and_log();
            }
            error = server.failed() => break Err(error),
        }
    };
    if let (Ok(()), Some(over)) = (&outcome, settings.shutdown.drain) {
        info!(?over, "moving sessions to other servers");
        tokio::select! {
            () = server.broker.move_off(over) => {}
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    info!("stopping");
    let limit = settings.shutdown.timeout;
    match tokio::time::timeout(limit, server.stop(limit)).await {
        Ok(()) => {}
        Err(_) => warn!("stopped without waiting longer; nothing acknowledged is lost"),
    }
    outcome
}

/// The running parts.
pub(crate) struct Server {
    broker: Broker,
    service: service::Running,
    http: JoinHandle<io::Result<()>>,
    stop_http: CancellationToken,
    addresses: Addresses,
    certificates: Vec<Tls>,
    words: Words,
    /// Learns of logins that other processes have ended.
    follower: JoinHandle<()>,
    /// Look whether certificates and the list of words were replaced, and keep the connection to Redis; they end with
    /// this.
    _watchers: JoinSet<()>,
}

/// Where the server listens.
#[derive(Default)]
struct Addresses {
    mqtt: Vec<SocketAddr>,
    mqtts: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
}

impl Server {
    pub(crate) async fn start(settings: &Settings, is_demo: bool) -> anyhow::Result<Self> {
        let (mqtts, https) = (mqtts_certificate(settings)?, https_certificate(settings)?);
        let rules = rules(settings)?;
        let store = data_dir::open_store(settings).await?;
        let store = store.with_checkpoints().await?;
        let sessions: Arc<OnceLock<BrokerHandle>> = Arc::default();
        let kick = kick(sessions.clone());
        let auth = Auth::open(store.clone(), settings, kick).await?;
        let accounts = Arc::new(Accounts(auth.clone()));
        let (peers, keeper) = peers(settings)?;
        let limits = limits(settings);
        let words = limits.words.clone();
        words.reload().context("words.file can't be used")?;
        let (mut broker, link) = Broker::start(broker_options(settings), rules, accounts)?;
        sessions.get_or_init(|| broker.handle());
        let (service, running) = tokio::select! {
            started = Service::start(store.clone(), link, limits, peers) => started?,
            error = broker.failed() => return Err(error.into()),
        };
        broker.ready().await?;
        let follower = tokio::spawn(auth.clone().follow_revocations());
        if is_demo {
            demo::seed(&store, &auth, &service).await?;
        }

        // Clients may come in once every address is ours: HTTP's wait until it serves.
        let mut addresses = Addresses::default();
        let mut ports = http::bind(&settings.http.listen, None).await?;
        let secure = http::bind(&settings.https.listen, https.as_ref()).await?;
        addresses.http = local_addresses(&ports)?;
        addresses.https = local_addresses(&secure)?;
        ports.extend(secure);
        for address in &settings.mqtt.listen {
            addresses.mqtt.push(broker.listen(*address, None).await?);
        }
        for address in &settings.mqtts.listen {
            let bound = broker.listen(*address, mqtts.clone()).await?;
            addresses.mqtts.push(bound);
        }

        let stop_http = CancellationToken::new();
        let sessions = broker.handle();
        let entrance = sessions.entrance();
        let metrics_from = &settings.http.metrics_from;
        let router = http::router(Api::new(store, auth, service, sessions, metrics_from));
        let connections_max = settings.http.max_connections;
        let http = http::serve(ports, router, entrance, connections_max, stop_http.clone());
        let certificates: Vec<Tls> = mqtts.into_iter().chain(https).collect();
        let followed = certificates.iter().cloned().map(Tls::follow_files);
        let mut watchers: JoinSet<()> = followed.collect();
        watchers.spawn(words.clone().follow_file());
        if let Some(keeper) = keeper {
            watchers.spawn(keeper.run());
        }
        Ok(Server {
            broker,
            service: running,
            http: tokio::spawn(http),
            stop_http,
            addresses,
            follower,
            _watchers: watchers,
            certificates,
            words,
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

    /// What can't be used is logged, and what was there before stays.
    fn reload_certificates(&self) {
        for tls in &self.certificates {
            match tls.reload() {
                Ok(()) => info!("the certificate was read again"),
                Err(error) => error!(error = %chain(&error), "the old certificate stays in use"),
            }
        }
    }

    /// Returns when a part can't go on.
    async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.broker.failed() => error.into(),
            error = self.service.failed() => error.into(),
            ended = &mut self.http => anyhow::anyhow!("the HTTP server ended: {ended:?}"),
        }
    }

    /// Ends all parts, clients first. What they have sent is still executed; they have no PUBACK for it, and send it
    /// again. One that does not read must not use up the time of the rest.
    pub(crate) async fn stop(self, limit: Duration) {
        self.stop_http.cancel();
        self.follower.abort();
        self.broker.stop(limit / 2).await;
        self.service.stop().await;
        if self.http.is_finished() {
            return;
        }
        match self.http.await {
            Ok(Ok(())) => {}
            ended => warn!(?ended, "the HTTP server did not end well"),
        }
    }
}

/// Accounts end sessions, and sessions ask accounts: the way back is filled in when both exist.
fn kick(sessions: Arc<OnceLock<BrokerHandle>>) -> Kick {
    Arc::new(move |uid, which| {
        let Some(sessions) = sessions.get() else {
            return false;
        };
        match which {
            Sessions::All => sessions.kick(uid, None),
            Sessions::OfLogin(login) => sessions.kick(uid, Some(login)),
            Sessions::OfDevice(device) => sessions.kick_device(uid, device),
        }
    })
}

/// `None` where nobody listens.
fn mqtts_certificate(settings: &Settings) -> anyhow::Result<Option<Tls>> {
    let mqtts = &settings.mqtts;
    if mqtts.listen.is_empty() {
        return Ok(None);
    }
    let client_ca = Some(&mqtts.client_ca).filter(|file| !file.as_os_str().is_empty());
    let tls = Tls::load(TlsSettings {
        cert: mqtts.cert.clone(),
        key: mqtts.key.clone(),
        client_ca: client_ca.cloned(),
        client_cert_required: mqtts.client_cert == ClientCert::Required,
        protocol: "mqtt",
    })?;
    Ok(Some(tls))
}

/// The same for HTTPS, whose certificate is that of MQTTS unless it has its own.
fn https_certificate(settings: &Settings) -> anyhow::Result<Option<Tls>> {
    let (https, mqtts) = (&settings.https, &settings.mqtts);
    if https.listen.is_empty() {
        return Ok(None);
    }
    let (cert, key) = if https.cert.as_os_str().is_empty() {
        (&mqtts.cert, &mqtts.key)
    } else {
        (&https.cert, &https.key)
    };
    let tls = Tls::load(TlsSettings {
        cert: cert.clone(),
        key: key.clone(),
        client_ca: None,
        client_cert_required: false,
        protocol: "http/1.1",
    })?;
    Ok(Some(tls))
}

fn local_addresses(ports: &[http::Port]) -> io::Result<Vec<SocketAddr>> {
    ports.iter().map(http::Port::local_addr).collect()
}

fn announce(addresses: &Addresses, is_demo: bool) {
    let Addresses {
        mqtt,
        mqtts,
        http,
        https,
    } = addresses;
    for (door, addresses) in [
        ("mqtt", mqtt),
        ("mqtts", mqtts),
        ("http", http),
        ("https", https),
    ] {
        for address in addresses {
            println!("listening {door} {address}");
        }
    }
    println!("ready");
    if is_demo {
        let hint = demo::hint(mqtt.first().copied(), http.first().copied());
        println!("{hint}");
    }
}

/// The other nodes, as the settings have it, and who keeps the connection to Redis.
fn peers(settings: &Settings) -> anyhow::Result<(Peers, Option<redis::Keeper>)> {
    if !settings.redis.is_set() {
        return Ok((Peers::none(), None));
    }
    let (redis, keeper) = Redis::new(&settings.redis).context("redis.url can't be used")?;
    let peers = Peers {
        redis: Some(redis),
        ..Peers::none()
    };
    Ok((peers, Some(keeper)))
}

/// What the settings say of the edge.
#[must_use]
pub fn broker_options(settings: &Settings) -> broker::Options {
    let (network, mqtt, topics) = (&settings.network, &settings.mqtt, &settings.topics);
    broker::Options {
        network: broker::NetworkOptions {
            proxy_from: network.proxy_from.clone(),
            trusted: network.trusted.clone(),
            connections_per_address: network.connections_per_address,
            connects_per_second: network.connects_per_second,
            connects_burst: network.connects_burst,
        },
        max_packet_size: mqtt.max_packet_size,
        connect_timeout: mqtt.connect_timeout,
        keep_alive_max_secs: mqtt
            .keep_alive_max
            .map_or(0, |max| u16::try_from(max.as_secs()).unwrap_or(u16::MAX)),
        receive_maximum: mqtt.receive_maximum,
        delivery_window: mqtt.delivery_window,
        session_queue: mqtt.session_queue,
        max_connections: mqtt.max_connections,
        connections_per_user_max: mqtt.connections_per_user_max,
        write_timeout: mqtt.write_timeout,
        session_expiry_max_secs: mqtt
            .session_expiry_max
            .map_or(0, |max| u32::try_from(max.as_secs()).unwrap_or(u32::MAX)),
        sessions_max: mqtt.sessions_max,
        sessions_per_user_max: mqtt.sessions_per_user_max,
        subscriptions_max: mqtt.subscriptions_max,
        topic_length_max: mqtt.topic_length_max,
        topic_levels_max: mqtt.topic_levels_max,
        topic_alias_max: mqtt.topic_alias_max,
        rate: broker::RateOptions {
            publishes: mqtt.publish_rate,
            bytes: mqtt.byte_rate,
            patience: mqtt.rate_patience,
        },
        anonymous: mqtt.anonymous,
        retained: broker::RetainedOptions {
            messages_max: topics.retained_max,
            bytes_max: topics.retained_bytes_max,
            per_user_max: topics.retained_per_user_max,
            bytes_per_user_max: topics.retained_bytes_per_user_max,
        },
        sys_interval: topics.sys_interval,
        elsewhere: broker::Elsewhere {
            reference: Some(settings.shutdown.server_reference.clone())
                .filter(|reference| !reference.is_empty()),
            is_for_good: settings.shutdown.moved,
        },
    }
}

/// The operator's rules, as the edge knows them.
///
/// # Errors
/// A rule that can't be used.
pub(crate) fn rules(settings: &Settings) -> anyhow::Result<broker::Rules> {
    use settings::{Action, Effect, Who};
    let rule = |rule: &settings::RuleOptions| broker::Rule {
        effect: match rule.effect {
            Effect::Allow => broker::Effect::Allow,
            Effect::Deny => broker::Effect::Deny,
        },
        action: match rule.action {
            Action::Publish => broker::Action::Publish,
            Action::Subscribe => broker::Action::Subscribe,
            Action::All => broker::Action::All,
        },
        who: match rule.who {
            Who::Users => broker::Who::Users,
            Who::Anonymous => broker::Who::Anonymous,
            Who::Administrators => broker::Who::Administrators,
            Who::Everyone => broker::Who::Everyone,
        },
        topics: rule.topics.clone(),
    };
    let rules = settings.topics.rules.iter().map(rule).collect();
    broker::Rules::compile(rules).context("topics.rules can't be used")
}

/// What the settings say of commands.
#[must_use]
pub fn limits(settings: &Settings) -> service::Limits {
    service::Limits {
        text_max: settings.messages.text_max,
        recall_within: settings.messages.recall_within,
        edit_within: settings.messages.edit_within,
        expires_max: settings.messages.expires_max,
        catch_up_max: settings.messages.catch_up_max,
        group_members_max: settings.groups.members_max,
        contacts_max: settings.contacts.per_user_max,
        contact_requests_max: settings.contacts.requests_max,
        devices_max: settings.devices.per_user_max,
        grants_max: settings.topics.grants_per_user_max,
        topic_length_max: settings.mqtt.topic_length_max,
        topic_levels_max: settings.mqtt.topic_levels_max,
        presence_interval: settings.presence.interval,
        presence_grace: settings.presence.grace,
        answers_kept: ANSWERS_KEPT,
        search: settings.search.enabled,
        rates: Rates::new(&settings.rates),
        words: Words::of_file(&settings.words.file),
    }
}

/// What the edge asks about clients.
struct Accounts(Auth);

impl Accounts {
    async fn identify(
        &self,
        credentials: broker::Credentials<'_>,
    ) -> Result<auth::Identity, AuthError> {
        let (username, password) = (credentials.username, credentials.password);
        match (credentials.certified, username, password) {
            (Some(uid), None, _) => self.0.trust(uid).await,
            (Some(uid), Some(username), _) if username == uid.as_str() => self.0.trust(uid).await,
            (Some(_), Some(_), _) => Err(AuthError::Refused),
            (None, Some(username), Some(password)) => {
                let address = credentials.address;
                self.0.authenticate(username, password, address).await
            }
            (None, _, _) => Err(AuthError::Refused),
        }
    }
}

impl broker::Authenticate for Accounts {
    fn authenticate<'a>(
        &'a self,
        credentials: broker::Credentials<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<broker::Identity, Refusal>> + Send + 'a>> {
        Box::pin(async move {
            match self.identify(credentials).await {
                Ok(identity) => Ok(broker::Identity {
                    is_admin: identity.admin,
                    uid: identity.uid,
                    login: identity.login,
                    password_set_at: identity.password_set_at,
                    expires_at: identity.expires_at,
                }),
                Err(AuthError::Store(_) | AuthError::Busy(_)) => Err(Refusal::Unavailable),
                Err(AuthError::TooManyFailures(_)) => Err(Refusal::TooManyFailures),
                Err(_) => Err(Refusal::BadCredentials),
            }
        })
    }

    fn is_revoked(&self, identity: &broker::Identity) -> bool {
        let login = identity.login.as_deref();
        (self.0).is_revoked(&identity.uid, login, identity.password_set_at)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use schema::Uid;

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_certificate_stands_for_its_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::connect(&Store::sqlite_url(folder.path()))
            .await
            .unwrap();
        store.migrate().await.unwrap();
        let mut settings = Settings::defaults();
        settings.data_dir = folder.path().to_owned();
        let auth = Auth::open(store, &settings, Arc::new(|_, _| false));
        let accounts = Accounts(auth.await.unwrap());
        let (alice, nobody): (Uid, Uid) = ("alice".parse().unwrap(), "nobody".parse().unwrap());
        let registered = accounts.0.register(alice.clone(), "correct horse");
        registered.await.unwrap();
        for (certified, username, password, is_let_in) in [
            (Some(&alice), None, None, true),
            (Some(&alice), Some("alice"), None, true),
            (Some(&alice), Some("alice"), Some("no matter"), true),
            (Some(&alice), Some("bob"), None, false),
            (Some(&nobody), None, None, false),
            (Some(&nobody), Some("alice"), Some("correct horse"), false),
            (None, Some("alice"), Some("correct horse"), true),
            (None, Some("alice"), None, false),
            (None, None, Some("correct horse"), false),
        ] {
            let credentials = broker::Credentials {
                username,
                password: password.map(str::as_bytes),
                certified,
                address: Ipv4Addr::LOCALHOST.into(),
            };
            let found = broker::Authenticate::authenticate(&accounts, credentials).await;
            match found {
                Ok(identity) => assert!(is_let_in && identity.uid == alice, "{credentials:?}"),
                Err(refusal) => {
                    assert!(!is_let_in, "{credentials:?}");
                    assert_eq!(refusal, Refusal::BadCredentials);
                }
            }
        }
        // Enough of them, and the right one is not looked at either.
        let login = |password| broker::Credentials {
            username: Some("alice"),
            password: Some(password),
            certified: None,
            address: Ipv4Addr::LOCALHOST.into(),
        };
        for _ in 0..settings.auth.login_failures {
            let found = broker::Authenticate::authenticate(&accounts, login(b"wrong"));
            assert_eq!(found.await.err(), Some(Refusal::BadCredentials));
        }
        let found = broker::Authenticate::authenticate(&accounts, login(b"correct horse"));
        assert_eq!(found.await.err(), Some(Refusal::TooManyFailures));
    }
}
