//! The rendezvous: the registry, where nodes get their numbers and find each other, and the beacon, where they learn how
//! they look from outside and have their frames relayed.
//!
//! Called by the drivers of the I/O floor. Both parts are state machines without I/O: a request or datagram and the time
//! go in; an answer, datagrams and changed records come out. This crate opens nothing, reads no clock and no randomness,
//! and shares nothing with the engine but the wire formats, so when the two agree it means something.
//!
//! [`Registry::handle`] says with each answer whether it changed records, [`Registry::take_changes`] which; a driver that
//! commits them to a [`Store`] before it sends the answers keeps every acknowledged change across a crash.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod beacon;
mod endpoint;
mod key;
mod message;
mod names;
mod refusal;
mod registry;
mod settings;
mod state;
mod store;

pub use beacon::bridge::{Clients, bridge_addr, bridged_node};
pub use beacon::{Beacon, Moment};
pub use key::verify_signature;
pub use registry::{AnswerTooLarge, Claim, Proof, ProofMemory, Query, Registry, Reply, Snapshot, Stats};
pub use settings::{BeaconSettings, Settings};
pub use state::{Change, KeyBytes, RecordKey, RestoreError, SnapshotError};
pub use store::{Store, StoreError};
