//! Networks from blueprints, and who is who elsewhere (registry.md section 3.4, blueprint.md "Applying a blueprint").
//!
//! A blueprint is checked whole before anything is changed. What it says about services outside of the registry (identity
//! provider, webhooks, audit export) is kept with the network for whoever runs them; this registry calls no one.

use pilot_wire::blueprint::{NetworkBlueprint, parse_blueprint, validate_blueprint};
use pilot_wire::gojson;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Call, Outcome, Registry, policy};
use crate::message::Answer;
use crate::names::check_network_name;
use crate::refusal::Refusal;
use crate::state::{JoinRule, Network, PlannedRole, Policy, Role};

/// Bounds on what one blueprint may leave behind; the peers have none.
const MAX_BLUEPRINT: usize = 1 << 20;
const MAX_EXTERNAL_ID: usize = 256;

/// A checked blueprint, ready to be applied.
struct Plan {
    name: String,
    /// For a network that does not exist yet.
    join_rule: JoinRule,
    token: String,
    admin_token: String,
    enterprise: bool,
    policy: Option<Policy>,
    expr_policy: Option<Value>,
    services: Map<String, Value>,
    roles: Vec<PlannedRole>,
    actions: Vec<String>,
}

impl Registry {
    pub(super) fn provision_network(&mut self, call: &Call<'_>) -> Outcome {
        self.require_admin(call)?;
        let blueprint = read_blueprint(call.request.value("blueprint").as_deref())?;
        let existing = self.state.network_named(&blueprint.name);
        let present = existing.and_then(|id| self.state.network(id)).map(|network| network.policy.clone());
        let plan = Plan::make(blueprint, present.unwrap_or_default())?;
        let Plan { name, actions, .. } = &plan;
        let (name, actions) = (name.clone(), actions.clone());
        let id = match existing {
            Some(id) => id,
            None => {
                let mut network = Network::named(&name);
                network.join_rule = plan.join_rule;
                network.token.clone_from(&plan.token);
                network.admin_token.clone_from(&plan.admin_token);
                network.created = call.now;
                self.state.insert_network(network).ok_or(Refusal::NetworkNumbersUsed)?
            }
        };
        if let Some(network) = self.state.network_mut(id) {
            plan.apply(network);
        }
        Ok(Answer::ok("provision_network")
            .with("network_id", id)
            .with("name", name)
            .with("created", existing.is_none())
            .with("actions", actions))
    }

    pub(super) fn set_external_id(&mut self, call: &Call<'_>) -> Outcome {
        let (id, external_id) = (call.request.node("node_id"), call.request.text("external_id"));
        self.require_admin(call)?;
        self.live(id)?;
        if external_id.len() > MAX_EXTERNAL_ID {
            return Err(Refusal::FieldTooLong { field: "external_id", max: MAX_EXTERNAL_ID });
        }
        self.state.set_external_id(id, external_id);
        Ok(Answer::ok("set_external_id").with("node_id", id).with("external_id", external_id))
    }

    pub(super) fn identity(&self, call: &Call<'_>) -> Outcome {
        let id = call.request.node("node_id");
        self.require_admin(call)?;
        self.live(id)?;
        let external_id = self.state.identity(id).map_or("", |i| i.external_id.as_str());
        Ok(Answer::ok("get_identity").with("node_id", id).with("external_id", external_id))
    }
}

fn read_blueprint(value: Option<&Value>) -> Result<NetworkBlueprint, Refusal> {
    let invalid = |why: String| Refusal::Policy(format!("invalid blueprint: {why}"));
    let text = match value {
        Some(Value::String(text)) => text.clone(),
        Some(object) => gojson::to_string(object),
        None => return Err(invalid("no blueprint given".to_owned())),
    };
    if text.len() > MAX_BLUEPRINT {
        return Err(invalid(format!("too long (max {MAX_BLUEPRINT} bytes)")));
    }
    let blueprint = parse_blueprint(text.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    validate_blueprint(&blueprint).map_err(|e| invalid(e.to_string()))?;
    Ok(blueprint)
}

impl Plan {
    /// `present` is the policy that the blueprint's adds to.
    fn make(blueprint: NetworkBlueprint, present: Policy) -> Result<Self, Refusal> {
        check_network_name(&blueprint.name)
            .map_err(|e| Refusal::Policy(format!("provision network: invalid name: {e}")))?;
        let mut actions = Vec::new();
        if blueprint.enterprise {
            actions.push("enterprise enabled".to_owned());
        }
        let mut amended = None;
        if let Some(given) = blueprint.policy {
            let mut policy = present;
            let max_members = (given.max_members != 0).then_some(given.max_members);
            let ports = (!given.allowed_ports.is_empty()).then_some(given.allowed_ports);
            let description = (!given.description.is_empty()).then_some(given.description.as_str());
            policy::amend(&mut policy, max_members, ports, description)
                .map_err(|e| Refusal::Policy(format!("apply policy: {e}")))?;
            amended = Some(policy);
            actions.push("policy applied".to_owned());
        }
        let mut expr_policy = None;
        if let Some(document) = blueprint.expr_policy {
            let document = Value::from(document.get());
            expr_policy = policy::parse_expr_policy(Some(&document))
                .map_err(|e| Refusal::Policy(format!("apply expr_policy: {e}")))?;
            actions.push("expr_policy applied".to_owned());
        }
        let mut services = Map::new();
        keep(&mut services, &mut actions, "identity_provider", blueprint.identity_provider.as_ref())?;
        keep(&mut services, &mut actions, "webhooks", blueprint.webhooks.as_ref())?;
        keep(&mut services, &mut actions, "audit_export", blueprint.audit_export.as_ref())?;
        let planned =
            |(external_id, role): (String, &str)| Some(PlannedRole { external_id, role: Role::parse(role)? });
        let roles: Vec<_> =
            blueprint.roles.into_iter().filter_map(|r| planned((r.external_id, r.role.as_str()))).collect();
        if !roles.is_empty() {
            actions.push(format!("{} role pre-assignments set", roles.len()));
        }
        Ok(Self {
            // Validated above, so it is one of the three words or empty.
            join_rule: JoinRule::parse(&blueprint.join_rule).unwrap_or_default(),
            name: blueprint.name,
            token: blueprint.join_token,
            admin_token: blueprint.network_admin_token,
            enterprise: blueprint.enterprise,
            policy: amended,
            expr_policy,
            services,
            roles,
            actions,
        })
    }

    fn apply(self, network: &mut Network) {
        network.enterprise |= self.enterprise;
        if let Some(policy) = self.policy {
            network.policy = policy;
        }
        if let Some(document) = self.expr_policy {
            network.expr_policy = Some(document);
        }
        network.services.extend(self.services);
        if !self.roles.is_empty() {
            network.planned_roles = self.roles;
        }
    }
}

/// Keeps a part of the blueprint that concerns a service elsewhere.
fn keep(
    services: &mut Map<String, Value>,
    actions: &mut Vec<String>,
    what: &str,
    part: Option<&impl Serialize>,
) -> Result<(), Refusal> {
    if let Some(part) = part {
        let value =
            serde_json::to_value(part).map_err(|e| Refusal::Policy(format!("invalid blueprint: {e}")))?;
        services.insert(what.to_owned(), value);
        actions.push(format!("{what} recorded"));
    }
    Ok(())
}
