//! Keys: replacing them, letting them expire, and what is known about them (registry.md section 3.4).

use super::{Call, Outcome, Registry, rfc3339};
use crate::key::{PublicKey, decode_base64};
use crate::message::Answer;
use crate::refusal::Refusal;
use pilot_wire::addr::Addr;
use pilot_wire::registry::challenge;

/// An expiry date may lie at most this far ahead, seconds: ten years.
const MAX_EXPIRY: i64 = 10 * 366 * 24 * 3600;

impl Registry {
    pub(super) fn rotate_key(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        let (id, text) = (request.node("node_id"), request.text("new_public_key"));
        if request.text("signature").is_empty() {
            return Err(Refusal::RotationSignature);
        }
        if text.is_empty() {
            return Err(Refusal::RotationKeyMissing);
        }
        let key = PublicKey::parse(text).map_err(Refusal::RotationKey)?;
        self.live(id)?;
        let signature = decode_base64(request.text("signature")).map_err(Refusal::SignatureEncoding)?;
        let signed = self.verifies(id, &challenge::rotate_key(id, text), &signature)
            || self.settings.legacy_rotation
                && self.verifies(id, &challenge::rotate_key_legacy(id), &signature);
        if !signed {
            return Err(Refusal::SignatureWrong);
        }
        if let Some(holder) = self.state.node_of_key(&key) {
            return Err(Refusal::RotationKeyTaken(holder));
        }
        let verified = self.state.identity(id).is_some_and(|i| i.verified);
        self.state.set_key(id, key, verified);
        if let Some(node) = self.state.node_mut(id) {
            node.key.rotated = Some(call.now);
            node.key.rotations = node.key.rotations.saturating_add(1);
            // An expiry date was the old key's; a new key starts without one.
            node.key.expires = None;
        }
        Ok(Answer::ok("rotate_key")
            .with("node_id", id)
            .with("address", Addr::backbone(id).to_string())
            .with("public_key", key.to_string()))
    }

    pub(super) fn set_key_expiry(&mut self, call: &Call<'_>) -> Outcome {
        let (id, text) = (call.request.node("node_id"), call.request.text("expires_at"));
        self.require_signature_or_admin(call, id, &challenge::node_op("set_key_expiry", id))?;
        let enterprise = self
            .state
            .networks_of(id)
            .any(|n| self.state.network(n).is_some_and(|network| network.enterprise));
        if !enterprise {
            return Err(Refusal::Enterprise("key expiry dates"));
        }
        let expires = parse_expiry(text, call.now)?;
        if let Some(node) = self.state.node_mut(id) {
            node.key.expires = expires;
        }
        let shown = expires.map_or("never".to_owned(), rfc3339);
        Ok(Answer::ok("set_key_expiry").with("node_id", id).with("expires_at", shown))
    }

    pub(super) fn key_info(&self, call: &Call<'_>) -> Outcome {
        let id = call.request.node("node_id");
        let key = &self.live(id)?.key;
        Ok(Answer::ok("get_key_info")
            .with("node_id", id)
            .with("created_at", rfc3339(key.created))
            .with("rotate_count", key.rotations)
            .with_some("rotated_at", key.rotated.map(rfc3339))
            .with_some("expires_at", key.expires.map(rfc3339))
            .with("key_age_days", key.age_days(call.now)))
    }
}

/// Reads an expiry date: "" and "never" are none.
fn parse_expiry(text: &str, now: i64) -> Result<Option<i64>, Refusal> {
    if matches!(text, "" | "never") {
        return Ok(None);
    }
    let bad = |why: &str| Refusal::Expiry(why.to_owned());
    let at = text.parse::<jiff::Timestamp>().map_err(|_| bad("give an RFC 3339 time"))?.as_second();
    if at <= now {
        return Err(bad("must be in the future"));
    }
    if at - now > MAX_EXPIRY {
        return Err(bad("must be within 10 years"));
    }
    Ok(Some(at))
}
