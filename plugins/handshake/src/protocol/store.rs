//! What this node remembers about trust (handshake.md section 3): who is trusted, who asks, whom we asked, whom we cast
//! out. Kept across restarts by `trustfile`.
//!
//! Called by `machine` only. Holds the limits; decides nothing about messages. Every change of what is saved raises
//! [`Store::revision`].

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// Most pending requests in all.
pub const MAX_PENDING: usize = 256;
/// Most pending requests that one node brought in.
pub const MAX_PENDING_PER_SOURCE: usize = 16;
/// How long a pending request waits for a decision.
pub const PENDING_LIFETIME: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Most own requests that are remembered; over it the oldest is forgotten.
pub const MAX_OUTGOING: usize = 256;
/// How long an own request is remembered.
pub const OUTGOING_LIFETIME: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long a revoked peer cannot slip back by an answer to an older request.
pub const COOLDOWN: SignedDuration = SignedDuration::from_mins(5);
/// Most trust records that strangers can fill by automatic approval; people's own decisions are not limited. The sheet
/// names no bound; this one only keeps memory and file finite.
pub const MAX_AUTOMATIC: usize = 65_536;
/// Most cooldowns; over it the one that ends first goes. Only own revocations make them.
pub const MAX_REVOKED: usize = 4096;

/// A grant of trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// The key it is bound to, base64; empty while not bound.
    pub public_key: String,
    /// When it was granted.
    pub approved_at: Timestamp,
    /// Both sides asked.
    pub mutual: bool,
    /// The shared network that granted it, or 0.
    pub network: u16,
}

/// A request that waits for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The key presented, base64; may be empty.
    pub public_key: String,
    /// Cleaned.
    pub justification: String,
    /// When it arrived.
    pub received_at: Timestamp,
    /// Whose stream brought it; for a relayed one the requester. 0 when an older file did not say.
    pub source: u32,
}

/// How a record and a presented key agree (handshake.md section 3, "Key binding").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// There is no record.
    Untrusted,
    /// The record stands; it adopted the key if it had none.
    Stands,
    /// The record was bound to another key and is gone.
    Changed,
}

/// The four stores.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub(super) trusted: BTreeMap<u32, Trusted>,
    pub(super) pending: BTreeMap<u32, Pending>,
    pub(super) outgoing: BTreeMap<u32, Timestamp>,
    /// Node id to the end of its cooldown.
    pub(super) revoked: BTreeMap<u32, Timestamp>,
    revision: u64,
}

impl Store {
    /// Changes whenever something that is saved changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn touch(&mut self) {
        self.revision += 1;
    }

    /// The grants, by node id.
    pub fn trusted(&self) -> &BTreeMap<u32, Trusted> {
        &self.trusted
    }

    /// The waiting requests, by node id.
    pub fn pending(&self) -> &BTreeMap<u32, Pending> {
        &self.pending
    }

    /// Whether there is a grant.
    pub fn is_trusted(&self, node: u32) -> bool {
        self.trusted.contains_key(&node)
    }

    /// Whether one more automatic grant fits.
    pub fn has_room_for_automatic(&self) -> bool {
        self.trusted.len() < MAX_AUTOMATIC
    }

    /// Stores a grant and forgets the requests in both directions.
    pub fn grant(&mut self, node: u32, record: Trusted) {
        self.trusted.insert(node, record);
        self.pending.remove(&node);
        self.outgoing.remove(&node);
        self.touch();
    }

    /// Deletes grant, request and own request; whether there was a grant.
    pub fn forget(&mut self, node: u32) -> bool {
        let trusted = self.trusted.remove(&node).is_some();
        let asked = self.pending.remove(&node).is_some();
        let asking = self.outgoing.remove(&node).is_some();
        if trusted || asked || asking {
            self.touch();
        }
        trusted
    }

    /// Whether there is a grant that a presented key does not contradict. Changes nothing.
    pub fn stands(&self, node: u32, key: &str) -> bool {
        self.trusted
            .get(&node)
            .is_some_and(|r| r.public_key.is_empty() || key.is_empty() || r.public_key == key)
    }

    /// Compares the record of `node` with the key now presented, and acts on the result. Either side may be empty.
    pub fn bind(&mut self, node: u32, key: &str) -> Binding {
        let Some(record) = self.trusted.get_mut(&node) else { return Binding::Untrusted };
        if key.is_empty() || record.public_key == key {
            return Binding::Stands;
        }
        let changed = !record.public_key.is_empty();
        if changed {
            self.trusted.remove(&node);
        } else {
            record.public_key = key.to_owned();
        }
        self.touch();
        if changed { Binding::Changed } else { Binding::Stands }
    }

    /// Queues a request, or replaces the one of the same node. `false`: no room for a new one.
    pub fn queue(&mut self, node: u32, request: Pending) -> bool {
        if !self.pending.contains_key(&node) {
            let of_source = self.pending.values().filter(|p| p.source == request.source).count();
            if self.pending.len() >= MAX_PENDING || of_source >= MAX_PENDING_PER_SOURCE {
                return false;
            }
        }
        self.pending.insert(node, request);
        self.touch();
        true
    }

    /// Takes a request out of the queue.
    pub fn take_pending(&mut self, node: u32) -> Option<Pending> {
        let request = self.pending.remove(&node);
        if request.is_some() {
            self.touch();
        }
        request
    }

    /// Notes an own request; the oldest goes when there are too many.
    pub fn note_outgoing(&mut self, node: u32, now: Timestamp) {
        self.outgoing.insert(node, now);
        if self.outgoing.len() > MAX_OUTGOING
            && let Some(oldest) = self.outgoing.iter().min_by_key(|(_, at)| **at).map(|(node, _)| *node)
        {
            self.outgoing.remove(&oldest);
        }
        self.touch();
    }

    /// Whether we asked this node and heard nothing yet.
    pub fn has_outgoing(&self, node: u32) -> bool {
        self.outgoing.contains_key(&node)
    }

    /// Forgets an own request.
    pub fn forget_outgoing(&mut self, node: u32) {
        if self.outgoing.remove(&node).is_some() {
            self.touch();
        }
    }

    /// Starts the cooldown after an own revocation.
    pub fn start_cooldown(&mut self, node: u32, now: Timestamp) {
        self.revoked.insert(node, now.saturating_add(COOLDOWN).unwrap_or(Timestamp::MAX));
        if self.revoked.len() > MAX_REVOKED
            && let Some(first) = self.revoked.iter().min_by_key(|(_, until)| **until).map(|(node, _)| *node)
        {
            self.revoked.remove(&first);
        }
        self.touch();
    }

    /// Whether a cooldown runs; one that is over is cleared.
    pub fn in_cooldown(&mut self, node: u32, now: Timestamp) -> bool {
        match self.revoked.get(&node) {
            Some(until) if now < *until => true,
            Some(_) => {
                self.clear_cooldown(node);
                false
            }
            None => false,
        }
    }

    /// Ends a cooldown.
    pub fn clear_cooldown(&mut self, node: u32) {
        if self.revoked.remove(&node).is_some() {
            self.touch();
        }
    }

    /// Forgets what is too old: own requests, cooldowns, stale pending requests.
    pub fn sweep(&mut self, now: Timestamp) {
        let before = self.outgoing.len() + self.revoked.len() + self.pending.len();
        self.outgoing.retain(|_, at| now.duration_since(*at) <= OUTGOING_LIFETIME);
        self.revoked.retain(|_, until| now < *until);
        self.pending.retain(|_, request| now.duration_since(request.received_at) <= PENDING_LIFETIME);
        if before != self.outgoing.len() + self.revoked.len() + self.pending.len() {
            self.touch();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 0).expect("in range")
    }

    fn request(source: u32) -> Pending {
        Pending { public_key: String::new(), justification: String::new(), received_at: at(0), source }
    }

    fn grant(key: &str) -> Trusted {
        Trusted { public_key: key.into(), approved_at: at(0), mutual: false, network: 0 }
    }

    #[test]
    fn a_record_stands_adopts_or_goes() {
        let mut store = Store::default();
        assert_eq!(store.bind(1, "k"), Binding::Untrusted);
        store.grant(1, grant(""));
        assert_eq!(store.bind(1, ""), Binding::Stands);
        assert_eq!(store.bind(1, "k"), Binding::Stands);
        assert_eq!(store.trusted()[&1].public_key, "k");
        let revision = store.revision();
        assert_eq!(store.bind(1, ""), Binding::Stands);
        assert_eq!(store.bind(1, "k"), Binding::Stands);
        assert_eq!(store.revision(), revision, "nothing to save");
        assert_eq!(store.bind(1, "other"), Binding::Changed);
        assert!(!store.is_trusted(1));
    }

    #[test]
    fn one_source_can_bring_sixteen() {
        let mut store = Store::default();
        for node in 0..16 {
            assert!(store.queue(100 + node, request(7)));
        }
        assert!(!store.queue(200, request(7)));
        assert!(store.queue(200, request(8)));
        assert!(store.queue(100, request(7)), "a repetition replaces");
    }

    #[test]
    fn the_queue_holds_256_and_always_takes_a_repetition() {
        let mut store = Store::default();
        for node in 0..256 {
            assert!(store.queue(node, request(node)));
        }
        assert!(!store.queue(256, request(256)));
        assert!(store.queue(255, request(255)));
        assert!(store.take_pending(3).is_some());
        assert!(store.queue(256, request(256)));
    }

    #[test]
    fn the_oldest_own_request_goes_first() {
        let mut store = Store::default();
        for node in 0..=256 {
            store.note_outgoing(node, at(i64::from(if node == 5 { 0 } else { node + 1 })));
        }
        assert!(!store.has_outgoing(5));
        assert_eq!(store.outgoing.len(), MAX_OUTGOING);
    }

    #[test]
    fn sweeping_forgets_what_is_over() {
        let mut store = Store::default();
        store.start_cooldown(1, at(0));
        store.note_outgoing(2, at(0));
        store.queue(3, request(3));
        let revision = store.revision();
        store.sweep(at(299));
        assert_eq!(store.revision(), revision);
        store.sweep(at(300));
        assert!(store.revoked.is_empty() && store.has_outgoing(2) && store.pending().len() == 1);
        store.sweep(at(30 * 24 * 3600 + 1));
        assert!(!store.has_outgoing(2) && store.pending().is_empty());
    }

    #[test]
    fn a_cooldown_ends_by_itself() {
        let mut store = Store::default();
        store.start_cooldown(1, at(0));
        assert!(store.in_cooldown(1, at(299)));
        assert!(!store.in_cooldown(1, at(300)));
        assert!(store.revoked.is_empty());
    }
}
