//! The treaty between Pilot Host and its plugins.
//!
//! Plugin authors depend on this crate alone: they implement [`Plugin`] in plain safe Rust and close with one line,
//! [`export_plugin!`]. The host implements [`Daemon`] and its parts with the same plain traits. What crosses the
//! `.so` border is generated here and nowhere else. Start with the [`manual`].
//!
//! This crate knows nothing of the host's rooms, opens no file and no socket.

// `#[sabi_trait]` of abi_stable 0.11 puts impls into bodies, once per trait.
#![allow(non_local_definitions)]

pub mod abi;
pub mod api;
mod bridge;
pub mod contract;
pub mod error;
pub mod export;
mod guard;
pub mod header;
pub mod host;
mod log;
pub mod manual;
pub mod registry;
pub mod task;
#[cfg(any(test, feature = "test-kit"))]
pub mod test_kit;
pub mod types;

#[doc(hidden)]
pub use abi_stable;

pub use api::{
    BoxFuture, Connection, Daemon, EventBus, HandshakeService, Listener, Plugin, PolicyManager, PolicyRunner,
    PortAllocator, Subscription, TrustChecker, TunnelRegistry, WebhookManager,
};
pub use error::{Error, ErrorKind, Result};
pub use task::spawn_thread;
pub use types::{
    Addr, ConnectionInfo, Direction, Event, EventText, HandshakePendingRecord, HandshakeTrustRecord,
    PolicyEvent, PortGate, PublicKey, Signature, VersionInfo, WebhookStats,
};
