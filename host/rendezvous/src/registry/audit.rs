//! The audit log: who changed what about networks, members, roles, policies and keys, and where such news go (registry.md
//! sections 3.4 and 9).
//!
//! One list says which operations are logged; an operation itself knows nothing of it. Registrations, heartbeats and trust
//! are not logged: on a busy registry they would push everything else out of the log within seconds.

use serde_json::{Map, Value};

use super::{Call, Outcome, Registry, rfc3339};
use crate::message::Answer;
use crate::refusal::Refusal;
use crate::state::AuditEntry;
use pilot_wire::blueprint::check_url;

/// Entries in an answer unless the request says otherwise, and the most there are.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Failed deliveries that are remembered; the oldest gives way.
const MAX_DEAD: usize = 100;
/// Bound on the webhook's address; the peers have none.
const MAX_URL: usize = 2048;

/// What each logged operation is called in the log.
const ACTIONS: &[(&str, &str)] = &[
    ("deregister", "node.deregistered"),
    ("rotate_key", "key.rotated"),
    ("set_key_expiry", "key.expiry_set"),
    ("set_external_id", "identity.external_id_set"),
    ("create_network", "network.created"),
    ("provision_network", "network.provisioned"),
    ("delete_network", "network.deleted"),
    ("rename_network", "network.renamed"),
    ("set_network_enterprise", "network.enterprise_set"),
    ("join_network", "network.joined"),
    ("leave_network", "network.left"),
    ("set_network_policy", "network.policy_set"),
    ("set_expr_policy", "network.expr_policy_set"),
    ("invite_to_network", "invite.created"),
    ("respond_invite", "invite.answered"),
    ("kick_member", "member.kicked"),
    ("promote_member", "member.promoted"),
    ("demote_member", "member.demoted"),
    ("transfer_ownership", "network.ownership_transferred"),
    ("set_member_tags", "member.tags_set"),
    ("set_webhook", "webhook.set"),
];

/// Members of request and answer that an entry keeps when they are there. Secrets are not among them.
const DETAILS: &[&str] = &[
    "node_id",
    "network_id",
    "target_node_id",
    "inviter_id",
    "new_owner_id",
    "name",
    "role",
    "tags",
    "enterprise",
    "accepted",
    "expires_at",
    "external_id",
    "max_members",
    "allowed_ports",
    "cleared",
    "created",
    "actions",
    "url",
];

impl Registry {
    /// Logs a request that changed something. Gives the entry, if there is one, in the form of the webhook's body.
    pub(super) fn audit(&mut self, call: &Call<'_>, answer: &Answer) -> Option<Map<String, Value>> {
        if !self.state.has_changed() {
            return None;
        }
        let kind = call.request.kind();
        let (_, action) = ACTIONS.iter().find(|(op, _)| *op == kind)?;
        let details = DETAILS.iter().filter_map(|key| {
            let value = answer.get(key).cloned().or_else(|| Some(call.request.value(key)?.into_owned()))?;
            Some(((*key).to_owned(), value))
        });
        let entry =
            AuditEntry { action: (*action).to_owned(), timestamp: call.now, details: details.collect() };
        self.state.log(entry, self.settings.audit_entries);
        let (number, entry) = self.state.audit_log().next()?;
        Some(shown(number, entry))
    }

    pub(super) fn audit_log(&self, call: &Call<'_>) -> Outcome {
        self.require_admin(call)?;
        let limit = match call.request.integer("limit") {
            None | Some(..=0) => DEFAULT_LIMIT,
            Some(n) => usize::try_from(n).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
        };
        // The peer narrows by network when the request names one.
        let network = call.request.network();
        let wanted = |entry: &AuditEntry| {
            network == 0 || entry.details.get("network_id").and_then(Value::as_u64) == Some(network.into())
        };
        let entries = self.state.audit_log().filter(|(_, entry)| wanted(entry)).take(limit);
        let entries: Vec<Value> = entries.map(|(number, entry)| shown(number, entry).into()).collect();
        Ok(Answer::ok("get_audit_log").with("entries", entries))
    }

    /// "" switches the webhook off.
    pub(super) fn set_webhook(&mut self, call: &Call<'_>) -> Outcome {
        self.require_admin(call)?;
        let url = call.request.text("url");
        if url.len() > MAX_URL {
            return Err(Refusal::FieldTooLong { field: "url", max: MAX_URL });
        }
        if !url.is_empty() {
            check_url(url).map_err(|e| Refusal::Policy(format!("invalid webhook url: {e}")))?;
        }
        if self.state.operator().webhook != url {
            url.clone_into(&mut self.state.operator_mut().webhook);
        }
        Ok(Answer::ok("set_webhook").with("url", url).with("enabled", !url.is_empty()))
    }

    pub(super) fn webhook(&self, call: &Call<'_>) -> Outcome {
        self.require_admin(call)?;
        let url = self.state.operator().webhook.as_str();
        Ok(Answer::ok("get_webhook").with("url", url).with("enabled", !url.is_empty()))
    }

    /// What the webhook did not take: kept in memory only.
    pub(super) fn dead_letters(&self, call: &Call<'_>) -> Outcome {
        self.require_admin(call)?;
        let entries: Vec<Value> = self.dead_letters.iter().cloned().map(Value::from).collect();
        Ok(Answer::ok("get_webhook_dlq").with("count", entries.len()).with("entries", entries))
    }

    /// Where audit entries are to be POSTed; `None`: nowhere.
    pub fn webhook_url(&self) -> Option<&str> {
        Some(self.state.operator().webhook.as_str()).filter(|url| !url.is_empty())
    }

    /// Notes an audit entry that the webhook did not take.
    pub fn undelivered(&mut self, entry: Map<String, Value>) {
        if self.dead_letters.len() >= MAX_DEAD {
            self.dead_letters.pop_front();
        }
        self.dead_letters.push_back(entry);
    }
}

fn shown(number: u64, entry: &AuditEntry) -> Map<String, Value> {
    Answer::empty()
        .with("event_id", number)
        .with("action", entry.action.as_str())
        .with("timestamp", rfc3339(entry.timestamp))
        .with_some("details", (!entry.details.is_empty()).then(|| Value::from(entry.details.clone())))
        .done()
}
