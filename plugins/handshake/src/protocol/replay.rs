//! Which messages were seen in the last minutes (handshake.md section 2, "Replay store").
//!
//! Called by the machine. Bounded in all and for each claimed sender; it never refuses: over a limit the oldest entry
//! goes. Expired entries count until they are swept or room is needed, so that an entry lives 10 to 15 minutes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::message::ReplayKey;

/// Most entries in all.
pub const MAX_KEYS: usize = 8192;
/// Most entries of one claimed sender.
pub const MAX_KEYS_PER_NODE: usize = 256;
/// How long an entry is kept at least, unless a limit pushes it out.
pub const LIFETIME: SignedDuration = SignedDuration::from_mins(10);

struct Seen {
    key: ReplayKey,
    node: u32,
    at: Timestamp,
}

/// The store. "Oldest" is the order of arrival, whatever the clock did meanwhile.
#[derive(Default)]
pub struct ReplayStore {
    next: u64,
    by_age: BTreeMap<u64, Seen>,
    by_key: HashMap<ReplayKey, u64>,
    by_node: HashMap<u32, BTreeSet<u64>>,
}

impl ReplayStore {
    /// Whether the message is stored.
    pub fn contains(&self, key: &ReplayKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Stores a message; `false` when it is there already.
    pub fn insert(&mut self, key: ReplayKey, node: u32, now: Timestamp) -> bool {
        if self.contains(&key) {
            return false;
        }
        if let Some(of_node) = self.by_node.get(&node)
            && of_node.len() >= MAX_KEYS_PER_NODE
            && let Some(&oldest) = of_node.first()
        {
            self.remove(oldest);
        }
        if self.len() >= MAX_KEYS {
            self.sweep(now);
        }
        if self.len() >= MAX_KEYS
            && let Some((&oldest, _)) = self.by_age.first_key_value()
        {
            self.remove(oldest);
        }
        let id = self.next;
        self.next += 1;
        self.by_age.insert(id, Seen { key, node, at: now });
        self.by_key.insert(key, id);
        self.by_node.entry(node).or_default().insert(id);
        true
    }

    /// Forgets what expired.
    pub fn sweep(&mut self, now: Timestamp) {
        let expired: Vec<u64> = self
            .by_age
            .iter()
            .filter(|(_, seen)| now.duration_since(seen.at) > LIFETIME)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.remove(id);
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    fn remove(&mut self, id: u64) {
        let Some(seen) = self.by_age.remove(&id) else { return };
        self.by_key.remove(&seen.key);
        if let Some(of_node) = self.by_node.get_mut(&seen.node) {
            of_node.remove(&id);
            if of_node.is_empty() {
                self.by_node.remove(&seen.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> ReplayKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(n as u64).to_be_bytes());
        ReplayKey(key)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 0).expect("in range")
    }

    #[test]
    fn an_entry_lives_until_the_sweep_after_its_end() {
        let mut store = ReplayStore::default();
        assert!(store.insert(key(1), 7, at(0)));
        assert!(!store.insert(key(1), 7, at(1)));
        store.sweep(at(600));
        assert!(store.contains(&key(1)), "exactly ten minutes are not over ten minutes");
        assert!(!store.insert(key(1), 7, at(800)), "expired but not swept still counts");
        store.sweep(at(801));
        assert!(store.insert(key(1), 7, at(802)));
    }

    #[test]
    fn one_sender_pushes_out_only_its_own() {
        let mut store = ReplayStore::default();
        store.insert(key(0), 1, at(0));
        for n in 1..=MAX_KEYS_PER_NODE + 1 {
            store.insert(key(n), 2, at(1));
        }
        assert!(store.contains(&key(0)));
        assert!(!store.contains(&key(1)), "the oldest of that sender went");
        assert!(store.contains(&key(2)));
        assert_eq!(store.len(), 1 + MAX_KEYS_PER_NODE);
    }

    #[test]
    fn the_whole_store_drops_expired_ones_first_then_the_oldest() {
        let mut store = ReplayStore::default();
        for n in 0..MAX_KEYS {
            // The first half is older.
            store.insert(key(n), n as u32, at(if n < MAX_KEYS / 2 { 0 } else { 500 }));
        }
        store.insert(key(MAX_KEYS), 0, at(700));
        assert_eq!(store.len(), MAX_KEYS / 2 + 1, "room was made by sweeping");
        for n in 0..MAX_KEYS / 2 {
            store.insert(key(MAX_KEYS + 1 + n), n as u32, at(700));
        }
        assert_eq!(store.len(), MAX_KEYS);
        assert!(!store.contains(&key(MAX_KEYS / 2)), "then the oldest goes");
    }
}
