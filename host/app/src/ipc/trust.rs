//! The trust family (ipc.md section 9): the handshake plugin's service, asked on threads that may wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pilot_wire::ipc::HandshakeRequest;
use plugin_abi::{HandshakePendingRecord, HandshakeService, HandshakeTrustRecord};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::ask::{Answer, blocking};
use super::backend::{Inbox, IpcBackend};
use super::fit;

/// Longest wait for trust a client may ask for.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Waits that hold a thread at a time, in the whole process; further ones stand in line and their time runs.
static WAITERS: Semaphore = Semaphore::const_new(64);
/// What the handshake plugin says when a request to the same peer runs already.
const IN_FLIGHT: &str = "handshake already in flight to this peer";

/// Answers one request of the family.
pub(super) async fn answer(backend: &Arc<dyn IpcBackend>, request: HandshakeRequest) -> Answer {
    let service = backend.handshake().ok_or("handshake: service not registered")?;
    match request {
        HandshakeRequest::Request { node, justification } => {
            if node == backend.node_id() {
                return Err("handshake request: this node cannot ask itself for trust".to_owned());
            }
            let daemon = Arc::clone(backend);
            let sent =
                blocking("handshake request", move || daemon.handshake_request(node, &justification)).await?;
            match sent {
                Ok(true) => Ok(json!({ "node_id": node, "status": "sent" })),
                Ok(false) => Ok(json!({ "node_id": node, "status": "in_flight" })),
                Err(error) if error == IN_FLIGHT => Ok(json!({ "node_id": node, "status": "in_flight" })),
                Err(error) => Err(format!("handshake request: {error}")),
            }
        }
        HandshakeRequest::Approve { node } => {
            backend.poll_inbox(Inbox::Look).await;
            decide("approve", "approved", node, move || service.approve(node)).await
        }
        HandshakeRequest::Reject { node, reason } => {
            backend.poll_inbox(Inbox::Look).await;
            decide("reject", "rejected", node, move || service.reject(node, &reason)).await
        }
        HandshakeRequest::Revoke { node } => {
            decide("revoke", "revoked", node, move || service.revoke_trust(node)).await
        }
        HandshakeRequest::Pending => {
            backend.poll_inbox(Inbox::Look).await;
            blocking("handshake pending", move || service.pending_requests()).await.map(pending_json)
        }
        HandshakeRequest::Trusted => {
            backend.poll_inbox(Inbox::Look).await;
            blocking("handshake trusted", move || service.trusted_peers()).await.map(trusted_json)
        }
        HandshakeRequest::Wait { node, timeout_ms } => {
            let limit = Duration::from_millis(timeout_ms.into()).min(MAX_WAIT);
            let trusted = wait(backend, service, node, limit).await?;
            Ok(json!({ "node_id": node, "trusted": trusted }))
        }
    }
}

async fn decide(
    op: &str,
    status: &str,
    node: u32,
    call: impl FnOnce() -> plugin_abi::Result<()> + Send + 'static,
) -> Answer {
    match blocking(&format!("handshake {op}"), call).await? {
        Ok(()) => Ok(json!({ "node_id": node, "status": status })),
        Err(error) => Err(format!("handshake {op}: {error}")),
    }
}

async fn wait(
    backend: &Arc<dyn IpcBackend>,
    service: Arc<dyn HandshakeService>,
    node: u32,
    limit: Duration,
) -> Result<bool, String> {
    let start = Instant::now();
    if node == backend.node_id() || service.is_trusted(node) {
        return Ok(true);
    }
    backend.poll_inbox(Inbox::WaitFor(node)).await;
    let left = limit.saturating_sub(start.elapsed());
    if left.is_zero() {
        return Ok(service.is_trusted(node));
    }
    // Each of these holds a thread, and many clients may wait at once.
    let Ok(slot) = tokio::time::timeout(left, WAITERS.acquire()).await else {
        return Ok(service.is_trusted(node));
    };
    let left = limit.saturating_sub(start.elapsed());
    let trusted = blocking("handshake wait", move || service.wait_for_trust(node, left)).await;
    drop(slot);
    trusted
}

/// The answer to "pending", oldest first.
pub(super) fn pending_json(mut pending: Vec<HandshakePendingRecord>) -> Value {
    pending.sort_by_key(|p| (p.received_at, p.node_id));
    json!({ "pending": pending })
}

/// The answer to "trusted", newest first, cut to what fits a frame.
fn trusted_json(mut trusted: Vec<HandshakeTrustRecord>) -> Value {
    trusted.sort_by_key(|t| (std::cmp::Reverse(t.approved_at), t.node_id));
    let mut object = serde_json::Map::new();
    object.insert("trusted".to_owned(), json!(trusted));
    fit::list(object, "trusted", "trusted_truncated")
}
