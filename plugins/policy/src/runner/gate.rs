//! The gate: may this stream or datagram pass (policy.md section 5). Called by the engine for every SYN and datagram, so
//! it never waits for the network or the disk.

use plugin_abi::{PolicyEvent, PortGate};
use serde_json::json;

use super::Runner;
use super::table::union;
use crate::compiled::EvalError;
use crate::document::{ActionKind, Verdict};
use crate::lang::{self, Context, Given};

impl Runner {
    /// `true` lets it pass. Tags, log lines and webhooks of the rules take effect before this returns.
    pub(super) fn gate(&self, gate: &PortGate) -> bool {
        let context = self.gate_context(gate);
        let decision = match self.policy.decide(&self.workers, gate.event, &context, self.now_seconds()) {
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

    /// The variables of section 5. An event that is none of the three knows only the first four.
    fn gate_context(&self, gate: &PortGate) -> Context {
        let variables = lang::declared(gate.event);
        let local_tags = Given::Tags(gate.local_tags.clone());
        let call = [
            ("port", Given::Int(gate.port.into())),
            ("peer_id", Given::Int(gate.peer.into())),
            ("network_id", Given::Int(self.network.into())),
            ("local_tags", local_tags),
        ];
        if !matches!(gate.event, PolicyEvent::Connect | PolicyEvent::Dial | PolicyEvent::Datagram) {
            return Context::of(variables, call);
        }
        let [port, peer_id, network_id, local_tags] = call;
        let (members, age, tags) = {
            let table = self.table();
            let peer = table.peers.get(&gate.peer);
            let own = peer.into_iter().flat_map(|p| [&p.registry_tags, &p.tags]);
            let tags = union(std::iter::once(&gate.node_info_tags).chain(own));
            (table.peers.len(), peer.map_or(0.0, |p| p.age(self.clock.wall())), tags)
        };
        let given = [
            port,
            peer_id,
            network_id,
            local_tags,
            ("members", Given::Int(i64::try_from(members).unwrap_or(i64::MAX))),
            ("peer_age_s", Given::Float(age)),
            ("peer_tags", Given::Tags(tags)),
            // Declared for datagrams alone.
            ("size", Given::Int(i64::from(gate.payload_size))),
            ("direction", Given::Text(gate.direction.as_str().to_owned())),
        ];
        Context::of(variables, given)
    }
}
