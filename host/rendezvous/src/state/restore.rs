//! From records to bytes and back: the list of changes for a store, and a state from what a store holds.
//!
//! Called by the registry after each request and at start. A store that contradicts itself is refused whole; a registry
//! that lost half of its trust pairs without a word would be worse than one that does not start.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Change, FORMAT, RecordKey, State};

/// Bytes of most records at most.
const USUAL: usize = 192;

/// Why stored records make no state. The fault is the store's: restore it from a copy, or start with an empty one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The bytes under a key are not what this version writes there.
    #[error("the store's record {key:?} is damaged: {cause}")]
    Damaged {
        /// Which record.
        key: RecordKey,
        /// What the decoder says.
        cause: serde_json::Error,
    },
    /// Two records claim what only one can have.
    #[error("the store's record {key:?} contradicts another one: {what} is taken")]
    Contradiction {
        /// The second record.
        key: RecordKey,
        /// What both claim.
        what: &'static str,
    },
    /// A record speaks of another one that is not there.
    #[error("the store's record {key:?} has no {what}")]
    Orphan {
        /// The record.
        key: RecordKey,
        /// What is missing.
        what: &'static str,
    },
    /// Written by a later version of this program.
    #[error("the store has format {found}, this version reads up to {FORMAT}: use the newer program")]
    Newer {
        /// The store's format.
        found: u32,
    },
}

impl State {
    /// The records changed since the last call, with their present content, in key order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let changed = std::mem::take(&mut self.changed.records);
        let mut buffer = Vec::with_capacity(changed.len() * USUAL);
        let mut ends = Vec::with_capacity(changed.len());
        for key in &changed {
            ends.push(self.encode(*key, &mut buffer).then_some(buffer.len()));
        }
        let (buffer, mut start) = (Bytes::from(buffer), 0);
        let change = |(key, end): (RecordKey, Option<usize>)| {
            let value = end.map(|end| buffer.slice(std::mem::replace(&mut start, end)..end));
            Change { key, value }
        };
        changed.into_iter().zip(ends).map(change).collect()
    }

    /// One record as it is, if it is there.
    pub fn record(&self, key: RecordKey) -> Option<Change> {
        let mut buffer = Vec::new();
        self.encode(key, &mut buffer).then(|| Change { key, value: Some(buffer.into()) })
    }

    /// Appends a record as it is; false when it is not there.
    fn encode(&self, key: RecordKey, out: &mut Vec<u8>) -> bool {
        match key {
            RecordKey::Meta => append(Some(&self.meta), out),
            RecordKey::Identity(id) => append(self.identities.get(&id), out),
            RecordKey::Node(id) => append(self.nodes.get(&id), out),
            RecordKey::Network(id) => append(self.networks.get(&id), out),
            RecordKey::Member(network, node) => append(self.members.get(&(network, node)), out),
            RecordKey::Trust(low, high) => self.trust.contains(&(low, high)),
            RecordKey::Inbox(id) => append(self.inboxes.get(&id), out),
            RecordKey::Invites(id) => append(self.invites.get(&id), out),
            RecordKey::Audit(number) => append(self.audit.get(&number), out),
            RecordKey::Operator => append(Some(&self.operator), out),
        }
    }

    /// A state from stored records, in any order.
    pub fn restore(records: impl IntoIterator<Item = (RecordKey, Vec<u8>)>) -> Result<Self, RestoreError> {
        let mut state = Self::default();
        for (key, bytes) in records {
            state.take_in(key, &bytes)?;
        }
        state.check_references()?;
        Ok(state)
    }

    /// What one record says about another one must hold.
    fn check_references(&mut self) -> Result<(), RestoreError> {
        let orphan = |key, what| Err(RestoreError::Orphan { key, what });
        if let Some(id) = self.nodes.keys().find(|id| !self.identities.contains_key(id)) {
            return orphan(RecordKey::Node(*id), "identity");
        }
        if let Some((network, node)) = self.members.keys().find(|(w, _)| !self.networks.contains_key(w)) {
            return orphan(RecordKey::Member(*network, *node), "network");
        }
        // A number that was once given away must not be given again.
        let used = self.identities.last_key_value().map_or(0, |(id, _)| *id);
        self.meta.next_node = self.meta.next_node.max(used.saturating_add(1));
        let used = self.networks.last_key_value().map_or(0, |(id, _)| u32::from(*id));
        self.meta.next_network = self.meta.next_network.max(used + 1);
        let next = self.members.values().map(|m| m.order.saturating_add(1)).max().unwrap_or(0);
        self.meta.next_member = self.meta.next_member.max(next);
        Ok(())
    }

    fn take_in(&mut self, key: RecordKey, bytes: &[u8]) -> Result<(), RestoreError> {
        let taken = |what| RestoreError::Contradiction { key, what };
        match key {
            RecordKey::Meta => {
                self.meta = from_bytes(key, bytes)?;
                if self.meta.format > FORMAT {
                    return Err(RestoreError::Newer { found: self.meta.format });
                }
            }
            RecordKey::Identity(id) => {
                let record: super::Identity = from_bytes(key, bytes)?;
                if self.by_key.insert(record.key, id).is_some() {
                    return Err(taken("the key"));
                }
                if !record.owner.is_empty() && self.by_owner.insert(record.owner.clone(), id).is_some() {
                    return Err(taken("the owner"));
                }
                self.identities.insert(id, record);
            }
            RecordKey::Node(id) => {
                let record: super::Node = from_bytes(key, bytes)?;
                if !record.hostname.is_empty()
                    && self.by_hostname.insert(record.hostname.clone(), id).is_some()
                {
                    return Err(taken("the hostname"));
                }
                self.nodes.insert(id, record);
            }
            RecordKey::Network(id) => {
                let record: super::Network = from_bytes(key, bytes)?;
                if self.by_name.insert(record.name.clone(), id).is_some() {
                    return Err(taken("the name"));
                }
                self.networks.insert(id, record);
            }
            RecordKey::Member(network, node) => {
                self.members.insert((network, node), from_bytes(key, bytes)?);
                self.memberships.insert((node, network));
            }
            RecordKey::Trust(a, b) => self.trust.extend([(a, b), (b, a)]),
            RecordKey::Inbox(id) => drop(self.inboxes.insert(id, from_bytes(key, bytes)?)),
            RecordKey::Invites(id) => drop(self.invites.insert(id, from_bytes(key, bytes)?)),
            RecordKey::Audit(number) => drop(self.audit.insert(number, from_bytes(key, bytes)?)),
            RecordKey::Operator => self.operator = from_bytes(key, bytes)?,
        }
        Ok(())
    }
}

fn append<T: Serialize>(record: Option<&T>, out: &mut Vec<u8>) -> bool {
    let Some(record) = record else { return false };
    serde_json::to_writer(out, record).expect("records have text keys only and no fallible serializer");
    true
}

fn from_bytes<T: DeserializeOwned>(key: RecordKey, bytes: &[u8]) -> Result<T, RestoreError> {
    serde_json::from_slice(bytes).map_err(|cause| RestoreError::Damaged { key, cause })
}
