//! Questions that are answered once and leave nothing behind: everything but streams, ports and subscriptions. This file
//! sorts them; the families live next door.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pilot_wire::addr::Addr;
use pilot_wire::ipc::{Reply, Request, command};
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;

use super::backend::{IpcBackend, Object};
use super::session::Session;
use super::{envelope, fit, managed, names, trust};

/// How long one info object serves everybody who asks (ipc.md section 8).
const INFO_LIFE: Duration = Duration::from_millis(200);
/// How long a resolved name is believed (ipc.md section 10).
const NAME_LIFE: Duration = Duration::from_secs(60);
/// Names remembered; beyond it the table starts anew.
const MAX_NAMES: usize = 1024;
/// How long the overlay ping of a host request waits unless told otherwise.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// The longest it may be told to wait.
const PING_MAX: Duration = Duration::from_secs(60);

/// Answers kept for a moment.
#[derive(Default)]
pub(super) struct Caches {
    info: AsyncMutex<Option<(Instant, Value)>>,
    names: Mutex<HashMap<String, (Instant, Object)>>,
}

impl Caches {
    pub(super) fn name(&self, name: &str) -> Option<Object> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, answer) = names.get(name)?;
        (when.elapsed() < NAME_LIFE).then(|| answer.clone())
    }

    pub(super) fn note_name(&self, name: &str, answer: &Object) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert(name.to_owned(), (Instant::now(), answer.clone()));
    }

    /// A name changed hands: what was said about it, and about the node, is void.
    pub(super) fn forget_name(&self, name: &str, node: u32) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|n, (_, answer)| n != name && answer.get("node_id") != Some(&node.into()));
    }
}

/// What a family hands back: the JSON of the reply, or the complete error text.
pub(super) type Answer = Result<Value, String>;

/// Answers `request`. Streams, ports, sends and subscriptions never come here.
pub(super) async fn answer(session: &Session, request: Request) {
    let hub = &session.hub;
    let backend = &hub.backend;
    let code = request.command();
    if !matches!(request, Request::Host { .. }) {
        backend.settled().await;
    }
    let outcome = match request {
        Request::Info => Ok(info(session).await),
        Request::Handshake(r) => trust::answer(backend, r).await,
        Request::ResolveHostname(name) => names::resolve(backend, &hub.caches, &name).await,
        Request::SetHostname(name) => names::set_hostname(backend, &hub.caches, name).await,
        Request::SetVisibility(public) => names::set_visibility(backend, public).await,
        Request::Deregister => names::deregister(backend).await,
        Request::SetTags(tags) => names::set_tags(backend, tags).await,
        Request::SetWebhook(url) => names::set_webhook(backend, url).await,
        Request::Network(r) => return names::network(session, r).await,
        Request::Managed(r) => managed::answer(backend, r).await,
        Request::RotateKey => match backend.rotate_key().await {
            Some(answer) => answer.map(Value::Object),
            None => Err(unknown(code)),
        },
        Request::PreferDirect { node } => match backend.prefer_direct(node).await {
            Some(answer) => Ok(answer.into()),
            None => Err(unknown(code)),
        },
        Request::Broadcast { network, port, token, data } => {
            let reply = match broadcast(backend, network, port, &token, data).await {
                Ok(()) => Reply::Done { command: command::BROADCAST_OK },
                Err(error) => Reply::error(format!("broadcast: {error}")),
            };
            return session.reply(reply).await;
        }
        Request::SubmitBadge { badge, badge_sig } => {
            envelope::submit_badge(backend, &badge, &badge_sig).await
        }
        Request::EnrollRecovery { enrollment, enrollment_sig } => {
            envelope::enroll_recovery(backend, &enrollment, &enrollment_sig).await
        }
        Request::SignEnvelope { audience, body, nonce } => envelope::sign(backend, &audience, &body, &nonce),
        Request::VerifyEnvelope { envelope, signature, max_skew_secs, check_standing } => {
            envelope::verify(backend, &envelope, &signature, max_skew_secs, check_standing).await
        }
        Request::LookupNode { node } => envelope::lookup_node(backend, node).await,
        Request::SignChallenge { challenge } => envelope::sign_challenge(backend, &challenge),
        Request::Host { op, params } => return host(session, &op, params).await,
        // Handled before anything comes here; listed so that a new request kind does not compile until it has a place.
        Request::Bind { .. }
        | Request::Dial { .. }
        | Request::Send { .. }
        | Request::Close { .. }
        | Request::SendTo { .. }
        | Request::SendToConfirmed { .. }
        | Request::Health
        | Request::Unbind { .. }
        | Request::UnbindV1 { .. }
        | Request::CancelDials
        | Request::Subscribe { .. }
        | Request::Unsubscribe { .. }
        | Request::SendTracked { .. } => Err(unknown(code)),
    };
    session.reply(reply(code, outcome)).await;
}

/// The reply code of a JSON request is the request's plus one (ipc.md section 3).
pub(super) fn reply(code: u8, outcome: Answer) -> Reply {
    match outcome {
        Ok(value) => Reply::json(code + 1, &value),
        Err(message) => Reply::Error { message },
    }
}

fn unknown(code: u8) -> String {
    format!("unknown command: 0x{code:02X}")
}

/// Runs a plugin's blocking call on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    op: &str,
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let span = tracing::debug_span!("plugin.call", op);
    tokio::task::spawn_blocking(move || span.in_scope(call))
        .await
        .map_err(|_| format!("{op}: the call did not return"))
}

async fn info(session: &Session) -> Value {
    let mut cached = session.hub.caches.info.lock().await;
    match &*cached {
        Some((when, value)) if when.elapsed() < INFO_LIFE => value.clone(),
        _ => {
            let value = fit::info(session.hub.backend.info().await);
            *cached = Some((Instant::now(), value.clone()));
            value
        }
    }
}

async fn broadcast(
    backend: &Arc<dyn IpcBackend>,
    network: u16,
    port: u16,
    token: &str,
    data: bytes::Bytes,
) -> Result<(), String> {
    let wanted = backend.admin_token();
    if wanted.is_empty() {
        return Err("no admin token configured".to_owned());
    }
    if !same_secret(&wanted, token) {
        return Err("invalid admin token".to_owned());
    }
    backend.broadcast(network, port, data).await
}

/// Compares secrets in a time that depends on their lengths only.
pub(super) fn same_secret(a: &str, b: &str) -> bool {
    use subtle::ConstantTimeEq;
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// Requests that only this host has (`pilot_wire::ipc::command::HOST`).
async fn host(session: &Session, op: &str, params: Object) {
    let backend = &session.hub.backend;
    let outcome = match op {
        "plugins" => Ok(json!({ "plugins": backend.plugins() })),
        "ping" => ping(backend, &params).await,
        "policy_explain" => managed::explain(backend.policy(), params).await,
        "lookup" => lookup(backend, &params).await,
        "stop" => {
            // The answer is queued before anything is torn down; queued frames are flushed at shutdown.
            session
                .reply(Reply::json(command::HOST_OK, &json!({ "pid": std::process::id(), "stopping": true })))
                .await;
            tracing::info!("a local client asked the daemon to stop");
            return backend.stop();
        }
        _ => match backend.host_request(op, params).await {
            Some(answer) => answer.map_err(|e| format!("host {op}: {e}")),
            None => Err(format!("host: unknown op {op:?}")),
        },
    };
    session.reply(reply(command::HOST, outcome)).await;
}

/// What the registry knows about a node, for callers without a registry connection of their own.
async fn lookup(backend: &Arc<dyn IpcBackend>, params: &Object) -> Answer {
    let node = params.get("node_id").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let node = node.ok_or("host lookup: node_id required")?;
    let answer = backend.registry("lookup", Object::from_iter([("node_id".to_owned(), node.into())])).await;
    answer.map(Value::Object).map_err(|e| format!("host lookup: {e}"))
}

async fn ping(backend: &Arc<dyn IpcBackend>, params: &Object) -> Answer {
    let address = params.get("address").and_then(Value::as_str).ok_or("host ping: address required")?;
    let peer: Addr = address.parse().map_err(|e| format!("host ping: {e}"))?;
    let limit = params.get("timeout_ms").and_then(Value::as_u64).map_or(PING_LIMIT, Duration::from_millis);
    match tokio::time::timeout(limit.min(PING_MAX), backend.ping(peer)).await {
        Ok(Ok(rtt)) => Ok(json!({ "address": address, "rtt_ms": rtt.as_secs_f64() * 1e3 })),
        Ok(Err(error)) => Err(format!("host ping: {error}")),
        Err(_) => Err("host ping: no answer in time".to_owned()),
    }
}
