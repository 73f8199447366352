//! Is this message genuine? The checks of handshake.md section 2 that need no memory, in their order.
//!
//! Called by the port 444 handler around its registry lookup, and by nobody else. Each check is a pure function of the
//! message and of facts the caller fetched; the replay store is in `replay`, what a genuine message changes is in
//! `machine`.
//!
//! | step | check | where |
//! |---|---|---|
//! | 1 | parses | [`Message::decode`] |
//! | 2 | age | [`check_age`] |
//! | 3, 7 | not seen before | `ReplayStore` |
//! | 4, 5 | key and signature | [`check_key`] |
//! | 6 | sender is the stream's other end | [`check_sender`] |

use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use jiff::Timestamp;
use subtle::ConstantTimeEq;

use super::message::{Kind, Message, signed_text};
use super::text::from_base64;
use super::tolerant::JsonError;

/// Oldest message that is accepted, seconds.
pub const MAX_AGE: i64 = 300;
/// How far in the future a message may be, seconds.
pub const MAX_AHEAD: i64 = 30;
/// Longest key text that is looked at. The canonical text has 44 characters; line breaks are legal, megabytes of them
/// are not a key.
pub const MAX_KEY_TEXT: usize = 256;

/// Why a message was dropped. Nothing is ever answered; this goes to the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Step 1.
    #[error("invalid JSON: {0}")]
    Json(#[from] JsonError),
    /// Step 2.
    #[error("too old: written at {0}")]
    TooOld(i64),
    /// Step 2; the sender's clock or ours is wrong.
    #[error("from the future: written at {0}; check both clocks")]
    FromTheFuture(i64),
    /// Steps 3 and 7.
    #[error("replayed: the same message was seen in the last minutes")]
    Replayed,
    /// Step 4.
    #[error("request missing public key")]
    KeyMissing,
    /// Step 5.
    #[error("missing signature")]
    SignatureMissing,
    /// Step 5: somebody else's key, or the node registered again with a new one.
    #[error("pubkey mismatch with registry")]
    KeyMismatch,
    /// Step 5.
    #[error("invalid public key encoding")]
    KeyEncoding,
    /// Step 5.
    #[error("invalid signature encoding")]
    SignatureEncoding,
    /// Step 5: not signed by that key, or for another receiver.
    #[error("signature verification failed")]
    SignatureWrong,
    /// Step 6.
    #[error("node_id does not match authenticated sender (stream of node {stream})")]
    SenderMismatch {
        /// Whose stream it came on.
        stream: u32,
    },
}

/// Step 2. `now` has fractions, the message's time does not.
pub fn check_age(message: &Message, now: Timestamp) -> Result<(), Refusal> {
    const SECOND: i128 = 1_000_000_000;
    let age = now.as_nanosecond() - i128::from(message.timestamp) * SECOND;
    if age > i128::from(MAX_AGE) * SECOND {
        return Err(Refusal::TooOld(message.timestamp));
    }
    if -age > i128::from(MAX_AHEAD) * SECOND {
        return Err(Refusal::FromTheFuture(message.timestamp));
    }
    Ok(())
}

/// Step 4, and the part of step 5 that comes before the registry is asked. `true`: it has to be asked.
pub fn needs_lookup(message: &Message) -> Result<bool, Refusal> {
    if message.public_key.is_empty() {
        // The other three types are then authenticated by the stream alone.
        return if message.kind() == Some(Kind::Request) { Err(Refusal::KeyMissing) } else { Ok(false) };
    }
    if message.signature.is_empty() {
        return Err(Refusal::SignatureMissing);
    }
    if message.public_key.len() > MAX_KEY_TEXT {
        return Err(Refusal::KeyEncoding);
    }
    Ok(true)
}

/// Step 5 for a message that carries a key. `registered` is the key text the registry has for the sender, `None` when
/// it could not be asked or has none. `Ok(true)`: the registry confirmed the key.
pub fn check_key(message: &Message, receiver: u32, registered: Option<&str>) -> Result<bool, Refusal> {
    let bound = match registered.filter(|key| !key.is_empty()) {
        Some(key) if bool::from(key.as_bytes().ct_eq(message.public_key.as_bytes())) => true,
        Some(_) => return Err(Refusal::KeyMismatch),
        None => false,
    };
    let key = from_base64(&message.public_key).and_then(|k| <[u8; 32]>::try_from(k).ok());
    let key = key.ok_or(Refusal::KeyEncoding)?;
    let signature = from_base64(&message.signature).ok_or(Refusal::SignatureEncoding)?;
    if verifies(&key, signed_text(message.node_id, receiver).as_bytes(), &signature) {
        Ok(bound)
    } else {
        Err(Refusal::SignatureWrong)
    }
}

/// The ordinary (cofactorless) Ed25519 check; a signature of any other length than 64 bytes is wrong.
pub fn verifies(key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(key), Signature::from_slice(signature)) else {
        return false;
    };
    key.verify(message, &signature).is_ok()
}

/// Step 6: only a request may come over another node's stream.
pub fn check_sender(message: &Message, stream: u32) -> Result<(), Refusal> {
    match message.kind() {
        Some(Kind::Accept | Kind::Reject | Kind::Revoke) if message.node_id != stream => {
            Err(Refusal::SenderMismatch { stream })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64, nanos: i32) -> Timestamp {
        Timestamp::new(second, nanos).expect("in range")
    }

    #[test]
    fn the_time_window_has_exact_edges() {
        let message = Message { timestamp: 1000, ..Message::default() };
        assert_eq!(check_age(&message, at(1300, 0)), Ok(()));
        assert_eq!(check_age(&message, at(1300, 1)), Err(Refusal::TooOld(1000)));
        assert_eq!(check_age(&message, at(970, 0)), Ok(()));
        assert_eq!(check_age(&message, at(969, 999_999_999)), Err(Refusal::FromTheFuture(1000)));
        for extreme in [i64::MIN, i64::MAX] {
            let message = Message { timestamp: extreme, ..Message::default() };
            assert!(check_age(&message, at(0, 0)).is_err());
        }
    }

    #[test]
    fn a_key_text_is_not_a_way_to_send_megabytes() {
        let message = Message {
            kind: Kind::Accept.as_str().into(),
            public_key: format!("{}{}", "\n".repeat(MAX_KEY_TEXT), "A".repeat(44)),
            signature: "x".into(),
            ..Message::default()
        };
        assert_eq!(needs_lookup(&message), Err(Refusal::KeyEncoding));
    }

    #[test]
    fn unknown_types_may_come_over_any_stream() {
        let message = Message { kind: "handshake_hello".into(), node_id: 1, ..Message::default() };
        assert_eq!(check_sender(&message, 2), Ok(()));
        let message = Message { kind: "handshake_reject".into(), ..message };
        assert_eq!(check_sender(&message, 2), Err(Refusal::SenderMismatch { stream: 2 }));
    }
}
