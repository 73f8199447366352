//! What the registry knows about a node: asked through the daemon, or directly when the daemon is not one of ours.

use std::time::Duration;

use pilot_net::ipc::Client;
use pilot_net::registry_client::{RegistryClient, RegistryError};
use pilot_net::tls::ClientTls;
use serde_json::{Map, Value, json};

use super::context::Context;
use super::fail::{Failure, code};

/// How long a direct question may take, reconnects included.
const LIMIT: Duration = Duration::from_secs(10);

/// The registry's `lookup` answer. `None`: nobody to ask, because the daemon cannot and no registry is configured.
pub(super) async fn lookup(ctx: &Context, client: &Client, node: u32) -> Result<Option<Value>, Failure> {
    match ctx.host(client, "lookup", json!({ "node_id": node })).await {
        Ok(Some(found)) => return Ok(Some(found)),
        Ok(None) => {}
        Err(error) => {
            let text = error.daemon_text().unwrap_or_default();
            let text = text.strip_prefix("host lookup: ").unwrap_or(text).to_owned();
            let other = Failure::from(error);
            let message = if text.is_empty() { other.message } else { text.clone() };
            return Err(refusal(&text, Failure { message, ..other }));
        }
    }
    let Some(addr) = ctx.setting("PILOT_REGISTRY", "registry") else { return Ok(None) };
    let registry = direct(ctx, &addr)?;
    let params = Map::from_iter([("node_id".to_owned(), node.into())]);
    match tokio::time::timeout(LIMIT, registry.call("lookup", params)).await {
        Ok(Ok(found)) => Ok(Some(found.into())),
        Ok(Err(error)) if !error.is_transport() => Err(refused(&error)),
        _ => Err(Failure::connection(format!("cannot reach registry at {addr}"))
            .hint(format!("check that the registry is running at {addr}, or set PILOT_REGISTRY"))),
    }
}

/// A client of the registry itself; over TLS when its fingerprint is known.
fn direct(ctx: &Context, addr: &str) -> Result<RegistryClient, Failure> {
    let registry = RegistryClient::unsigned(addr);
    match ctx.setting("PILOT_REGISTRY_FINGERPRINT", "registry_fingerprint").filter(|pin| !pin.is_empty()) {
        None => Ok(registry),
        Some(pin) => {
            let tls = ClientTls::pinned(&pin).map_err(|e| Failure::connection(e.to_string()))?;
            Ok(registry.tls(Some(tls)))
        }
    }
}

/// One administrative operation: through the daemon, which signs as this node, or directly when the daemon is not one of
/// ours or none runs. The admin token comes from `PILOT_ADMIN_TOKEN` or `admin_token` in config.json; a host of ours adds
/// its own when there is none.
pub(super) async fn administer(ctx: &Context, operation: &str, params: Value) -> Result<Value, Failure> {
    let mut params = params.as_object().cloned().unwrap_or_default();
    if let Some(token) = ctx.setting("PILOT_ADMIN_TOKEN", "admin_token") {
        // One that was typed is in there already.
        params.entry("admin_token").or_insert_with(|| token.into());
    }
    let with_token = params.contains_key("admin_token");
    match ctx.connect().await {
        Ok(client) => {
            let ask = json!({ "operation": operation, "params": params });
            match ctx.host(&client, "registry", ask).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) => {
                    let text = error.daemon_text().unwrap_or_default();
                    let text = text.strip_prefix("host registry: ").unwrap_or(text).to_owned();
                    return Err(denied(&text, with_token).unwrap_or_else(|| {
                        let other = Failure { message: text.clone(), ..Failure::from(error) };
                        refusal(&text, other)
                    }));
                }
            }
        }
        // Without a daemon the registry itself is asked, when it is known where that is.
        Err(failure) if ctx.setting("PILOT_REGISTRY", "registry").is_none() => return Err(failure),
        Err(_) => {}
    }
    let Some(addr) = ctx.setting("PILOT_REGISTRY", "registry") else {
        return Err(Failure::connection(
            "this daemon does not pass administration on, and no registry is configured",
        )
        .hint("set PILOT_REGISTRY to the registry's address"));
    };
    let registry = direct(ctx, &addr)?;
    match tokio::time::timeout(LIMIT, registry.call(operation, params)).await {
        Ok(Ok(answer)) => Ok(answer.into()),
        Ok(Err(error)) if !error.is_transport() => {
            Err(denied(error.refusal().unwrap_or_default(), with_token).unwrap_or_else(|| refused(&error)))
        }
        _ => Err(Failure::connection(format!("cannot reach registry at {addr}"))
            .hint(format!("check that the registry is running at {addr}, or set PILOT_REGISTRY"))),
    }
}

/// The registry's way to say that this needs an administrator (registry.md section 2.4).
fn denied(text: &str, with_token: bool) -> Option<Failure> {
    let token =
        ["admin token", "admin_token", "network creation is disabled"].iter().any(|t| text.contains(t));
    if text.contains("network creation is disabled") && with_token {
        return Some(
            Failure::new(code::PERMISSION_DENIED, text.to_owned())
                .hint("the registry has no admin token configured: start it with --admin-token"),
        );
    }
    if token {
        let hint = match with_token {
            true => "the registry does not accept this admin token; see PILOT_ADMIN_TOKEN and admin_token",
            false => "set PILOT_ADMIN_TOKEN or admin_token (pilotctl config --set admin_token=...)",
        };
        return Some(Failure::new(code::AUTH_REQUIRED, text.to_owned()).hint(hint));
    }
    text.contains("rbac: ").then(|| {
        Failure::new(code::PERMISSION_DENIED, text.to_owned())
            .hint("ask the network's owner, or set PILOT_ADMIN_TOKEN")
    })
}

fn refused(error: &RegistryError) -> Failure {
    refusal(error.refusal().unwrap_or_default(), Failure::connection(error.to_string()))
}

fn refusal(text: &str, other: Failure) -> Failure {
    match text {
        _ if text.contains("not found") => Failure::not_found(other.message),
        _ if text.ends_with("request failed") => {
            other.hint("the registry gives no reason; it may not offer this, or not to this node")
        }
        _ => other,
    }
}
