//! Z-Wing v1 (zap.md section 5): the mutually authenticated, post-quantum channel under the control protocol. One round
//! trip, one suite, no negotiation.
//!
//! Called by both ends of the control connection (`pilot-net`), behind the feature `zwing` because of its algorithms. Pure
//! like the rest of the crate: seeds are passed in, bytes come out; deadlines, limits on half-open connections and files
//! are the caller's. What the protocol leaves open is closed here where bytes allow (section 5.6): an initiator makes fresh
//! key-agreement keys for every connection unless it asks for the static mode and remembers what it has seen, and nobody is
//! accepted without being expected.
//!
//! The combination of the two key agreements looks like X-Wing and is not the IETF's: the label differs and comes first.

mod channel;
mod handshake;
mod identity;
mod kem;

pub use channel::{Channel, MAX_PLAINTEXT, Opener, Sealer};
pub use handshake::{Encapsulation, Initiator, MESSAGE_1_LEN, MESSAGE_2_LEN, SeenAnswers, respond};
pub use identity::{
    Expect, Expected, Identity, KEM_SEEDS_LEN, PUBLIC_IDENTITY_LEN, PublicIdentity, SEEDS_LEN, SIGNATURE_LEN,
    SIGNING_IDENTITY_LEN,
};
pub use kem::{CIPHERTEXT_LEN, combine};

use crate::Split;

/// Largest payload of a frame, bytes; the smallest is 1 (section 5.1).
pub const MAX_FRAME: usize = 1 << 20;
/// Bytes of a frame's length field.
pub const FRAME_HEADER_LEN: usize = 4;

/// Why a handshake or a channel ended. The texts are the Go peer's where it has one. The socket is closed without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZwingError {
    /// A length of zero, or bytes behind the last field.
    #[error("zwing: invalid wire format")]
    Format,
    /// A frame above [`MAX_FRAME`], or above the only legal size of its handshake message.
    #[error("zwing: message exceeds maximum size")]
    TooLarge,
    /// A field is cut off.
    #[error("zwing: short read")]
    Short,
    /// An identity of another size than [`PUBLIC_IDENTITY_LEN`].
    #[error("zwing: invalid public identity size")]
    IdentitySize,
    /// An identity of the right size that holds no valid keys.
    #[error("zwing: invalid public identity")]
    IdentityKeys,
    /// One of the two signatures, or its size.
    #[error("zwing: signature verification failed")]
    Signature,
    /// A valid identity that is not the expected one, or not on the list.
    #[error("zwing: remote identity does not match expected")]
    Unexpected,
    /// The X25519 result is zero: a key of small order.
    #[error("zwing: key agreement failed")]
    KeyAgreement,
    /// A box or a record does not open.
    #[error("zwing: AEAD authentication failed")]
    Aead,
    /// All sequence numbers of a direction are used.
    #[error("zwing: AEAD sequence number exhausted")]
    Exhausted,
    /// The answer was seen on an earlier connection (static mode only, section 5.6).
    #[error("zwing: the answer was used before")]
    Replayed,
    /// [`SeenAnswers`] is full; a new key pair is due.
    #[error("zwing: the store of seen answers is full")]
    SeenFull,
    /// Too many records without content in a row.
    #[error("zwing: too many empty records")]
    EmptyRecords,
}

/// Cuts the next frame's payload off the front of `bytes`; `limit` is the largest legal payload at this step.
///
/// # Errors
/// [`ZwingError::Format`] for length 0, [`ZwingError::TooLarge`] above `limit` (or [`MAX_FRAME`]), both as soon as the four
/// bytes are there.
pub fn split_frame(bytes: &[u8], limit: usize) -> Result<Split<&[u8]>, ZwingError> {
    let Some((field, rest)) = bytes.split_first_chunk::<FRAME_HEADER_LEN>() else {
        return Ok(Split::Incomplete { missing: FRAME_HEADER_LEN - bytes.len() });
    };
    let length = u32::from_be_bytes(*field) as usize;
    if length == 0 {
        return Err(ZwingError::Format);
    }
    if length > limit.min(MAX_FRAME) {
        return Err(ZwingError::TooLarge);
    }
    Ok(match rest.get(..length) {
        Some(message) => Split::Complete { message, consumed: FRAME_HEADER_LEN + length },
        None => Split::Incomplete { missing: length - rest.len() },
    })
}

/// Appends the header of a frame; callers keep to [`MAX_FRAME`].
fn frame_header(length: usize, out: &mut Vec<u8>) {
    debug_assert!((1..=MAX_FRAME).contains(&length));
    // At most 2^20.
    out.extend_from_slice(&(length as u32).to_be_bytes());
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
