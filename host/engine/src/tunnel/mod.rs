//! The tunnel to one peer: key agreement, sealing and opening, replay protection, and the limits around them (tunnel.md).
//!
//! Used by the engine only. Nothing here knows sockets, paths or streams, and nothing decides when to send a key exchange:
//! these are the parts, the order of events is in `engine::kex`.

pub mod epochs;
pub mod kdf;
pub mod replay;

pub(crate) mod counters;
pub(crate) mod rate;
pub(crate) mod session;
