//! The message of port 444 (handshake.md section 1): one JSON object, seven members in a fixed order, no length prefix.
//!
//! Called by the receive checks and by everything that sends. Does not sign (the key stays with the daemon), judge
//! (`receive`) or move bytes.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::text::lossy;
use super::tolerant::{JsonError, Object};

/// The overlay port of the trust handshake.
pub const PORT: u16 = pilot_wire::ports::HANDSHAKE;

/// Largest message that is read, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Largest message that is sent directly, in bytes. A peer reads once and ignores what follows, so a message has to
/// travel in one stream segment; this is the size newer senders cut at (stream.md section 3, column A).
pub const MAX_ONE_SEGMENT: usize = 1152;

/// What a message wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Please trust me.
    Request,
    /// I trust you.
    Accept,
    /// I will not trust you.
    Reject,
    /// I no longer trust you.
    Revoke,
}

impl Kind {
    /// The `type` member.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Request => "handshake_request",
            Kind::Accept => "handshake_accept",
            Kind::Reject => "handshake_reject",
            Kind::Revoke => "handshake_revoke",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub fn parse(text: &str) -> Option<Self> {
        [Kind::Request, Kind::Accept, Kind::Reject, Kind::Revoke].into_iter().find(|k| k.as_str() == text)
    }
}

/// One message as it stands on the wire. Nothing in it is trusted before `receive` has looked at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The `type` text; unknown ones are carried, because the replay key covers the text.
    #[serde(rename = "type")]
    pub kind: String,
    /// The sender.
    pub node_id: u32,
    /// The sender's Ed25519 key, base64; empty without an identity.
    pub public_key: String,
    /// Why (request only), not cleaned.
    pub justification: String,
    /// Base64 of 64 bytes; empty without an identity.
    pub signature: String,
    /// Why not (reject and revoke only).
    pub reason: String,
    /// When it was written, Unix seconds.
    pub timestamp: i64,
}

impl Message {
    /// The message's kind; `None` for a type this version does not know.
    pub fn kind(&self) -> Option<Kind> {
        Kind::parse(&self.kind)
    }

    /// Reads what arrived on a stream. [`JsonError::Incomplete`] means that more bytes could complete it.
    pub fn decode(bytes: &[u8]) -> Result<Self, JsonError> {
        let text = lossy(bytes);
        let object = Object::parse(&text)?;
        Ok(Message {
            kind: object.text("type")?,
            node_id: object.integer("node_id")?,
            public_key: object.text("public_key")?,
            justification: object.text("justification")?,
            signature: object.text("signature")?,
            reason: object.text("reason")?,
            timestamp: object.integer("timestamp")?,
        })
    }

    /// The exact bytes the Go peer writes for this message.
    pub fn encode(&self) -> Vec<u8> {
        // The members stand in the order of the structure.
        pilot_wire::gojson::serialize(self).expect("texts and integers always serialise").into_bytes()
    }

    /// What identifies a repetition: SHA-256 over type, signed text and signature text (handshake.md section 2,
    /// step 3). The timestamp is not in it.
    pub fn replay_key(&self, receiver: u32) -> ReplayKey {
        let mut hash = Sha256::new();
        hash.update(self.kind.as_bytes());
        hash.update([0]);
        hash.update(signed_text(self.node_id, receiver).as_bytes());
        hash.update([0]);
        hash.update(self.signature.as_bytes());
        ReplayKey(hash.finalize().into())
    }
}

/// Names a message for the replay store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplayKey(pub [u8; 32]);

/// The text a sender signs for a receiver; the same for all four types.
pub fn signed_text(sender: u32, receiver: u32) -> String {
    format!("handshake:{sender}:{receiver}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_texts() {
        for kind in [Kind::Request, Kind::Accept, Kind::Reject, Kind::Revoke] {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("handshake_hello"), None);
    }

    #[test]
    fn round_trip_with_everything_that_needs_escaping() {
        let message = Message {
            kind: Kind::Request.as_str().into(),
            node_id: u32::MAX,
            public_key: "a+/=".into(),
            justification: "<&>\"\\\u{2028}\u{2029}\u{7f}\u{1}\u{8}\u{c}\n\r\t\u{1f600}/'".into(),
            signature: "s".into(),
            reason: String::new(),
            timestamp: -1,
        };
        let bytes = message.encode();
        let text = String::from_utf8(bytes.clone()).expect("ASCII or UTF-8");
        assert!(text.contains(r#""\u003c\u0026\u003e\"\\\u2028\u2029"#), "{text}");
        assert!(text.contains("\u{7f}\\u0001\\b\\f\\n\\r\\t\u{1f600}/'"), "{text}");
        assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn every_cut_asks_for_more() {
        let bytes = Message { kind: "handshake_request".into(), node_id: 12, ..Message::default() }.encode();
        for cut in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..cut]), Err(JsonError::Incomplete), "cut at {cut}");
        }
        assert!(Message::decode(&bytes).is_ok());
    }

    #[test]
    fn null_reads_as_nothing_said() {
        assert_eq!(Message::decode(b" null "), Ok(Message::default()));
    }
}
