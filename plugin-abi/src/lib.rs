//! The treaty between Pilot Host and its plugins.
//!
//! Plugin authors depend on this crate alone: they implement [`Plugin`] in plain safe Rust and close with one line,
//! [`export_plugin!`]. The host implements [`Daemon`] and its parts with the same plain traits. What crosses the
//! `.so` border is generated here and nowhere else.
//!
//! This crate knows nothing of the host's rooms, opens no file and no socket, and starts no thread of its own.

pub mod api;
pub mod error;
pub mod types;

pub use api::{
    Connection, Daemon, EventBus, HandshakeService, Listener, Plugin, PolicyManager, PolicyRunner, PortAllocator,
    Subscription, TrustChecker, TunnelRegistry, WebhookManager,
};
pub use error::{Error, ErrorKind, Result};
pub use types::{
    Addr, ConnectionInfo, Direction, Event, HandshakePendingRecord, HandshakeTrustRecord, PolicyEvent, PortGate,
    PublicKey, Signature, VersionInfo, WebhookStats,
};
