//! Signatures checked outside of the registry. A check takes some fifty microseconds, most of what a signed request costs,
//! and needs nothing of the registry but the key; whoever shares one registry among threads asks for the [`Claim`] of a
//! request, checks it without the registry, and hands the [`Proof`] in with the request. The registry still decides what
//! has to be signed, by whom and over what: a proof of anything else is as good as none.

use pilot_wire::registry::{MSG_HEARTBEAT, MSG_RESOLVE, challenge, decode_heartbeat_req, decode_resolve_req};
use sha2::{Digest, Sha256};

use super::Registry;
use super::query::{Form, Query};
use crate::key::{PublicKey, decode_array, verify_together};
use crate::message::Request;

/// A signature that a request carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    key: PublicKey,
    challenge: String,
    signature: [u8; 64],
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

    /// Checks several at once, which takes less than half the time per claim when there are dozens and all are good. One
    /// that is not makes each be checked by itself.
    pub fn check_all(claims: Vec<Self>) -> Vec<Proof> {
        let parts = claims.iter().map(|c| (&c.key, c.challenge.as_bytes(), &c.signature[..]));
        if claims.len() > 1 && verify_together(parts) {
            return claims.into_iter().map(|claim| Proof { claim, good: true }).collect();
        }
        claims.into_iter().map(Self::check).collect()
    }

    fn digest(&self) -> [u8; 32] {
        // Key and signature have fixed sizes when they are good, so nothing can move from one part into the next.
        let hash = Sha256::new().chain_update(self.key.as_bytes()).chain_update(self.signature);
        hash.chain_update(&self.challenge).finalize().into()
    }
}

/// Remembers signatures that were found good. Nodes send the very same ones again: each heartbeat of a node is signed
/// alike, and so is each resolve of the same peer.
///
/// A table of fixed size, in which a newer one takes the place of an older one now and then; that one is checked again.
#[derive(Debug)]
pub struct ProofMemory {
    slots: Vec<[u8; 32]>,
}

impl ProofMemory {
    /// A memory of about `slots` signatures, 32 bytes each; 0 remembers nothing.
    pub fn new(slots: usize) -> Self {
        Self { slots: vec![[0; 32]; slots] }
    }

    /// The proof of a claim that was found good before.
    ///
    /// # Errors
    /// The claim itself, when it is not remembered.
    pub fn recall(&self, claim: Claim) -> Result<Proof, Claim> {
        let digest = claim.digest();
        match self.slot(&digest).and_then(|slot| self.slots.get(slot)) {
            Some(known) if *known == digest => Ok(Proof { claim, good: true }),
            _ => Err(claim),
        }
    }

    /// Remembers a proof if it is good.
    pub fn keep(&mut self, proof: &Proof) {
        if !proof.good {
            return;
        }
        let digest = proof.claim.digest();
        if let Some(slot) = self.slot(&digest) {
            self.slots[slot] = digest;
        }
    }

    fn slot(&self, digest: &[u8; 32]) -> Option<usize> {
        let (head, _) = digest.split_first_chunk()?;
        usize::try_from(u32::from_be_bytes(*head)).ok()?.checked_rem(self.slots.len())
    }
}

impl Registry {
    /// The signature of a request, for the requests that make up a registry's load; `None` for all others, whose
    /// signatures [`handle`](Self::handle) checks itself.
    pub fn signature_claim(&self, query: &Query<'_>) -> Option<Claim> {
        match &query.0 {
            Form::Message(members) | Form::Framed(members) => self.request_claim(Request(members)),
            Form::Frame { kind, payload } => self.frame_claim(*kind, payload),
            Form::Unreadable(_) => None,
        }
    }

    fn request_claim(&self, request: Request<'_>) -> Option<Claim> {
        let signature = Some(request.text("signature")).filter(|text| !text.is_empty())?;
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
        // One of any other length is wrong, which needs no calculation.
        Some(Claim { key, challenge, signature: decode_array(signature).ok()? })
    }

    fn frame_claim(&self, kind: u8, payload: &[u8]) -> Option<Claim> {
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
        Some(Claim { key: self.state.identity(signer)?.key, challenge, signature })
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
