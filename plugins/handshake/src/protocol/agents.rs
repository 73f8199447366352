//! The trusted-agents list (handshake.md section 7): who is on it, under which name, pinned to which key.
//!
//! Called by the shell's `agent_list`, which reads the file. A list is taken whole or refused whole; the caller keeps
//! the previous one then.

use std::collections::BTreeMap;

use super::receive::verifies;
use super::text::{from_base64, lossy};
use super::tolerant::{JsonError, Object};

/// Longest list that is read, in bytes.
pub const MAX_LIST: usize = 1024 * 1024;

/// Why a list was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// Over [`MAX_LIST`].
    #[error("the list is longer than {MAX_LIST} bytes")]
    TooLong,
    /// Not the expected JSON.
    #[error("parse: {0}")]
    Json(#[from] JsonError),
    /// A pin that is not base64.
    #[error("public_key: not base64")]
    PinEncoding,
    /// A pin of another length.
    #[error("public_key: want 32 bytes, got {0}")]
    PinLength(usize),
    /// A key is configured but the list is not signed.
    #[error("verify: signature is required")]
    Unsigned,
    /// The list is signed but nothing is configured to check it with.
    #[error("verify: signature present but embeddedPubKey is not configured")]
    NoKey,
    /// The signature is not base64.
    #[error("verify: bad signature encoding: not base64")]
    SignatureEncoding,
    /// Signed by somebody else, or changed afterwards.
    #[error("verify: signature mismatch")]
    SignatureMismatch,
}

/// One valid row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Agent {
    hostname: String,
    pin: Option<[u8; 32]>,
}

/// The list in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents(BTreeMap<u32, Agent>);

impl Agents {
    /// Reads a list. With a `key` it has to be signed by it; without one only an unsigned list passes.
    pub fn parse(bytes: &[u8], key: Option<&[u8; 32]>) -> Result<Self, ListError> {
        if bytes.len() > MAX_LIST {
            return Err(ListError::TooLong);
        }
        let text = lossy(bytes);
        let document = Object::parse(&text)?;
        let signature = document.text("signature")?;
        match key {
            None if signature.is_empty() => {}
            None => return Err(ListError::NoKey),
            Some(_) if signature.is_empty() => return Err(ListError::Unsigned),
            Some(key) => {
                let signature = from_base64(&signature).ok_or(ListError::SignatureEncoding)?;
                let payload = signed_payload(document.raw("agents").unwrap_or("null"));
                if !verifies(key, payload.as_bytes(), &signature) {
                    return Err(ListError::SignatureMismatch);
                }
            }
        }
        let mut rows: BTreeMap<u32, Vec<Agent>> = BTreeMap::new();
        for row in document.objects("agents")? {
            let node_id: u32 = row.integer("node_id")?;
            let hostname = row.text("hostname")?;
            let pin = pin(&row.text("public_key")?)?;
            if node_id != 0 && !hostname.is_empty() {
                rows.entry(node_id).or_default().push(Agent { hostname, pin });
            }
        }
        // A node id that occurs twice is an error nobody can resolve here: all its rows go.
        let single = |(node, mut rows): (u32, Vec<Agent>)| match (rows.pop(), rows.is_empty()) {
            (Some(agent), true) => Some((node, agent)),
            _ => None,
        };
        Ok(Agents(rows.into_iter().filter_map(single).collect()))
    }

    /// How many agents there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The name of a listed node, whatever its pin.
    pub fn name(&self, node: u32) -> Option<&str> {
        self.0.get(&node).map(|agent| agent.hostname.as_str())
    }

    /// The name of a listed node when its pin, if any, is this key (base64; empty: no key is known).
    pub fn name_with_key(&self, node: u32, key: &str) -> Option<&str> {
        let agent = self.0.get(&node)?;
        match agent.pin {
            None => Some(&agent.hostname),
            Some(pin) => (from_base64(key)? == pin).then_some(&agent.hostname),
        }
    }
}

fn pin(text: &str) -> Result<Option<[u8; 32]>, ListError> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = from_base64(text).ok_or(ListError::PinEncoding)?;
    let length = bytes.len();
    bytes.try_into().map(Some).map_err(|_| ListError::PinLength(length))
}

/// What is signed: the value of `agents` without insignificant whitespace and with five characters escaped, all else
/// as it was written.
pub fn signed_payload(agents: &str) -> String {
    format!(r#"{{"agents":{}}}"#, pilot_wire::gojson::compact(agents))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Agents, ListError> {
        Agents::parse(text.as_bytes(), None)
    }

    #[test]
    fn rows_that_say_nothing_or_too_much_are_ignored() {
        let list = parse(
            r#"{"agents":[{"hostname":"one","node_id":1},{"hostname":"","node_id":2},{"hostname":"zero","node_id":0},
               {"hostname":"a","node_id":3},{"hostname":"b","node_id":3},{"hostname":"c","node_id":3},
               {"node_id":4},{"hostname":"four","node_id":4}]}"#,
        )
        .expect("list");
        assert_eq!(list.name(1), Some("one"));
        assert_eq!([list.name(2), list.name(0), list.name(3)], [None; 3]);
        assert_eq!(list.name(4), Some("four"), "an invalid row does not count as a duplicate");
    }

    #[test]
    fn a_pin_needs_its_key() {
        let pin = super::super::text::to_base64(&[7; 32]);
        let other = super::super::text::to_base64(&[8; 32]);
        let list = parse(&format!(r#"{{"agents":[{{"hostname":"p","node_id":1,"public_key":"{pin}"}}]}}"#))
            .expect("list");
        assert_eq!(list.name(1), Some("p"), "the plain question ignores pins");
        assert_eq!(list.name_with_key(1, &pin), Some("p"));
        assert_eq!([list.name_with_key(1, &other), list.name_with_key(1, "")], [None; 2]);
    }

    #[test]
    fn a_signature_nobody_can_check_is_refused() {
        assert_eq!(parse(r#"{"agents":[],"signature":"AAAA"}"#), Err(ListError::NoKey));
        let wrong = Agents::parse(br#"{"agents":[],"signature":"AAAA"}"#, Some(&[7; 32]));
        assert_eq!(wrong, Err(ListError::SignatureMismatch));
    }

    #[test]
    fn one_bad_pin_refuses_the_list() {
        let list = |pin: &str| parse(&format!(r#"{{"agents":[{{"node_id":0,"public_key":"{pin}"}}]}}"#));
        assert_eq!(list("AAAA"), Err(ListError::PinLength(3)));
        assert_eq!(list("%"), Err(ListError::PinEncoding));
    }

    #[test]
    fn the_signed_payload_keeps_what_is_inside_texts() {
        let payload = signed_payload("[ {\"a\" : \"x \\\" <y> \\\\\" ,\n\t\"n\": 1.0e2 } ]");
        assert_eq!(payload, "{\"agents\":[{\"a\":\"x \\\" \\u003cy\\u003e \\\\\",\"n\":1.0e2}]}");
    }
}
