//! Requests of the local socket that only this host has (`pilot_wire::ipc::command::HOST`) and that need the whole host:
//! where its files are, its recent events, and administration at the registry in this node's name.
//!
//! Called by the backend of the local socket. Everything here is open to whoever may use that socket, and only to them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::core::Core;
use crate::history::{PAGE, Wanted};
use crate::{membership, status};

/// What `registry` passes on: questions, and operations that the registry guards by role or admin token. What the daemon
/// does itself (heartbeats, handshakes, its own registration) is not among them.
const REGISTRY_OPERATIONS: [&str; 35] = [
    "lookup",
    "list_nodes",
    "list_networks",
    "create_network",
    "join_network",
    "delete_network",
    "rename_network",
    "set_network_enterprise",
    "kick_member",
    "promote_member",
    "demote_member",
    "transfer_ownership",
    "get_member_role",
    "set_network_policy",
    "get_network_policy",
    "set_expr_policy",
    "get_expr_policy",
    "set_key_expiry",
    "get_key_info",
    "get_audit_log",
    "set_webhook",
    "get_webhook",
    "get_webhook_dlq",
    "set_identity_webhook",
    "set_external_id",
    "get_identity",
    "set_audit_export",
    "get_audit_export",
    "set_idp_config",
    "get_idp_config",
    "get_provision_status",
    "provision_network",
    "directory_sync",
    "directory_status",
    "validate_token",
];

/// Carries `op` out; `None` when it is none of these.
pub async fn answer(core: &Arc<Core>, op: &str, params: Map<String, Value>) -> Option<Result<Value, String>> {
    match op {
        "paths" => Some(Ok(status::paths(&core.config))),
        "events" => Some(Ok(core.history.page(&wanted(&params)).await)),
        "runtime" => Some(Ok(runtime(core))),
        "registry" => Some(registry(core, params).await),
        "register" => Some(membership::register_now(core).await.map(Value::Object)),
        _ => None,
    }
}

/// How much of the runtime is in use: what a leak would show in.
fn runtime(core: &Core) -> Value {
    let metrics = core.runtime.metrics();
    json!({ "tasks": metrics.num_alive_tasks(), "workers": metrics.num_workers(), "pid": std::process::id() })
}

fn wanted(params: &Map<String, Value>) -> Wanted {
    let number = |key: &str| params.get(key).and_then(Value::as_u64);
    Wanted {
        after: number("after"),
        topic: params.get("topic").and_then(Value::as_str).unwrap_or("*").to_owned(),
        limit: number("limit").and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE).clamp(1, PAGE),
        wait: Duration::from_millis(number("wait_ms").unwrap_or(0)),
    }
}

/// One operation at the registry: signed as this node, or in another node's name when `node_id` names one (the registry
/// then wants the admin token). The host's own admin token is added when the caller brings none.
async fn registry(core: &Arc<Core>, params: Map<String, Value>) -> Result<Value, String> {
    let asked = params.get("operation").and_then(Value::as_str).ok_or("operation required")?;
    let operation = REGISTRY_OPERATIONS
        .into_iter()
        .find(|op| *op == asked)
        .ok_or_else(|| format!("{asked:?} is no operation that is passed on to the registry"))?;
    let mut request = params.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
    let client = core.registry().ok_or("registry connection not initialized")?;
    let token = &core.config.node.admin_token;
    if !token.is_empty() && !request.contains_key("admin_token") {
        request.insert("admin_token".to_owned(), token.as_str().into());
    }
    let answer = match request.contains_key("node_id") {
        true => client.call(operation, request).await,
        false => client.call_signed(operation, request).await,
    };
    answer.map(Value::Object).map_err(|e| e.to_string())
}
