//! One struct per section of `conf/default.toml`, which explains the keys.
#![expect(missing_docs, reason = "explained in conf/default.toml")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ipnet::IpNet;
use serde::Deserialize;

use super::{Check, Secret, units};
use crate::service::archived::AFTER_MIN;
use crate::store::nodes;

/// The longest password that a `password_min` may ask for.
const PASSWORD_MIN_MAX: usize = 128;
/// HS256 signs with 256 bits; a shorter key is weaker than the signature.
const JWT_KEY_MIN: usize = 32;
/// As long as a key: who knows it is believed whatever he says.
const LINK_SECRET_MIN: usize = 32;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkOptions {
    #[serde(deserialize_with = "units::networks")]
    pub proxy_from: Vec<IpNet>,
    #[serde(deserialize_with = "units::networks")]
    pub trusted: Vec<IpNet>,
    /// 0: no limit, as in the two below.
    pub connections_per_address: u32,
    pub connects_per_second: u32,
    pub connects_burst: u32,
}

impl NetworkOptions {
    pub(super) fn checks(&self) -> [Check; 1] {
        [(
            self.connects_per_second > 0 && self.connects_burst == 0,
            "network.connects_burst is zero: nobody could connect",
        )]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttOptions {
    #[serde(deserialize_with = "units::addresses")]
    pub listen: Vec<SocketAddr>,
    #[serde(deserialize_with = "units::size")]
    pub max_packet_size: usize,
    pub max_connections: usize,
    /// 0: no limit.
    pub connections_per_user_max: usize,
    #[serde(deserialize_with = "units::duration")]
    pub write_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
    /// `None`: no limit.
    #[serde(deserialize_with = "units::duration_or_none")]
    pub keep_alive_max: Option<Duration>,
    pub receive_maximum: u16,
    pub delivery_window: u16,
    #[serde(deserialize_with = "units::size")]
    pub session_queue: usize,
    /// `None`: sessions end with their connection.
    #[serde(deserialize_with = "units::duration_or_none")]
    pub session_expiry_max: Option<Duration>,
    pub sessions_max: usize,
    pub sessions_per_user_max: usize,
    pub subscriptions_max: usize,
    pub topic_length_max: usize,
    pub topic_levels_max: usize,
    pub topic_alias_max: u16,
    /// 0: no limit.
    pub publish_rate: u32,
    /// 0: no limit.
    #[serde(deserialize_with = "units::size")]
    pub byte_rate: usize,
    /// `None`: never.
    #[serde(deserialize_with = "units::duration_or_none")]
    pub rate_patience: Option<Duration>,
    pub anonymous: bool,
}

/// MQTT's limit for a packet: what four bytes of remaining length can say.
const MQTT_PACKET_MAX: usize = 268_435_455;

/// Topics are walked down level by level, on the stack.
const TOPIC_LEVELS_MAX: usize = 128;

impl MqttOptions {
    pub(super) fn checks(&self) -> [Check; 11] {
        [
            (
                !(1024..=MQTT_PACKET_MAX).contains(&self.max_packet_size),
                "mqtt.max_packet_size is not between 1 KiB and 256 MiB",
            ),
            (
                self.max_connections == 0,
                "mqtt.max_connections is zero: nobody could connect",
            ),
            (
                self.write_timeout.is_zero(),
                "mqtt.write_timeout is zero: nothing could be sent",
            ),
            (
                self.connect_timeout.is_zero(),
                "mqtt.connect_timeout is zero: nobody could connect",
            ),
            (
                self.keep_alive_max
                    .is_some_and(|max| max < Duration::from_secs(1)),
                "mqtt.keep_alive_max is less than a second",
            ),
            (
                self.receive_maximum == 0,
                "mqtt.receive_maximum is zero: nobody could publish",
            ),
            (
                self.delivery_window == 0,
                "mqtt.delivery_window is zero: nothing could be delivered",
            ),
            (
                self.session_queue < self.max_packet_size,
                "mqtt.session_queue is smaller than mqtt.max_packet_size: one packet would not fit",
            ),
            (
                self.subscriptions_max == 0,
                "mqtt.subscriptions_max is zero: nobody could receive",
            ),
            (
                // im/{uid}/down with the longest uid.
                self.topic_length_max < 73 || self.topic_levels_max < 3,
                "mqtt.topic_length_max is less than 73 or mqtt.topic_levels_max less than 3: chat's topics would not fit",
            ),
            (
                self.topic_levels_max > TOPIC_LEVELS_MAX,
                "mqtt.topic_levels_max is more than 128",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttsOptions {
    #[serde(deserialize_with = "units::addresses")]
    pub listen: Vec<SocketAddr>,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Empty: client certificates are not asked for.
    pub client_ca: PathBuf,
    pub client_cert: ClientCert,
}

/// Whether a TLS client must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCert {
    Optional,
    Required,
}

impl MqttsOptions {
    pub(super) fn checks(&self) -> [Check; 2] {
        [
            (
                !self.listen.is_empty() && (is_unset(&self.cert) || is_unset(&self.key)),
                "mqtts.listen needs mqtts.cert and mqtts.key",
            ),
            (
                self.client_cert == ClientCert::Required && is_unset(&self.client_ca),
                "mqtts.client_cert is \"required\", but mqtts.client_ca is empty: nobody would be asked for one",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpOptions {
    #[serde(deserialize_with = "units::addresses")]
    pub listen: Vec<SocketAddr>,
    pub max_connections: u32,
    #[serde(deserialize_with = "units::networks")]
    pub metrics_from: Vec<IpNet>,
}

impl HttpOptions {
    pub(super) fn checks(&self) -> [Check; 1] {
        [(
            self.max_connections == 0,
            "http.max_connections is zero: nobody could connect",
        )]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpsOptions {
    #[serde(deserialize_with = "units::addresses")]
    pub listen: Vec<SocketAddr>,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl HttpsOptions {
    pub(super) fn checks(&self, mqtts: &MqttsOptions) -> [Check; 2] {
        [
            (
                is_unset(&self.cert) != is_unset(&self.key),
                "https.cert and https.key are set or empty together",
            ),
            (
                !self.listen.is_empty() && is_unset(&self.cert) && is_unset(&mqtts.cert),
                "https.listen needs https.cert and https.key, or those of mqtts",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicsOptions {
    pub retained_max: usize,
    #[serde(deserialize_with = "units::size")]
    pub retained_bytes_max: usize,
    pub retained_per_user_max: usize,
    #[serde(deserialize_with = "units::size")]
    pub retained_bytes_per_user_max: usize,
    pub grants_per_user_max: u32,
    /// `None`: never.
    #[serde(deserialize_with = "units::duration_or_none")]
    pub sys_interval: Option<Duration>,
    pub rules: Vec<RuleOptions>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleOptions {
    pub effect: Effect,
    pub action: Action,
    pub who: Who,
    pub topics: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Publish,
    Subscribe,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    Users,
    Anonymous,
    Administrators,
    Everyone,
}

/// Whether a setting that names a file is empty.
pub(crate) fn is_unset(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseOptions {
    /// May hold a password.
    pub url: Secret,
    pub write_connections: u32,
    pub read_connections: u32,
    #[serde(deserialize_with = "units::duration")]
    pub acquire_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub statement_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub lock_timeout: Duration,
}

/// The pipeline, and one more, so that commands by HTTP don't wait for it.
const WRITE_CONNECTIONS_MIN: u32 = 2;

impl DatabaseOptions {
    pub(super) fn checks(&self) -> [Check; 6] {
        const SCHEMES: [&str; 5] = [
            "sqlite:",
            "postgres://",
            "postgresql://",
            "mysql://",
            "mariadb://",
        ];
        let url = self.url.expose();
        let known = url.is_empty() || SCHEMES.iter().any(|scheme| url.starts_with(scheme));
        [
            (
                !known,
                "database.url begins neither with sqlite:// nor with postgres:// nor with mysql://",
            ),
            (
                self.write_connections < WRITE_CONNECTIONS_MIN || self.read_connections == 0,
                "database.write_connections is less than 2, or read_connections zero",
            ),
            (
                self.acquire_timeout < Duration::from_millis(100),
                "database.acquire_timeout is less than 100 ms: no connection could be made",
            ),
            (
                // What MySQL can be told.
                self.lock_timeout < Duration::from_secs(1),
                "database.lock_timeout is less than a second",
            ),
            (
                // What a node has begun that is gone is at an end before another one has its number.
                self.statement_timeout >= nodes::GRACE / 2,
                "database.statement_timeout is 15 s or longer",
            ),
            (
                self.lock_timeout >= self.statement_timeout,
                "database.lock_timeout is not shorter than database.statement_timeout",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkOptions {
    #[serde(deserialize_with = "units::addresses")]
    pub listen: Vec<SocketAddr>,
    pub broker: String,
    pub secret: Secret,
    pub secret_file: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// A broker that a bridge joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    pub host: String,
    pub port: u16,
    pub is_tls: bool,
}

impl LinkOptions {
    /// What `broker` says; `None`: nothing, or what can't be understood.
    #[must_use]
    pub fn broker_address(&self) -> Option<BrokerAddress> {
        let (scheme, rest) = self.broker.split_once("://")?;
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        let is_tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return None,
        };
        let address = BrokerAddress {
            host: host.to_owned(),
            port: port.parse().ok()?,
            is_tls,
        };
        Some(address).filter(|address| !address.host.is_empty())
    }

    /// The secret itself, from wherever it is.
    ///
    /// # Errors
    /// That there is none, that it is too short, or that its file can't be read.
    pub fn read_secret(&self) -> anyhow::Result<Secret> {
        let secret = if is_unset(&self.secret_file) {
            self.secret.clone()
        } else {
            let text = std::fs::read_to_string(&self.secret_file)
                .context("link.secret_file can't be read")?;
            Secret::new(text.trim_end())
        };
        ensure!(
            secret.expose().len() >= LINK_SECRET_MIN,
            "link.secret is missing, or shorter than {LINK_SECRET_MIN} characters: whoever knows it can be anybody"
        );
        Ok(secret)
    }

    pub(super) fn checks(&self) -> [Check; 5] {
        let secret = self.secret.expose();
        [
            (
                !self.broker.is_empty() && self.broker_address().is_none(),
                "link.broker is neither mqtt://host:port nor mqtts://host:port",
            ),
            (
                !secret.is_empty() && secret.len() < LINK_SECRET_MIN,
                "link.secret is shorter than 32 characters",
            ),
            (
                !secret.is_empty() && !is_unset(&self.secret_file),
                "link.secret and link.secret_file are both set: which one counts?",
            ),
            (
                is_unset(&self.cert) != is_unset(&self.key),
                "of link.cert and link.key only one is set",
            ),
            (
                self.broker.starts_with("mqtts:") && is_unset(&self.ca),
                "link.broker is over TLS, which needs link.ca",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisOptions {
    /// May hold a password. Empty: the node is alone.
    pub url: Secret,
    pub prefix: String,
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    /// How long newest messages and lists of conversations are kept. 0: not at all.
    #[serde(deserialize_with = "units::duration")]
    pub recent_ttl: Duration,
}

impl RedisOptions {
    /// Whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.url.expose().is_empty()
    }

    pub(super) fn checks(&self, database_url: &str, auth: &AuthOptions) -> [Check; 5] {
        let url = self.url.expose();
        let known = ["redis://", "rediss://"];
        [
            (
                self.is_set() && !known.iter().any(|scheme| url.starts_with(scheme)),
                "redis.url begins neither with redis:// nor with rediss://",
            ),
            (
                self.is_set() && database_url.starts_with("sqlite:"),
                "redis.url is for several nodes, which need a database.url that they share: PostgreSQL or MySQL, not SQLite",
            ),
            (
                self.is_set() && auth.jwt_key.expose().is_empty(),
                "redis.url is for several nodes, which need the same auth.jwt_key: a token of one is not valid at another without",
            ),
            (
                self.prefix.is_empty() || self.prefix.contains(['{', '}']),
                "redis.prefix is empty or has a brace, which would decide where Redis Cluster keeps what",
            ),
            (
                self.timeout.is_zero(),
                "redis.timeout is zero: Redis could never answer in time",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessagesOptions {
    #[serde(deserialize_with = "units::size")]
    pub text_max: usize,
    /// 0: never.
    #[serde(deserialize_with = "units::duration")]
    pub recall_within: Duration,
    /// 0: never.
    #[serde(deserialize_with = "units::duration")]
    pub edit_within: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub expires_max: Duration,
    pub catch_up_max: u32,
    /// `None`: for ever.
    #[serde(deserialize_with = "units::duration_or_none")]
    pub keep: Option<Duration>,
}

impl MessagesOptions {
    pub(super) fn checks(&self, mqtt: &MqttOptions) -> [Check; 5] {
        [
            (
                self.keep.is_some_and(|keep| keep < DAY),
                "messages.keep is less than a day",
            ),
            (
                self.text_max == 0,
                "messages.text_max is zero: nobody could write",
            ),
            (
                self.text_max >= mqtt.max_packet_size,
                "messages.text_max is not smaller than mqtt.max_packet_size: such a message could not be sent",
            ),
            (
                self.catch_up_max == 0,
                "messages.catch_up_max is zero: nothing missed would be delivered",
            ),
            (
                self.expires_max < Duration::from_secs(1),
                "messages.expires_max is less than a second",
            ),
        ]
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveOptions {
    /// `None`: never.
    #[serde(deserialize_with = "units::duration_or_none")]
    pub after: Option<Duration>,
    #[serde(deserialize_with = "units::duration")]
    pub interval: Duration,
    /// Empty: a folder in `data_dir`.
    pub url: String,
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub path_style: bool,
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    #[serde(deserialize_with = "units::size")]
    pub cache: usize,
}

impl ArchiveOptions {
    /// The name of the bucket, and what the names of all objects there begin with; `None`: it is a folder.
    #[must_use]
    pub fn bucket(&self) -> Option<(&str, &str)> {
        let url = self.url.strip_prefix("s3://")?;
        Some(url.split_once('/').unwrap_or((url, "")))
    }

    pub(super) fn checks(&self, messages: &MessagesOptions) -> [Check; 7] {
        let has_keys =
            !self.access_key_id.is_empty() && !self.secret_access_key.expose().is_empty();
        let is_web = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        [
            (
                self.after.is_some_and(|after| after < AFTER_MIN),
                "archive.after is less than 7 days",
            ),
            (
                matches!((self.after, messages.keep), (Some(after), Some(keep)) if keep <= after),
                "messages.keep is not longer than archive.after: nothing would be archived",
            ),
            (
                self.interval < Duration::from_millis(100),
                "archive.interval is less than 100 ms",
            ),
            (
                self.timeout.is_zero(),
                "archive.timeout is zero: no object could be read",
            ),
            (
                self.bucket().is_none() && self.url.contains("://"),
                "archive.url is neither a folder nor begins with s3://",
            ),
            (
                self.bucket()
                    .is_some_and(|(bucket, _)| bucket.is_empty() || !has_keys),
                "archive.url needs a bucket, archive.access_key_id and archive.secret_access_key",
            ),
            (
                !self.endpoint.is_empty() && !is_web(&self.endpoint),
                "archive.endpoint begins neither with https:// nor with http://",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupsOptions {
    pub members_max: usize,
}

impl GroupsOptions {
    pub(super) fn checks(&self) -> [Check; 1] {
        [(
            self.members_max == 0,
            "groups.members_max is zero: not even the owner would fit",
        )]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContactsOptions {
    pub per_user_max: u32,
    pub requests_max: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicesOptions {
    pub per_user_max: u32,
}

impl DevicesOptions {
    pub(super) fn checks(&self) -> [Check; 1] {
        [(
            self.per_user_max == 0,
            "devices.per_user_max is zero: nobody could connect",
        )]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchOptions {
    pub enabled: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresenceOptions {
    #[serde(deserialize_with = "units::duration")]
    pub interval: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub grace: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthOptions {
    pub registration: bool,
    pub password_min: usize,
    #[serde(deserialize_with = "units::duration")]
    pub access_token_ttl: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub refresh_token_ttl: Duration,
    /// 0: no limit.
    pub login_failures: u32,
    #[serde(deserialize_with = "units::duration")]
    pub login_backoff: Duration,
    #[serde(deserialize_with = "units::duration")]
    pub login_backoff_max: Duration,
    pub jwt_key: Secret,
}

impl AuthOptions {
    pub(super) fn checks(&self) -> [Check; 4] {
        let key = self.jwt_key.expose();
        [
            (
                !(1..=PASSWORD_MIN_MAX).contains(&self.password_min),
                "auth.password_min is not between 1 and 128",
            ),
            (
                self.access_token_ttl < Duration::from_secs(1),
                "auth.access_token_ttl is less than a second",
            ),
            (
                self.access_token_ttl >= self.refresh_token_ttl,
                "auth.access_token_ttl is not shorter than auth.refresh_token_ttl",
            ),
            (
                !key.is_empty() && key.len() < JWT_KEY_MIN,
                "auth.jwt_key is shorter than 32 characters",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatesOptions {
    /// 0: no limit, as in the other rates.
    pub sends_per_user: u32,
    pub sends_per_user_burst: u32,
    pub sends_per_conversation: u32,
    pub sends_per_conversation_burst: u32,
    pub expensive_per_minute: u32,
    pub expensive_burst: u32,
    /// uids
    #[serde(deserialize_with = "units::texts")]
    pub exempt: Vec<String>,
}

impl RatesOptions {
    pub(super) fn checks(&self) -> [Check; 3] {
        [
            (
                self.sends_per_user > 0 && self.sends_per_user_burst == 0,
                "rates.sends_per_user_burst is zero: nobody could write",
            ),
            (
                self.sends_per_conversation > 0 && self.sends_per_conversation_burst == 0,
                "rates.sends_per_conversation_burst is zero: nobody could write",
            ),
            (
                self.expensive_per_minute > 0 && self.expensive_burst == 0,
                "rates.expensive_burst is zero: nobody could make a group",
            ),
        ]
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WordsOptions {
    /// Empty: none.
    pub file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownOptions {
    /// `None`: sessions aren't moved off.
    #[serde(deserialize_with = "units::duration_or_none")]
    pub drain: Option<Duration>,
    /// Empty: none.
    pub server_reference: String,
    pub moved: bool,
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
}
