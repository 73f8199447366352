//! Signing and checking in this node's name: request envelopes, badges, challenges (ipc.md sections 13 and 14).
//!
//! The daemon builds every signed text itself; a local client never gets its own bytes signed, except behind the prefix of
//! a challenge.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilot_wire::addr::Addr;
use pilot_wire::ipc::{SignBody, go_json_error};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ask::Answer;
use super::backend::{IpcBackend, Object};

const VERSION: &str = "pilot-req-v1";
/// Allowed clock difference when the caller names none.
const DEFAULT_SKEW: i64 = 300;
/// A node seen within this time counts as online.
const ONLINE: i64 = 180;
/// In front of a signed challenge, with a zero byte after it.
const CHALLENGE: &[u8] = b"pilot.ipc.sign_challenge.v1\0";

/// A request envelope: `pilot-req-v1|addr|seconds|nonce|body hash|audience`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Envelope {
    addr: Addr,
    seconds: u64,
    nonce: String,
    body_hash: String,
    audience: String,
}

impl Envelope {
    fn text(&self) -> String {
        let Addr { network, node } = self.addr;
        let Envelope { seconds, nonce, body_hash, audience, .. } = self;
        format!("{VERSION}|{network:04x}{node:08x}|{seconds}|{nonce}|{body_hash}|{audience}")
    }

    /// Parses the canonical form only: anything that would not be written the same way again is refused.
    fn parse(text: &str) -> Result<Envelope, &'static str> {
        let parts: Vec<&str> = text.split('|').collect();
        let [version, addr, seconds, nonce, body_hash, audience] = parts[..] else {
            return Err("envelope must have six parts");
        };
        if version != VERSION {
            return Err("unknown envelope version");
        }
        let addr = Some(addr).filter(|a| is_hex(a, 12)).and_then(|a| u64::from_str_radix(a, 16).ok());
        let addr = addr.ok_or("address must be 12 lower-case hex digits")?;
        let envelope = Envelope {
            // 12 hex digits: the network above the node.
            addr: Addr { network: (addr >> 32) as u16, node: addr as u32 },
            seconds: seconds.parse().map_err(|_| "seconds must be a decimal number")?,
            nonce: nonce.to_owned(),
            body_hash: body_hash.to_owned(),
            audience: audience.to_owned(),
        };
        envelope.check()?;
        if envelope.text() != text {
            return Err("envelope is not in canonical form");
        }
        Ok(envelope)
    }

    fn check(&self) -> Result<(), &'static str> {
        if !is_hex(&self.nonce, 16) {
            return Err("nonce must be 16 lower-case hex digits");
        }
        if !is_hex(&self.body_hash, 64) {
            return Err("body hash must be 64 lower-case hex digits");
        }
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
        if !(1..=64).contains(&self.audience.len()) || !self.audience.bytes().all(good) {
            return Err("audience must be 1 to 64 characters of a-z 0-9 . -");
        }
        Ok(())
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Signs an envelope for the caller's request.
pub(super) fn sign(backend: &Arc<dyn IpcBackend>, audience: &str, body: &SignBody, nonce: &str) -> Answer {
    let body_hash = match body {
        SignBody::Hash(hash) => hash.clone(),
        SignBody::Base64(text) => {
            let body =
                STANDARD.decode(text).map_err(|e| format!("sign_envelope: body_b64 not base64: {e}"))?;
            hex::encode(Sha256::digest(body))
        }
    };
    let node = backend.node_id();
    if node == 0 {
        return Err("sign_envelope: daemon not registered (no address)".to_owned());
    }
    let nonce = match nonce {
        "" => {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|e| format!("sign_envelope: no randomness: {e}"))?;
            hex::encode(random)
        }
        given => given.to_owned(),
    };
    let addr = Addr::backbone(node);
    let envelope = Envelope { addr, seconds: now(), nonce, body_hash, audience: audience.to_owned() };
    envelope.check().map_err(|rule| format!("sign_envelope: reqsig: {rule}"))?;
    let text = envelope.text();
    let signature = backend.sign(text.as_bytes()).ok_or("sign_envelope: daemon has no identity")?;
    Ok(json!({
        "type": "sign_envelope_ok",
        "envelope": text,
        "signature": STANDARD.encode(signature),
        "address": addr.to_string(),
    }))
}

/// Checks an envelope: form, freshness, key, signature. What fails is a verdict, not an error.
pub(super) async fn verify(
    backend: &Arc<dyn IpcBackend>,
    envelope: &str,
    signature: &str,
    max_skew: i64,
    check_standing: bool,
) -> Answer {
    let verdict = check(backend, envelope, signature, max_skew, check_standing, now()).await;
    Ok(verdict
        .unwrap_or_else(|reason| json!({ "type": "verify_envelope_ok", "valid": false, "reason": reason })))
}

async fn check(
    backend: &Arc<dyn IpcBackend>,
    text: &str,
    signature: &str,
    max_skew: i64,
    check_standing: bool,
    now: u64,
) -> Answer {
    let envelope = Envelope::parse(text).map_err(|rule| format!("reqsig: {rule}"))?;
    let skew = if max_skew > 0 { max_skew } else { DEFAULT_SKEW };
    if now.abs_diff(envelope.seconds) > skew.unsigned_abs() {
        return Err("reqsig: envelope is outside the allowed clock difference".to_owned());
    }
    let node = envelope.addr.node;
    let known =
        lookup(backend, node).await.map_err(|e| format!("public key for node {node} unavailable: {e}"))?;
    let key = known.get("public_key").and_then(Value::as_str).unwrap_or_default();
    let key: [u8; 32] = decode(key).ok_or_else(|| {
        format!("public key for node {node} unavailable: the registry has no Ed25519 key for it")
    })?;
    let signature: [u8; 64] = decode(signature).ok_or("reqsig: signature is not base64 of 64 bytes")?;
    if !pilot_engine::identity::verify(&key, text.as_bytes(), &signature) {
        return Err("reqsig: signature does not match".to_owned());
    }
    let mut verdict = json!({
        "type": "verify_envelope_ok",
        "valid": true,
        "node_id": node,
        "address": envelope.addr.to_string(),
        "verified_via": "registry",
        "trusted": backend.handshake().is_some_and(|s| s.is_trusted(node)),
    });
    if check_standing && let Some(members) = verdict.as_object_mut() {
        standing(members, &known, now);
    }
    Ok(verdict)
}

/// What the registry's answer says about the signer; members it does not know stay away.
fn standing(verdict: &mut Object, known: &Object, now: u64) {
    let seen = known.get("last_seen").and_then(Value::as_str).and_then(|t| t.parse::<jiff::Timestamp>().ok());
    if let Some(seen) = seen.map(jiff::Timestamp::as_second) {
        verdict.insert("last_seen_unix".to_owned(), seen.into());
        verdict.insert("online".to_owned(), (now.cast_signed() - seen <= ONLINE).into());
    }
    for key in ["key_generation", "network_member"] {
        if let Some(value) = known.get(key) {
            verdict.insert(key.to_owned(), value.clone());
        }
    }
}

async fn lookup(backend: &Arc<dyn IpcBackend>, node: u32) -> Result<Object, String> {
    let params = Object::from_iter([("node_id".to_owned(), node.into())]);
    backend.registry("lookup", params).await
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

pub(super) async fn submit_badge(backend: &Arc<dyn IpcBackend>, badge: &str, badge_sig: &str) -> Answer {
    let node = backend.node_id();
    let signature = backend.sign(format!("submit_badge:{node}:{badge}").as_bytes());
    let signature = signature.ok_or("submit_badge: daemon has no identity")?;
    let params = Object::from_iter([
        ("node_id".to_owned(), node.into()),
        ("badge".to_owned(), badge.into()),
        ("badge_sig".to_owned(), badge_sig.into()),
        ("signature".to_owned(), STANDARD.encode(signature).into()),
    ]);
    backend
        .registry("submit_badge", params)
        .await
        .map(Value::Object)
        .map_err(|e| format!("submit_badge: {e}"))
}

pub(super) async fn enroll_recovery(backend: &Arc<dyn IpcBackend>, enrollment: &str, sig: &str) -> Answer {
    if let Some(error) = go_json_error(enrollment.as_bytes()) {
        return Err(format!("enroll_recovery: bad enrollment: {error}"));
    }
    let parsed: Value =
        serde_json::from_str(enrollment).map_err(|e| format!("enroll_recovery: bad enrollment: {e}"))?;
    let commitment = parsed.get("commitment").and_then(Value::as_str).filter(|c| !c.is_empty());
    let commitment = commitment.ok_or("enroll_recovery: bad enrollment: no commitment")?;
    let node = backend.node_id();
    let signature = backend.sign(format!("enroll_recovery:{node}:{commitment}").as_bytes());
    let signature = signature.ok_or("enroll_recovery: daemon has no identity")?;
    let params = Object::from_iter([
        ("node_id".to_owned(), node.into()),
        ("enrollment".to_owned(), enrollment.into()),
        ("enrollment_sig".to_owned(), sig.into()),
        ("signature".to_owned(), STANDARD.encode(signature).into()),
    ]);
    backend
        .registry("enroll_recovery", params)
        .await
        .map(Value::Object)
        .map_err(|e| format!("enroll_recovery: {e}"))
}

/// A node's key: from the trust store when the grant is bound to one, else from the registry (May 2026 fork).
pub(super) async fn lookup_node(backend: &Arc<dyn IpcBackend>, node: u32) -> Answer {
    let trusted = backend.handshake().map(|s| s.trusted_peers()).unwrap_or_default();
    if let Some(record) = trusted.into_iter().find(|t| t.node_id == node && !t.public_key.is_empty()) {
        return Ok(json!({ "node_id": node, "public_key": record.public_key, "source": "trusted" }));
    }
    let known = lookup(backend, node).await.map_err(|e| format!("lookup_node: {e}"))?;
    let key = known.get("public_key").cloned().unwrap_or_else(|| "".into());
    Ok(json!({ "node_id": node, "public_key": key, "source": "registry" }))
}

/// Proves the identity to a local client (May 2026 fork).
pub(super) fn sign_challenge(backend: &Arc<dyn IpcBackend>, challenge: &[u8]) -> Answer {
    let none = "sign_challenge: daemon has no identity";
    let public_key = backend.public_key().ok_or(none)?;
    let signature = backend.sign(&[CHALLENGE, challenge].concat()).ok_or(none)?;
    Ok(json!({
        "node_id": backend.node_id(), "public_key": public_key, "signature": STANDARD.encode(signature)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "pilot-req-v1|000100a3f291|1780000000|00112233445566ff|\
                        0000000000000000000000000000000000000000000000000000000000000000|a.b-1";

    #[test]
    fn canonical_form_round_trips() {
        let envelope = Envelope::parse(GOOD).unwrap();
        assert_eq!(envelope.addr.to_string(), "1:0001.00A3.F291");
        assert_eq!(envelope.text(), GOOD);
    }

    #[test]
    fn anything_else_is_refused() {
        for (from, to) in [
            ("pilot-req-v1", "pilot-req-v2"),
            ("|000100a3f291|", "|000100A3F291|"),
            ("|1780000000|", "|01780000000|"),
            ("|1780000000|", "|+1780000000|"),
            ("|00112233445566ff|", "|00112233445566f|"),
            ("|a.b-1", "|A"),
            ("|a.b-1", "|"),
            ("|a.b-1", "|a|b"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD);
            assert!(Envelope::parse(&text).is_err(), "{text}");
        }
    }
}
