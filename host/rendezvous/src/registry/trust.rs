//! Trust pairs, and the relay for handshakes between nodes that cannot reach each other yet (registry.md section 3.2,
//! handshake.md section 5).
//!
//! A pair is symmetric and one side is enough to make it. The relay stores requests and answers until the addressee
//! polls; a poll empties both lists, and the request stays acceptable until it has been accepted.

use serde_json::Value;

use super::{Call, Outcome, Registry};
use crate::message::Answer;
use crate::refusal::Refusal;
use crate::state::{HandshakeRequest, HandshakeResponse, Inbox};
use pilot_wire::registry::challenge;

/// Bytes of a relayed justification.
const MAX_JUSTIFICATION: usize = 1024;

impl Registry {
    pub(super) fn report_trust(&mut self, call: &Call<'_>) -> Outcome {
        let (node, peer) = (call.request.node("node_id"), call.request.node("peer_id"));
        self.live(node)?;
        self.live(peer)?;
        self.require_signature(call, node, &challenge::report_trust(node, peer))?;
        self.make_pair(node, peer)?;
        Ok(Answer::ok("report_trust"))
    }

    pub(super) fn revoke_trust(&mut self, call: &Call<'_>) -> Outcome {
        let (node, peer) = (call.request.node("node_id"), call.request.node("peer_id"));
        self.require_signature(call, node, &challenge::revoke_trust(node, peer))?;
        if !self.state.remove_trust(node, peer) {
            return Err(Refusal::NoTrust(node, peer));
        }
        Ok(Answer::ok("revoke_trust"))
    }

    pub(super) fn check_trust(&self, call: &Call<'_>) -> Answer {
        let (node, peer) = (call.request.node("node_id"), call.request.node("peer_id"));
        Answer::ok("check_trust").with("trusted", self.related(node, peer))
    }

    fn make_pair(&mut self, a: u32, b: u32) -> Result<(), Refusal> {
        let max = self.settings.trust_per_node;
        if !self.state.trusts(a, b) {
            if let Some(node) = [a, b].into_iter().find(|id| self.state.trust_count(*id) >= max) {
                return Err(Refusal::TooManyTrusted { node, max });
            }
            self.state.insert_trust(a, b);
        }
        Ok(())
    }

    pub(super) fn request_handshake(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        let (from, to) = (request.node("from_node_id"), request.node("to_node_id"));
        let justification = request.text("justification");
        if justification.len() > MAX_JUSTIFICATION {
            return Err(Refusal::Justification { len: justification.len(), max: MAX_JUSTIFICATION });
        }
        self.live(from)?;
        self.live(to)?;
        self.require_handshake_signature(
            call,
            from,
            "handshake request",
            &challenge::request_handshake(from, to),
        )?;
        let key = self.state.identity(from).ok_or(Refusal::NodeNotFound(from))?.key;
        let waiting = self.state.inbox(to).map_or(&[][..], |inbox| &inbox.requests);
        if waiting.len() >= self.settings.inbox_requests {
            return Err(Refusal::InboxFull(to));
        }
        if waiting.iter().any(|r| r.from == from) {
            return Err(Refusal::RequestPending(from));
        }
        let max_awaiting = self.settings.inbox_awaiting;
        let entry =
            HandshakeRequest { from, key, justification: justification.to_owned(), timestamp: call.now };
        self.state.edit_inbox(to, |inbox| {
            inbox.requests.push(entry);
            await_accept(inbox, from, call.now, max_awaiting);
        });
        self.notify.push(to);
        Ok(Answer::ok("request_handshake").with("status", "delivered"))
    }

    pub(super) fn poll_handshakes(&mut self, call: &Call<'_>) -> Outcome {
        let node = call.request.node("node_id");
        self.require_signature(call, node, &challenge::node_op("poll_handshakes", node))?;
        let waiting =
            self.state.inbox(node).is_some_and(|i| !i.requests.is_empty() || !i.responses.is_empty());
        let (requests, responses) = if waiting {
            self.state.edit_inbox(node, |inbox| {
                (std::mem::take(&mut inbox.requests), std::mem::take(&mut inbox.responses))
            })
        } else {
            Default::default()
        };
        let request = |r: HandshakeRequest| {
            Value::from(
                Answer::empty()
                    .with("from_node_id", r.from)
                    .with("justification", r.justification)
                    .with("timestamp", r.timestamp)
                    .with("public_key", r.key.to_string()),
            )
        };
        let response = |r: HandshakeResponse| {
            Value::from(
                Answer::empty()
                    .with("from_node_id", r.from)
                    .with("accept", r.accept)
                    .with("timestamp", r.timestamp),
            )
        };
        Ok(Answer::ok("poll_handshakes")
            .with("requests", requests.into_iter().map(request).collect::<Vec<_>>())
            .with("responses", responses.into_iter().map(response).collect::<Vec<_>>()))
    }

    pub(super) fn respond_handshake(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        let (node, peer) = (request.node("node_id"), request.node("peer_id"));
        let accept = request.flag("accept");
        self.live(node)?;
        self.live(peer)?;
        self.require_handshake_signature(
            call,
            node,
            "handshake response",
            &challenge::respond_handshake(node, peer),
        )?;
        if accept {
            if !self.state.inbox(node).is_some_and(|i| i.awaiting.contains_key(&peer)) {
                return Err(Refusal::NoRequest(peer));
            }
            self.make_pair(node, peer)?;
            self.state.edit_inbox(node, |inbox| inbox.awaiting.remove(&peer));
        }
        let max = self.settings.inbox_responses;
        let entry = HandshakeResponse { from: node, accept, timestamp: call.now };
        self.state.edit_inbox(peer, |inbox| {
            if inbox.responses.len() >= max.max(1) {
                inbox.responses.remove(0);
            }
            inbox.responses.push(entry);
        });
        self.notify.push(peer);
        Ok(Answer::ok("respond_handshake").with("accept", accept).with("peer_id", peer))
    }

    /// The relay's two operations have texts of their own for a missing and for a wrong signature.
    fn require_handshake_signature(
        &self,
        call: &Call<'_>,
        node: u32,
        what: &'static str,
        challenge: &str,
    ) -> Result<(), Refusal> {
        self.require_signature(call, node, challenge).map_err(|refusal| match refusal {
            Refusal::SignatureMissing => Refusal::HandshakeUnsigned(what),
            Refusal::SignatureWrong => Refusal::HandshakeSignatureWrong(what),
            other => other,
        })
    }
}

/// Notes that `from` may be accepted; the oldest other requester gives way when there are too many.
fn await_accept(inbox: &mut Inbox, from: u32, now: i64, max: usize) {
    inbox.awaiting.insert(from, now);
    while inbox.awaiting.len() > max.max(1) {
        let oldest = inbox.awaiting.iter().filter(|(id, _)| **id != from).min_by_key(|(_, at)| **at);
        let Some(oldest) = oldest.map(|(id, _)| *id) else { break };
        inbox.awaiting.remove(&oldest);
    }
}
