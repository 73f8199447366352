//! Memory for received data: large pieces that are used again once nobody holds their bytes any more.
//!
//! Fresh memory of this size comes from the system page by page, and at gigabytes per second those page faults cost more
//! than the copy itself. Used by the receivers of one engine, which owns the pool. Bounded: it keeps [`KEPT`] pieces, the
//! oldest leaves when another one comes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes of a piece.
pub(crate) const PIECE: usize = 256 * 1024;
/// Pieces remembered: 4 MiB, as much as a quick reader has in its hands.
const KEPT: usize = 16;
/// Pieces looked at before a fresh one is made.
const LOOKS: usize = 4;

/// The pool.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// One handle per piece; the bytes may still be held elsewhere. Oldest first.
    used: VecDeque<Bytes>,
}

impl Pieces {
    /// An empty buffer with room for [`PIECE`] bytes.
    pub(crate) fn take(&mut self) -> BytesMut {
        for _ in 0..self.used.len().min(LOOKS) {
            let Some(handle) = self.used.pop_front() else { break };
            match handle.try_into_mut() {
                Ok(mut piece) => {
                    piece.clear();
                    if piece.try_reclaim(PIECE) {
                        return piece;
                    }
                }
                Err(held) => self.used.push_back(held),
            }
        }
        BytesMut::with_capacity(PIECE)
    }

    /// Remembers a piece that is full; `rest` is what is left of it, possibly nothing.
    pub(crate) fn give_back(&mut self, rest: BytesMut) {
        if self.used.len() >= KEPT {
            self.used.pop_front();
        }
        self.used.push_back(rest.freeze());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(piece: &mut BytesMut) -> Bytes {
        piece.resize(PIECE, 7);
        piece.split().freeze()
    }

    #[test]
    fn a_piece_comes_back_when_its_last_reader_is_done() {
        let mut pool = Pieces::default();
        let mut first = pool.take();
        let at = first.as_ptr();
        let bytes = fill(&mut first);
        pool.give_back(first);
        assert_ne!(pool.take().as_ptr(), at, "still read");
        drop(bytes);
        let again = pool.take();
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
        assert!(again.capacity() >= PIECE);
    }

    #[test]
    fn readers_that_never_finish_cost_no_more_than_the_bound() {
        let mut pool = Pieces::default();
        let held: Vec<Bytes> = (0..3 * KEPT)
            .map(|_| {
                let mut piece = pool.take();
                let bytes = fill(&mut piece);
                pool.give_back(piece);
                bytes
            })
            .collect();
        assert_eq!(pool.used.len(), KEPT);
        assert!(held.iter().all(|b| b.iter().all(|x| *x == 7)));
    }
}
