//! The secure channel that applications run over a stream to port 443 (secure.md): key exchange, optional mutual
//! authentication, sealed records.
//!
//! Called by plugins that serve or dial port 443. The one module of this crate that does cryptography, so it stands behind
//! the feature `secure` and the other rooms do not pay for it. Like the rest it is pure: [`Channel`] takes bytes, the time
//! and random values from its caller and gives back [`Step`]s; it holds no identity key (signatures are asked for), opens
//! no stream and keeps no clock. The time limit of the handshake ([`HANDSHAKE_LIMIT`]) is the caller's to enforce.

mod auth;
mod channel;
mod record;

use std::time::Duration;

pub use auth::{AUTH_FRAME_LEN, AuthFrame, REPLAY_CAPACITY, REPLAY_LIFETIME, ReplayStore, verify_auth};
pub use channel::{Authenticate, Channel, Step};
pub use record::{MAX_RECORD, OVERHEAD, RECORD_HEADER_LEN, Role};

/// The port that the channel is served on by convention (secure.md, title).
pub const PORT: u16 = 443;

/// How long the whole handshake may take (secure.md, key exchange). The caller closes the stream when it passes.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Length of an X25519 public key, bytes; the first message of either side is one, bare.
pub const KEY_LEN: usize = 32;

/// Why a channel ended. The caller closes the stream; nothing is reported to the other side (secure.md, key exchange).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecureError {
    /// The peer's X25519 key is of small order: the shared secret would be known to everybody.
    #[error("ecdh: the peer's key is of low order")]
    LowOrderKey,
    /// A record's length field is below 12.
    #[error("encrypted message too short")]
    TooShort,
    /// A record's length field is above [`MAX_RECORD`].
    #[error("encrypted message too large: {0} bytes")]
    TooLarge(u64),
    /// A record does not open with this channel's key.
    #[error("decrypt: message authentication failed")]
    Decrypt,
    /// A record carries the prefix of its own receiver's role, or none of the two.
    #[error("decrypt: record of the wrong direction (prefix {0})")]
    Direction(u32),
    /// A record's counter is not above that of the record before.
    #[error("decrypt: record counter {got} after {last}")]
    Counter {
        /// What the record says.
        got: u64,
        /// The highest accepted before.
        last: u64,
    },
    /// Something larger than one record can hold was to be sealed.
    #[error("message of {0} bytes does not fit one record")]
    MessageTooLarge(usize),
    /// All 2^64 - 1 counters are used up.
    #[error("no record counters left")]
    Exhausted,
    /// An authentication frame of another size.
    #[error("auth frame wrong size: {0}")]
    AuthSize(usize),
    /// A peer key of another size than 32 bytes.
    #[error("peer public key wrong size: {0}")]
    PeerKeySize(usize),
    /// The frame's time is more than 5 s from ours. The text is the difference in the Go peer's notation.
    #[error("auth timestamp expired: skew {0} exceeds 5s")]
    Expired(String),
    /// The nonce was used before.
    #[error("auth nonce replay detected")]
    Replayed,
    /// The nonce store holds [`REPLAY_CAPACITY`] values of the last hour.
    #[error("auth replay cache full")]
    ReplayFull,
    /// The signature is not the peer's, or not over the key that it sent.
    #[error("auth signature verification failed")]
    BadSignature,
    /// Nobody knows the key of the node that the peer says it is.
    #[error("unknown peer node {0}: no public key found")]
    UnknownPeer(u32),
    /// A call that does not belong to the channel's present step, such as sealing before it is established.
    #[error("the channel is not at that step")]
    OutOfOrder,
}
