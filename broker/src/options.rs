//! What the operator can set about the edge.

use std::time::Duration;

/// Limits of the edge. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest packet taken from a client, fixed header included.
    pub max_packet_size: usize,
    /// How long a connection may take from its first byte to the end of authentication.
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

impl Default for Options {
    fn default() -> Self {
        Options {
            max_packet_size: 256 * 1024,
            connect_timeout: Duration::from_secs(10),
            keep_alive_max_secs: 0,
            receive_maximum: 64,
            delivery_window: 64,
            session_queue: 512 * 1024,
            max_connections: 100_000,
            write_timeout: Duration::from_secs(20),
        }
    }
}
