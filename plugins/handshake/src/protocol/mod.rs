//! The protocol without its surroundings: codecs, checks, stores and transitions as pure functions and plain state.
//! Nothing here reads a clock, opens a file, takes a lock or talks to the daemon.

pub mod agents;
pub mod effect;
pub mod machine;
pub mod message;
pub mod receive;
pub mod replay;
pub mod store;
pub mod text;
pub mod tolerant;
pub mod trustfile;

#[cfg(test)]
mod vector_tests;
