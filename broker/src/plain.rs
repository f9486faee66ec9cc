//! Plain topics: MQTT as everybody knows it, beside chat's `im/…`.
//!
//! Reading order: [`filter`] (topics, filters, and which of them include which), [`policy`] (who may do what),
//! [`message`] (what travels), [`tree`] (finds filters by topic and topics by filter), [`retained`] (what is kept for
//! those who subscribe later), [`mailbox`] (what waits for a session), [`share`] (who of several has a message), [`exchange`]
//! (all of it together), with [`routing`] (from publish to subscribers), [`kept`] (what the bridge keeps) and [`others`] (where
//! there are other nodes).

pub(crate) mod exchange;
pub(crate) mod filter;
mod kept;
pub(crate) mod mailbox;
pub(crate) mod message;
mod others;
pub(crate) mod policy;
pub(crate) mod retained;
pub(crate) mod routing;
mod share;
pub(crate) mod tree;
