//! Time and chance, as objects that a test replaces. Called by the runner.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Where the plugin gets the time from.
pub(crate) trait Clock: Send + Sync {
    /// The time of day.
    fn wall(&self) -> Timestamp;
    /// Time that only moves forward, from an arbitrary start.
    fn monotonic(&self) -> Duration;
}

/// The clock of this machine.
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub fn new() -> Self {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Puts `items` into random order. Good enough to spread choices among peers; nothing secret depends on it.
pub(crate) fn shuffle<T>(items: &mut [T]) {
    for i in (1..items.len()).rev() {
        // Each hasher of the standard library is keyed from the system's randomness.
        let random = RandomState::new().build_hasher().finish();
        let other = random % (i as u64 + 1);
        items.swap(i, usize::try_from(other).unwrap_or(i));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_keeps_what_is_there_and_moves_it() {
        let mut items: Vec<u32> = (0..100).collect();
        shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        shuffle::<u8>(&mut []);
    }
}
