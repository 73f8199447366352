//! Hash maps for numeric keys on the packet path: a fast keyed hash instead of SipHash, and no system randomness.
//!
//! The key comes from the engine's generator, so a peer that chooses node numbers and ports cannot aim at collisions, and
//! two runs with the same seed iterate in the same order.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

/// A map whose keys hash as a few integers.
pub(crate) type NumMap<K, V> = HashMap<K, V, Keyed>;

/// The hash key.
#[derive(Clone, Copy)]
pub(crate) struct Keyed {
    start: u64,
    factor: u64,
}

impl Keyed {
    /// A hasher from two random numbers.
    pub(crate) const fn new(a: u64, b: u64) -> Self {
        Self { start: a, factor: b | 1 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;
    fn build_hasher(&self) -> Folded {
        Folded { state: self.start, factor: self.factor }
    }
}

/// Multiply, then fold the high half into the low one.
pub(crate) struct Folded {
    state: u64,
    factor: u64,
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        fold(self.state, self.factor ^ 0x9E37_79B9_7F4A_7C15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, v: u8) {
        self.write_u64(v.into());
    }

    fn write_u16(&mut self, v: u16) {
        self.write_u64(v.into());
    }

    fn write_u32(&mut self, v: u32) {
        self.write_u64(v.into());
    }

    fn write_u64(&mut self, v: u64) {
        self.state = fold(self.state ^ v, self.factor);
    }
}

#[allow(clippy::cast_possible_truncation)] // the two halves of a product
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_keys_spread() {
        let keyed = Keyed::new(0x1234_5678_9ABC_DEF0, 0x0FED_CBA9_8765_4321);
        let mut low: Vec<u64> = (0..256_u32).map(|k| keyed.hash_one(k) & 0xFF).collect();
        low.sort_unstable();
        low.dedup();
        // 256 balls into 256 bins fill about 162 of them when the hash is good.
        assert!(low.len() > 130, "{}", low.len());
    }
}
