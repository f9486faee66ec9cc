//! The real `tidings` binary on ports of its own, and the people who talk to it.
//!
//! Reading order: [`server`] (the process, its data folder and its log), [`client`] (one person's device),
//! [`up`] and [`ask`] (what a device can say), [`http`] (the same person over HTTP), [`link`] (one MQTT connection, 3.1.1 and 5
//! alike), [`raw`] (a socket for literal bytes), [`device`] (one that uses plain topics, every packet by hand: [`wire`]),
//! [`tunnel`] (through [`tls`] and [`websocket`], for all of the above; [`stream`] is what they have in common), [`disk`] (one that can
//! be filled), [`database`] (one that can be locked) with [`session`] (somebody else on it), [`postgres`], [`mariadb`] and [`redis`]
//! (servers that others wrote, each a service of [`daemon`]), [`s3`] (one that they did not write), [`cluster`] (several nodes on these, with
//! [`proxy`] on each wire and [`balancer`] before them), [`split`] (broker and bridges as processes), [`talk`] (people on a cluster),
//! [`soak`] (many of them, and one fault after the other), [`model`] (the chat as it should be, beside the one that is),
//! [`mosquitto`] (`mosquitto_pub` and `mosquitto_sub` as processes), [`wait`] (waiting for a condition). The tests are in
//! `tests/`, one topic per file.
//!
//! Invariants: nothing here uses the server's crates except `schema`, so a test sees what a stranger's client sees;
//! nothing uses a fixed port, or waits for a while instead of a condition; whatever waits gives up after [`PATIENCE`],
//! with an error that says what it waited for.

pub mod ask;
pub mod balancer;
pub mod client;
pub mod cluster;
pub mod daemon;
pub mod database;
pub mod device;
pub mod disk;
pub mod http;
pub mod link;
pub mod mariadb;
pub mod model;
pub mod mosquitto;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod s3;
pub mod server;
pub mod session;
pub mod soak;
pub mod split;
pub mod stream;
pub mod talk;
pub mod tls;
pub mod tunnel;
pub mod up;
pub mod wait;
pub mod websocket;
pub mod wire;

pub use client::Client;
pub use cluster::Cluster;
pub use device::Device;
pub use http::Api;
pub use server::Server;
pub use wait::{PATIENCE, eventually};
