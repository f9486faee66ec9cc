//! Every promise of the wire contract, against the running binary. One topic per file; each test has its own server.

mod access;
mod chat;
mod durability;
mod errors;
mod group;
mod http;
mod idempotency;
mod mqtt;
mod offline;
mod storage;
mod support;
