//! What must outlive a session: the send counter and the receive windows of its key pair.
//!
//! Our X25519 key lives as long as the process and both directions share one AES key, so deriving a session again with the
//! same peer key gives the same AES key. A send counter that started over would then risk repeating a nonce, and old peers
//! would reject it as a replay (tunnel.md section 3); empty receive windows would accept every frame ever recorded. So a
//! dropped session leaves both here, and the next one with the same peer key takes them up again.

use std::collections::{BTreeMap, VecDeque};

use super::epochs::Epochs;
use super::session::Session;

/// Key pairs remembered one by one.
const CAPACITY: usize = 16_384;

/// What is remembered of one key pair.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remembered {
    /// The last counter used for sending; the next frame must carry a higher one.
    pub(crate) counter: u64,
    /// The windows of what was received.
    pub(crate) epochs: Epochs,
}

/// The dropped sessions' remains, by the peer's X25519 key.
#[derive(Default)]
pub(crate) struct KeyPairs {
    by_key: BTreeMap<[u8; 32], Remembered>,
    /// Keys in the order they were first stored.
    order: VecDeque<[u8; 32]>,
    /// The highest counter ever forgotten: where any key starts that is not remembered.
    floor: u64,
}

impl KeyPairs {
    /// What a new session with this peer key starts from.
    pub(crate) fn recall(&self, peer_key: &[u8; 32]) -> Remembered {
        self.by_key
            .get(peer_key)
            .cloned()
            .unwrap_or_else(|| Remembered { counter: self.floor, epochs: Epochs::default() })
    }

    /// Remembers what must outlive a session.
    pub(crate) fn bury(&mut self, session: &Session) {
        let (key, remains) = session.remains();
        self.store(key, remains);
    }

    /// Remembers a key pair. When full the oldest key is forgotten, and every unknown key starts above its counter.
    fn store(&mut self, peer_key: [u8; 32], mut state: Remembered) {
        if let Some(stored) = self.by_key.get_mut(&peer_key) {
            state.counter = state.counter.max(stored.counter);
            *stored = state;
            return;
        }
        if self.by_key.len() >= CAPACITY
            && let Some(oldest) = self.order.pop_front()
            && let Some(forgotten) = self.by_key.remove(&oldest)
        {
            self.floor = self.floor.max(forgotten.counter);
        }
        self.by_key.insert(peer_key, state);
        self.order.push_back(peer_key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> [u8; 32] {
        let mut k = [0; 32];
        k[..8].copy_from_slice(&n.to_be_bytes());
        k
    }

    fn counter(counter: u64) -> Remembered {
        Remembered { counter, epochs: Epochs::default() }
    }

    #[test]
    fn a_counter_never_goes_back_even_when_forgotten() {
        let mut c = KeyPairs::default();
        assert_eq!(c.recall(&key(0)).counter, 0);
        c.store(key(0), counter(77));
        c.store(key(0), counter(5));
        assert_eq!(c.recall(&key(0)).counter, 77);
        for n in 1..=CAPACITY {
            c.store(key(n), counter(1));
        }
        assert_eq!(c.by_key.len(), CAPACITY);
        assert!(c.recall(&key(0)).counter >= 77, "forgotten, so everyone unknown starts above it");
    }
}
