//! Who is in the network: the registry's list, and what the policy says to those who come and go (policy.md section 6,
//! fetch, bootstrap and reconcile).

use std::collections::HashSet;
use std::time::Duration;

use plugin_abi::PolicyEvent;
use serde_json::{Map, Value, json};

use super::Runner;
use super::table::Peer;
use crate::clock::shuffle;
use crate::document::ActionKind;

/// The wait after the first failure is twice this; it doubles with each further one.
const BACKOFF_UNIT: Duration = Duration::from_secs(5);
/// Failures that count for the wait.
const BACKOFF_DOUBLINGS: u32 = 6;
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// When the registry may be asked again after it failed.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    not_before: Duration,
}

impl Backoff {
    fn failed(&mut self, now: Duration) {
        self.failures = (self.failures + 1).min(BACKOFF_DOUBLINGS);
        self.not_before = now + (BACKOFF_UNIT * (1 << self.failures)).min(BACKOFF_MAX);
    }
}

/// One member other than this node.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub node: u32,
    pub tags: Vec<String>,
}

/// When a member is told to be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    /// At the start of the runner; `evict` has no effect then, and refusals are not announced.
    Bootstrap,
    /// Later.
    Reconcile,
}

impl Runner {
    /// The members other than this node; `None` when nothing is known, which is never a reason to remove anybody. The
    /// own entry sets the daemon's idea of our tags.
    pub(super) fn fetch(&self, backoff: &mut Backoff) -> Option<Vec<Member>> {
        // The backbone has no members: everybody is on it, and no registry tells a host who that is.
        if self.network == 0 || self.clock.monotonic() < backoff.not_before {
            return None;
        }
        let answer = match self.daemon.list_nodes(self.network, &self.daemon.admin_token()) {
            Ok(answer) => answer,
            Err(error) => {
                backoff.failed(self.clock.monotonic());
                tracing::debug!(network_id = self.network, %error, "members not fetched");
                return None;
            }
        };
        *backoff = Backoff::default();
        let nodes = answer.get("nodes").and_then(Value::as_array).filter(|nodes| !nodes.is_empty())?;
        let own = self.daemon.node_id();
        let mut others = Vec::new();
        for member in nodes.iter().filter_map(member) {
            if member.node == own {
                self.daemon.set_member_tags(self.network, member.tags);
            } else {
                others.push(member);
            }
        }
        Some(others)
    }

    /// Fills the table at the start.
    pub(super) fn bootstrap(&self) {
        let mut turn = self.turn();
        let Some(mut members) = self.fetch(&mut turn) else { return };
        shuffle(&mut members);
        let max = self.policy.document.max_peers();
        if max > 0 {
            members.truncate(max);
        }
        let mut arrived = Vec::new();
        {
            let mut table = self.table();
            // A managed network keeps the peers it has chosen before.
            let chosen = self.managed.is_some() && !table.peers.is_empty();
            for Member { node, tags } in members {
                match table.peers.get_mut(&node) {
                    Some(peer) => peer.registry_tags = tags,
                    None if chosen => {}
                    None => {
                        table.peers.insert(node, Peer::new(tags, self.clock.wall()));
                        arrived.push(node);
                    }
                }
            }
        }
        let count = self.table().peers.len() + 1;
        for node in arrived {
            self.arrive(node, count, Arrival::Bootstrap);
        }
        self.save();
    }

    /// Brings the table in step with the registry.
    pub(super) fn reconcile(&self) {
        if self.managed.is_some() && self.table().peers.is_empty() {
            // Nobody was known at the start, or all have left: choose anew.
            return self.bootstrap();
        }
        let mut turn = self.turn();
        let Some(members) = self.fetch(&mut turn) else { return };
        let present: HashSet<u32> = members.iter().map(|m| m.node).collect();
        let count = members.len() + 1;
        let mut changed = false;
        let mut arrived = Vec::new();
        let gone: Vec<u32>;
        {
            let now = self.clock.monotonic();
            let mut table = self.table();
            table.forget_evictions(now);
            for Member { node, tags } in members {
                if let Some(peer) = table.peers.get_mut(&node) {
                    changed |= peer.registry_tags != tags;
                    peer.registry_tags = tags;
                } else if self.managed.is_none() && !table.is_kept_out(node, now) {
                    table.peers.insert(node, Peer::new(tags, self.clock.wall()));
                    arrived.push(node);
                }
            }
            gone = table.peers.keys().copied().filter(|node| !present.contains(node)).collect();
        }
        changed |= !arrived.is_empty() || !gone.is_empty();
        for node in arrived {
            self.arrive(node, count, Arrival::Reconcile);
        }
        for node in gone {
            self.leave(node);
        }
        if changed {
            self.save();
        }
    }

    /// The join rules for a peer that has just entered the table.
    fn arrive(&self, node: u32, members: usize, arrival: Arrival) {
        let values = json!({"peer_id": node, "network_id": self.network, "members": members});
        let Some(directives) = self.membership_rules(PolicyEvent::Join, values) else { return };
        let (mut denied, mut evicted) = (false, false);
        for directive in &directives {
            match directive.kind {
                ActionKind::Deny => denied = true,
                ActionKind::Evict => evicted |= arrival == Arrival::Reconcile,
                ActionKind::Tag => {
                    self.table().tag(node, self.policy.params(directive));
                }
                ActionKind::Log => self.log(directive),
                ActionKind::Webhook => self.publish_webhook(directive),
                _ => {}
            }
        }
        if denied || evicted {
            self.table().evict(node, self.clock.monotonic());
        }
        if denied && arrival == Arrival::Reconcile {
            self.publish("policy.join_denied", json!({"network_id": self.network, "peer_id": node}));
        }
    }

    /// The leave rules for a peer that is gone, and its end.
    fn leave(&self, node: u32) {
        let values = json!({"peer_id": node, "network_id": self.network});
        for directive in self.membership_rules(PolicyEvent::Leave, values).unwrap_or_default() {
            match directive.kind {
                ActionKind::Log => self.log(&directive),
                ActionKind::Webhook => self.publish_webhook(&directive),
                // A tag would be gone with the peer.
                _ => {}
            }
        }
        self.table().peers.remove(&node);
    }

    /// `None` after an error, which keeps the peer and is only logged.
    fn membership_rules(&self, event: PolicyEvent, values: Value) -> Option<Vec<crate::compiled::Directive>> {
        let values = values.as_object()?;
        match self.policy.directives_for(&self.workers, event, values, self.now_seconds()) {
            Ok(directives) => Some(directives),
            Err(error) => {
                tracing::warn!(network_id = self.network, event = event.as_str(), %error, "policy evaluation failed");
                None
            }
        }
    }
}

fn member(entry: &Value) -> Option<Member> {
    let entry: &Map<String, Value> = entry.as_object()?;
    let id = entry.get("node_id")?;
    let node = id.as_u64().or_else(|| id.as_f64().map(|f| f as u64)).and_then(|n| u32::try_from(n).ok())?;
    let tags = entry.get("member_tags").and_then(Value::as_array);
    let tags = tags.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Some(Member { node, tags })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_double_the_wait_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                backoff.failed(Duration::ZERO);
                backoff.not_before.as_secs()
            })
            .collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn members_are_read_leniently() {
        assert_eq!(member(&json!({"node_id": 5.0, "member_tags": ["a", 1]})).unwrap().tags, ["a"]);
        assert!(member(&json!({"node_id": -1})).is_none_or(|m| m.node == 0));
        assert!(member(&json!({"node_id": 4_294_967_296u64})).is_none());
        assert!(member(&json!(null)).is_none());
    }
}
