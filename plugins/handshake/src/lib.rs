//! The handshake plugin.
#![forbid(unsafe_code)]
pub mod protocol;
pub mod shell;
