//! The managed and policy family (ipc.md section 12): the policy plugin's runners, asked on threads that may wait, and
//! member tags at the registry.

use std::sync::Arc;
use std::time::Duration;

use pilot_wire::ipc::ManagedRequest;
use plugin_abi::{PolicyManager, PolicyRunner};
use serde_json::{Value, json};

use super::ask::{Answer, blocking, same_secret};
use super::backend::{IpcBackend, Object};

/// How long a forced cycle may take before the client is told; the cycle goes on.
const CYCLE_LIMIT: Duration = Duration::from_secs(5);
const NO_ENGINE: &str = "managed: no active managed networks";

/// Answers one request of the family.
pub(super) async fn answer(backend: &Arc<dyn IpcBackend>, request: ManagedRequest) -> Answer {
    let policy = backend.policy();
    match request {
        // Scores belong to the managed engine of the May 2026 line, which this host does not have.
        ManagedRequest::Score { network, .. } => Err(format!("managed: no engine for network {network}")),
        ManagedRequest::Status { network } => {
            on_runner(policy, network, NO_ENGINE, |runner| Ok(runner.status().into())).await
        }
        ManagedRequest::Rankings { network } => {
            on_runner(policy, network, NO_ENGINE, |runner| Ok(rankings(&runner.peer_list()))).await
        }
        ManagedRequest::Cycle { network } => {
            let cycle = on_runner(policy, network, NO_ENGINE, |runner| {
                runner.force_cycle().map(Value::Object).map_err(|e| format!("managed: {e}"))
            });
            match tokio::time::timeout(CYCLE_LIMIT, cycle).await {
                Ok(outcome) => outcome,
                Err(_) => Err("managed: force cycle timed out after 5s".to_owned()),
            }
        }
        ManagedRequest::Reconcile { network } => {
            on_runner(policy, network, "managed: no active policy runner for network", move |runner| {
                let peers = runner.reconcile_now().map_err(|e| format!("managed: {e}"))?;
                Ok(json!({ "type": "managed_reconcile_ok", "network_id": network, "peers": peers }))
            })
            .await
        }
        ManagedRequest::PolicyGet { network } => policy_get(policy, network).await,
        ManagedRequest::PolicySet { network, token, document } => {
            policy_set(backend, policy, network, &token, &document).await
        }
        ManagedRequest::MemberTagsGet { network, node } => {
            let params = member(network, node);
            let answer = backend.registry("get_member_tags", params).await;
            answer.map(Value::Object).map_err(|e| format!("member-tags get: {e}"))
        }
        ManagedRequest::MemberTagsSet { network, node, tags } => {
            let mut params = member(network, node);
            params.insert("tags".to_owned(), json!(tags));
            let token = backend.admin_token();
            if !token.is_empty() {
                params.insert("admin_token".to_owned(), token.into());
            }
            let answer = backend.registry("set_member_tags", params).await;
            answer.map(Value::Object).map_err(|e| format!("member-tags set: {e}"))
        }
    }
}

fn member(network: u16, node: u32) -> Object {
    let members = [("network_id", Value::from(network)), ("target_node_id", node.into())];
    members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// Runs `call` on a network's runner, or on the first one for network 0.
async fn on_runner(
    policy: Option<Arc<dyn PolicyManager>>,
    network: u16,
    none: &'static str,
    call: impl FnOnce(&dyn PolicyRunner) -> Answer + Send + 'static,
) -> Answer {
    let manager = policy.ok_or(none)?;
    blocking("managed", move || {
        let runner = match network {
            0 => manager.all().into_iter().min_by_key(|r| r.network_id()),
            _ => manager.get(network),
        };
        call(runner.ok_or(none)?.as_ref())
    })
    .await?
}

/// The fork's ranking of a policy's peers: policies keep no scores, so age decides, oldest first.
fn rankings(peers: &[Value]) -> Value {
    let row = |(i, p): (usize, &Value)| {
        json!({
            "node_id": p.get("node_id").cloned().unwrap_or_default(),
            "rank": i + 1,
            "score": 0,
            "tags": p.get("tags").cloned().unwrap_or_else(|| json!([])),
            "added_at": p.get("added_at").cloned().unwrap_or_default(),
        })
    };
    let mut peers: Vec<&Value> = peers.iter().collect();
    let age =
        |p: &Value| p.get("added_at").map(|at| at.as_str().map_or_else(|| at.to_string(), str::to_owned));
    peers.sort_by_key(|p| (age(p), p.get("node_id").and_then(Value::as_u64)));
    let rows: Vec<Value> = peers.into_iter().enumerate().map(row).collect();
    json!({ "type": "managed_rankings_ok", "rankings": rows })
}

async fn policy_get(policy: Option<Arc<dyn PolicyManager>>, network: u16) -> Answer {
    let document = match policy {
        Some(manager) => {
            blocking("managed policy get", move || manager.get(network).map(|r| r.policy_json())).await?
        }
        None => None,
    };
    let Some(document) = document else {
        return Ok(json!({ "type": "managed_policy_ok", "network_id": network, "engine": "none" }));
    };
    let document: Value = serde_json::from_str(&document)
        .map_err(|e| format!("managed policy get: the policy plugin gave no JSON: {e}"))?;
    Ok(json!({
        "type": "managed_policy_ok", "network_id": network, "engine": "policy", "expr_policy": document
    }))
}

/// What a document would do: the policy plugin's explanation, without putting it in force. Members of the request:
/// `document` (text or object), `event` (empty: only whether it is valid) and `context` (object).
pub(super) async fn explain(policy: Option<Arc<dyn PolicyManager>>, params: Object) -> Answer {
    let document = match params.get("document") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(document)) => Value::from(document.clone()).to_string(),
        _ => return Err("host policy_explain: no document".to_owned()),
    };
    let event = params.get("event").and_then(Value::as_str).unwrap_or_default().to_owned();
    let context = params.get("context").and_then(Value::as_object).cloned().unwrap_or_default();
    let manager = policy.ok_or("host policy_explain: policy plugin not registered")?;
    let explained = blocking("host policy_explain", move || manager.explain(&document, &event, &context));
    explained.await?.map(Value::Object).map_err(|e| e.to_string())
}

async fn policy_set(
    backend: &Arc<dyn IpcBackend>,
    policy: Option<Arc<dyn PolicyManager>>,
    network: u16,
    token: &str,
    document: &[u8],
) -> Answer {
    let wanted = backend.admin_token();
    if !wanted.is_empty() && !same_secret(&wanted, token) {
        return Err("managed policy set: invalid admin token".to_owned());
    }
    if document.is_empty() {
        return Err("managed policy set: missing policy JSON".to_owned());
    }
    let document = String::from_utf8_lossy(document).into_owned();
    let manager = policy.ok_or("managed policy set: policy plugin not registered")?;
    match blocking("managed policy set", move || manager.start(network, &document)).await? {
        Ok(()) => Ok(json!({ "type": "managed_policy_ok", "network_id": network, "applied": true })),
        Err(error) => Err(format!("managed policy set: {error}")),
    }
}
