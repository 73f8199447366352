//! The bytes an application wrote and the peer has not acknowledged yet, addressed by stream offset.
//!
//! Big writes are kept as they came, without a copy; small ones are gathered. Segments are only ranges over this buffer, so a
//! retransmission copies nothing that the first transmission did not. Bounded by the caller through [`SendBuffer::len`].

use std::collections::VecDeque;

use bytes::Bytes;

/// Writes below this are copied together.
const SMALL: usize = 4096;
/// Gathered writes fill pieces of this size.
const GATHER: usize = 16_384;

#[derive(Debug)]
enum Data {
    Shared(Bytes),
    Gathered(Vec<u8>),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(b) => b,
            Self::Gathered(v) => v,
        }
    }
}

#[derive(Debug)]
struct Piece {
    /// Offset of its first byte.
    at: u64,
    data: Data,
}

/// A queue of bytes with 64-bit addresses.
#[derive(Debug)]
pub(crate) struct SendBuffer {
    pieces: VecDeque<Piece>,
    start: u64,
    end: u64,
}

impl SendBuffer {
    /// An empty buffer whose first byte will have offset `at`.
    pub(crate) fn new(at: u64) -> Self {
        Self { pieces: VecDeque::new(), start: at, end: at }
    }

    /// Bytes held.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    /// Offset behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        let (at, len) = (self.end, data.len());
        if len == 0 {
            return;
        }
        self.end += len as u64;
        if len >= SMALL {
            self.pieces.push_back(Piece { at, data: Data::Shared(data) });
            return;
        }
        if let Some(Piece { data: Data::Gathered(last), .. }) = self.pieces.back_mut()
            && last.len() + len <= GATHER
        {
            last.extend_from_slice(&data);
            return;
        }
        self.pieces.push_back(Piece { at, data: Data::Gathered(data.to_vec()) });
    }

    /// Forgets everything below `offset`.
    pub(crate) fn release(&mut self, offset: u64) {
        self.start = offset.clamp(self.start, self.end);
        while let Some(front) = self.pieces.front()
            && front.at + front.data.bytes().len() as u64 <= self.start
        {
            self.pieces.pop_front();
        }
    }

    /// Forgets everything; the next byte has offset `at`.
    pub(crate) fn clear(&mut self, at: u64) {
        *self = Self::new(at);
    }

    /// Appends the bytes `at..at + len` to `out`; the part that is not held (any more) is left out.
    pub(crate) fn copy(&self, at: u64, len: usize, out: &mut Vec<u8>) {
        let end = at.saturating_add(len as u64);
        let first = self.pieces.partition_point(|p| p.at + p.data.bytes().len() as u64 <= at);
        for piece in self.pieces.range(first..) {
            if piece.at >= end {
                break;
            }
            let bytes = piece.data.bytes();
            let from = index(at.saturating_sub(piece.at)).min(bytes.len());
            let to = index(end - piece.at).min(bytes.len());
            out.extend_from_slice(&bytes[from..to]);
        }
    }

    /// The byte at an offset.
    pub(crate) fn byte(&self, at: u64) -> Option<u8> {
        let i = self.pieces.partition_point(|p| p.at + p.data.bytes().len() as u64 <= at);
        let piece = self.pieces.get(i)?;
        piece.data.bytes().get(index(at.checked_sub(piece.at)?)).copied()
    }
}

fn index(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_can_be_copied_from_any_offset() {
        let mut b = SendBuffer::new(1);
        let mut all = Vec::new();
        for (i, len) in [3, 5000, 10, 20, 4096, 1, 16_000, 700, 600].into_iter().enumerate() {
            let piece = vec![u8::try_from(i).unwrap() + 1; len];
            all.extend_from_slice(&piece);
            b.push(piece.into());
        }
        assert_eq!(b.len(), all.len());
        for at in (0..all.len()).step_by(97) {
            for len in [1, 13, 1152, 4096] {
                let mut out = Vec::new();
                b.copy(at as u64 + 1, len, &mut out);
                assert_eq!(out, all[at..(at + len).min(all.len())]);
                assert_eq!(b.byte(at as u64 + 1), Some(all[at]));
            }
        }
        b.release(5003);
        assert_eq!(b.len(), all.len() - 5002);
        let mut out = Vec::new();
        b.copy(5004, 30, &mut out);
        assert_eq!(out, all[5003..5033]);
        b.release(u64::MAX);
        assert_eq!((b.len(), b.byte(1)), (0, None));
    }
}
