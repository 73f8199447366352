//! Chain operations: overlay networks from blueprints, with nodes of the cluster as members (netrunner.md section 5,
//! "CreateChains"). What the calls name a chain is a network at the cluster's registry.

use std::sync::Arc;
use std::time::Duration;

use pilot_net::control::{BackendError, BackendResult, ChainSpec};
use pilot_net::ipc::Client;
use pilot_net::registry_client::RegistryClient;
use pilot_wire::blueprint::{NetworkBlueprint, parse_blueprint};
use pilot_wire::ipc::{NetworkRequest, Request};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::cluster::{Chain, Cluster};
use super::node::Node;
use super::spec::{fault, mask};

/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Blueprints of one request.
const MAX_SPECS: usize = 256;

/// Provisions every blueprint and lets its participants join; gives the networks' ids.
pub(super) async fn create(cluster: &Arc<Cluster>, specs: Vec<ChainSpec>) -> BackendResult<Vec<String>> {
    if specs.is_empty() {
        return fault("no blueprint was provided");
    }
    if specs.len() > MAX_SPECS {
        return fault(format!("too many blueprints: one request has at most {MAX_SPECS}"));
    }
    let Some(token) = &cluster.services.token else { return Err(BackendError::unsupported()) };
    // Everything is looked at before anything is provisioned.
    let mut wanted = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        wanted.push(Wanted::of(cluster, spec).map_err(|e| at(index, &e.0))?);
    }
    let registry = RegistryClient::unsigned(cluster.services.registry.clone());
    let mut ids = Vec::with_capacity(wanted.len());
    for (index, wanted) in wanted.iter().enumerate() {
        let id = wanted.provision(&registry, token).await.map_err(|e| at(index, &e.0))?;
        cluster.note_chain(Chain {
            id,
            name: wanted.blueprint.name.clone(),
            blueprint: mask(&Value::Object(wanted.json.clone()).to_string()),
        });
        for node in &wanted.participants {
            wanted.join(&registry, token, node, id).await.map_err(|e| at(index, &e.0))?;
        }
        ids.push(id.to_string());
    }
    Ok(ids)
}

/// Errors about nodes are matched by clients and stay as they are; others say which element it was.
fn at(index: usize, text: &str) -> BackendError {
    match text.starts_with("node ") && text.ends_with(" not found") {
        true => BackendError::new(text),
        false => BackendError::new(format!("blueprint {index}: {text}")),
    }
}

/// One checked element.
struct Wanted {
    blueprint: NetworkBlueprint,
    json: Map<String, Value>,
    participants: Vec<Arc<Node>>,
}

impl Wanted {
    fn of(cluster: &Cluster, spec: ChainSpec) -> BackendResult<Wanted> {
        let participants = match spec.participants.is_empty() {
            // Nodes that cannot answer are left out when nobody named them.
            true => cluster.nodes().into_iter().filter(|n| n.is_alive() && !n.is_paused()).collect(),
            false => {
                spec.participants.iter().map(|name| cluster.named(name)).collect::<BackendResult<_>>()?
            }
        };
        let mut json = match serde_json::from_slice(&spec.blueprint) {
            Ok(Value::Object(json)) => json,
            Ok(_) => return fault("parse blueprint: not a JSON object"),
            Err(e) => return fault(format!("parse blueprint: {e}")),
        };
        if !spec.name.is_empty() {
            json.retain(|key, _| !key.eq_ignore_ascii_case("name"));
            json.insert("name".into(), spec.name.into());
        }
        let text = Value::Object(json.clone()).to_string();
        let blueprint = parse_blueprint(text.as_bytes()).map_err(|e| BackendError::new(e.to_string()))?;
        Ok(Wanted { blueprint, json, participants })
    }

    async fn provision(&self, registry: &RegistryClient, token: &str) -> BackendResult<u16> {
        let params = Map::from_iter([
            ("blueprint".to_owned(), Value::Object(self.json.clone())),
            ("admin_token".to_owned(), token.into()),
        ]);
        let answer = timeout(LIMIT, registry.call("provision_network", params))
            .await
            .map_err(|_| BackendError::new("the registry did not answer in time"))?
            .map_err(|e| BackendError::new(e.to_string()))?;
        let id = answer.get("network_id").and_then(Value::as_u64).and_then(|id| u16::try_from(id).ok());
        id.ok_or_else(|| BackendError::new("the registry gave no network id"))
    }

    /// Makes a node a member: by its own request, after an invitation where one is needed.
    async fn join(
        &self,
        registry: &RegistryClient,
        token: &str,
        node: &Node,
        network: u16,
    ) -> BackendResult<()> {
        let failed =
            |e: &dyn std::fmt::Display| BackendError::new(format!("node {:?} cannot join: {e}", node.name));
        if node.is_paused() || !node.is_alive() {
            return Err(failed(&"it is paused or has ended"));
        }
        let ask = async {
            let mut request = NetworkRequest::Join { network, token: self.blueprint.join_token.clone() };
            if self.blueprint.join_rule == "invite" {
                let id = node.address().ok_or_else(|| failed(&"it has no address yet"))?.node;
                let params = Map::from_iter([
                    ("network_id".to_owned(), network.into()),
                    ("target_node_id".to_owned(), id.into()),
                    ("admin_token".to_owned(), token.into()),
                ]);
                let invited = registry.call("invite_to_network", params).await;
                invited.map(|_| ()).or_else(|e| already(&e.to_string(), || failed(&e)))?;
                request = NetworkRequest::Respond { network, accept: true };
            }
            let client = Client::connect(&node.socket).await.map_err(|e| failed(&e))?;
            let joined = client.json(&Request::Network(request)).await;
            // Who was a member before has no invitation to answer.
            joined.map(|_| ()).or_else(|e| already(&e.to_string(), || failed(&e)))
        };
        timeout(LIMIT, ask).await.unwrap_or_else(|e| Err(failed(&e)))
    }
}

/// Being a member already is what was asked for.
fn already(text: &str, failure: impl FnOnce() -> BackendError) -> BackendResult<()> {
    if text.contains("already in network") || text.contains("no pending invite") {
        return Ok(());
    }
    Err(failure())
}
