//! The MQTT edge: what devices, browsers and attackers meet, with rumqttd's router behind it.
//!
//! It knows users, topics and sessions, and nothing of chats. A session takes what its user publishes on
//! `im/{uid}/up`, hands it to the bridge, and withholds the PUBACK until the bridge has answered; what the bridge
//! sends to a user, it writes to that user's subscribed sessions, each with its own window of unacknowledged packets.
//!
//! Reading order: [`Broker`] (the whole), `listener` → `connection` (one socket) → `session` (one client's protocol
//! state, no I/O) with `outbox` (what waits for it); `registry` (who is connected); `uplinks` and `dispatch` (the two
//! directions between sessions and the bridge); [`link`] (frames over rumqttd's router); [`codec`] (bytes of MQTT).
//!
//! Invariants: the router sees only frames that this crate has built, never a byte or a topic from the network; a
//! session never touches a socket; what a session may grow to is bounded by [`Options`].

#![warn(missing_docs)]

mod broker;
mod closed;
pub mod codec;
mod connection;
mod dispatch;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identity;
pub mod link;
mod listener;
mod options;
mod outbox;
mod payload;
mod peer;
mod registry;
mod session;
mod uplinks;

pub use broker::{Broker, BrokerHandle, Error};
pub use closed::Closed;
pub use identity::{Authenticate, Credentials, Identity, Refusal};
pub use options::{NetworkOptions, Options, RateOptions, RetainedOptions};
pub use peer::{Door, Peer};
