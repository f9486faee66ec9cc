//! The chat as it should be, in plain memory, beside the one that the server keeps: random people do random things with
//! several devices at once, and whenever all is quiet, both have to agree.
//!
//! Reading order: [`chat`] (the reference: conversations, members, what each may see), [`plan`] (what is to happen next,
//! chosen by a seed), [`handset`] (a device that takes down what it hears and acknowledges), [`lane`] (one actor doing its
//! part of a burst), [`membership`] (an order in which concurrent changes of a group make sense), [`operations`] (what becomes
//! of messages and of one's view of them), [`mod@run`] (bursts, kills and
//! quiet points), [`compare`] (what the server tells over HTTP, against the reference).
//!
//! Within a burst the actors are really concurrent, and the server chooses the order: the reference takes it from the
//! seqs in the answers and checks that it could have been so. What can't be known from outside (which acknowledgement
//! still arrived before a connection broke) is kept as [`chat::Bounds`], which the next thing that shows narrows.

pub mod chat;
pub mod compare;
pub mod handset;
pub mod lane;
pub mod membership;
pub mod operations;
pub mod plan;
pub mod run;

pub use plan::Feature;
pub use run::{Options, run};
