//! Every promise of the wire contract, against the running binary. One topic per file; each test has its own server.

mod access;
mod chat;
mod devices;
mod durability;
mod errors;
mod group;
mod http;
mod idempotency;
mod last_will;
mod mqtt;
mod newcomers;
mod offline;
mod slow_readers;
mod storage;
mod support;
mod vanilla;
