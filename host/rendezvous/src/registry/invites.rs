//! Invitations into invite-only networks (registry.md section 3.3). They wait until answered or too old; polling does
//! not take them away.

use serde_json::Value;

use super::{Call, Outcome, Registry};
use crate::message::Answer;
use crate::refusal::Refusal;
use crate::state::{Invite, JoinRule, Role};
use pilot_wire::registry::challenge;

impl Registry {
    pub(super) fn invite_to_network(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        let (id, inviter, target) =
            (request.network(), request.node("inviter_id"), request.node("target_node_id"));
        let network = self.enterprise_network(id, "invitations")?;
        if network.join_rule != JoinRule::Invite {
            return Err(Refusal::NotInviteOnly(id));
        }
        if !self.has_network_token(call, network) {
            self.require_signature(call, inviter, &challenge::invite_to_network(inviter, id, target))?;
            self.check_role(id, inviter, &[Role::Owner, Role::Admin])?;
        }
        self.live(target)?;
        if self.state.member(id, target).is_some() {
            return Err(Refusal::AlreadyMember { node: target, network: id });
        }
        self.drop_expired_invites(target, call.now);
        let answer = Answer::ok("invite_to_network").with("network_id", id).with("target_node_id", target);
        let waiting = self.state.invites(target);
        if waiting.iter().any(|i| i.network == id) {
            return Ok(answer.with("status", "already_invited"));
        }
        if waiting.len() >= self.settings.inbox_invites {
            return Err(Refusal::InvitesFull(target));
        }
        self.state.insert_invite(target, Invite { network: id, inviter, timestamp: call.now });
        Ok(answer)
    }

    pub(super) fn poll_invites(&mut self, call: &Call<'_>) -> Outcome {
        let node = call.request.node("node_id");
        self.require_signature(call, node, &challenge::node_op("poll_invites", node))?;
        self.drop_expired_invites(node, call.now);
        let entry = |i: &Invite| {
            Value::from(
                Answer::empty()
                    .with("network_id", i.network)
                    .with("inviter_id", i.inviter)
                    .with("timestamp", i.timestamp),
            )
        };
        let invites: Vec<Value> = self.state.invites(node).iter().map(entry).collect();
        Ok(Answer::ok("poll_invites").with("invites", invites))
    }

    pub(super) fn respond_invite(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        let (node, id) = (request.node("node_id"), request.network());
        let accept = request.flag("accept");
        self.require_signature(call, node, &challenge::respond_invite(node, id))?;
        let invite = self.state.invites(node).iter().find(|i| i.network == id);
        let timestamp = invite.ok_or(Refusal::NoInvite { node, network: id })?.timestamp;
        if self.is_expired(timestamp, call.now) {
            self.state.retain_invites_of(node, |i| i.network != id);
            return Err(Refusal::InviteExpired { node, network: id });
        }
        if accept {
            self.check_room(id, node)?;
            self.admit_member(id, node);
        }
        self.state.retain_invites_of(node, |i| i.network != id);
        Ok(Answer::ok("respond_invite").with("accepted", accept).with("network_id", id))
    }

    fn drop_expired_invites(&mut self, node: u32, now: i64) {
        let lifetime = self.invite_lifetime();
        self.state.retain_invites_of(node, |i| now.saturating_sub(i.timestamp) <= lifetime);
    }

    fn is_expired(&self, timestamp: i64, now: i64) -> bool {
        now.saturating_sub(timestamp) > self.invite_lifetime()
    }

    fn invite_lifetime(&self) -> i64 {
        i64::try_from(self.settings.invite_lifetime.as_secs()).unwrap_or(i64::MAX)
    }
}
