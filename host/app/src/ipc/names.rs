//! Names, settings and networks: requests that the registry answers and the dispatcher passes on (ipc.md sections 10
//! and 11).

use std::sync::Arc;

use pilot_wire::ipc::{NetworkRequest, command};
use serde_json::{Value, json};

use super::ask::{Answer, Caches, blocking, reply};
use super::backend::{Change, IpcBackend, Object};
use super::session::Session;

/// An object of members.
fn object<const N: usize>(members: [(&str, Value); N]) -> Object {
    members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// One registry operation under the name of the request that asked for it.
async fn call(
    backend: &Arc<dyn IpcBackend>,
    what: &str,
    op: &'static str,
    params: Object,
) -> Result<Object, String> {
    backend.registry(op, params).await.map_err(|e| format!("{what}: {e}"))
}

pub(super) async fn resolve(backend: &Arc<dyn IpcBackend>, caches: &Caches, name: &str) -> Answer {
    if let Some(known) = caches.name(name) {
        return Ok(known.into());
    }
    // With our id in it the registry also finds private nodes that trust us or share a network with us.
    let params = object([("hostname", name.into()), ("requester_id", backend.node_id().into())]);
    let answer = call(backend, "resolve_hostname", "resolve_hostname", params).await?;
    if answer.get("node_id") != Some(&backend.node_id().into()) {
        caches.note_name(name, &answer);
    }
    Ok(answer.into())
}

pub(super) async fn set_hostname(backend: &Arc<dyn IpcBackend>, caches: &Caches, name: String) -> Answer {
    let answer =
        call(backend, "set_hostname", "set_hostname", object([("hostname", name.as_str().into())])).await?;
    caches.forget_name(&name, backend.node_id());
    backend.changed(Change::Hostname(name)).await;
    Ok(answer.into())
}

pub(super) async fn set_visibility(backend: &Arc<dyn IpcBackend>, public: bool) -> Answer {
    let answer =
        call(backend, "set_visibility", "set_visibility", object([("public", public.into())])).await?;
    backend.changed(Change::Visibility(public)).await;
    Ok(answer.into())
}

pub(super) async fn deregister(backend: &Arc<dyn IpcBackend>) -> Answer {
    let answer = call(backend, "deregister", "deregister", Object::new()).await?;
    backend.changed(Change::Deregistered).await;
    Ok(answer.into())
}

pub(super) async fn set_tags(backend: &Arc<dyn IpcBackend>, tags: Vec<String>) -> Answer {
    let answer = call(backend, "set_tags", "set_tags", object([("tags", json!(tags))])).await?;
    backend.changed(Change::Tags(tags)).await;
    Ok(answer.into())
}

pub(super) async fn set_webhook(backend: &Arc<dyn IpcBackend>, url: String) -> Answer {
    let manager = backend.webhook().ok_or("set_webhook: service not registered")?;
    // The plugin validates; its text is the whole error (webhook.md section 3).
    blocking("set_webhook", move || match manager.set_url(&url) {
        Ok(()) => Ok(json!({ "webhook": url })),
        Err(error) => Err(error.to_string()),
    })
    .await?
}

/// The networks family. Joining and leaving have consequences that follow the reply.
pub(super) async fn network(session: &Session, request: NetworkRequest) {
    let backend = &session.hub.backend;
    let outcome = ask(backend, &request).await;
    let change = match (&request, &outcome) {
        (NetworkRequest::Join { network, .. }, Ok(answer)) => Some(Change::Joined(*network, answer.clone())),
        (NetworkRequest::Leave { network }, Ok(_)) => Some(Change::Left(*network)),
        (NetworkRequest::Respond { network, accept: true }, Ok(answer)) => {
            Some(Change::Joined(*network, answer.clone()))
        }
        _ => None,
    };
    session.reply(reply(command::NETWORK, outcome.map(Value::Object))).await;
    if let Some(change) = change {
        backend.changed(change).await;
    }
}

async fn ask(backend: &Arc<dyn IpcBackend>, request: &NetworkRequest) -> Result<Object, String> {
    // The registry takes the token in place of a role; it is left out when none is configured.
    let admin = |mut params: Object| {
        let token = backend.admin_token();
        if !token.is_empty() {
            params.insert("admin_token".to_owned(), token.into());
        }
        params
    };
    match request {
        NetworkRequest::List => call(backend, "network list", "list_networks", Object::new()).await,
        NetworkRequest::Join { network, token } => {
            let params = object([
                ("network_id", (*network).into()),
                ("token", token.as_str().into()),
                ("inviter_id", 0.into()),
            ]);
            call(backend, "network join", "join_network", admin(params)).await
        }
        NetworkRequest::Leave { network } => {
            let params = object([("network_id", (*network).into())]);
            call(backend, "network leave", "leave_network", admin(params)).await
        }
        NetworkRequest::Members { network } => {
            let params = object([("network_id", (*network).into())]);
            call(backend, "network members", "list_nodes", admin(params)).await
        }
        NetworkRequest::Invite { network, node } => {
            let params = object([
                ("network_id", (*network).into()),
                ("inviter_id", backend.node_id().into()),
                ("target_node_id", (*node).into()),
            ]);
            call(backend, "network invite", "invite_to_network", admin(params)).await
        }
        NetworkRequest::PollInvites => {
            call(backend, "network poll-invites", "poll_invites", Object::new()).await
        }
        NetworkRequest::Respond { network, accept } => {
            let params = object([("network_id", (*network).into()), ("accept", (*accept).into())]);
            call(backend, "network respond-invite", "respond_invite", params).await
        }
    }
}
