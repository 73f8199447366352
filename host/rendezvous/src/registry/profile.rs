//! What a node says about itself: signs of life, visibility, name, tags, and goodbye (registry.md sections 3.1 and 4).

use serde_json::Value;

use super::{Call, Outcome, Registry, rfc3339};
use crate::endpoint::observed;
use crate::message::Answer;
use crate::names::{check_hostname, clip, node_tags};
use crate::refusal::Refusal;
use pilot_wire::registry::challenge;

/// A heartbeat warns when the key expires within this many seconds.
const EXPIRY_WARNING: i64 = 24 * 3600;
/// As at registration, see `register`.
const MAX_ADDR: usize = 300;

/// What a heartbeat is answered with.
pub(super) struct Beat {
    pub key_expiry_warning: bool,
}

impl Registry {
    pub(super) fn heartbeat(&mut self, call: &Call<'_>) -> Outcome {
        let request = call.request;
        let id = request.node("node_id");
        self.live(id)?;
        let listen = request.text("listen_addr");
        let moved = !listen.is_empty()
            && listen.len() <= MAX_ADDR
            && self.require_signature(call, id, &challenge::heartbeat_with_addr(id, listen)).is_ok();
        let verified = moved || self.check_heartbeat_signature(call, id)?;
        let beat = self.beat(call.now, id, verified)?;
        if moved {
            let addr = observed(listen, call.source);
            if self.live(id)?.real_addr != addr {
                self.state.node_mut(id).ok_or(Refusal::NodeNotFound(id))?.real_addr = addr;
            }
        }
        Ok(Answer::ok("heartbeat")
            .with("time", call.now)
            .with_true("key_expiry_warning", beat.key_expiry_warning))
    }

    /// Whether the heartbeat's signature was checked; it need not be when one was not long ago.
    fn check_heartbeat_signature(&self, call: &Call<'_>, id: u32) -> Result<bool, Refusal> {
        if let Some(skew) = self.settings.heartbeat_skew {
            let ts = call.request.integer("ts").ok_or(Refusal::HeartbeatStale(skew.as_secs()))?;
            if call.now.abs_diff(ts) > skew.as_secs() {
                return Err(Refusal::HeartbeatStale(skew.as_secs()));
            }
            self.require_signature(call, id, &challenge::heartbeat_with_time(id, ts))?;
            return Ok(true);
        }
        if self.verified_lately(call.now, id) {
            return Ok(false);
        }
        self.require_signature(call, id, &challenge::heartbeat(id))?;
        Ok(true)
    }

    /// The binary heartbeat, whose signature comes raw.
    pub(super) fn heartbeat_raw(&mut self, now: i64, id: u32, signature: &[u8]) -> Result<Beat, Refusal> {
        if self.state.node(id).is_none() {
            return Err(Refusal::NodeNotFoundBinary(id));
        }
        if let Some(skew) = self.settings.heartbeat_skew {
            // The binary form has no room for a time stamp.
            return Err(Refusal::HeartbeatStale(skew.as_secs()));
        }
        let check = !self.verified_lately(now, id);
        if check && !self.verifies(id, &challenge::heartbeat(id), signature) {
            return Err(Refusal::SignatureWrong);
        }
        self.beat(now, id, check)
    }

    fn verified_lately(&self, now: i64, id: u32) -> bool {
        let every = i64::try_from(self.settings.heartbeat_verify_every.as_secs()).unwrap_or(i64::MAX);
        let last = self.state.node(id).and_then(|node| node.last_verified());
        last.is_some_and(|last| now.saturating_sub(last) < every)
    }

    fn beat(&mut self, now: i64, id: u32, verified: bool) -> Result<Beat, Refusal> {
        let expires = self.live(id)?.key.expires;
        if let Some(at) = expires.filter(|at| *at <= now) {
            return Err(Refusal::KeyExpired { node: id, at: rfc3339(at) });
        }
        self.state.seen(id, now, verified);
        Ok(Beat { key_expiry_warning: expires.is_some_and(|at| at - now < EXPIRY_WARNING) })
    }

    pub(super) fn deregister(&mut self, call: &Call<'_>) -> Outcome {
        let id = call.request.node("node_id");
        if self.state.node(id).is_some() {
            self.require_signature_or_admin(call, id, &challenge::node_op("deregister", id))?;
            self.state.forget_memberships(id);
            self.state.remove_node(id);
        }
        Ok(Answer::ok("deregister"))
    }

    pub(super) fn set_visibility(&mut self, call: &Call<'_>) -> Outcome {
        let (id, public) = (call.request.node("node_id"), call.request.flag("public"));
        self.require_signature_or_admin(call, id, &challenge::node_op("set_visibility", id))?;
        if self.live(id)?.public != public {
            self.state.node_mut(id).ok_or(Refusal::NodeNotFound(id))?.public = public;
        }
        let visibility = if public { "public" } else { "private" };
        Ok(Answer::ok("set_visibility").with("node_id", id).with("visibility", visibility))
    }

    pub(super) fn set_hostname(&mut self, call: &Call<'_>) -> Outcome {
        let (id, hostname) = (call.request.node("node_id"), call.request.text("hostname"));
        self.require_signature_or_admin(call, id, &challenge::node_op("set_hostname", id))?;
        if !hostname.is_empty() {
            check_hostname(hostname).map_err(Refusal::Hostname)?;
            if let Some(node) = self.state.node_of_hostname(hostname).filter(|holder| *holder != id) {
                return Err(Refusal::HostnameTaken { hostname: clip(hostname), node });
            }
        }
        self.state.set_hostname(id, hostname);
        Ok(Answer::ok("set_hostname").with("node_id", id).with("hostname", hostname))
    }

    pub(super) fn set_tags(&mut self, call: &Call<'_>) -> Outcome {
        let id = call.request.node("node_id");
        self.require_signature_or_admin(call, id, &challenge::node_op("set_tags", id))?;
        let tags = node_tags(call.request.texts("tags"))?;
        self.state.node_mut(id).ok_or(Refusal::NodeNotFound(id))?.tags.clone_from(&tags);
        let shown = if tags.is_empty() { Value::Null } else { tags.into() };
        Ok(Answer::ok("set_tags").with("node_id", id).with("tags", shown))
    }

    /// Gone from the newest peer; daemons of older ones send it.
    pub(super) fn set_task_exec(&mut self, call: &Call<'_>) -> Outcome {
        let (id, enabled) = (call.request.node("node_id"), call.request.flag("enabled"));
        self.require_signature_or_admin(call, id, &challenge::node_op("set_task_exec", id))?;
        self.state.node_mut(id).ok_or(Refusal::NodeNotFound(id))?.task_exec = enabled;
        Ok(Answer::ok("set_task_exec").with("node_id", id).with("task_exec", enabled))
    }
}
