//! The sliding window over the counters of one nonce prefix (tunnel.md section 6). 40 bytes, constant time.

/// Counters the window reaches back.
pub const WINDOW: u64 = 256;

/// What the window says about a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before; now it is.
    Fresh,
    /// Seen before.
    Replay,
    /// Too far back to know.
    Outside,
}

/// The highest counter and which of the 256 up to it have been seen.
#[derive(Clone, Debug, Default)]
pub struct Window {
    max: u64,
    /// Bit `counter % 256`, valid for counters in `max-255..=max`.
    seen: [u64; 4],
}

impl Window {
    /// Judges a counter and records it when it is fresh.
    ///
    /// While nothing above 0 has been seen every counter is fresh, counter 0 even repeatedly: that is what peers do.
    pub fn judge(&mut self, counter: u64) -> Verdict {
        if self.max == 0 || counter > self.max {
            self.slide(counter);
        } else if self.max - counter >= WINDOW {
            return Verdict::Outside;
        } else if self.seen[word(counter)] & bit(counter) != 0 {
            return Verdict::Replay;
        }
        self.seen[word(counter)] |= bit(counter);
        Verdict::Fresh
    }

    /// Makes `counter` the maximum; the counters between have not been seen.
    fn slide(&mut self, counter: u64) {
        if counter - self.max >= WINDOW {
            self.seen = [0; 4];
        } else {
            for skipped in self.max + 1..=counter {
                self.seen[word(skipped)] &= !bit(skipped);
            }
        }
        self.max = counter;
    }
}

#[allow(clippy::cast_possible_truncation)] // below 4
const fn word(counter: u64) -> usize {
    (counter % WINDOW / 64) as usize
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_far_end_does_not_wrap() {
        let mut w = Window::default();
        assert_eq!(w.judge(u64::MAX), Verdict::Fresh);
        assert_eq!(w.judge(u64::MAX), Verdict::Replay);
        assert_eq!(w.judge(u64::MAX - 255), Verdict::Fresh);
        assert_eq!(w.judge(u64::MAX - 256), Verdict::Outside);
        assert_eq!(w.judge(0), Verdict::Outside);
    }

    proptest! {
        /// Against a model that remembers everything.
        #[test]
        fn as_the_model(counters in proptest::collection::vec(1_u64..2000, 1..400)) {
            let (mut w, mut seen, mut max) = (Window::default(), BTreeSet::new(), 0);
            for c in counters {
                let expected = if c > max || max == 0 {
                    Verdict::Fresh
                } else if max - c >= WINDOW {
                    Verdict::Outside
                } else if seen.contains(&c) {
                    Verdict::Replay
                } else {
                    Verdict::Fresh
                };
                prop_assert_eq!(w.judge(c), expected);
                if expected == Verdict::Fresh {
                    seen.insert(c);
                    max = max.max(c);
                }
            }
        }
    }
}
