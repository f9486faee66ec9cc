//! Links to another process: frames travel over one connection after the other.
//!
//! A bridge in a process of its own joins as an MQTT client. It publishes its frames to [`DOWN_TOPIC`](super::DOWN_TOPIC),
//! and gets those of the edge on [`UP_TOPIC`](super::UP_TOPIC), all at QoS 0: frames have numbers and windows of their own. A
//! link outlives its connections, on both sides and for [`RETURN_WITHIN`]: a client that comes back with the id that CONNACK
//! gave it, and finds its session present, goes on where it was.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::line::{EndSupply, Rx, Tx};
use super::{BridgeLink, EdgeLink, halves};

/// The user name that bridges join with; their password is the secret of the settings.
pub const USER_NAME: &str = "bridge";
/// User property of CONNECT: tells the process from others, and from itself before it was started anew.
pub const BOOT: &str = "boot";
/// User property of CONNECT: whether the bridge can share its work with others, `true` or `false`.
pub const SHARES: &str = "shares";
/// Where either side publishes nothing, now and then, so that the other one knows that it is there.
pub const BEAT_TOPIC: &str = "tidings/link/beat";
/// How often.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Silence after which the other side counts as gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How long a link waits for its next connection.
pub const RETURN_WITHIN: Duration = Duration::from_secs(3);
/// The largest packet of a connection: what MQTT can say. Both sides trust each other, and the windows bound what is sent.
pub const PACKET_MAX: u32 = 268_435_455;

/// Frames that may wait for a connection, each way: far more than the windows let through.
const FRAMES_MAX: usize = 1024;

/// An end of a link, as seen by whoever makes its connections. Dropped, it ends the link.
pub struct Remote(EndSupply);

/// A connection's side of it.
pub struct Carrier {
    /// Frames to be sent.
    pub outgoing: mpsc::Receiver<Bytes>,
    /// Takes frames that have come. Never to be waited for: one that is full is broken.
    pub incoming: mpsc::Sender<Bytes>,
    /// Cancelled where the connection is of no use any more.
    pub broken: CancellationToken,
}

impl Remote {
    /// A bridge's end, and its first connection.
    #[must_use]
    pub fn bridge() -> (Self, BridgeLink, Carrier) {
        let (lines, carrier) = carrier();
        let (supply, end) = EndSupply::new(lines, &carrier.broken);
        let (sender, receiver) = halves(end);
        (Remote(supply), BridgeLink { sender, receiver }, carrier)
    }

    /// An edge's end, and its first connection.
    pub(crate) fn edge() -> (Self, EdgeLink, Carrier) {
        let (lines, carrier) = carrier();
        let (supply, end) = EndSupply::new(lines, &carrier.broken);
        let (sender, receiver) = halves(end);
        (Remote(supply), EdgeLink { sender, receiver }, carrier)
    }

    /// Another connection, over which comes again what may have been lost with the last one.
    #[must_use]
    pub fn reconnect(&self) -> Carrier {
        let (lines, carrier) = carrier();
        self.0.put(lines, &carrier.broken);
        carrier
    }
}

fn carrier() -> ((Tx, Rx), Carrier) {
    let (frames, outgoing) = mpsc::channel(FRAMES_MAX);
    let (incoming, received) = mpsc::channel(FRAMES_MAX);
    let carrier = Carrier {
        outgoing,
        incoming,
        broken: CancellationToken::new(),
    };
    ((Tx::Connection(frames), Rx::Connection(received)), carrier)
}
