//! The value structs of the treaty. Frozen for a major version: a field more or less is refused in both directions.

use abi_stable::StableAbi;
use abi_stable::std_types::{RResult, RString};

/// An error as it crosses: [`ErrorKind::code`](crate::ErrorKind::code) and a sentence.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct AbiError {
    /// A number, not an enum: new kinds never change the layout.
    pub code: u32,
    /// For people.
    pub message: RString,
}

/// What every method returns, so that a panic always has somewhere to go.
pub type AbiResult<T> = RResult<T, AbiError>;

/// The four endpoint values of a stream.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnInfo {
    /// Local address, 48 bits used.
    pub local: u64,
    /// Remote address, 48 bits used.
    pub remote: u64,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
}

/// One event of the bus.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Event {
    /// Dotted topic.
    pub topic: RString,
    /// The node id at publish time.
    pub node_id: u32,
    /// Unix milliseconds.
    pub unix_ms: u64,
    /// The payload object as JSON text; empty for "none".
    pub payload_json: RString,
}

/// Counters of the webhook client.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebhookCounters {
    /// Events lost to a full queue.
    pub dropped: u64,
    /// Events skipped while the breaker was open.
    pub circuit_skips: u64,
}

/// An Ed25519 public key as it crosses: raw bytes.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct KeyBytes {
    /// 32 raw bytes.
    pub bytes: [u8; 32],
}

/// An Ed25519 signature as it crosses: raw bytes.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct SignatureBytes {
    /// 64 raw bytes.
    pub bytes: [u8; 64],
}
