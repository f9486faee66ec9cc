//! The chat service: takes what clients ask, gives every message its place, stores it once, fans it out.

pub mod auth;
pub mod clock;
pub mod content;
pub mod settings;
pub mod store;
