//! The control protocol of the network runner: ZAP calls inside a Z-Wing channel over TCP (zap.md).
//!
//! [`serve`] answers calls from any [`Backend`]; [`Client`] makes them. Both prove who they are with a [`keys::Keys`] file
//! and accept only whom they were told to. There is no cleartext mode. Called by the runner and by `pilotctl net`; knows
//! nothing of clusters or processes, which are the backend's.

mod backend;
mod client;
pub mod keys;
mod secured;
mod server;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use backend::{Backend, BackendError, BackendResult, Created};
pub use client::{CallError, Client, ClientConfig, DialError, StatusStream};
pub use pilot_wire::zap::{
    AddNode, ChainInfo, ChainSpec, ClusterInfo, LoadSnapshot, NodeInfo, RestartNode, SendOutboundMessage,
    Start,
};
pub use pilot_wire::zwing::{Expect, Expected, PublicIdentity, ZwingError};
pub use server::{Server, ServerConfig, serve};

/// How long a handshake may take on either side (zap.md section 5.6; the peer has no limit).
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long one write may take before the connection is given up (zap.md section 1).
pub const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Calls that one connection may have in flight (zap.md section 3).
pub const MAX_CALLS: usize = 1000;
