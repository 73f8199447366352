//! Who is at the other end (secure.md, auth frame): node id, time, nonce and a signature over the sender's own X25519 key,
//! so that a frame says nothing outside of the key exchange that it was made for.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};

use super::{KEY_LEN, SecureError};
use crate::goduration::GoDuration;

/// Length of an auth frame, bytes.
pub const AUTH_FRAME_LEN: usize = 92;
/// Nonces that a [`ReplayStore`] holds at most.
pub const REPLAY_CAPACITY: usize = 100_000;
/// How long a nonce is remembered.
pub const REPLAY_LIFETIME: Duration = Duration::from_secs(3600);

/// Largest difference of the two clocks.
const MAX_SKEW: Duration = Duration::from_secs(5);
const CONTEXT: &[u8; 18] = b"pilot-secure-auth:";
const SIGNED_LEN: usize = 78;

/// One auth frame, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthFrame {
    /// Who the sender says it is.
    pub node: u32,
    /// Unix time, seconds.
    pub timestamp: u64,
    /// Random, used once.
    pub nonce: [u8; 16],
    /// Ed25519 over [`signed_message`](Self::signed_message).
    pub signature: [u8; 64],
}

impl AuthFrame {
    /// What the sender signs, given its own ephemeral X25519 public key (78 bytes).
    pub fn signed_message(
        node: u32,
        x25519: &[u8; KEY_LEN],
        timestamp: u64,
        nonce: &[u8; 16],
    ) -> [u8; SIGNED_LEN] {
        let mut message = [0; SIGNED_LEN];
        message[..18].copy_from_slice(CONTEXT);
        message[18..22].copy_from_slice(&node.to_be_bytes());
        message[22..54].copy_from_slice(x25519);
        message[54..62].copy_from_slice(&timestamp.to_be_bytes());
        message[62..].copy_from_slice(nonce);
        message
    }

    /// The 92 bytes: node id, time, nonce, signature.
    pub fn encode(&self) -> [u8; AUTH_FRAME_LEN] {
        let mut frame = [0; AUTH_FRAME_LEN];
        frame[..4].copy_from_slice(&self.node.to_be_bytes());
        frame[4..12].copy_from_slice(&self.timestamp.to_be_bytes());
        frame[12..28].copy_from_slice(&self.nonce);
        frame[28..].copy_from_slice(&self.signature);
        frame
    }

    /// # Errors
    /// [`SecureError::AuthSize`] for any other length than 92.
    pub fn decode(bytes: &[u8]) -> Result<Self, SecureError> {
        let frame: &[u8; AUTH_FRAME_LEN] =
            bytes.try_into().map_err(|_| SecureError::AuthSize(bytes.len()))?;
        let (node, rest) = frame.split_first_chunk().expect("92 bytes hold the node id");
        let (timestamp, rest) = rest.split_first_chunk().expect("88 bytes hold the time");
        let (nonce, rest) = rest.split_first_chunk().expect("80 bytes hold the nonce");
        let signature = rest.first_chunk().expect("64 bytes are left");
        Ok(AuthFrame {
            node: u32::from_be_bytes(*node),
            timestamp: u64::from_be_bytes(*timestamp),
            nonce: *nonce,
            signature: *signature,
        })
    }
}

/// Judges a frame in the order of secure.md: size, key, time, nonce, signature. Gives the node id it proves.
///
/// `now` is the verifier's Unix time, taken before auth frames were exchanged; `peer_x25519` the key that arrived in the
/// clear; `peer_key` the Ed25519 key that the caller holds the peer to. The nonce is used up even when the signature turns
/// out wrong, as at the Go peer.
///
/// # Errors
/// As each step names; the frame proves nothing then.
pub fn verify_auth(
    frame: &[u8],
    peer_key: &[u8],
    peer_x25519: &[u8; KEY_LEN],
    now: Duration,
    replay: &mut ReplayStore,
) -> Result<u32, SecureError> {
    let auth = AuthFrame::decode(frame)?;
    let key: &[u8; 32] = peer_key.try_into().map_err(|_| SecureError::PeerKeySize(peer_key.len()))?;
    let skew = now.abs_diff(Duration::from_secs(auth.timestamp));
    if skew > MAX_SKEW {
        return Err(SecureError::Expired(GoDuration::from(skew).to_string()));
    }
    replay.record(now, auth.nonce)?;
    let message = AuthFrame::signed_message(auth.node, peer_x25519, auth.timestamp, &auth.nonce);
    // The ordinary rule, as the Go peer's: its frames must pass. A weak key proves nothing under either rule.
    let key = VerifyingKey::from_bytes(key).ok().filter(|k| !k.is_weak()).ok_or(SecureError::BadSignature)?;
    key.verify_strict(&message, &Signature::from_bytes(&auth.signature))
        .map_err(|_| SecureError::BadSignature)?;
    Ok(auth.node)
}

/// Nonces of the last hour, for all channels of a process and both roles together (secure.md, auth frame). Refuses when
/// full, so it holds at most [`REPLAY_CAPACITY`] entries.
#[derive(Debug, Default)]
pub struct ReplayStore {
    seen: HashMap<[u8; 16], Duration>,
    /// In the order of arrival, which is that of expiry as long as the clock does not jump back.
    order: VecDeque<[u8; 16]>,
}

impl ReplayStore {
    /// An empty store.
    pub fn new() -> Self {
        ReplayStore::default()
    }

    /// How many nonces it remembers.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Remembers `nonce` at Unix time `now`, after forgetting what is older than [`REPLAY_LIFETIME`].
    ///
    /// # Errors
    /// [`SecureError::Replayed`] when it is there, [`SecureError::ReplayFull`] when there is no room.
    pub fn record(&mut self, now: Duration, nonce: [u8; 16]) -> Result<(), SecureError> {
        while let Some(oldest) = self.order.front() {
            let young = self.seen.get(oldest).is_some_and(|at| now.saturating_sub(*at) < REPLAY_LIFETIME);
            if young {
                break;
            }
            self.seen.remove(oldest);
            self.order.pop_front();
        }
        if self.seen.contains_key(&nonce) {
            return Err(SecureError::Replayed);
        }
        if self.seen.len() >= REPLAY_CAPACITY {
            return Err(SecureError::ReplayFull);
        }
        self.seen.insert(nonce, now);
        self.order.push_back(nonce);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn nonce(n: u32) -> [u8; 16] {
        let mut nonce = [0; 16];
        nonce[..4].copy_from_slice(&n.to_be_bytes());
        nonce
    }

    #[test]
    fn the_store_refuses_when_full_and_forgets_after_an_hour() {
        let mut store = ReplayStore::new();
        for n in 0..u32::try_from(REPLAY_CAPACITY).unwrap() {
            store.record(Duration::from_secs(u64::from(n / 1000)), nonce(n)).unwrap();
        }
        let soon = Duration::from_secs(200);
        assert_eq!(store.record(soon, nonce(5)), Err(SecureError::Replayed));
        assert_eq!(store.record(soon, nonce(u32::MAX)), Err(SecureError::ReplayFull));
        assert_eq!(store.record(REPLAY_LIFETIME, nonce(u32::MAX)), Ok(()));
        assert_eq!(store.len(), REPLAY_CAPACITY - 1000 + 1);
        assert_eq!(store.record(REPLAY_LIFETIME, nonce(999)), Ok(()));
        assert_eq!(store.record(REPLAY_LIFETIME, nonce(1000)), Err(SecureError::Replayed));
    }
}
