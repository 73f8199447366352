//! The body of a request and its signature, to the byte (webhook.md section 1).

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use pilot_wire::gojson::{quote, to_string};
use serde_json::Value;
use sha2::Sha256;

/// The header that carries the signature.
pub const SIGNATURE_HEADER: &str = "X-Pilot-Signature-256";

/// One event, as it was queued.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuedEvent {
    /// Counts from 1 for each client, dropped events too.
    pub event_id: u64,
    /// The topic.
    pub event: String,
    /// This node's id when the event was queued.
    pub node_id: u32,
    /// When it was queued.
    pub timestamp: Timestamp,
    /// The payload: `Some(null)` for an event without a payload map, `None` to leave the member out.
    pub data: Option<Value>,
}

impl QueuedEvent {
    /// The exact bytes.
    pub fn body(&self) -> String {
        let data = self.data.as_ref().map_or(String::new(), |data| format!(",\"data\":{}", to_string(data)));
        format!(
            r#"{{"event_id":{},"event":{},"node_id":{},"timestamp":"{}"{data}}}"#,
            self.event_id,
            quote(&self.event),
            self.node_id,
            self.timestamp,
        )
    }
}

/// The signature header's value: HMAC-SHA-256 of the body in lower-case hex.
pub fn signature(secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}
