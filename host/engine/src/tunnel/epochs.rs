//! Receive epochs: one replay window per nonce prefix of authenticated frames (tunnel.md section 6).
//!
//! A peer that starts over with a new prefix (a restart of its counter, a collision) gets a new window without the old one
//! being forgotten, so neither its late frames nor a replay of its old ones can disturb. Judge a frame only after it
//! opened.

use super::replay::{Verdict as WindowVerdict, Window};
use crate::time::Instant;

/// Older epochs kept beside the newest.
pub const MAX_OLDER: usize = 4;
/// Prefixes one session may use, retired ones included. The peers' number is not known, only that it is far above 5.
pub const MAX_EPOCHS: usize = 1024;

/// A sender's nonce prefix.
pub type Prefix = [u8; 4];

/// What the epochs say about an opened frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// First frame of a new prefix, which is now the newest epoch.
    NewEpoch,
    /// Fresh, in the newest epoch.
    Fresh,
    /// Fresh, in an older epoch; changes nothing else.
    FreshOlder,
    /// Seen before, in the newest epoch.
    Replay,
    /// Too far back, in the newest epoch.
    Outside,
    /// Refused by an older epoch, or of a retired prefix: counts for nothing.
    Stale,
    /// One prefix too many: the session must be dropped. Nothing was recorded.
    Exhausted,
}

#[derive(Clone, Debug)]
struct Epoch {
    prefix: Prefix,
    window: Window,
    since: Instant,
    used: u64,
}

/// The windows of one session.
#[derive(Clone, Debug, Default)]
pub struct Epochs {
    newest: Option<Epoch>,
    older: Vec<Epoch>,
    retired: Vec<Prefix>,
    /// Counts accepted frames; orders the older epochs by use.
    clock: u64,
}

impl Epochs {
    /// Judges a frame that opened, and records it when it is accepted.
    pub fn judge(&mut self, now: Instant, prefix: Prefix, counter: u64) -> Verdict {
        self.clock += 1;
        if let Some(newest) = self.newest.as_mut().filter(|e| e.prefix == prefix) {
            return match newest.window.judge(counter) {
                WindowVerdict::Fresh => {
                    newest.used = self.clock;
                    Verdict::Fresh
                }
                WindowVerdict::Replay => Verdict::Replay,
                WindowVerdict::Outside => Verdict::Outside,
            };
        }
        if let Some(older) = self.older.iter_mut().find(|e| e.prefix == prefix) {
            return match older.window.judge(counter) {
                WindowVerdict::Fresh => {
                    older.used = self.clock;
                    Verdict::FreshOlder
                }
                WindowVerdict::Replay | WindowVerdict::Outside => Verdict::Stale,
            };
        }
        if self.retired.contains(&prefix) {
            return Verdict::Stale;
        }
        if self.is_full() {
            return Verdict::Exhausted;
        }
        let mut window = Window::default();
        window.judge(counter);
        let epoch = Epoch { prefix, window, since: now, used: self.clock };
        if let Some(former) = self.newest.replace(epoch) {
            self.older.push(former);
        }
        if self.older.len() > MAX_OLDER
            && let Some(least) = (0..self.older.len()).min_by_key(|i| self.older[*i].used)
        {
            self.retired.push(self.older.swap_remove(least).prefix);
        }
        Verdict::NewEpoch
    }

    /// When the newest epoch began.
    pub fn newest_since(&self) -> Option<Instant> {
        self.newest.as_ref().map(|e| e.since)
    }

    /// Whether no further prefix is accepted.
    pub fn is_full(&self) -> bool {
        usize::from(self.newest.is_some()) + self.older.len() + self.retired.len() >= MAX_EPOCHS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(n: u32) -> Prefix {
        n.to_be_bytes()
    }

    /// The example of tunnel.md section 6, in its order.
    #[test]
    fn the_sheets_example() {
        use Verdict::{Fresh, FreshOlder, NewEpoch, Replay, Stale};
        let mut e = Epochs::default();
        let steps = [
            (1, 40, NewEpoch),
            (1, 40, Replay),
            (2, 1, NewEpoch),
            (1, 40, Stale),
            (1, 41, FreshOlder),
            (2, 1, Replay),
            (2, 2, Fresh),
            (3, 1, NewEpoch),
            (4, 1, NewEpoch),
            (5, 1, NewEpoch),
            (1, 42, FreshOlder),
            (6, 1, NewEpoch),
            (1, 42, Stale),
            (3, 1, Stale),
            (4, 1, Stale),
            (5, 1, Stale),
            (2, 1, Stale),
            (2, 2, Stale),
            (2, 1000, Stale),
            (6, 1, Replay),
            (6, 2, Fresh),
            (1, 43, FreshOlder),
        ];
        for (i, (prefix, counter, expected)) in steps.into_iter().enumerate() {
            assert_eq!(e.judge(Instant::ZERO, p(prefix), counter), expected, "step {i}: {prefix}:{counter}");
        }
    }

    #[test]
    fn too_many_prefixes_end_the_session_and_record_nothing() {
        let mut e = Epochs::default();
        for n in 0..u32::try_from(MAX_EPOCHS).unwrap() {
            assert_eq!(e.judge(Instant::ZERO, p(n), 1), Verdict::NewEpoch);
        }
        assert_eq!(e.judge(Instant::ZERO, p(1 << 20), 1), Verdict::Exhausted);
        assert_eq!(e.judge(Instant::ZERO, p(1 << 20), 1), Verdict::Exhausted);
        assert_eq!(e.judge(Instant::ZERO, p(0), 2), Verdict::Stale);
        let last = u32::try_from(MAX_EPOCHS).unwrap() - 1;
        assert_eq!(e.judge(Instant::ZERO, p(last), 2), Verdict::Fresh);
    }
}
