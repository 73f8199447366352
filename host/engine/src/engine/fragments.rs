//! Frames that came in pieces (PILF, tunnel.md section 1): put together and handed on as if they had come whole.
//!
//! One line of peers sends them for frames above 1223 bytes; whether any released one does is unconfirmed, so they are
//! read and never sent. Nothing about a piece is authenticated: what they make up is judged as any frame. Bounded as the
//! sheet says: 256 unfinished frames, 32 of one source, each for three seconds and of at most 64 pieces of 1209 bytes; what
//! does not fit is dropped.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `PILF` |
//! | 4 | 4 | sender |
//! | 8 | 4 | number of the frame |
//! | 12 | 1 | index of the piece, from 0 |
//! | 13 | 1 | pieces, 2 to 64 |
//! | 14 | 1.. | at most 1209 bytes of the frame |

use std::collections::BTreeMap;

use super::keys::Via;
use crate::time::{Duration, Instant};

/// What a piece begins with.
pub(crate) const MAGIC: [u8; 4] = *b"PILF";
const HEADER_LEN: usize = 14;
const MAX_PIECE: usize = 1209;
const MIN_PIECES: u8 = 2;
const MAX_PIECES: u8 = 64;
const MAX_SETS: usize = 256;
const MAX_SETS_PER_SOURCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(3);

/// Whose pieces belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Set {
    via: Via,
    sender: u32,
    number: u32,
}

#[derive(Debug)]
struct Pieces {
    since: Instant,
    /// By index; empty where nothing came yet.
    pieces: Vec<Vec<u8>>,
}

/// Frames that are not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    sets: BTreeMap<Set, Pieces>,
}

impl Fragments {
    /// Takes a piece; gives the frame it completes. `relayed_for` is who the beacon says it is from.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        via: Via,
        relayed_for: Option<u32>,
        piece: &[u8],
    ) -> Option<Vec<u8>> {
        let (header, body) = piece.split_first_chunk::<HEADER_LEN>()?;
        let [_, _, _, _, s0, s1, s2, s3, n0, n1, n2, n3, index, count] = *header;
        let sender = u32::from_be_bytes([s0, s1, s2, s3]);
        let fits = (MIN_PIECES..=MAX_PIECES).contains(&count)
            && index < count
            && (1..=MAX_PIECE).contains(&body.len())
            && relayed_for.is_none_or(|node| node == sender);
        if !fits {
            return None;
        }
        let set = Set { via, sender, number: u32::from_be_bytes([n0, n1, n2, n3]) };
        if !self.sets.contains_key(&set) {
            self.sets.retain(|_, p| now.since(p.since) < PATIENCE);
            let of_source = self.sets.keys().filter(|s| s.source() == set.source()).count();
            if self.sets.len() >= MAX_SETS || of_source >= MAX_SETS_PER_SOURCE {
                return None;
            }
        }
        let fresh = || Pieces { since: now, pieces: vec![Vec::new(); count.into()] };
        let found = self.sets.entry(set).or_insert_with(fresh);
        if now.since(found.since) >= PATIENCE || found.pieces.len() != usize::from(count) {
            *found = fresh();
        }
        found.pieces[usize::from(index)] = body.to_vec();
        if found.pieces.iter().any(Vec::is_empty) {
            return None;
        }
        self.sets.remove(&set).map(|whole| whole.pieces.concat())
    }
}

impl Set {
    /// Whom a set counts against: the address it came from, or the sender that the beacon vouches for.
    fn source(&self) -> (Via, u32) {
        (self.via, if matches!(self.via, Via::Relay) { self.sender } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(sender: u32, number: u32, index: u8, count: u8, body: &[u8]) -> Vec<u8> {
        [&MAGIC[..], &sender.to_be_bytes(), &number.to_be_bytes(), &[index, count], body].concat()
    }

    fn via(port: u16) -> Via {
        Via::Direct(([192, 0, 2, 1], port).into())
    }

    const NOW: Instant = Instant::ZERO;

    #[test]
    fn pieces_in_any_order_make_the_frame() {
        let mut f = Fragments::default();
        assert_eq!(f.take(NOW, via(1), None, &piece(9, 1, 2, 3, b"c")), None);
        assert_eq!(f.take(NOW, via(1), None, &piece(9, 1, 0, 3, b"a")), None);
        assert_eq!(f.take(NOW, via(1), None, &piece(9, 2, 1, 3, b"x")), None, "another frame");
        assert_eq!(f.take(NOW, via(2), None, &piece(9, 1, 1, 3, b"x")), None, "another source");
        assert_eq!(f.take(NOW, via(1), None, &piece(9, 1, 1, 3, b"b")).unwrap(), b"abc");
        assert_eq!(f.sets.len(), 2);
    }

    #[test]
    fn late_and_malformed_pieces_are_dropped() {
        let mut f = Fragments::default();
        for bad in [
            piece(9, 1, 0, 1, b"a"),
            piece(9, 1, 3, 3, b"a"),
            piece(9, 1, 0, 65, b"a"),
            piece(9, 1, 0, 2, b""),
            piece(9, 1, 0, 2, &[0; MAX_PIECE + 1]),
            MAGIC.to_vec(),
        ] {
            assert_eq!(f.take(NOW, via(1), None, &bad), None);
        }
        assert_eq!(f.take(NOW, Via::Relay, Some(8), &piece(9, 1, 0, 2, b"a")), None, "in another's name");
        assert!(f.sets.is_empty());
        f.take(NOW, via(1), None, &piece(9, 1, 0, 2, b"a"));
        assert_eq!(f.take(NOW + PATIENCE, via(1), None, &piece(9, 1, 1, 2, b"b")), None);
    }

    #[test]
    fn a_source_has_32_and_all_have_256() {
        let mut f = Fragments::default();
        for number in 0..100 {
            f.take(NOW, via(1), None, &piece(number, number, 0, 2, b"a"));
        }
        assert_eq!(f.sets.len(), 32);
        for port in 2..100 {
            for number in 0..9 {
                f.take(NOW, via(port), None, &piece(1, number, 0, 2, b"a"));
            }
        }
        assert_eq!(f.sets.len(), 256);
        f.take(NOW + PATIENCE, via(1), None, &piece(7, 700, 0, 2, b"a"));
        assert_eq!(f.sets.len(), 1);
    }
}
