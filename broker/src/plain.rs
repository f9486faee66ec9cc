//! Plain topics: MQTT as everybody knows it, beside chat's `im/…`.
//!
//! Reading order: [`filter`] (topics, filters, and which of them include which), [`policy`] (who may do what),
//! [`message`] (what travels), [`tree`] (finds filters by topic and topics by filter), [`retained`] (what is kept for
//! those who subscribe later).
#![allow(dead_code, reason = "sessions do not use plain topics yet")]

pub(crate) mod filter;
pub(crate) mod message;
pub(crate) mod policy;
pub(crate) mod retained;
pub(crate) mod tree;
