//! Spreads a flight over the round trip: a bucket that fills at the controller's rate. Bursts are small enough for the
//! buffers of the internet and large enough for one system call per millisecond.

use crate::time::{Duration, Instant};

/// What may leave at once, as time at the full rate, and as segments when that is more.
const BURST: Duration = Duration::from_millis(2);
const BURST_SEGMENTS: u64 = 4;

/// The bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    /// Bytes that may leave; below zero by less than a segment after one has left.
    tokens: i64,
    at: Instant,
}

impl Pacer {
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: i64::MAX, at: now }
    }

    /// `None`: a segment may leave now. Otherwise it may then.
    pub(crate) fn wait(&mut self, now: Instant, rate: u64, segment: u64) -> Option<Instant> {
        let rate = rate.max(1);
        let burst = bytes(rate, BURST).max(BURST_SEGMENTS * segment);
        let limit = i64::try_from(burst).unwrap_or(i64::MAX);
        let earned = i64::try_from(bytes(rate, now.since(self.at))).unwrap_or(i64::MAX);
        self.tokens = self.tokens.saturating_add(earned).min(limit);
        self.at = now;
        if self.tokens > 0 {
            return None;
        }
        let missing = u128::from((limit / 2).abs_diff(self.tokens));
        let nanos = (missing * 1_000_000_000).div_ceil(u128::from(rate));
        Some(now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// A segment left.
    pub(crate) fn sent(&mut self, len: u32) {
        self.tokens = self.tokens.saturating_sub(len.into());
    }
}

/// What `rate` carries in a time.
fn bytes(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_in_small_bursts() {
        let start = Instant::ZERO;
        let (mut pacer, mut now, mut sent, mut largest) = (Pacer::new(start), start, 0_u64, 0);
        while now.since(start) < Duration::from_secs(1) {
            let mut burst = 0;
            let next = loop {
                if let Some(next) = pacer.wait(now, 1_000_000, 1000) {
                    break next;
                }
                pacer.sent(1000);
                burst += 1;
            };
            (sent, largest) = (sent + burst, largest.max(burst));
            assert!(next > now);
            now = next;
        }
        assert!((1000..1010).contains(&sent), "{sent}");
        assert!(largest <= 5, "{largest}");
    }

    #[test]
    fn a_pause_earns_one_burst_only() {
        let mut pacer = Pacer::new(Instant::ZERO);
        let now = Instant::ZERO + Duration::from_secs(60);
        let mut burst = 0;
        while pacer.wait(now, 100_000_000, 1000).is_none() {
            pacer.sent(1000);
            burst += 1;
        }
        assert_eq!(burst, 200);
    }
}
