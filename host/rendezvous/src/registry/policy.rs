//! What a network asks of its members: ports and limits, and the policy document its members run (registry.md section
//! 3.3). The registry keeps both and enforces only the number of members.

use pilot_wire::blueprint::{self, NetworkBlueprint, validate_blueprint};
use pilot_wire::gojson;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Call, Outcome, Registry};
use crate::message::{Answer, Request};
use crate::refusal::Refusal;
use crate::state::{Policy, Role};

const STAFF: &[Role] = &[Role::Owner, Role::Admin];
const MAX_MEMBERS: i64 = 10_000;
const MAX_PORTS: usize = 100;
const MAX_DESCRIPTION: usize = 256;
/// Bound on a policy document and on rules, bytes of their text; the peers have none.
const MAX_DOCUMENT: usize = 256 * 1024;

impl Registry {
    /// Given members replace what is there; the others stay.
    pub(super) fn set_network_policy(&mut self, call: &Call<'_>) -> Outcome {
        let (id, request) = (call.request.network(), call.request);
        self.enterprise_network(id, "network policies")?;
        self.require_role(call, id, STAFF)?;
        let mut policy = self.known_network(id)?.policy.clone();
        let description = request.value("description");
        let description = description.as_deref().and_then(Value::as_str);
        amend(&mut policy, request.integer("max_members"), parse_ports(request)?, description)?;
        let shown_ports =
            if policy.allowed_ports.is_empty() { Value::Null } else { policy.allowed_ports.clone().into() };
        let answer = policy_answer("set_network_policy", id, &policy).with("allowed_ports", shown_ports);
        if let Some(network) = self.state.network_mut(id) {
            network.policy = policy;
        }
        Ok(answer)
    }

    pub(super) fn network_policy(&self, call: &Call<'_>) -> Outcome {
        let id = call.request.network();
        let policy = &self.known_network(id)?.policy;
        Ok(policy_answer("get_network_policy", id, policy)
            .with("allowed_ports", policy.allowed_ports.clone()))
    }

    pub(super) fn set_expr_policy(&mut self, call: &Call<'_>) -> Outcome {
        let id = call.request.network();
        self.require_role(call, id, STAFF)?;
        let document = parse_expr_policy(call.request.value("expr_policy").as_deref())?;
        let cleared = document.is_none();
        if let Some(network) = self.state.network_mut(id) {
            network.expr_policy = document;
        }
        Ok(Answer::ok("set_expr_policy").with("network_id", id).with_true("cleared", cleared))
    }

    pub(super) fn expr_policy(&self, call: &Call<'_>) -> Outcome {
        let id = call.request.network();
        let document = self.known_network(id)?.expr_policy.clone();
        Ok(Answer::ok("get_expr_policy").with("network_id", id).with_some("expr_policy", document))
    }
}

fn policy_answer(op: &str, network: u16, policy: &Policy) -> Answer {
    Answer::ok(op)
        .with("network_id", network)
        .with("max_members", policy.max_members)
        .with("description", policy.description.as_str())
}

/// Replaces the parts that are given, within their limits; a refusal leaves the policy in an undefined state.
pub(super) fn amend(
    policy: &mut Policy,
    max_members: Option<i64>,
    ports: Option<Vec<u16>>,
    description: Option<&str>,
) -> Result<(), Refusal> {
    if let Some(limit) = max_members {
        policy.max_members = u32::try_from(limit)
            .ok()
            .filter(|_| limit <= MAX_MEMBERS)
            .ok_or_else(|| Refusal::Policy(format!("invalid max_members: must be 0 to {MAX_MEMBERS}")))?;
    }
    if let Some(ports) = ports {
        if ports.len() > MAX_PORTS {
            return Err(Refusal::Policy(format!("too many allowed_ports (max {MAX_PORTS})")));
        }
        policy.allowed_ports.clear();
        for port in ports {
            if port == 0 {
                return Err(bad_port());
            }
            if !policy.allowed_ports.contains(&port) {
                policy.allowed_ports.push(port);
            }
        }
    }
    if let Some(description) = description {
        if description.len() > MAX_DESCRIPTION {
            return Err(Refusal::Policy(format!("description too long (max {MAX_DESCRIPTION} chars)")));
        }
        policy.description = description.to_owned();
    }
    Ok(())
}

fn bad_port() -> Refusal {
    Refusal::Policy("invalid port: must be 1 to 65535".to_owned())
}

/// The ports of a request; `None` when it has none to set. No more are read than are needed to refuse them.
fn parse_ports(request: Request<'_>) -> Result<Option<Vec<u16>>, Refusal> {
    let list = request.value("allowed_ports");
    let Some(list) = list.as_deref().and_then(Value::as_array) else { return Ok(None) };
    let port = |value: &Value| {
        let port = value.as_f64().filter(|p| (1.0..=f64::from(u16::MAX)).contains(p));
        // Cuts the fraction; the range has been checked.
        port.map(|p| p as u16).ok_or_else(bad_port)
    };
    list.iter().take(MAX_PORTS + 1).map(port).collect::<Result<_, _>>().map(Some)
}

/// A policy document given as text or as an object; "" and "null" are none. Only its head is looked at: the members'
/// policy engines compile it.
pub(super) fn parse_expr_policy(value: Option<&Value>) -> Result<Option<Value>, Refusal> {
    let Some(text) = document_text("expr_policy", value)? else { return Ok(None) };
    let invalid = |e: serde_json::Error| Refusal::Policy(format!("expr_policy: invalid JSON: {e}"));
    let document = serde_json::from_str(&text).map_err(invalid)?;
    // The blueprint's check of the document is the one we want; everything else about this blueprint is in order.
    let blueprint = NetworkBlueprint {
        name: "network".to_owned(),
        expr_policy: Some(RawValue::from_string(text).map_err(invalid)?),
        ..NetworkBlueprint::default()
    };
    validate_blueprint(&blueprint).map_err(|e| Refusal::Policy(e.to_string()))?;
    Ok(Some(document))
}

/// Rules of a managed network given as text or as an object, in the form in which members get them.
pub(super) fn parse_rules(value: Option<&Value>) -> Result<Option<Value>, Refusal> {
    let Some(text) = document_text("rules", value)? else { return Ok(None) };
    let rules = blueprint::parse_rules(text.as_bytes()).map_err(|e| Refusal::Policy(e.to_string()))?;
    let invalid = |e: serde_json::Error| Refusal::Policy(format!("rules: invalid JSON: {e}"));
    serde_json::to_value(rules).map(Some).map_err(invalid)
}

fn document_text(what: &str, value: Option<&Value>) -> Result<Option<String>, Refusal> {
    let text = match value {
        None => return Ok(None),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(other) => gojson::to_string(other),
    };
    if text.len() > MAX_DOCUMENT {
        return Err(Refusal::Policy(format!("{what} too long (max {MAX_DOCUMENT} bytes)")));
    }
    Ok((!matches!(text.as_str(), "" | "null")).then_some(text))
}
