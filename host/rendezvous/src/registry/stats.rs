//! Figures for operators: how much there is, and how often each operation was asked for since the start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Registry;

/// Every operation that is counted by name, sorted; whatever else is asked for counts as `other`.
const OPS: &[&str] = &[
    "beacon_list",
    "beacon_register",
    "check_trust",
    "create_network",
    "delete_network",
    "demote_member",
    "deregister",
    "get_audit_log",
    "get_expr_policy",
    "get_identity",
    "get_key_info",
    "get_member_role",
    "get_member_tags",
    "get_network_policy",
    "get_webhook",
    "get_webhook_dlq",
    "heartbeat",
    "invite_to_network",
    "join_network",
    "kick_member",
    "leave_network",
    "list_networks",
    "list_nodes",
    "lookup",
    "poll_handshakes",
    "poll_invites",
    "promote_member",
    "provision_network",
    "punch",
    "register",
    "rename_network",
    "report_trust",
    "request_handshake",
    "resolve",
    "resolve_hostname",
    "respond_handshake",
    "respond_invite",
    "revoke_trust",
    "rotate_key",
    "set_expr_policy",
    "set_external_id",
    "set_hostname",
    "set_key_expiry",
    "set_member_tags",
    "set_network_enterprise",
    "set_network_policy",
    "set_tags",
    "set_task_exec",
    "set_visibility",
    "set_webhook",
    "subscribe_replication",
    "transfer_ownership",
];

/// Software versions told apart; what nodes run besides counts as `other`.
const MAX_VERSIONS: usize = 20;

/// Requests since the start, by operation.
///
/// Atomic, so that requests which only read need not have the registry for themselves.
#[derive(Debug)]
pub(super) struct Counters {
    asked: [AtomicU64; OPS.len()],
    other: AtomicU64,
    refused: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            asked: [const { AtomicU64::new(0) }; OPS.len()],
            other: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

impl Counters {
    pub fn count(&self, op: &str, refused: bool) {
        let counter = OPS.binary_search(&op).map_or(&self.other, |at| &self.asked[at]);
        counter.fetch_add(1, Ordering::Relaxed);
        if refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The registry in figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Nodes in the directory: registered, and heard of within the reaping time.
    pub live_nodes: usize,
    /// Node numbers ever given away that still have a key.
    pub known_nodes: usize,
    /// Trust pairs.
    pub trust_pairs: usize,
    /// Networks besides the backbone.
    pub networks: usize,
    /// Requests since the start, by operation; only those that were asked for.
    pub requests: Vec<(&'static str, u64)>,
    /// Of these, how many were refused.
    pub refused: u64,
    /// Live nodes by the software version they registered with; rare ones together as `other`.
    pub versions: Vec<(String, u64)>,
    /// Whether this registry follows another one.
    pub standby: bool,
}

impl Registry {
    /// The figures of this moment. Goes over all nodes.
    pub fn stats(&self) -> Stats {
        let counts = &self.counters;
        let asked = OPS.iter().copied().zip(&counts.asked).chain([("other", &counts.other)]);
        let requests = asked.map(|(op, n)| (op, n.load(Ordering::Relaxed))).filter(|(_, n)| *n > 0);
        let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, node) in self.state.nodes() {
            let version = if node.version.is_empty() { "unknown" } else { node.version.as_str() };
            *versions.entry(version).or_default() += 1;
        }
        let mut versions: Vec<(String, u64)> =
            versions.into_iter().map(|(version, count)| (version.to_owned(), count)).collect();
        versions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let rest: u64 = versions.iter().skip(MAX_VERSIONS).map(|(_, count)| count).sum();
        versions.truncate(MAX_VERSIONS);
        if rest > 0 {
            versions.push(("other".to_owned(), rest));
        }
        Stats {
            live_nodes: self.state.node_count(),
            known_nodes: self.state.identity_count(),
            trust_pairs: self.state.trust_pair_count(),
            networks: self.state.network_count(),
            requests: requests.collect(),
            refused: counts.refused.load(Ordering::Relaxed),
            versions,
            standby: self.settings.standby,
        }
    }

    /// The networks' names with their member counts, for those who may see them.
    pub fn network_sizes(&self) -> Vec<(u16, String, usize)> {
        let sized = |(id, network): (u16, &crate::state::Network)| {
            (id, network.name().to_owned(), self.state.member_count(id))
        };
        self.state.networks().map(sized).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted() {
        assert!(OPS.is_sorted());
    }
}
