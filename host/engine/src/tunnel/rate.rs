//! Token buckets by source, in a bounded table (tunnel.md section 4, stream.md section 7).

use std::collections::BTreeMap;

use crate::time::{Duration, Instant};

/// An entry unused for this long makes room when the table is full.
const RECLAIM: Duration = Duration::from_secs(10);

/// A flood of new sources must not buy a walk over a full table each.
const SWEEP_SPACING: Duration = Duration::from_millis(100);

/// One bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Billionths of a token, so that refilling needs no floating point.
    level: u64,
    at: Instant,
}

const TOKEN: u64 = 1_000_000_000;

impl Bucket {
    pub(crate) fn full(now: Instant, rate: u32) -> Self {
        Self { level: u64::from(rate) * TOKEN, at: now }
    }

    /// Takes one token if there is one. `rate` tokens flow in per second; the bucket holds one second's worth.
    pub(crate) fn take(&mut self, now: Instant, rate: u32) -> bool {
        let rate = u64::from(rate);
        let inflow = u64::try_from(now.since(self.at).as_nanos()).unwrap_or(u64::MAX).saturating_mul(rate);
        self.level = self.level.saturating_add(inflow).min(rate * TOKEN);
        self.at = now;
        let enough = self.level >= TOKEN;
        self.level -= if enough { TOKEN } else { 0 };
        enough
    }
}

/// A bucket per source. A new source that finds the table full of active ones is refused.
pub(crate) struct RateTable<K> {
    buckets: BTreeMap<K, Bucket>,
    rate: u32,
    capacity: usize,
    /// Not worth looking for idle entries before this.
    next_sweep: Instant,
}

impl<K: Ord + Copy> RateTable<K> {
    pub(crate) fn new(rate: u32, capacity: usize) -> Self {
        Self { buckets: BTreeMap::new(), rate, capacity, next_sweep: Instant::ZERO }
    }

    /// Whether `source` may do one more thing now.
    pub(crate) fn take(&mut self, now: Instant, source: K) -> bool {
        if !self.buckets.contains_key(&source) && self.buckets.len() >= self.capacity {
            if now < self.next_sweep {
                return false;
            }
            self.next_sweep = now + SWEEP_SPACING;
            self.buckets.retain(|_, b| now.since(b.at) < RECLAIM);
            if self.buckets.len() >= self.capacity {
                return false;
            }
        }
        let rate = self.rate;
        self.buckets.entry(source).or_insert_with(|| Bucket::full(now, rate)).take(now, rate)
    }
}

/// Lets each key pass once per interval; bounded, a key that finds the table full of recent ones is refused.
pub(crate) struct Spacing<K> {
    last: BTreeMap<K, Instant>,
    interval: Duration,
    capacity: usize,
    next_sweep: Instant,
}

impl<K: Ord + Copy> Spacing<K> {
    pub(crate) fn new(interval: Duration, capacity: usize) -> Self {
        Self { last: BTreeMap::new(), interval, capacity, next_sweep: Instant::ZERO }
    }

    /// Whether `interval` has passed since `key` last passed; if so it passes now.
    pub(crate) fn pass(&mut self, now: Instant, key: K) -> bool {
        if let Some(last) = self.last.get_mut(&key) {
            let due = now.since(*last) >= self.interval;
            if due {
                *last = now;
            }
            return due;
        }
        if self.last.len() >= self.capacity {
            if now < self.next_sweep {
                return false;
            }
            self.next_sweep = now + SWEEP_SPACING;
            let interval = self.interval;
            self.last.retain(|_, at| now.since(*at) < interval);
            if self.last.len() >= self.capacity {
                return false;
            }
        }
        self.last.insert(key, now);
        true
    }

    /// Whether `key` passed less than the interval ago.
    pub(crate) fn is_recent(&self, now: Instant, key: K) -> bool {
        self.last.get(&key).is_some_and(|at| now.since(*at) < self.interval)
    }

    pub(crate) fn forget(&mut self, key: K) {
        self.last.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut t = RateTable::new(5, 10);
        assert_eq!((0..9).filter(|_| t.take(at(0), 1)).count(), 5);
        assert!(!t.take(at(199), 1));
        assert!(t.take(at(200), 1));
        assert!(!t.take(at(200), 1));
        assert!(t.take(at(200), 2), "another source has its own");
        assert_eq!((0..9).filter(|_| t.take(at(60_000), 1)).count(), 5);
    }

    #[test]
    fn a_full_table_refuses_new_sources_until_one_is_idle() {
        let mut t = RateTable::new(5, 2);
        assert!(t.take(at(0), 1) && t.take(at(5000), 2));
        assert!(!t.take(at(9000), 3));
        assert!(t.take(at(9000), 2));
        assert!(t.take(at(10_000), 3), "source 1 was idle for 10 s");
        assert_eq!(t.buckets.len(), 2);
    }

    #[test]
    fn spacing_lets_each_key_pass_once_per_interval() {
        let mut s = Spacing::new(Duration::from_secs(3), 2);
        assert!(s.pass(at(0), 1) && !s.pass(at(2999), 1) && s.pass(at(3000), 1));
        assert!(s.pass(at(3000), 2));
        assert!(!s.pass(at(3001), 3), "full");
        assert!(s.pass(at(6001), 3));
        assert!(s.is_recent(at(6002), 3) && !s.is_recent(at(9001), 3));
    }
}
