//! Roles and tags of a network's members (registry.md section 3.3). Roles belong to enterprise networks.

use serde_json::{Map, Value};

use super::{Call, Outcome, Registry};
use crate::message::Answer;
use crate::names::member_tags;
use crate::refusal::Refusal;
use crate::state::Role;

const STAFF: &[Role] = &[Role::Owner, Role::Admin];
const OWNER: &[Role] = &[Role::Owner];

impl Registry {
    pub(super) fn kick_member(&mut self, call: &Call<'_>) -> Outcome {
        let (network, target) = self.role_change(call, STAFF)?;
        if self.role_of(network, target)? == Some(Role::Owner) {
            return Err(Refusal::Owner("kick the network owner"));
        }
        self.state.remove_member(network, target);
        Ok(membership_answer("kick_member", network, target))
    }

    pub(super) fn promote_member(&mut self, call: &Call<'_>) -> Outcome {
        let (network, target) = self.role_change(call, OWNER)?;
        match self.role_of(network, target)? {
            Some(Role::Owner) => return Err(Refusal::Owner("promote the owner")),
            Some(Role::Admin) => return Err(Refusal::AlreadyRole { node: target, role: "an admin" }),
            Some(Role::Member) | None => self.set_role(network, target, Role::Admin),
        }
        Ok(membership_answer("promote_member", network, target).with("role", Role::Admin.as_str()))
    }

    pub(super) fn demote_member(&mut self, call: &Call<'_>) -> Outcome {
        let (network, target) = self.role_change(call, OWNER)?;
        match self.role_of(network, target)? {
            Some(Role::Owner) => return Err(Refusal::Owner("demote the owner")),
            Some(Role::Member) => return Err(Refusal::AlreadyRole { node: target, role: "a member" }),
            Some(Role::Admin) | None => self.set_role(network, target, Role::Member),
        }
        Ok(membership_answer("demote_member", network, target).with("role", Role::Member.as_str()))
    }

    pub(super) fn transfer_ownership(&mut self, call: &Call<'_>) -> Outcome {
        let (network, _) = self.role_change(call, OWNER)?;
        let new_owner = call.request.node("new_owner_id");
        if self.role_of(network, new_owner)? == Some(Role::Owner) {
            return Err(Refusal::AlreadyRole { node: new_owner, role: "the owner" });
        }
        let owners = self.state.members_of(network).filter(|(_, m)| m.role == Some(Role::Owner));
        let owners: Vec<u32> = owners.map(|(node, _)| node).collect();
        for owner in &owners {
            self.set_role(network, *owner, Role::Admin);
        }
        self.set_role(network, new_owner, Role::Owner);
        Ok(Answer::ok("transfer_ownership")
            .with("network_id", network)
            .with("old_owner", owners.first().copied().unwrap_or(0))
            .with("new_owner", new_owner))
    }

    pub(super) fn member_role(&self, call: &Call<'_>) -> Outcome {
        let (network, target) = (call.request.network(), call.request.node("target_node_id"));
        self.known_network(network)?;
        let role = self.role_of(network, target)?.map_or("", Role::as_str);
        Ok(membership_answer("get_member_role", network, target).with("role", role))
    }

    pub(super) fn set_member_tags(&mut self, call: &Call<'_>) -> Outcome {
        let (network, target) = (call.request.network(), call.request.node("target_node_id"));
        self.require_role(call, network, STAFF)?;
        self.role_of(network, target)?;
        let tags = member_tags(call.request.texts("tags"))?;
        if let Some(member) = self.state.member_mut(network, target) {
            member.tags.clone_from(&tags);
        }
        Ok(membership_answer("set_member_tags", network, target).with("tags", tags))
    }

    pub(super) fn member_tags(&self, call: &Call<'_>) -> Outcome {
        let (network, target) = (call.request.network(), call.request.node("target_node_id"));
        self.known_network(network)?;
        let answer = Answer::ok("get_member_tags").with("network_id", network);
        if target != 0 {
            let none = Refusal::NotMember { node: target, network };
            let member = self.state.member(network, target).ok_or(none)?;
            return Ok(answer.with("target_node_id", target).with("tags", member.tags.clone()));
        }
        let tagged = self.state.members_of(network).filter(|(_, member)| !member.tags.is_empty());
        let members: Map<String, Value> =
            tagged.map(|(node, member)| (node.to_string(), member.tags.clone().into())).collect();
        Ok(answer.with("members", members))
    }

    /// The checks that all role changes share: an enterprise network, and a caller with one of the roles.
    fn role_change(&self, call: &Call<'_>, wanted: &[Role]) -> Result<(u16, u32), Refusal> {
        let network = call.request.network();
        self.enterprise_network(network, "member roles")?;
        self.require_role(call, network, wanted)?;
        Ok((network, call.request.node("target_node_id")))
    }

    fn role_of(&self, network: u16, node: u32) -> Result<Option<Role>, Refusal> {
        self.state.member(network, node).map(|m| m.role).ok_or(Refusal::NotMember { node, network })
    }

    fn set_role(&mut self, network: u16, node: u32, role: Role) {
        if let Some(member) = self.state.member_mut(network, node) {
            member.role = Some(role);
        }
    }
}

fn membership_answer(op: &str, network: u16, target: u32) -> Answer {
    Answer::ok(op).with("network_id", network).with("target_node_id", target)
}
