//! Signatures checked outside of the registry. A check takes some fifty microseconds, most of what a signed request costs,
//! and needs nothing of the registry but the key; whoever shares one registry among threads asks for the [`Claim`] of a
//! request, checks it without the registry, and hands the [`Proof`] in with the request. The registry still decides what
//! has to be signed, by whom and over what: a proof of anything else is as good as none.

use pilot_wire::registry::{MSG_HEARTBEAT, MSG_RESOLVE, challenge, decode_heartbeat_req, decode_resolve_req};
use serde_json::{Map, Value};

use super::Registry;
use crate::key::{PublicKey, decode_base64};
use crate::message::Request;

/// A signature that a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    key: PublicKey,
    challenge: String,
    signature: Vec<u8>,
}

/// A claim that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    claim: Claim,
    good: bool,
}

impl Claim {
    /// Checks it. Takes time and nothing else.
    pub fn check(self) -> Proof {
        let good = self.key.verify(self.challenge.as_bytes(), &self.signature);
        Proof { claim: self, good }
    }
}

impl Registry {
    /// The signature of a request of JSON mode, for the requests that make up a registry's load; `None` for all others,
    /// whose signatures [`handle`](Self::handle) checks itself.
    pub fn signature_claim(&self, request: &Map<String, Value>) -> Option<Claim> {
        let request = Request(request);
        let (key, challenge) = match request.kind() {
            "register" => {
                let text = request.text("public_key");
                (PublicKey::parse(text).ok()?, challenge::register(request.text("listen_addr"), text))
            }
            "heartbeat" => {
                let node = request.node("node_id");
                (self.state.identity(node)?.key, challenge::heartbeat(node))
            }
            "resolve" => {
                let (requester, node) = (request.node("requester_id"), request.node("node_id"));
                (self.state.identity(requester)?.key, challenge::resolve(requester, node))
            }
            _ => return None,
        };
        let signature = Some(request.text("signature")).filter(|text| !text.is_empty())?;
        Some(Claim { key, challenge, signature: decode_base64(signature).ok()? })
    }

    /// As [`claim`](Self::signature_claim), of a frame of binary mode.
    pub fn frame_signature_claim(&self, kind: u8, payload: &[u8]) -> Option<Claim> {
        let (signer, challenge, signature) = match kind {
            MSG_HEARTBEAT => {
                let request = decode_heartbeat_req(payload).ok()?;
                (request.node_id, challenge::heartbeat(request.node_id), request.signature)
            }
            MSG_RESOLVE => {
                let request = decode_resolve_req(payload).ok()?;
                let (requester, node) = (request.requester_id, request.node_id);
                (requester, challenge::resolve(requester, node), request.signature)
            }
            _ => return None,
        };
        Some(Claim { key: self.state.identity(signer)?.key, challenge, signature: signature.to_vec() })
    }

    /// Whether `signature` is `key`'s over `challenge`, by the proof at hand when it is about just that.
    pub(super) fn checks(&self, key: &PublicKey, challenge: &str, signature: &[u8]) -> bool {
        match &self.proof {
            Some(Proof { claim, good })
                if claim.key == *key && claim.challenge == challenge && claim.signature == signature =>
            {
                *good
            }
            _ => key.verify(challenge.as_bytes(), signature),
        }
    }
}
