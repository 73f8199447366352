//! The cycle, and the actions that change table and trust (policy.md section 6).

use plugin_abi::{ErrorKind, PolicyEvent};
use serde_json::{Map, Value, json};

use super::Runner;
use super::members::{Backoff, Member};
use super::table::Peer;
use crate::clock::shuffle;
use crate::compiled::Directive;
use crate::document::{ActionKind, number};

/// The reason given in trust requests that `fill_trust` sends.
const TRUST_REASON: &str = "trust-decay policy";

/// What one cycle did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counters {
    evicted: usize,
    pruned: usize,
    filled: usize,
    pruned_trust: usize,
    filled_trust: usize,
}

impl Runner {
    /// One cycle: a pass over the peers for their tags, a pass over the fleet for everything else, saved and announced.
    pub(super) fn cycle(&self) -> Map<String, Value> {
        let mut turn = self.turn();
        let (cycle_num, peers) = {
            let mut table = self.table();
            table.cycle_num += 1;
            (table.cycle_num, table.peers.keys().copied().collect::<Vec<u32>>())
        };
        let fleet = json!({
            "network_id": self.network,
            "members": peers.len(),
            "peer_count": peers.len(),
            "cycle_num": cycle_num,
            "trusted_count": self.daemon.trusted_peers().len(),
        });
        let Value::Object(fleet) = fleet else { return Map::new() };
        for node in peers {
            if self.is_stopped() {
                break;
            }
            self.peer_pass(node, &fleet);
        }
        let mut counters = Counters::default();
        self.run_actions(PolicyEvent::Cycle, &fleet, &mut turn, &mut counters);
        self.save();
        let result = json!({
            "network_id": self.network,
            "cycle_num": cycle_num,
            "peers": self.table().peers.len(),
            "evicted": counters.evicted,
            "pruned": counters.pruned,
            "filled": counters.filled,
            "pruned_trust": counters.pruned_trust,
            "filled_trust": counters.filled_trust,
        });
        let Value::Object(mut result) = result else { return Map::new() };
        if self.managed.is_some() {
            let told = ["network_id", "pruned", "filled", "peers"];
            result.retain(|name, _| told.contains(&name.as_str()));
            self.daemon.publish("managed.cycle", Some(result.clone()));
        } else {
            self.daemon.publish("policy.cycle", Some(result.clone()));
        }
        result
    }

    /// The cycle rules for one peer: only tags have an effect, and errors are nobody's concern.
    fn peer_pass(&self, node: u32, fleet: &Map<String, Value>) {
        let mut values = fleet.clone();
        values.append(&mut self.table().describe(node, self.clock.wall()));
        let directives =
            self.policy.directives_for(&self.workers, PolicyEvent::Cycle, &values, self.now_seconds());
        for directive in directives.unwrap_or_default() {
            if directive.kind == ActionKind::Tag {
                self.table().tag(node, self.policy.params(&directive));
            }
        }
    }

    /// An action event from outside: everything but verdicts has an effect.
    pub(super) fn actions(&self, event: &str, context: &Map<String, Value>) {
        let Some(event) = PolicyEvent::parse(event) else {
            tracing::warn!(network_id = self.network, event, "unknown policy event ignored");
            return;
        };
        let mut turn = self.turn();
        self.run_actions(event, context, &mut turn, &mut Counters::default());
        self.save_soon();
    }

    fn run_actions(
        &self,
        event: PolicyEvent,
        context: &Map<String, Value>,
        turn: &mut Backoff,
        counters: &mut Counters,
    ) {
        let directives = match self.policy.directives_for(&self.workers, event, context, self.now_seconds()) {
            Ok(directives) => directives,
            Err(error) => return self.report_eval_error(event.as_str(), &error),
        };
        let peer = context.get("peer_id").and_then(|id| u32::try_from(number(id)).ok());
        for directive in &directives {
            if self.is_stopped() {
                return;
            }
            self.act(directive, peer, turn, counters);
        }
    }

    fn act(&self, directive: &Directive, peer: Option<u32>, turn: &mut Backoff, counters: &mut Counters) {
        match directive.kind {
            // Decided at gates; `deny` means something to those who join, see `members`.
            ActionKind::Allow | ActionKind::Deny => {}
            ActionKind::Tag => {
                if let Some(node) = peer {
                    self.table().tag(node, self.policy.params(directive));
                }
            }
            ActionKind::Evict => {
                if let Some(node) = peer {
                    self.table().evict(node, self.clock.monotonic());
                    counters.evicted += 1;
                }
            }
            ActionKind::EvictWhere => counters.evicted += self.evict_where(directive),
            ActionKind::Prune => counters.pruned += self.prune(directive),
            ActionKind::Fill => counters.filled += self.fill(directive, turn),
            ActionKind::PruneTrust => counters.pruned_trust += self.prune_trust(directive),
            ActionKind::FillTrust => counters.filled_trust += self.fill_trust(directive, turn),
            ActionKind::Webhook => self.publish_webhook(directive),
            ActionKind::Log => self.log(directive),
        }
    }

    fn evict_where(&self, directive: &Directive) -> usize {
        let now = self.clock.wall();
        let (nodes, described): (Vec<u32>, Vec<Map<String, Value>>) = {
            let table = self.table();
            table.peers.keys().map(|node| (*node, table.describe(*node, now))).unzip()
        };
        let meant = self.policy.meant(&self.workers, directive, &described, self.now_seconds());
        let evicted: Vec<u32> =
            nodes.into_iter().zip(meant).filter(|(_, meant)| *meant).map(|(n, _)| n).collect();
        let mut table = self.table();
        for node in &evicted {
            table.evict(*node, self.clock.monotonic());
        }
        evicted.len()
    }

    /// Not marked as evicted, so that reconcile may bring them back.
    fn prune(&self, directive: &Directive) -> usize {
        let now = self.clock.wall();
        let mut table = self.table();
        let mut pruned = table.first_by(self.policy.params(directive));
        if let Some(grace) = self.managed {
            // Those who are protected are not replaced by others.
            let is_old =
                |node: &u32| table.peers.get(node).is_some_and(|p| p.age(now) >= grace.as_secs_f64());
            pruned.retain(is_old);
        }
        for node in &pruned {
            table.peers.remove(node);
        }
        pruned.len()
    }

    /// The Go peer also replaces the policy tags of those who are there by their registry tags; here these are kept
    /// apart, as everywhere else.
    fn fill(&self, directive: &Directive, turn: &mut Backoff) -> usize {
        let wanted = usize::try_from(self.param(directive, "count")).unwrap_or(0);
        let Some(members) = self.fetch(turn) else { return 0 };
        let mut table = self.table();
        let mut candidates = Vec::new();
        for member in members {
            match table.peers.get_mut(&member.node) {
                Some(peer) => peer.registry_tags = member.tags,
                None => candidates.push(member),
            }
        }
        shuffle(&mut candidates);
        let max = self.policy.document.max_peers();
        let room = if max > 0 { max.saturating_sub(table.peers.len()) } else { usize::MAX };
        candidates.truncate(wanted.min(room));
        let filled = candidates.len();
        for Member { node, tags } in candidates {
            table.peers.insert(node, Peer::new(tags, self.clock.wall()));
        }
        filled
    }

    fn prune_trust(&self, directive: &Directive) -> usize {
        let mut trusted = self.daemon.trusted_peers();
        let total = trusted.len();
        let min = usize::try_from(self.param(directive, "min")).unwrap_or(0);
        if total <= min {
            return 0;
        }
        let percent = self.policy.params(directive).and_then(|p| p.get("percent")).and_then(Value::as_f64);
        let share = (total as f64 * percent.unwrap_or(0.0) / 100.0).floor();
        // `as` saturates: a negative or absurd percentage becomes 0 or everything, and is then bounded.
        let count = (share as usize).clamp(1, total - min);
        let by = self.policy.params(directive).and_then(|p| p.get("by")).and_then(Value::as_str);
        match by.unwrap_or("age") {
            "age" => trusted.sort_by_key(|record| record.approved_at),
            "random" => shuffle(&mut trusted),
            _ => {}
        }
        let mut pruned = 0;
        for record in trusted.iter().take(count) {
            if self.is_stopped() {
                break;
            }
            match self.daemon.handshake_revoke_trust(record.node_id) {
                Ok(()) => pruned += 1,
                Err(error) => tracing::warn!(node_id = record.node_id, %error, "trust not revoked"),
            }
        }
        if pruned > 0 {
            let rule = self.policy.rule_name(directive);
            let payload = json!({"network_id": self.network, "rule": rule, "pruned": pruned});
            self.publish("policy.prune_trust", payload);
        }
        pruned
    }

    fn fill_trust(&self, directive: &Directive, turn: &mut Backoff) -> usize {
        let trusted: Vec<u32> = self.daemon.trusted_peers().iter().map(|record| record.node_id).collect();
        let target = usize::try_from(self.param(directive, "target")).unwrap_or(0);
        let deficit = target.saturating_sub(trusted.len());
        if deficit == 0 {
            return 0;
        }
        let Some(mut members) = self.fetch(turn) else { return 0 };
        members.retain(|member| !trusted.contains(&member.node));
        shuffle(&mut members);
        let mut sent = 0;
        for member in members.iter().take(deficit) {
            if self.is_stopped() {
                break;
            }
            match self.daemon.handshake_send_request(member.node, TRUST_REASON) {
                Ok(()) => sent += 1,
                // One is on its way already.
                Err(error) if error.kind() == ErrorKind::AlreadyExists || error.kind() == ErrorKind::Busy => {
                    sent += 1
                }
                Err(error) => tracing::warn!(node_id = member.node, %error, "trust request not sent"),
            }
        }
        if sent > 0 {
            let rule = self.policy.rule_name(directive);
            self.publish(
                "policy.fill_trust",
                json!({"network_id": self.network, "rule": rule, "sent": sent}),
            );
        }
        sent
    }

    fn param(&self, directive: &Directive, key: &str) -> i64 {
        self.policy.params(directive).and_then(|p| p.get(key)).map_or(0, number)
    }
}
