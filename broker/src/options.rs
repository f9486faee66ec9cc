//! What the operator can set about the edge.

use std::time::Duration;

use ipnet::IpNet;

/// Limits of the edge. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Before anything is said.
    pub network: NetworkOptions,
    /// Longest packet taken from a client, fixed header included.
    pub max_packet_size: usize,
    /// How long a connection may take from being accepted to the end of authentication.
    pub connect_timeout: Duration,
    /// Longest keep-alive granted, in seconds; a client that asks for more (or for 0, none at all) gets this.
    /// 0: whatever the client asks for.
    pub keep_alive_max_secs: u16,
    /// Publishes of one session that are not acknowledged yet; past that it is not read from.
    pub receive_maximum: u16,
    /// QoS 1 and 2 deliveries that a session may leave unacknowledged; a v5 client can ask for fewer.
    pub delivery_window: u16,
    /// Bytes waiting for one session, past which chat is switched from live delivery to catch-up (QoS 1) or misses
    /// messages (QoS 0), and past which plain messages are dropped (QoS 0) or end the connection.
    pub session_queue: usize,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Connections of one user at the same time; 0: no limit.
    pub connections_per_user_max: usize,
    /// How long a client may refuse to take a byte before it is dropped.
    pub write_timeout: Duration,
    /// The longest time that a session outlives its connection; 0: not at all.
    pub session_expiry_max_secs: u32,
    /// Sessions without a connection, in all.
    pub sessions_max: usize,
    /// The same for one user.
    pub sessions_per_user_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Longest topic or filter.
    pub topic_length_max: usize,
    /// Most levels of a topic or filter.
    pub topic_levels_max: usize,
    /// Topic aliases that a client may use.
    pub topic_alias_max: u16,
    /// How fast a session may send.
    pub rate: RateOptions,
    /// Whether clients without user name are let in.
    pub anonymous: bool,
    /// How much is retained.
    pub retained: RetainedOptions,
    /// How often `$SYS/#` is published; `None`: never.
    pub sys_interval: Option<Duration>,
    /// Where clients are sent when the server is to stop.
    pub elsewhere: Elsewhere,
}

/// Where clients are sent by a server that moves them off. MQTT 5 only (4.11): others are just disconnected.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// The server to use; `None`: the client knows, or comes back to the same address.
    pub reference: Option<String>,
    /// Whether they should stay there.
    pub is_for_good: bool,
}

/// Limits per address, and who stands in front of us. By default there are none.
#[derive(Clone, Debug, Default)]
pub struct NetworkOptions {
    /// Load balancers, whose connections begin with a PROXY header.
    pub proxy_from: Vec<IpNet>,
    /// Addresses without limits.
    pub trusted: Vec<IpNet>,
    /// Connections of one address at the same time; 0: no limit.
    pub connections_per_address: u32,
    /// New connections of one address per second; 0: no limit.
    pub connects_per_second: u32,
    /// New connections of one address at once.
    pub connects_burst: u32,
}

/// How fast a session may send.
#[derive(Clone, Copy, Debug)]
pub struct RateOptions {
    /// Publishes per second; 0: no limit. Twice as many at once.
    pub publishes: u32,
    /// Bytes per second; 0: no limit. Twice as many at once.
    pub bytes: usize,
    /// How long a session may be slowed down without a break before it is disconnected; `None`: for ever.
    pub patience: Option<Duration>,
}

/// Bounds of the retained messages.
#[derive(Clone, Copy, Debug)]
pub struct RetainedOptions {
    /// Messages in all.
    pub messages_max: usize,
    /// Bytes in all: topics, payloads and properties.
    pub bytes_max: usize,
    /// Messages below one user's `dev/{uid}/`.
    pub per_user_max: usize,
    /// Their bytes.
    pub bytes_per_user_max: usize,
}

#[cfg(any(test, fuzzing))]
impl Options {
    /// Wide enough not to be met by chance.
    pub(crate) fn for_tests() -> Self {
        Options {
            network: NetworkOptions::default(),
            max_packet_size: 1 << 20,
            connect_timeout: Duration::from_secs(5),
            keep_alive_max_secs: 0,
            receive_maximum: 64,
            delivery_window: 64,
            session_queue: 1 << 20,
            max_connections: 100,
            connections_per_user_max: 0,
            write_timeout: Duration::from_secs(5),
            session_expiry_max_secs: 3600,
            sessions_max: 100,
            sessions_per_user_max: 100,
            subscriptions_max: 100,
            topic_length_max: 512,
            topic_levels_max: 16,
            topic_alias_max: 16,
            rate: RateOptions {
                publishes: 0,
                bytes: 0,
                patience: None,
            },
            anonymous: false,
            retained: RetainedOptions {
                messages_max: 100,
                bytes_max: 1 << 20,
                per_user_max: 100,
                bytes_per_user_max: 1 << 20,
            },
            sys_interval: None,
            elsewhere: Elsewhere::default(),
        }
    }
}
