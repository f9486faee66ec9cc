//! The chat service: takes what clients ask, gives every message its place, stores it once, fans it out.

pub mod auth;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod code;
pub mod content;
pub mod data_dir;
pub mod demo;
pub mod http;
pub mod serve;
pub mod service;
pub mod settings;
pub mod store;
