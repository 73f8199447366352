//! Sealed records (secure.md, record): length, nonce, AES-256-GCM. One key for both directions; the nonce's prefix says
//! who wrote.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::SecureError;
use crate::Split;

/// Bytes in front of the ciphertext: the length and the nonce.
pub const RECORD_HEADER_LEN: usize = LENGTH_LEN + NONCE_LEN;
/// What a record adds to its message, bytes.
pub const OVERHEAD: usize = RECORD_HEADER_LEN + TAG_LEN;
/// Largest value of a record's length field: nonce, ciphertext and tag, bytes.
pub const MAX_RECORD: usize = 16 << 20;

const LENGTH_LEN: usize = 4;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// Which end of the stream one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that dialled.
    Client,
    /// The side that accepted.
    Server,
}

impl Role {
    const fn prefix(self) -> [u8; 4] {
        match self {
            Role::Server => [0, 0, 0, 1],
            Role::Client => [0, 0, 0, 2],
        }
    }

    /// The other end.
    pub const fn peer(self) -> Role {
        match self {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }
}

/// Both directions of an established key.
pub(super) struct Records {
    key: LessSafeKey,
    role: Role,
    sent: u64,
    received: u64,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        f.debug_struct("Records")
            .field("sent", &self.sent)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Records {
    pub(super) fn new(key: &[u8; 32], role: Role) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes");
        Records { key: LessSafeKey::new(key), role, sent: 0, received: 0 }
    }

    /// One message as one record, appended to `out`.
    pub(super) fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), SecureError> {
        let length = NONCE_LEN + message.len() + TAG_LEN;
        let field = u32::try_from(length).ok().filter(|_| length <= MAX_RECORD);
        let field = field.ok_or(SecureError::MessageTooLarge(message.len()))?;
        self.sent = self.sent.checked_add(1).ok_or(SecureError::Exhausted)?;
        let mut nonce = [0; NONCE_LEN];
        nonce[..4].copy_from_slice(&self.role.prefix());
        nonce[4..].copy_from_slice(&self.sent.to_be_bytes());
        out.reserve(LENGTH_LEN + length);
        out.extend_from_slice(&field.to_be_bytes());
        out.extend_from_slice(&nonce);
        let at = out.len();
        out.extend_from_slice(message);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(self.role.prefix()),
                &mut out[at..],
            )
            .expect("AES-GCM seals anything below 64 GiB");
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens one whole record as [`split`] cut it, header included.
    pub(super) fn open(&mut self, record: &[u8]) -> Result<Vec<u8>, SecureError> {
        let (header, sealed) = record.split_at_checked(RECORD_HEADER_LEN).ok_or(SecureError::TooShort)?;
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&header[LENGTH_LEN..]);
        let mut prefix = [0; 4];
        prefix.copy_from_slice(&nonce[..4]);
        let mut plain = sealed.to_vec();
        let opened = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(prefix), &mut plain)
            .map_err(|_| SecureError::Decrypt)?
            .len();
        plain.truncate(opened);
        // Judged after the tag, so that a stranger learns nothing: only a holder of the key gets here. The Go reader checks
        // neither; its writer always satisfies both.
        if prefix != self.role.peer().prefix() {
            return Err(SecureError::Direction(u32::from_be_bytes(prefix)));
        }
        let mut counter = [0; 8];
        counter.copy_from_slice(&nonce[4..]);
        let counter = u64::from_be_bytes(counter);
        if counter <= self.received {
            return Err(SecureError::Counter { got: counter, last: self.received });
        }
        self.received = counter;
        Ok(plain)
    }
}

/// Cuts the next record off the front of `bytes`. The length is judged as soon as its four bytes are there.
pub(super) fn split(bytes: &[u8]) -> Result<Split<&[u8]>, SecureError> {
    let Some(field) = bytes.first_chunk::<LENGTH_LEN>() else {
        return Ok(Split::Incomplete { missing: LENGTH_LEN - bytes.len() });
    };
    let length = u32::from_be_bytes(*field) as usize;
    if length < NONCE_LEN {
        return Err(SecureError::TooShort);
    }
    if length > MAX_RECORD {
        return Err(SecureError::TooLarge(length as u64));
    }
    let whole = LENGTH_LEN + length;
    Ok(match bytes.get(..whole) {
        Some(record) => Split::Complete { message: record, consumed: whole },
        None => Split::Incomplete { missing: whole - bytes.len() },
    })
}
