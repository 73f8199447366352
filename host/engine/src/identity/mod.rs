//! The node's Ed25519 identity: signing, verifying, text forms, and the content of the identity file.
//!
//! Called by the engine (key exchanges), by the host (registration, handshakes) and by whoever loads the file. Opens no
//! file and makes no randomness: the seed comes in, the file's bytes and mode come in. Fact sheet: identity.md.

mod file;
mod text;

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};

pub use file::{LoadError, check_mode};
pub use text::{Base64Error, decode_base64, encode_base64};

/// An Ed25519 key pair. The private half leaves memory when the object does and never appears in `Debug`.
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// The identity that belongs to 32 bytes of randomness (the RFC 8032 private key).
    pub fn generate(seed: [u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(&seed) }
    }

    /// Signs `message`; deterministic.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The public key as the registry and the handshake write it: base64, 44 characters.
    pub fn public_key_text(&self) -> String {
        encode_base64(&self.public_key())
    }

    /// The identity file's exact content.
    pub fn to_file_json(&self) -> String {
        file::write(&self.key)
    }

    /// Reads an identity file's content. Its mode is checked before, by [`check_mode`].
    ///
    /// # Errors
    /// [`LoadError`], with the texts of identity.md "File".
    pub fn from_file_json(content: &[u8]) -> Result<Self, LoadError> {
        file::read(content).map(|key| Self { key })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public_key", &self.public_key_text()).finish_non_exhaustive()
    }
}

/// Whether `signature` is `public_key`'s over `message`: the ordinary, cofactorless check with S below the group order.
///
/// Slices of any other length than 32 and 64 bytes never verify.
pub fn verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(public_key) = <&[u8; 32]>::try_from(public_key) else { return false };
    let Ok(signature) = Signature::from_slice(signature) else { return false };
    VerifyingKey::from_bytes(public_key).is_ok_and(|key| key.verify(message, &signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_verify_and_wrong_ones_do_not() {
        let id = Identity::generate([7; 32]);
        let sig = id.sign(b"probe");
        assert!(verify(&id.public_key(), b"probe", &sig));
        assert!(!verify(&id.public_key(), b"prob", &sig));
        assert!(!verify(&id.public_key()[..31], b"probe", &sig));
        assert!(!verify(&id.public_key(), b"probe", &sig[..63]));
        let mut high_s = sig;
        high_s[63] |= 0xF0;
        assert!(!verify(&id.public_key(), b"probe", &high_s));
        assert!(!verify(&[0xFF; 32], b"probe", &sig));
    }

    #[test]
    fn debug_shows_no_secret() {
        let id = Identity::generate([7; 32]);
        let shown = format!("{id:?}");
        assert!(shown.contains(&id.public_key_text()));
        assert!(!shown.contains(&encode_base64(&[7; 32])[..20]));
    }
}
