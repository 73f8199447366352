//! What clients are shown of a runner (policy.md section 6.1).

use serde_json::{Map, Value, json};

use super::Runner;
use super::store::seconds_text;

impl Runner {
    pub(super) fn status_view(&self) -> Map<String, Value> {
        let table = self.table();
        let mut view = Map::new();
        view.insert("network_id".into(), self.network.into());
        view.insert("peers".into(), table.peers.len().into());
        view.insert("cycle_num".into(), table.cycle_num.into());
        view.insert("joined_at".into(), seconds_text(table.joined_at).into());
        let engine = if self.managed.is_some() { "managed" } else { "policy" };
        view.insert("engine".into(), engine.into());
        if let Some(cycle) = self.policy.document.cycle() {
            view.insert("cycle".into(), cycle.into());
        }
        let max_peers = self.policy.document.max_peers();
        if max_peers > 0 {
            view.insert("max_peers".into(), max_peers.into());
        }
        view
    }

    pub(super) fn peer_view(&self) -> Vec<Value> {
        let table = self.table();
        let view = |(node, peer): (u32, &super::table::Peer)| {
            let mut view = json!({"node_id": node, "added_at": seconds_text(peer.added_at)});
            if let Some(seen) = peer.last_seen {
                view["last_seen"] = seconds_text(seen).into();
            }
            let tags = peer.effective_tags();
            if !tags.is_empty() {
                view["tags"] = tags.into();
            }
            view
        };
        table.oldest_first().into_iter().map(view).collect()
    }
}
