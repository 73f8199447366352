//! Public keys and signatures as the registry sees them: base64 text outside, raw bytes inside.
//!
//! Called by the registry's operations, by the beacon, and by the driver that challenges compat clients. Holds no private
//! key and makes no signature. Fact sheets: identity.md ("Keys and encodings"), registry.md section 2.

use std::fmt;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine};
use ed25519_dalek::{Signature, Verifier, VerifyingKey, verify_batch};

/// Standard alphabet, padding required, stray bits behind the last byte tolerated.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// An Ed25519 public key. Any 32 bytes are one; those that are no curve point never verify anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// A key from its raw bytes.
    pub const fn from_bytes(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`KeyError`]: not base64, or not 32 bytes.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        decode_array(text).map(Self).map_err(|e| match e {
            ArrayError::Encoding(e) => KeyError::Encoding(e),
            ArrayError::Size(len) => KeyError::Size(len),
        })
    }

    /// Whether `signature` (64 bytes; any other length is wrong) is this key's over `message`: the ordinary cofactorless
    /// check with S below the group order.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| key.verify(message, &signature).is_ok())
    }
}

/// `PublicKey::verify` for drivers, which have the raw bytes.
pub fn verify_signature(key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    PublicKey::from_bytes(*key).verify(message, signature)
}

/// Whether all of (key, message, signature) are good, in one calculation. When this says no, at least one is bad.
///
/// It checks a random combination of the equations of `PublicKey::verify`. The two can differ only about a signature
/// that the key's own holder has made wrong on purpose, with points of small order; whoever can do that can as well sign.
pub(crate) fn verify_together<'a>(parts: impl Iterator<Item = (&'a PublicKey, &'a [u8], &'a [u8])>) -> bool {
    let (mut keys, mut messages, mut signatures) = (Vec::new(), Vec::new(), Vec::new());
    for (key, message, signature) in parts {
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(&key.0), Signature::from_slice(signature))
        else {
            return false;
        };
        keys.push(key);
        messages.push(message);
        signatures.push(signature);
    }
    verify_batch(&messages, &signatures, &keys).is_ok()
}

impl fmt::Display for PublicKey {
    /// The canonical text: 44 characters of base64.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl PublicKey {
    fn with_text<T>(&self, use_it: impl FnOnce(&str) -> T) -> T {
        let mut text = [0; 44];
        // 32 bytes are 44 characters, all of them ASCII.
        let written = BASE64.encode_slice(self.0, &mut text).unwrap_or_default();
        use_it(std::str::from_utf8(&text[..written]).unwrap_or_default())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("decode public key: {0}")]
    Encoding(Base64Error),
    /// Base64 of something that is not 32 bytes long.
    #[error("invalid public key size: {0}")]
    Size(usize),
}

/// Where a text stops being base64; the text is the Go peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal base64 data at input byte {0}")]
pub struct Base64Error(pub usize);

/// Why a text is not base64 of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArrayError {
    Encoding(Base64Error),
    /// It is of so many others.
    Size(usize),
}

/// As [`decode_base64`], for a text that stands for `N` bytes.
pub(crate) fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], ArrayError> {
    let mut raw = [0; N];
    // Groups of four characters and no line breaks, as all peers write it: nothing needs to be allocated. Whatever else
    // it is, the general way finds out.
    if text.len() == N.div_ceil(3) * 4 {
        let mut whole = [0; 96];
        if let Ok(len) = BASE64.decode_slice(text, &mut whole)
            && len == N
        {
            raw.copy_from_slice(&whole[..N]);
            return Ok(raw);
        }
    }
    let bytes = decode_base64(text).map_err(ArrayError::Encoding)?;
    bytes.try_into().map_err(|bytes: Vec<u8>| ArrayError::Size(bytes.len()))
}

/// Reads base64 the way all peers do: standard alphabet, padding required, line breaks ignored.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, Base64Error> {
    let is_break = |b: &u8| matches!(b, b'\r' | b'\n');
    if !text.as_bytes().iter().any(is_break) {
        return BASE64.decode(text).map_err(|e| Base64Error(error_offset(&e, text.len())));
    }
    let joined: Vec<u8> = text.bytes().filter(|b| !is_break(b)).collect();
    BASE64.decode(&joined).map_err(|e| {
        // The offset counts the original text, line breaks included.
        let at = error_offset(&e, joined.len());
        let original = text.bytes().enumerate().filter(|(_, b)| !is_break(b)).nth(at);
        Base64Error(original.map_or(text.len(), |(i, _)| i))
    })
}

fn error_offset(error: &DecodeError, len: usize) -> usize {
    match *error {
        DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol { offset: at, .. } => at,
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => len - len % 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_the_peers_tolerance() {
        assert_eq!(decode_base64("AAAA"), Ok(vec![0; 3]));
        assert_eq!(decode_base64("AA\r\nAA\n"), Ok(vec![0; 3]));
        assert_eq!(decode_base64("AB=="), Ok(vec![0]), "stray bits");
        assert_eq!(decode_base64("!!"), Err(Base64Error(0)));
        assert_eq!(decode_base64("AA\n!A"), Err(Base64Error(3)));
        assert_eq!(decode_base64("AAAAAA"), Err(Base64Error(4)), "no padding");
    }

    #[test]
    fn arrays_are_read_as_anything_else_is() {
        let text = BASE64.encode([7; 64]);
        assert_eq!(decode_array(&text), Ok([7; 64]));
        let broken = format!("{}\n{}", &text[..10], &text[10..]);
        assert_eq!(decode_array(&broken), Ok([7; 64]));
        assert_eq!(decode_array::<32>(&text), Err(ArrayError::Size(64)));
        assert_eq!(decode_array::<32>("!!"), Err(ArrayError::Encoding(Base64Error(0))));
        let off = format!("!{}", &text[1..]);
        assert_eq!(decode_array::<64>(&off), Err(ArrayError::Encoding(Base64Error(0))));
        assert_eq!(PublicKey([7; 32]).to_string(), BASE64.encode([7; 32]));
        assert_eq!(serde_json::to_string(&PublicKey([7; 32])).unwrap().len(), 46);
    }

    #[test]
    fn a_key_of_the_wrong_size_says_its_size() {
        assert_eq!(PublicKey::parse("AAAA"), Err(KeyError::Size(3)));
        assert_eq!(KeyError::Size(3).to_string(), "invalid public key size: 3");
    }

    #[test]
    fn no_bytes_make_verification_panic() {
        for raw in [[0; 32], [0xFF; 32], [2; 32]] {
            for len in [0, 1, 63, 64, 65] {
                assert!(!PublicKey(raw).verify(b"x", &vec![0xFF; len]));
            }
        }
    }
}
