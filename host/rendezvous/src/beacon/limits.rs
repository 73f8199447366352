//! Counting per source: how much one endpoint may have relayed, how often an address may ask for a punch (beacon.md,
//! "Limits"). Tables are bounded; while one is full, sources it does not hold get nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Relayed datagrams per source endpoint in fixed windows of one second.
#[derive(Debug)]
pub(super) struct RelayLimit {
    per_second: Option<u32>,
    max_sources: usize,
    second: u64,
    taken: BTreeMap<SocketAddr, u32>,
}

impl RelayLimit {
    pub fn new(per_second: Option<u32>, max_sources: usize) -> Self {
        Self { per_second, max_sources, second: 0, taken: BTreeMap::new() }
    }

    pub fn take(&mut self, now: Duration, source: SocketAddr) -> bool {
        let Some(limit) = self.per_second else { return true };
        if now.as_secs() != self.second {
            self.second = now.as_secs();
            self.taken.clear();
        }
        if self.taken.len() >= self.max_sources && !self.taken.contains_key(&source) {
            return false;
        }
        let taken = self.taken.entry(source).or_default();
        *taken = taken.saturating_add(1);
        *taken <= limit
    }
}

/// Punch requests: a least distance between any two, and a larger one per address.
#[derive(Debug)]
pub(super) struct PunchLimit {
    interval: Duration,
    per_source: Duration,
    max_sources: usize,
    last: Option<Duration>,
    last_of: BTreeMap<IpAddr, Duration>,
}

impl PunchLimit {
    pub fn new(interval: Duration, per_source: Duration, max_sources: usize) -> Self {
        Self { interval, per_source, max_sources, last: None, last_of: BTreeMap::new() }
    }

    pub fn take(&mut self, now: Duration, source: IpAddr) -> bool {
        let since = |at: Duration| now.saturating_sub(at);
        if self.last.is_some_and(|at| since(at) < self.interval) {
            return false;
        }
        if self.last_of.get(&source).is_some_and(|at| since(*at) < self.per_source) {
            return false;
        }
        if self.last_of.len() >= self.max_sources {
            self.last_of.retain(|_, at| since(*at) < self.per_source);
            if self.last_of.len() >= self.max_sources {
                return false;
            }
        }
        self.last = Some(now);
        self.last_of.insert(source, now);
        true
    }
}
