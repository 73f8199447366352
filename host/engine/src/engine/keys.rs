//! Identity keys of other nodes as the registry knows them, and the key exchanges that wait for one.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::time::{Duration, Instant};
use crate::tunnel::rate::Spacing;

/// A failed lookup is remembered for this long (tunnel.md section 4, step 4).
const FAILURE_MEMORY: Duration = Duration::from_secs(3);
/// Failed lookups remembered.
const MAX_FAILURES: usize = 4096;
/// Key exchanges of one node that wait for its key; further ones are dropped, peers repeat them.
const MAX_PARKED: usize = 4;

/// How a frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Via {
    /// Straight from this address.
    Direct(SocketAddr),
    /// Through the beacon.
    Relay,
}

/// A key that the registry gave this recently is not asked for again because of a frame that contradicts it.
const FRESH: Duration = Duration::from_secs(3);

/// A registered identity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) key: [u8; 32],
    pub(crate) trusted: bool,
}

/// A key exchange that waits for the sender's registered identity.
#[derive(Clone, Debug)]
pub(crate) struct ParkedExchange {
    pub(crate) via: Via,
    /// The frame, PILA or PILK.
    pub(crate) frame: Vec<u8>,
}

/// The cache. The oldest key leaves when it is full.
pub(crate) struct Keys {
    /// With the time the registry gave it.
    known: BTreeMap<u32, (Known, Instant)>,
    order: VecDeque<u32>,
    max: usize,
    failed: Spacing<u32>,
    parked: BTreeMap<u32, Vec<ParkedExchange>>,
}

impl Keys {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            known: BTreeMap::new(),
            order: VecDeque::new(),
            max,
            failed: Spacing::new(FAILURE_MEMORY, MAX_FAILURES),
            parked: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, node: u32) -> Option<Known> {
        self.known.get(&node).map(|(known, _)| *known)
    }

    /// Whether the registry gave a node's key a moment ago, so that asking again would teach nothing.
    pub(crate) fn is_fresh(&self, now: Instant, node: u32) -> bool {
        self.known.get(&node).is_some_and(|(_, at)| now.since(*at) < FRESH)
    }

    pub(crate) fn learn(&mut self, now: Instant, node: u32, known: Known) {
        self.failed.forget(node);
        if self.known.insert(node, (known, now)).is_none() {
            self.order.push_back(node);
        }
        while self.order.len() > self.max
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Forgets a key. Its place in the order stays, and may make the node leave earlier should it come back.
    pub(crate) fn forget(&mut self, node: u32) {
        self.known.remove(&node);
    }

    /// Remembers that asking for a node's key just failed.
    pub(crate) fn fail(&mut self, now: Instant, node: u32) {
        self.failed.pass(now, node);
    }

    /// Whether asking for a node's key failed a moment ago.
    pub(crate) fn failed_recently(&self, now: Instant, node: u32) -> bool {
        self.failed.is_recent(now, node)
    }

    /// Keeps a key exchange until the key is known. Bounded by the questions in flight, one per node.
    pub(crate) fn park(&mut self, node: u32, exchange: ParkedExchange) {
        let list = self.parked.entry(node).or_default();
        if list.len() < MAX_PARKED {
            list.push(exchange);
        }
    }

    /// The key exchanges that waited for this node's key.
    pub(crate) fn unpark(&mut self, node: u32) -> Vec<ParkedExchange> {
        self.parked.remove(&node).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_key_leaves_a_full_cache() {
        let mut k = Keys::new(2);
        for node in [1, 2, 1, 3] {
            k.learn(Instant::ZERO, node, Known { key: [0; 32], trusted: false });
        }
        assert!(k.get(1).is_none() && k.get(2).is_some() && k.get(3).is_some());
        k.forget(2);
        assert!(k.get(2).is_none());
        for node in 4..9 {
            k.learn(Instant::ZERO, node, Known { key: [0; 32], trusted: false });
            assert!(k.known.len() <= 2 && k.order.len() <= 2);
        }
    }
}
