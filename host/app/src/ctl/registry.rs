//! What the registry knows about a node: asked through the daemon, or directly when the daemon is not one of ours.

use std::time::Duration;

use pilot_net::ipc::Client;
use pilot_net::registry_client::{RegistryClient, RegistryError};
use serde_json::{Map, Value, json};

use super::context::Context;
use super::fail::Failure;

/// How long a direct question may take, reconnects included.
const LIMIT: Duration = Duration::from_secs(10);

/// The registry's `lookup` answer. `None`: nobody to ask, because the daemon cannot and no registry is configured.
pub(super) async fn lookup(ctx: &Context, client: &Client, node: u32) -> Result<Option<Value>, Failure> {
    match ctx.host(client, "lookup", json!({ "node_id": node })).await {
        Ok(Some(found)) => return Ok(Some(found)),
        Ok(None) => {}
        Err(error) => {
            let text = error.daemon_text().unwrap_or_default().to_owned();
            return Err(refusal(&text, error.into()));
        }
    }
    let Some(addr) = ctx.setting("PILOT_REGISTRY", "registry") else { return Ok(None) };
    let registry = RegistryClient::unsigned(addr.clone());
    let params = Map::from_iter([("node_id".to_owned(), node.into())]);
    match tokio::time::timeout(LIMIT, registry.call("lookup", params)).await {
        Ok(Ok(found)) => Ok(Some(found.into())),
        Ok(Err(error)) if !error.is_transport() => Err(refused(&error)),
        _ => Err(Failure::connection(format!("cannot reach registry at {addr}"))
            .hint(format!("check that the registry is running at {addr}, or set PILOT_REGISTRY"))),
    }
}

fn refused(error: &RegistryError) -> Failure {
    refusal(error.refusal().unwrap_or_default(), Failure::connection(error.to_string()))
}

fn refusal(text: &str, other: Failure) -> Failure {
    if text.contains("not found") { Failure::not_found(other.message) } else { other }
}
