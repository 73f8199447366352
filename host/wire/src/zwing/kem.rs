//! The two key agreements and how their secrets become one (zap.md section 5.3).

use ml_kem::kem::{Decapsulate, Key, KeyExport};
use ml_kem::{DecapsulationKey768, EncapsulationKey768};
use sha3::{Digest, Sha3_256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::ZwingError;
use super::identity::KEM_SEEDS_LEN;

/// Length of a ciphertext, bytes: ML-KEM-768 (1088) and an ephemeral X25519 public key (32).
pub const CIPHERTEXT_LEN: usize = MLKEM_CIPHERTEXT_LEN + X25519_LEN;
/// Length of both public keys, bytes.
pub(super) const KEM_PUBLIC_LEN: usize = MLKEM_PUBLIC_LEN + X25519_LEN;

const MLKEM_CIPHERTEXT_LEN: usize = 1088;
const MLKEM_PUBLIC_LEN: usize = 1184;
const X25519_LEN: usize = 32;
/// First in the hash; the IETF's X-Wing has other octets, last.
const LABEL: &[u8; 9] = b"\\./X-Wing";

/// 32 secret bytes, erased when dropped.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// One end's pair of pairs.
pub(super) struct KemKeys {
    mlkem: DecapsulationKey768,
    x25519: StaticSecret,
}

impl KemKeys {
    pub(super) fn from_seeds(seeds: &[u8; KEM_SEEDS_LEN]) -> Self {
        let (mlkem, rest) = seeds.split_first_chunk::<64>().expect("96 bytes hold the first 64");
        let x25519 = rest.first_chunk::<32>().expect("32 bytes are left");
        KemKeys {
            mlkem: DecapsulationKey768::from_seed((*mlkem).into()),
            x25519: StaticSecret::from(*x25519),
        }
    }

    pub(super) fn write_public(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.mlkem.encapsulation_key().to_bytes());
        out.extend_from_slice(PublicKey::from(&self.x25519).as_bytes());
    }

    /// The secret inside `ciphertext`. A changed ML-KEM part gives another secret, which shows at the first tag.
    pub(super) fn decapsulate(&self, ciphertext: &[u8; CIPHERTEXT_LEN]) -> Result<Secret, ZwingError> {
        let (lattice, ephemeral) = ciphertext.split_at(MLKEM_CIPHERTEXT_LEN);
        let ephemeral: [u8; X25519_LEN] = ephemeral.try_into().map_err(|_| ZwingError::Short)?;
        let lattice = self.mlkem.decapsulate_slice(lattice).map_err(|_| ZwingError::Short)?;
        let lattice = Zeroizing::new(<[u8; 32]>::from(lattice));
        let classic = self.x25519.diffie_hellman(&PublicKey::from(ephemeral));
        if !classic.was_contributory() {
            return Err(ZwingError::KeyAgreement);
        }
        let own = PublicKey::from(&self.x25519);
        Ok(combine(&lattice, classic.as_bytes(), &ephemeral, own.as_bytes()))
    }
}

/// Makes a secret for the owner of `public` (both keys, [`KEM_PUBLIC_LEN`] bytes). `m` and `scalar` are fresh random bytes.
pub(super) fn encapsulate(
    public: &[u8],
    m: &[u8; 32],
    scalar: &[u8; 32],
) -> Result<([u8; CIPHERTEXT_LEN], Secret), ZwingError> {
    let (lattice, classic) = public.split_at_checked(MLKEM_PUBLIC_LEN).ok_or(ZwingError::IdentitySize)?;
    let classic: [u8; X25519_LEN] = classic.try_into().map_err(|_| ZwingError::IdentitySize)?;
    let lattice = Key::<EncapsulationKey768>::try_from(lattice).map_err(|_| ZwingError::IdentitySize)?;
    // The modulus check of FIPS 203 section 7.2.
    let lattice = EncapsulationKey768::new(&lattice).map_err(|_| ZwingError::IdentityKeys)?;
    let (sealed, secret) = lattice.encapsulate_deterministic(&(*m).into());
    let secret = Zeroizing::new(<[u8; 32]>::from(secret));
    let scalar = StaticSecret::from(*scalar);
    let ephemeral = PublicKey::from(&scalar);
    let shared = scalar.diffie_hellman(&PublicKey::from(classic));
    if !shared.was_contributory() {
        return Err(ZwingError::KeyAgreement);
    }
    let mut ciphertext = [0; CIPHERTEXT_LEN];
    ciphertext[..MLKEM_CIPHERTEXT_LEN].copy_from_slice(&sealed);
    ciphertext[MLKEM_CIPHERTEXT_LEN..].copy_from_slice(ephemeral.as_bytes());
    Ok((ciphertext, combine(&secret, shared.as_bytes(), ephemeral.as_bytes(), &classic)))
}

/// `SHA3-256(label, ss_M, ss_X, ct_X, pk_X)`: ML-KEM secret, X25519 result, ephemeral public key, the recipient's static
/// X25519 key. Public so that its known answer can be checked.
pub fn combine(ss_m: &[u8; 32], ss_x: &[u8; 32], ct_x: &[u8; 32], pk_x: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let hash = Sha3_256::new_with_prefix(LABEL).chain_update(ss_m).chain_update(ss_x);
    Zeroizing::new(hash.chain_update(ct_x).chain_update(pk_x).finalize().into())
}
