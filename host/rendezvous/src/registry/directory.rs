//! Finding nodes: by number, by name, by network, and the two operations that give away an address.
//!
//! Privacy (registry.md section 3.1): everyone may learn that a number exists and which key it has. Where a private node
//! is, and that a name belongs to it, is told only to nodes related to it.

use serde_json::Value;

use super::{Call, Outcome, Registry, rfc3339};
use crate::message::Answer;
use crate::names::clip;
use crate::refusal::Refusal;
use crate::state::{BACKBONE, Member, Node, Role};
use pilot_wire::addr::Addr;
use pilot_wire::registry::challenge;

/// What a resolve gives away.
pub(super) struct Located<'a> {
    pub real_addr: &'a str,
    pub lan_addrs: &'a [String],
    pub relay_only: bool,
    pub key_age_days: u32,
}

impl Registry {
    pub(super) fn lookup(&self, call: &Call<'_>) -> Outcome {
        let id = call.request.node("node_id");
        let node = self.live(id)?;
        let public_addr = if node.public { self.reachable_at(node) } else { "" };
        Ok(Answer::ok("lookup")
            .with("node_id", id)
            .with("address", Addr::backbone(id).to_string())
            .with("networks", self.all_networks(id))
            .with("public_key", self.key_text(id))
            .with("public", node.public)
            .with_text("hostname", node.hostname())
            .with_texts("tags", &node.tags)
            .with_true("task_exec", node.task_exec)
            .with_text("real_addr", public_addr)
            .with_text("endpoint", public_addr)
            .with_true("relay_only", node.public && node.relay_only)
            .with_text("version", &node.version)
            // Gone from the newest peer; clients of old ones print it.
            .with("polo_score", 0))
    }

    pub(super) fn resolve(&self, call: &Call<'_>) -> Outcome {
        let (id, requester) = (call.request.node("node_id"), call.request.node("requester_id"));
        if self.state.node(requester).is_none() {
            return Err(Refusal::ResolveUnknown(requester));
        }
        self.require_signature(call, requester, &challenge::resolve(requester, id))?;
        let found = self.locate(call.now, requester, id)?;
        Ok(Answer::ok("resolve")
            .with("node_id", id)
            .with("real_addr", found.real_addr)
            .with_texts("lan_addrs", found.lan_addrs)
            .with_true("relay_only", found.relay_only)
            .with("key_age_days", found.key_age_days)
            .with("public_key", self.key_text(id)))
    }

    /// The same for binary mode, where the signature comes raw.
    pub(super) fn check_resolve_signature(
        &self,
        requester: u32,
        id: u32,
        signature: &[u8],
    ) -> Result<(), Refusal> {
        if self.state.node(requester).is_none() {
            return Err(Refusal::ResolveUnknown(requester));
        }
        if self.verifies(requester, &challenge::resolve(requester, id), signature) {
            Ok(())
        } else {
            Err(Refusal::SignatureWrong)
        }
    }

    /// Where a node is, for a requester that has proved who it is. A private node is refused its own number too, as with
    /// the peers.
    pub(super) fn locate(&self, now: i64, requester: u32, id: u32) -> Result<Located<'_>, Refusal> {
        let node = self.live(id)?;
        if !node.public && !self.related(requester, id) {
            return Err(Refusal::ResolvePrivate(id));
        }
        Ok(Located {
            real_addr: self.reachable_at(node),
            lan_addrs: if node.relay_only { &[] } else { &node.lan_addrs },
            relay_only: node.relay_only,
            key_age_days: node.key.age_days(now),
        })
    }

    pub(super) fn resolve_hostname(&self, call: &Call<'_>) -> Outcome {
        let hostname = call.request.text("hostname");
        if hostname.is_empty() {
            return Err(Refusal::HostnameMissing);
        }
        let requester = call.request.node("requester_id");
        let found = self.state.node_of_hostname(hostname).and_then(|id| Some((id, self.state.node(id)?)));
        match found {
            Some((id, node)) if node.public || requester == id || self.related(requester, id) => {
                Ok(Answer::ok("resolve_hostname")
                    .with("node_id", id)
                    .with("address", Addr::backbone(id).to_string())
                    .with("public", node.public)
                    .with("hostname", hostname))
            }
            _ => Err(Refusal::HostnameNotFound(clip(hostname))),
        }
    }

    pub(super) fn list_nodes(&self, call: &Call<'_>) -> Outcome {
        let network = call.request.network();
        let nodes: Vec<Value> = if network == BACKBONE {
            self.require_admin(call).map_err(|_| Refusal::BackboneListing)?;
            let entry = |(id, node)| {
                let external_id = self.state.identity(id).map_or("", |i| &i.external_id);
                self.listed(BACKBONE, id, node, None).with_text("external_id", external_id).into()
            };
            self.state.nodes().map(entry).collect()
        } else {
            self.known_network(network)?;
            let entry = |(id, member)| match self.state.node(id) {
                Some(node) => self.listed(network, id, node, Some(member)).into(),
                None => with_membership(Answer::empty(), Some(member))
                    .with("node_id", id)
                    .with("address", Addr::new(network, id).to_string())
                    .with("offline", true)
                    .into(),
            };
            self.state.members_of(network).map(entry).collect()
        };
        Ok(Answer::ok("list_nodes").with("nodes", nodes))
    }

    fn listed(&self, network: u16, id: u32, node: &Node, member: Option<&Member>) -> Answer {
        with_membership(Answer::empty(), member)
            .with("node_id", id)
            .with("address", Addr::new(network, id).to_string())
            .with("public", node.public)
            .with_text("hostname", node.hostname())
            .with_true("task_exec", node.task_exec)
            .with_text("real_addr", if node.public { self.reachable_at(node) } else { "" })
            .with_texts("tags", &node.tags)
            .with_text("version", &node.version)
            .with("last_seen", rfc3339(node.last_seen()))
    }

    /// Gives two nodes' addresses to one of them. The peers check no privacy here; this registry applies the rule of
    /// resolve to the other node.
    pub(super) fn punch(&self, call: &Call<'_>) -> Outcome {
        let requester = call.request.node("requester_id");
        let (a, b) = (call.request.node("node_a"), call.request.node("node_b"));
        if requester != a && requester != b {
            return Err(Refusal::PunchStranger);
        }
        self.require_signature(call, requester, &challenge::punch(a, b))?;
        let other = if requester == a { b } else { a };
        self.locate(call.now, requester, other)?;
        Ok(Answer::ok("punch")
            .with("node_a", a)
            .with("node_a_addr", self.reachable_at(self.live(a)?))
            .with("node_b", b)
            .with("node_b_addr", self.reachable_at(self.live(b)?)))
    }

    /// A node's address, or the beacon's for one that is reached through relay only.
    pub(super) fn reachable_at<'a>(&'a self, node: &'a Node) -> &'a str {
        if node.relay_only { self.settings.beacon_addr.as_deref().unwrap_or("") } else { &node.real_addr }
    }

    /// The backbone and whatever else a node is a member of.
    pub(super) fn all_networks(&self, node: u32) -> Vec<u16> {
        std::iter::once(BACKBONE).chain(self.state.networks_of(node)).collect()
    }

    fn key_text(&self, node: u32) -> String {
        self.state.identity(node).map(|i| i.key.to_string()).unwrap_or_default()
    }
}

fn with_membership(answer: Answer, member: Option<&Member>) -> Answer {
    let role = member.and_then(|m| m.role).map(Role::as_str);
    answer.with_some("role", role).with_texts("member_tags", member.map_or(&[], |m| &m.tags))
}
