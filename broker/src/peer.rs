//! Where a connection comes from.

use std::fmt;
use std::net::IpAddr;

use schema::Uid;

use crate::codec::ReasonCode;

/// The kind of port that a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS.
    Mqtts,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
}

impl Door {
    /// All of them.
    pub const ALL: [Door; 4] = [Door::Mqtt, Door::Mqtts, Door::Ws, Door::Wss];

    /// One word, for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Door::Mqtt => "mqtt",
            Door::Mqtts => "mqtts",
            Door::Ws => "ws",
            Door::Wss => "wss",
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a client before it has said anything.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address; behind a load balancer the one that its PROXY header tells.
    pub address: IpAddr,
    /// How it came in.
    pub door: Door,
    /// The user that a verified client certificate names.
    pub certified: Option<Uid>,
    /// Set where a limit is reached: the client is told so in CONNACK instead of being let in.
    pub refusal: Option<ReasonCode>,
}
