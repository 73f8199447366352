//! The engine's one source of randomness: ChaCha20, seeded once from outside.
//!
//! Everything random (the X25519 key, nonce prefixes, jitter, the hash key of the tables) comes from here, so that a run
//! with a given seed and given inputs is the same each time.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};
use zeroize::Zeroize;

use crate::time::Duration;

/// The generator.
pub(crate) struct Rng(ChaCha20Rng);

impl Rng {
    pub(crate) fn new(mut seed: [u8; 32]) -> Self {
        let rng = ChaCha20Rng::from_seed(seed);
        seed.zeroize();
        Self(rng)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill_bytes(&mut out);
        out
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `0..=max`.
    pub(crate) fn duration_up_to(&mut self, max: Duration) -> Duration {
        let max = u64::try_from(max.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.u64() % max.saturating_add(1).max(1))
    }
}
