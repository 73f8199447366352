//! Long-term keys and signatures (zap.md section 5.2), and whom one accepts.

use std::fmt;

use ed25519_dalek::Signer;
use ml_dsa::{EncodedVerifyingKey, ExpandedSigningKey, MlDsa65};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::ZwingError;
use super::kem::{KEM_PUBLIC_LEN, KemKeys};

/// Length of a public identity, bytes: [`SIGNING_IDENTITY_LEN`] and the two key-agreement keys.
pub const PUBLIC_IDENTITY_LEN: usize = SIGNING_IDENTITY_LEN + KEM_PUBLIC_LEN;
/// Length of the part that signs, bytes: Ed25519 (32) and ML-DSA-65 (1952). It stays the same when the rest is fresh.
pub const SIGNING_IDENTITY_LEN: usize = ED25519_LEN + MLDSA_LEN;
/// Length of a signature, bytes: Ed25519 (64) and ML-DSA-65 (3309).
pub const SIGNATURE_LEN: usize = 64 + MLDSA_SIGNATURE_LEN;
/// Length of the seeds of a whole identity, bytes: Ed25519 32, ML-DSA 32, then [`KEM_SEEDS_LEN`].
pub const SEEDS_LEN: usize = 64 + KEM_SEEDS_LEN;
/// Length of the seeds of a key-agreement pair, bytes: ML-KEM d and z 64, X25519 scalar 32.
pub const KEM_SEEDS_LEN: usize = 96;

const ED25519_LEN: usize = 32;
const MLDSA_LEN: usize = 1952;
const MLDSA_SIGNATURE_LEN: usize = 3309;
const DOMAIN: &[u8] = b"lux.zwing.v1";

/// The public keys of one end as they stand on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicIdentity(Box<[u8; PUBLIC_IDENTITY_LEN]>);

impl PublicIdentity {
    /// Takes the bytes of an identity; whether its keys are valid shows when they are used.
    ///
    /// # Errors
    /// [`ZwingError::IdentitySize`] for any other length than [`PUBLIC_IDENTITY_LEN`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ZwingError> {
        let boxed: Box<[u8]> = bytes.into();
        boxed.try_into().map(PublicIdentity).map_err(|_| ZwingError::IdentitySize)
    }

    /// All of it.
    pub fn as_bytes(&self) -> &[u8; PUBLIC_IDENTITY_LEN] {
        &self.0
    }

    /// The first [`SIGNING_IDENTITY_LEN`] bytes: what an end is known by when its key-agreement keys change.
    pub fn signing_identity(&self) -> &[u8] {
        &self.0[..SIGNING_IDENTITY_LEN]
    }

    /// The short name for logs: 16 bytes of SHA-256 in hex.
    pub fn fingerprint(&self) -> String {
        use fmt::Write;
        let hash = Sha256::digest(self.0.as_slice());
        hash[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    pub(super) fn kem_public(&self) -> &[u8] {
        &self.0[SIGNING_IDENTITY_LEN..]
    }

    /// Judges a signature of this identity: exact length first, then both parts.
    ///
    /// # Errors
    /// [`ZwingError::Signature`].
    pub fn verify(&self, label: &str, message: &[u8], signature: &[u8]) -> Result<(), ZwingError> {
        let refused = ZwingError::Signature;
        if signature.len() != SIGNATURE_LEN {
            return Err(refused);
        }
        let (classic, lattice) = signature.split_first_chunk::<64>().ok_or(refused)?;
        let (ed25519, rest) = self.0.split_first_chunk::<ED25519_LEN>().ok_or(refused)?;
        let digest = digest(label, message);
        let key = ed25519_dalek::VerifyingKey::from_bytes(ed25519).map_err(|_| refused)?;
        key.verify_strict(&digest, &ed25519_dalek::Signature::from_bytes(classic)).map_err(|_| refused)?;
        let key = EncodedVerifyingKey::<MlDsa65>::try_from(&rest[..MLDSA_LEN]).map_err(|_| refused)?;
        let key = ml_dsa::VerifyingKey::<MlDsa65>::decode(&key);
        let lattice = ml_dsa::Signature::<MlDsa65>::try_from(lattice).map_err(|_| refused)?;
        if key.verify_with_context(&digest, DOMAIN, &lattice) { Ok(()) } else { Err(refused) }
    }
}

impl fmt::Debug for PublicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicIdentity({})", self.fingerprint())
    }
}

/// One end's own keys.
pub struct Identity {
    ed25519: ed25519_dalek::SigningKey,
    mldsa: ExpandedSigningKey<MlDsa65>,
    kem: KemKeys,
    seeds: Zeroizing<[u8; SEEDS_LEN]>,
    public: PublicIdentity,
}

impl Identity {
    /// From its seeds in the order of [`SEEDS_LEN`]; they are what an identity file holds.
    pub fn from_seeds(seeds: &[u8; SEEDS_LEN]) -> Self {
        let (ed25519, rest) = seeds.split_first_chunk::<32>().expect("the seeds are longer");
        let (mldsa, rest) = rest.split_first_chunk::<32>().expect("the seeds are longer");
        let kem = rest.first_chunk::<KEM_SEEDS_LEN>().expect("the rest are those seeds");
        let ed25519 = ed25519_dalek::SigningKey::from_bytes(ed25519);
        let mldsa = ExpandedSigningKey::<MlDsa65>::from_seed(&(*mldsa).into());
        let kem = KemKeys::from_seeds(kem);
        let mut public = Vec::with_capacity(PUBLIC_IDENTITY_LEN);
        public.extend_from_slice(ed25519.verifying_key().as_bytes());
        public.extend_from_slice(&mldsa.verifying_key().encode());
        kem.write_public(&mut public);
        let public = PublicIdentity::from_bytes(&public).expect("the parts have fixed lengths");
        Identity { ed25519, mldsa, kem, seeds: Zeroizing::new(*seeds), public }
    }

    /// The same signing keys with other key-agreement keys, for one connection.
    pub fn with_fresh_kem(&self, kem: &[u8; KEM_SEEDS_LEN]) -> Self {
        let mut seeds = self.seeds.clone();
        seeds[SEEDS_LEN - KEM_SEEDS_LEN..].copy_from_slice(kem);
        Self::from_seeds(&seeds)
    }

    /// What the other end sees.
    pub fn public(&self) -> &PublicIdentity {
        &self.public
    }

    pub(super) fn kem(&self) -> &KemKeys {
        &self.kem
    }

    /// Signs with both keys. Deterministic, which a verifier cannot tell from the hedged signatures of the Go peer.
    pub fn sign(&self, label: &str, message: &[u8]) -> Vec<u8> {
        let digest = digest(label, message);
        let lattice =
            self.mldsa.sign_deterministic(&digest, DOMAIN).expect("the context is shorter than 256 bytes");
        let mut signature = Vec::with_capacity(SIGNATURE_LEN);
        signature.extend_from_slice(&self.ed25519.sign(&digest).to_bytes());
        signature.extend_from_slice(&lattice.encode());
        signature
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public.fingerprint())
    }
}

/// `SHA-256(domain, length of the label, label, message)`.
pub(super) fn digest(label: &str, message: &[u8]) -> [u8; 32] {
    let length = u8::try_from(label.len()).expect("labels are constants below 256 bytes");
    Sha256::new()
        .chain_update(DOMAIN)
        .chain_update([length])
        .chain_update(label)
        .chain_update(message)
        .finalize()
        .into()
}

/// One identity that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// By its signing keys: the right pin for peers that make fresh key-agreement keys.
    Signing(Box<[u8; SIGNING_IDENTITY_LEN]>),
    /// By all its bytes, as the Go peer pins.
    Whole(PublicIdentity),
}

impl Expected {
    /// From bytes of either length.
    ///
    /// # Errors
    /// [`ZwingError::IdentitySize`] for another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ZwingError> {
        match <[u8; SIGNING_IDENTITY_LEN]>::try_from(bytes) {
            Ok(signing) => Ok(Expected::Signing(Box::new(signing))),
            Err(_) => PublicIdentity::from_bytes(bytes).map(Expected::Whole),
        }
    }

    fn matches(&self, found: &PublicIdentity) -> bool {
        match self {
            Expected::Signing(signing) => signing.ct_eq(found.signing_identity()).into(),
            Expected::Whole(whole) => whole.as_bytes().ct_eq(found.as_bytes()).into(),
        }
    }
}

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anybody with a valid identity. A control port lets its callers start programs: to be asked for by name only.
    Any,
    /// One of these; an empty list accepts nobody.
    OneOf(Vec<Expected>),
}

impl Expect {
    /// # Errors
    /// [`ZwingError::Unexpected`] when `found` is not accepted.
    pub fn check(&self, found: &PublicIdentity) -> Result<(), ZwingError> {
        match self {
            Expect::Any => Ok(()),
            Expect::OneOf(list) if list.iter().any(|e| e.matches(found)) => Ok(()),
            Expect::OneOf(_) => Err(ZwingError::Unexpected),
        }
    }
}
