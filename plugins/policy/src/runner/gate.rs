//! The gate: may this stream or datagram pass (policy.md section 5). Called by the engine for every SYN and datagram, so
//! it never waits for the network or the disk.

use plugin_abi::{PolicyEvent, PortGate};
use serde_json::{Map, Value, json};

use super::Runner;
use super::table::union;
use crate::compiled::EvalError;
use crate::document::{ActionKind, Verdict};

impl Runner {
    /// `true` lets it pass. Tags, log lines and webhooks of the rules take effect before this returns.
    pub(super) fn gate(&self, gate: &PortGate) -> bool {
        let values = self.gate_values(gate);
        let decision = match self.policy.decide(&self.workers, gate.event, &values, self.now_seconds()) {
            Ok(decision) => decision,
            Err(error) => return self.gate_failed(gate.event, &error),
        };
        let mut tagged = false;
        for directive in &decision.directives {
            match directive.kind {
                ActionKind::Tag => tagged |= self.table().tag(gate.peer, self.policy.params(directive)),
                ActionKind::Log => self.log(directive),
                ActionKind::Webhook => self.publish_webhook(directive),
                _ => {}
            }
        }
        if tagged {
            self.save_soon();
        }
        decision.verdict == Verdict::Allow
    }

    fn gate_failed(&self, event: PolicyEvent, error: &EvalError) -> bool {
        let closed = self.policy.document.fail_closed();
        self.report_eval_error(event.as_str(), error);
        !closed
    }

    /// A document that fails closed tells the bus; one that fails open only the log.
    pub(super) fn report_eval_error(&self, event: &str, error: &EvalError) {
        tracing::warn!(network_id = self.network, event, %error, "policy evaluation failed");
        if self.policy.document.fail_closed() {
            let payload = json!({"network_id": self.network, "event": event, "error": error.to_string()});
            self.publish("policy.eval_error", payload);
        }
    }

    fn gate_values(&self, gate: &PortGate) -> Map<String, Value> {
        let mut values = Map::new();
        values.insert("port".into(), gate.port.into());
        values.insert("peer_id".into(), gate.peer.into());
        values.insert("network_id".into(), self.network.into());
        values.insert("local_tags".into(), gate.local_tags.clone().into());
        let is_gate = matches!(gate.event, PolicyEvent::Connect | PolicyEvent::Dial | PolicyEvent::Datagram);
        if is_gate {
            let table = self.table();
            let peer = table.peers.get(&gate.peer);
            let own: Vec<&Vec<String>> = peer.map_or(vec![], |p| vec![&p.registry_tags, &p.tags]);
            let tags = union(std::iter::once(&gate.node_info_tags).chain(own));
            values.insert("members".into(), table.peers.len().into());
            values.insert("peer_age_s".into(), peer.map_or(0.0, |p| p.age(self.clock.wall())).into());
            values.insert("peer_tags".into(), tags.into());
        }
        if gate.event == PolicyEvent::Datagram {
            values.insert("size".into(), gate.payload_size.into());
            values.insert("direction".into(), gate.direction.as_str().into());
        }
        values
    }
}
