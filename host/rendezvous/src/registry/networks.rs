//! Networks: founding, joining, leaving, renaming, ending, listing (registry.md section 3.3).

use serde_json::Value;

use super::{Call, Outcome, Registry};
use crate::message::Answer;
use crate::names::{check_network_name, clip};
use crate::refusal::Refusal;
use crate::state::{BACKBONE, JoinRule, Network, PlannedRole, Role};
use pilot_wire::addr::Addr;
use pilot_wire::registry::challenge;

/// Bound on a join token and on a network's own admin token; the peers have none.
const MAX_TOKEN: usize = 1024;

impl Registry {
    pub(super) fn create_network(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        self.require_admin(call)?;
        let name = request.text("name");
        check_network_name(name)?;
        let rule_text = request.text("join_rule");
        let join_rule = JoinRule::parse(rule_text).ok_or_else(|| Refusal::JoinRule(clip(rule_text)))?;
        let enterprise = request.flag("enterprise");
        if join_rule == JoinRule::Invite && !enterprise {
            return Err(Refusal::Enterprise("invite-only networks"));
        }
        for field in ["token", "network_admin_token"] {
            if request.text(field).len() > MAX_TOKEN {
                return Err(Refusal::FieldTooLong { field, max: MAX_TOKEN });
            }
        }
        let rules = super::policy::parse_rules(request.value("rules").as_deref())?;
        let expr_policy = super::policy::parse_expr_policy(request.value("expr_policy").as_deref())?;
        let founder = request.node("node_id");
        if self.state.node(founder).is_none() {
            return Err(Refusal::NodeNotRegistered(founder));
        }
        if self.state.network_named(name).is_some() {
            return Err(Refusal::NetworkExists(name.to_owned()));
        }
        let managed = rules.is_some();
        let mut network = Network::named(name);
        network.join_rule = join_rule;
        network.token = request.text("token").to_owned();
        network.admin_token = request.text("network_admin_token").to_owned();
        network.enterprise = enterprise;
        network.rules = rules;
        network.expr_policy = expr_policy;
        network.created = call.now;
        let id = self.state.insert_network(network).ok_or(Refusal::NetworkNumbersUsed)?;
        self.state.insert_member(id, founder, Role::Owner);
        Ok(Answer::ok("create_network")
            .with("network_id", id)
            .with("name", name)
            .with("enterprise", enterprise)
            .with_true("managed", managed))
    }

    pub(super) fn join_network(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        let (id, node) = (request.network(), request.node("node_id"));
        if id == BACKBONE {
            return Err(Refusal::Backbone("join"));
        }
        let challenge = challenge::join_network(node, id);
        self.require_signature_or_admin(call, node, &challenge)?;
        let network = self.known_network(id)?;
        match network.join_rule {
            JoinRule::Open => {}
            JoinRule::Token if network.token == request.text("token") => {}
            JoinRule::Token => return Err(Refusal::JoinToken(id)),
            JoinRule::Invite => return Err(Refusal::InviteOnly),
        }
        self.check_room(id, node)?;
        self.admit_member(id, node);
        let network = self.known_network(id)?;
        Ok(Answer::ok("join_network")
            .with("network_id", id)
            .with("address", Addr::new(id, node).to_string())
            .with_some("rules", network.rules.clone())
            .with_some("expr_policy", network.expr_policy.clone()))
    }

    /// Whether a node can become a member.
    pub(super) fn check_room(&self, network: u16, node: u32) -> Result<(), Refusal> {
        let limit = self.known_network(network)?.policy.max_members as usize;
        if limit > 0 && self.state.member_count(network) >= limit {
            return Err(Refusal::NetworkFull);
        }
        match self.state.member(network, node) {
            Some(_) => Err(Refusal::AlreadyMember { node, network }),
            None => Ok(()),
        }
    }

    /// Makes a node a member, in the role that was planned for it. There is only one owner: whoever is planned as a
    /// second one becomes admin.
    pub(super) fn admit_member(&mut self, network: u16, node: u32) {
        let external_id = self.state.identity(node).map_or("", |i| i.external_id.as_str()).to_lowercase();
        let planned = self.state.network(network).and_then(|w| {
            let is_meant =
                |p: &&PlannedRole| !external_id.is_empty() && p.external_id.to_lowercase() == external_id;
            w.planned_roles.iter().find(is_meant).map(|p| p.role)
        });
        let owned = self.state.members_of(network).any(|(_, m)| m.role == Some(Role::Owner));
        let role = match planned {
            Some(Role::Owner) if owned => Role::Admin,
            Some(role) => role,
            None => Role::Member,
        };
        self.state.insert_member(network, node, role);
    }

    pub(super) fn leave_network(&mut self, call: &Call<'_>) -> Outcome {
        let (id, node) = (call.request.network(), call.request.node("node_id"));
        if id == BACKBONE {
            return Err(Refusal::Backbone("leave"));
        }
        let challenge = challenge::leave_network(node, id);
        self.require_signature_or_admin(call, node, &challenge)?;
        let enterprise = self.known_network(id)?.enterprise;
        let member = self.state.member(id, node).ok_or(Refusal::NotMember { node, network: id })?;
        if enterprise && member.role == Some(Role::Owner) {
            return Err(Refusal::OwnerLeaves);
        }
        self.state.remove_member(id, node);
        self.state
            .retain_invites(|to, invite| invite.network != id || (to != node && invite.inviter != node));
        Ok(Answer::ok("leave_network").with("network_id", id))
    }

    pub(super) fn delete_network(&mut self, call: &Call<'_>) -> Outcome {
        let id = call.request.network();
        if id == BACKBONE {
            return Err(Refusal::Backbone("delete"));
        }
        self.require_role(call, id, &[Role::Owner])?;
        self.state.remove_network(id);
        Ok(Answer::ok("delete_network").with("network_id", id))
    }

    pub(super) fn rename_network(&mut self, call: &Call<'_>) -> Outcome {
        let (id, name) = (call.request.network(), call.request.text("name"));
        if id == BACKBONE {
            return Err(Refusal::Backbone("rename"));
        }
        self.require_role(call, id, &[Role::Owner, Role::Admin])?;
        check_network_name(name)?;
        if self.state.network_named(name).is_some_and(|holder| holder != id) {
            return Err(Refusal::NetworkExists(name.to_owned()));
        }
        self.state.rename_network(id, name);
        Ok(Answer::ok("rename_network").with("network_id", id).with("name", name))
    }

    /// Turning the flag off clears all roles; turning it on gives everyone one again: the first member without a role
    /// becomes owner when there is none.
    pub(super) fn set_network_enterprise(&mut self, call: &Call<'_>) -> Outcome {
        let (id, enterprise) = (call.request.network(), call.request.flag("enterprise"));
        self.require_admin(call).map_err(|_| Refusal::EnterpriseAdmin)?;
        let was = self.known_network(id)?.enterprise;
        if was != enterprise {
            if let Some(network) = self.state.network_mut(id) {
                network.enterprise = enterprise;
            }
            let mut members: Vec<_> = self.state.members_of(id).map(|(n, m)| (m.order, n, m.role)).collect();
            members.sort_unstable_by_key(|(order, ..)| *order);
            let mut owned = members.iter().any(|(_, _, role)| *role == Some(Role::Owner));
            for (_, node, role) in members {
                let new = match role {
                    _ if !enterprise => None,
                    Some(role) => Some(role),
                    None if owned => Some(Role::Member),
                    None => Some(Role::Owner),
                };
                owned |= new == Some(Role::Owner);
                if let Some(member) = self.state.member_mut(id, node) {
                    member.role = new;
                }
            }
        }
        Ok(Answer::ok("set_network_enterprise").with("network_id", id).with("enterprise", enterprise))
    }

    pub(super) fn list_networks(&self, call: &Call<'_>) -> Answer {
        let admin = self.require_admin(call).is_ok();
        let backbone = Answer::empty()
            .with("id", BACKBONE)
            .with("name", "backbone")
            .with("join_rule", JoinRule::Open.as_str())
            .with("enterprise", false)
            .with("created", self.state.founded())
            .with_some("members", admin.then(|| self.state.member_count(BACKBONE)));
        let mut networks = vec![Value::from(backbone)];
        networks.extend(self.state.networks().map(|(id, network)| {
            let limit = network.policy.max_members;
            let described = if network.enterprise { network.policy.description.as_str() } else { "" };
            Value::from(
                Answer::empty()
                    .with("id", id)
                    .with("name", network.name())
                    .with("join_rule", network.join_rule.as_str())
                    .with("enterprise", network.enterprise)
                    .with("created", network.created)
                    .with_some("members", admin.then(|| self.state.member_count(id)))
                    .with_some("max_members", (network.enterprise && limit > 0).then_some(limit))
                    .with_text("description", described)
                    .with_true("managed", network.rules.is_some())
                    .with_some("rules", network.rules.clone())
                    .with_true("has_expr_policy", network.expr_policy.is_some()),
            )
        }));
        Answer::ok("list_networks").with("networks", networks)
    }
}
