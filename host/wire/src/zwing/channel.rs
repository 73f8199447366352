//! Records (zap.md section 5.5): a byte stream in each direction, cut into sealed frames.

use ring::aead::{Aad, LessSafeKey, Nonce};

use super::handshake::aead_key;
use super::kem::Secret;
use super::{MAX_FRAME, ZwingError, frame_header};

/// Largest plaintext of one record, bytes.
pub const MAX_PLAINTEXT: usize = MAX_FRAME - TAG_LEN;

const TAG_LEN: usize = 16;
const I2R: &[u8] = b"lux.zwing.v1/i2r";
const R2I: &[u8] = b"lux.zwing.v1/r2i";
/// Records without content that are skipped in a row. The Go peer writes none.
const MAX_EMPTY: u32 = 16;

/// Both directions of an established connection.
#[derive(Debug)]
pub struct Channel {
    /// What we write.
    pub sealer: Sealer,
    /// What the other end writes.
    pub opener: Opener,
}

/// The writing direction.
pub struct Sealer(Direction);

/// The reading direction. A truncation at a record's border looks like a clean end: whoever awaits an answer treats the
/// end as failure.
pub struct Opener {
    direction: Direction,
    empty: u32,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        f.debug_struct("Sealer").field("records", &self.0.sequence).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("records", &self.direction.sequence).finish_non_exhaustive()
    }
}

struct Direction {
    key: LessSafeKey,
    sequence: u64,
}

impl Direction {
    fn new(shared: &Secret, info: &[u8]) -> Self {
        Direction { key: aead_key(shared, info), sequence: 0 }
    }

    fn nonce(&mut self) -> Result<Nonce, ZwingError> {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.sequence.to_be_bytes());
        // The last number is never used.
        self.sequence = self.sequence.checked_add(1).ok_or(ZwingError::Exhausted)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

impl Channel {
    pub(super) fn initiator(shared: &Secret) -> Self {
        Self::new(Direction::new(shared, I2R), Direction::new(shared, R2I))
    }

    pub(super) fn responder(shared: &Secret) -> Self {
        Self::new(Direction::new(shared, R2I), Direction::new(shared, I2R))
    }

    fn new(seal: Direction, open: Direction) -> Self {
        Channel { sealer: Sealer(seal), opener: Opener { direction: open, empty: 0 } }
    }

    #[cfg(test)]
    pub(super) fn with_keys(seal: LessSafeKey, open: LessSafeKey, sequence: u64) -> Self {
        Self::new(Direction { key: seal, sequence }, Direction { key: open, sequence })
    }
}

impl Sealer {
    /// Appends `plaintext` to `out` as records of at most [`MAX_PLAINTEXT`] bytes each, frame headers included; nothing
    /// for an empty one.
    ///
    /// # Errors
    /// [`ZwingError::Exhausted`].
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), ZwingError> {
        for piece in plaintext.chunks(MAX_PLAINTEXT) {
            let nonce = self.0.nonce()?;
            frame_header(piece.len() + TAG_LEN, out);
            let at = out.len();
            out.extend_from_slice(piece);
            let tag = self
                .0
                .key
                .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[at..])
                .expect("a MiB is within the cipher's limit");
            out.extend_from_slice(tag.as_ref());
        }
        Ok(())
    }
}

impl Opener {
    /// Opens one record (a frame's payload) and appends its plaintext to `out`.
    ///
    /// # Errors
    /// [`ZwingError::Aead`] for anything that is not the next record; the connection is over.
    pub fn open(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<(), ZwingError> {
        let nonce = self.direction.nonce()?;
        let mut sealed = record.to_vec();
        let plain = self
            .direction
            .key
            .open_in_place(nonce, Aad::empty(), &mut sealed)
            .map_err(|_| ZwingError::Aead)?;
        self.empty = if plain.is_empty() { self.empty + 1 } else { 0 };
        if self.empty > MAX_EMPTY {
            return Err(ZwingError::EmptyRecords);
        }
        out.extend_from_slice(plain);
        Ok(())
    }
}
