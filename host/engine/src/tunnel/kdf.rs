//! From two X25519 keys to one AES-256 key (tunnel.md section 3). Pure functions.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Info of the current derivation; no colon.
const INFO: &[u8] = b"pilot-tunnel-v1";
/// What the February 2026 derivation hashes in front of the secret; with a colon.
const LEGACY_PREFIX: &[u8] = b"pilot-tunnel-v1:";

/// 32 secret bytes, erased when dropped.
pub type Key = Zeroizing<[u8; 32]>;

/// The shared secret; `None` when it is all zero, which only a key of small order gives.
pub fn shared_secret(own: &StaticSecret, peer: &[u8; 32]) -> Option<Key> {
    let shared = own.diffie_hellman(&PublicKey::from(*peer));
    shared.was_contributory().then(|| Zeroizing::new(*shared.as_bytes()))
}

/// The tunnel key of May 2026 and later: HKDF-SHA256, empty salt.
pub fn tunnel_key(shared: &Key) -> Key {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, shared.as_slice())
        .expand(INFO, key.as_mut_slice())
        .expect("32 bytes are one block, far below HKDF's limit");
    key
}

/// The tunnel key of February 2026.
pub fn legacy_tunnel_key(shared: &Key) -> Key {
    Zeroizing::new(
        Sha256::new().chain_update(LEGACY_PREFIX).chain_update(shared.as_slice()).finalize().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_derive_the_same_key() {
        let (a, b) = (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]));
        let ab = shared_secret(&a, PublicKey::from(&b).as_bytes()).unwrap();
        let ba = shared_secret(&b, PublicKey::from(&a).as_bytes()).unwrap();
        assert_eq!(*tunnel_key(&ab), *tunnel_key(&ba));
        assert_ne!(*tunnel_key(&ab), *legacy_tunnel_key(&ab));
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        assert!(shared_secret(&StaticSecret::from([1; 32]), &[0; 32]).is_none());
    }
}
