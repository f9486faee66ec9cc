//! The wire contract as types: no I/O, no storage, no policy.
//!
//! Reading order: [`v1`] (what clients send and get, generated from `proto/tidings/v1`),
//! [`wire`] (its two encodings), [`openapi`] (one of them described), [`topic`] (which topics carry it), [`id`] (the names in it),
//! [`link`] (what edge and bridge say to each other), [`bus`] (what nodes say to each other), [`archive`] (messages in files),
//! [`cache`] (what nodes keep in Redis).
//!
//! Invariant: only this crate knows how the messages look as bytes.

pub mod id;
pub mod timestamp;
pub mod topic;
pub mod wire;

/// Messages between clients and Tidings; every field is explained in `proto/tidings/v1/tidings.proto`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/tidings.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidings.v1.serde.rs"));
}

/// [`v1`] for who speaks its JSON.
pub mod openapi {
    /// A schema of OpenAPI 3.1 for each message, by name, as a JSON object. References are to `#/components/schemas/`.
    pub const SCHEMAS: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));
}

/// As nested as the packages are, since what one takes from the other is named by that.
#[allow(clippy::all, missing_docs)]
mod generated {
    pub mod link {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/tidings.link.v1.rs"));
        }
    }
    pub mod archive {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/tidings.archive.v1.rs"));
        }
    }
    pub mod bus {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/tidings.bus.v1.rs"));
        }
    }
    pub mod cache {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/tidings.cache.v1.rs"));
        }
    }
}

/// What is kept of messages in files; explained in `proto/tidings/archive/v1/archive.proto`.
pub use generated::archive::v1 as archive;
/// What nodes tell each other; explained in `proto/tidings/bus/v1/bus.proto`.
pub use generated::bus::v1 as bus;
/// What nodes keep in Redis; explained in `proto/tidings/cache/v1/cache.proto`.
pub use generated::cache::v1 as cache;
/// Frames between the edge and the bridge; explained in `proto/tidings/link/v1/link.proto`.
pub use generated::link::v1 as link;
pub use id::{ConversationId, Gid, MsgId, Uid};
pub use timestamp::Timestamp;
pub use topic::Topic;
pub use wire::Format;
