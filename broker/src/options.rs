//! What the operator can set about the edge.

use std::time::Duration;

/// Limits of the edge. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest packet taken from a client, fixed header included.
    pub max_packet_size: usize,
    /// How long a connection may take from being accepted to the end of authentication.
    pub connect_timeout: Duration,
    /// Longest keep-alive granted, in seconds; a client that asks for more (or for 0, none at all) gets this.
    /// 0: whatever the client asks for.
    pub keep_alive_max_secs: u16,
    /// Publishes of one session that the bridge has not answered yet; past that it is not read from.
    pub receive_maximum: u16,
    /// QoS 1 deliveries that a session may leave unacknowledged; a v5 client can ask for fewer.
    pub delivery_window: u16,
    /// Bytes waiting for one session, past which it is switched from live delivery to catch-up (QoS 1)
    /// or misses messages (QoS 0).
    pub session_queue: usize,
    /// Connections at the same time.
    pub max_connections: usize,
    /// How long a client may refuse to take a byte before it is dropped.
    pub write_timeout: Duration,
}
