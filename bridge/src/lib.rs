//! The chat service and the `tidings` program: takes what clients ask, gives every message its place, stores it once, fans
//! it out.
//!
//! Reading order: [`serve`] (how the parts are put together), [`service`] (the pipeline: commands in, answers and deliveries
//! out), [`store`] (the database), [`archive`] (messages in files), [`recent`] (what is kept in Redis), [`cluster`] and [`mod@redis`] (other nodes on it), [`auth`]
//! (accounts and tokens), [`http`] (the second door), `join` (the way to a broker in another process), [`settings`] and [`cli`] (what
//! the operator sees), [`demo`], [`mod@bench`].
//!
//! Invariants: only [`store`] knows sea-orm and SQL; only the service's pipeline writes conversations, but for
//! the archiver, who takes old messages away; an answer leaves after the commit that it speaks of.

#![warn(missing_docs)]

pub mod archive;
pub mod auth;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod code;
pub mod content;
pub mod data_dir;
pub mod demo;
pub mod http;
mod join;
pub mod recent;
pub mod redis;
pub mod serve;
pub mod service;
pub mod settings;
pub mod store;
