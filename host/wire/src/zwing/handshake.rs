//! The two messages (zap.md section 5.4).

use std::collections::HashSet;

use hkdf::Hkdf;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::channel::Channel;
use super::identity::{Expect, Identity, PUBLIC_IDENTITY_LEN, PublicIdentity, SIGNATURE_LEN};
use super::kem::{CIPHERTEXT_LEN, Secret, encapsulate};
use super::{ZwingError, frame_header};

/// The only legal payload size of message 1, bytes.
pub const MESSAGE_1_LEN: usize = 2 + PUBLIC_IDENTITY_LEN + 2 + SIGNATURE_LEN;
/// The only legal payload size of message 2, bytes.
pub const MESSAGE_2_LEN: usize = CIPHERTEXT_LEN + 2 + MESSAGE_1_LEN + TAG_LEN;

const TAG_LEN: usize = 16;
pub(super) const INIT: &str = "lux.zwing.v1/handshake-init";
pub(super) const RESPONSE: &str = "lux.zwing.v1/handshake-response";
const TRANSCRIPT: &[u8] = b"lux.zwing.v1/transcript";
/// 12 octets of an intended 13; the peer cuts it as well.
const BOX_NONCE: &[u8; 12] = b"zwing-resp-i";

/// Random bytes for one answer; never used twice.
pub struct Encapsulation {
    /// For ML-KEM.
    pub m: Zeroizing<[u8; 32]>,
    /// The ephemeral X25519 private key.
    pub x25519: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Encapsulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encapsulation(..)")
    }
}

/// The dialling side between its message and the answer.
#[derive(Debug)]
pub struct Initiator {
    identity: Identity,
    expect: Expect,
    hello: Vec<u8>,
}

impl Initiator {
    /// For one connection. Unless the responder pins all 3200 bytes of us, `identity` should come from
    /// [`Identity::with_fresh_kem`]: an old answer then opens nothing (section 5.6).
    pub fn new(identity: Identity, expect: Expect) -> Self {
        let mut hello = Vec::with_capacity(4 + MESSAGE_1_LEN);
        frame_header(MESSAGE_1_LEN, &mut hello);
        write_identity(&identity, INIT, identity.public().as_bytes(), &mut hello);
        Initiator { identity, expect, hello }
    }

    /// Message 1 as a whole frame.
    pub fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// Judges message 2 (a frame's payload): who answered, and the channel. With `seen`, for identities whose
    /// key-agreement keys are used more than once, an answer that was given before is refused.
    ///
    /// # Errors
    /// Each step's, in the order of section 5.4. Close the connection.
    pub fn finish(
        self,
        answer: &[u8],
        seen: Option<&mut SeenAnswers>,
    ) -> Result<(Channel, PublicIdentity), ZwingError> {
        let (ciphertext, rest) = answer.split_first_chunk::<CIPHERTEXT_LEN>().ok_or(ZwingError::Short)?;
        let (sealed, rest) = field(rest)?;
        if !rest.is_empty() {
            return Err(ZwingError::Format);
        }
        let shared = self.identity.kem().decapsulate(ciphertext)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let opened = box_key(&shared)
            .open_in_place(Nonce::assume_unique_for_key(*BOX_NONCE), Aad::from(ciphertext), &mut plain)
            .map_err(|_| ZwingError::Aead)?;
        let (remote, signature) = read_identity(opened)?;
        remote.verify(RESPONSE, &transcript(self.identity.public(), ciphertext), signature)?;
        self.expect.check(&remote)?;
        // Last: only a genuine answer is worth remembering.
        if let Some(seen) = seen {
            seen.record(ciphertext)?;
        }
        Ok((Channel::initiator(&shared), remote))
    }
}

/// The accepting side: judges message 1 (a frame's payload) and gives message 2 as a whole frame, the channel and who it
/// is. The initiator has proven nothing fresh yet: count it as present after its first good record (section 5.6).
///
/// # Errors
/// Each step's, in the order of section 5.4. Close the connection without an answer.
pub fn respond(
    identity: &Identity,
    expect: &Expect,
    hello: &[u8],
    random: &Encapsulation,
) -> Result<(Vec<u8>, Channel, PublicIdentity), ZwingError> {
    let (remote, signature) = read_identity(hello)?;
    remote.verify(INIT, remote.as_bytes(), signature)?;
    expect.check(&remote)?;
    let (ciphertext, shared) = encapsulate(remote.kem_public(), &random.m, &random.x25519)?;
    let mut frame = Vec::with_capacity(4 + MESSAGE_2_LEN);
    frame_header(MESSAGE_2_LEN, &mut frame);
    frame.extend_from_slice(&ciphertext);
    frame.extend_from_slice(&((MESSAGE_1_LEN + TAG_LEN) as u16).to_be_bytes());
    let at = frame.len();
    write_identity(identity, RESPONSE, &transcript(&remote, &ciphertext), &mut frame);
    let tag = box_key(&shared)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(*BOX_NONCE),
            Aad::from(&ciphertext),
            &mut frame[at..],
        )
        .expect("a few KiB are within the cipher's limit");
    frame.extend_from_slice(tag.as_ref());
    Ok((frame, Channel::responder(&shared), remote))
}

/// Two length-prefixed fields: the identity and its signature over `message`.
fn write_identity(identity: &Identity, label: &str, message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(PUBLIC_IDENTITY_LEN as u16).to_be_bytes());
    out.extend_from_slice(identity.public().as_bytes());
    out.extend_from_slice(&(SIGNATURE_LEN as u16).to_be_bytes());
    out.extend_from_slice(&identity.sign(label, message));
}

fn read_identity(bytes: &[u8]) -> Result<(PublicIdentity, &[u8]), ZwingError> {
    let (identity, rest) = field(bytes)?;
    let (signature, rest) = field(rest)?;
    if !rest.is_empty() {
        return Err(ZwingError::Format);
    }
    Ok((PublicIdentity::from_bytes(identity)?, signature))
}

/// A field behind its u16 length.
fn field(bytes: &[u8]) -> Result<(&[u8], &[u8]), ZwingError> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(ZwingError::Short)?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(ZwingError::Short)
}

pub(super) fn transcript(initiator: &PublicIdentity, ciphertext: &[u8; CIPHERTEXT_LEN]) -> [u8; 32] {
    Sha256::new()
        .chain_update(TRANSCRIPT)
        .chain_update((PUBLIC_IDENTITY_LEN as u32).to_be_bytes())
        .chain_update(initiator.as_bytes())
        .chain_update((CIPHERTEXT_LEN as u32).to_be_bytes())
        .chain_update(ciphertext)
        .finalize()
        .into()
}

fn box_key(shared: &Secret) -> LessSafeKey {
    aead_key(shared, b"lux.zwing.v1/resp-id")
}

/// A ChaCha20-Poly1305 key for one purpose.
pub(super) fn aead_key(shared: &Secret, info: &[u8]) -> LessSafeKey {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, shared.as_slice())
        .expand(info, key.as_mut_slice())
        .expect("32 bytes are one block, far below HKDF's limit");
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).expect("the key has 32 bytes"))
}

/// Hashes of the answers that were accepted for key-agreement keys in repeated use. A recorded answer would set up the old
/// keys again with nonces from 0 (section 5.6). Bounded: when full, nothing more is accepted.
#[derive(Clone, Debug, Default)]
pub struct SeenAnswers {
    hashes: HashSet<[u8; 32]>,
}

impl SeenAnswers {
    /// Answers that are remembered at most: 2 MiB of hashes.
    pub const CAPACITY: usize = 65_536;

    /// With hashes that were kept from an earlier process; beyond [`CAPACITY`](Self::CAPACITY) they are ignored, and the
    /// store is full.
    pub fn restore(hashes: impl IntoIterator<Item = [u8; 32]>) -> Self {
        SeenAnswers { hashes: hashes.into_iter().take(Self::CAPACITY).collect() }
    }

    /// The hashes, in no particular order, to be kept.
    pub fn hashes(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.hashes.iter()
    }

    fn record(&mut self, ciphertext: &[u8]) -> Result<(), ZwingError> {
        let hash: [u8; 32] = Sha256::digest(ciphertext).into();
        if self.hashes.contains(&hash) {
            return Err(ZwingError::Replayed);
        }
        if self.hashes.len() >= Self::CAPACITY {
            return Err(ZwingError::SeenFull);
        }
        self.hashes.insert(hash);
        Ok(())
    }
}
