//! The MQTT edge: what devices, browsers and attackers meet, with rumqttd's router behind it.
//!
//! It knows users, topics and sessions, and nothing of chats. A session takes what its user publishes on
//! `im/{uid}/up`, hands it to the bridge, and withholds the PUBACK until the bridge has answered; what the bridge
//! sends to a user, it writes to that user's subscribed sessions, each with its own window of unacknowledged packets.
//!
//! Reading order: [`Broker`] (the whole), `listener` with [`net`] (who may come in) → `connection` (one socket) →
//! `session` (one client's protocol state, no I/O) with `outbox` (what waits for it); `registry` and `parking` (who is
//! connected, and who may come back); `plain` (topics other than chat's); `bridges` (which bridge has which sessions),
//! `uplinks` and `dispatch` (the two directions between sessions and a bridge); [`link`] (frames over rumqttd's router, or to
//! another process), `joining` and `asked` (bridges that are other processes); [`codec`] (bytes of MQTT); `stats` and `sys` (what
//! is counted, and told).
//!
//! Invariants: the router sees only frames that this crate has built, never a byte or a topic from the network; a
//! session never touches a socket; what a session may grow to is bounded by [`Options`].

#![warn(missing_docs)]

mod asked;
mod bridges;
mod broker;
mod closed;
pub mod codec;
mod connection;
mod dispatch;
mod edge;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identity;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod joining;
pub mod link;
mod listener;
mod moving;
pub mod net;
mod options;
mod outbox;
mod parking;
mod payload;
mod peer;
mod plain;
mod registry;
mod session;
mod stats;
mod sys;
mod throttle;
mod uplinks;
mod will;

pub use broker::{Broker, BrokerHandle, Error};
pub use closed::Closed;
pub use identity::{Authenticate, Credentials, Identity, Refusal};
pub use link::{RouterHealth, RouterState};
pub use options::{Elsewhere, NetworkOptions, Options, RateOptions, RetainedOptions};
pub use peer::{Door, Peer};
pub use plain::policy::{Action, Effect, Rule, RuleError, Rules, Who};
pub use stats::{Counts, Snapshot};
