//! What the hot path costs: fixed pieces of its work, for `benches/hot_path.rs` (time, on a quiet machine) and for
//! `tests/instructions` (instructions, the same on a busy one).
//!
//! Reading order: [`scenario`] (the pieces that are counted), [`traffic`] over [`edge`] (the real edge) and [`chat`] (the
//! real chat service) to do them without sockets, [`samples`] (what they are done with).
//!
//! Invariant: nothing of the server is built anew here; where a piece can be reached by what the crates show anyway,
//! it is.

#![warn(missing_docs)]

pub mod chat;
pub mod edge;
pub mod samples;
pub mod scenario;
pub mod traffic;

/// The server's own, or another program would be measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
