//! The challenge behind the upgrade: three JSON texts and what is signed (wss.md section 2).
//!
//! Read with the tolerance of the Go peers: unknown members are skipped, names match without regard to ASCII case, the
//! last of equal names wins, `null` is nothing. Written in a fixed order without spaces. Whether a signature is right is
//! the caller's question; this gives it the bytes.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// A challenge older than this many whole seconds is void, and so is one from the future.
pub const MAX_AGE: i64 = 30;
/// What the beacon says at the end of a challenge that was met.
pub const OK: &str = r#"{"type":"auth_ok"}"#;

/// Why a text of the challenge is refused. The reason stays in the log; the other side only reads `auth failed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not the JSON that was expected.
    #[error("parse: {0}")]
    Parse(String),
    /// JSON with the wrong `type`, or without what it needs.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The signature is not base64.
    #[error("signature encoding")]
    Encoding,
}

/// The beacon's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Signed as text, exactly as received; a beacon makes 64 lower-case hex digits.
    pub nonce: String,
    /// The beacon's clock, unix seconds; absent from beacons before 0.2.6, which expect the old form signed.
    pub ts: Option<i64>,
}

impl Challenge {
    /// The question as text.
    pub fn encode(&self) -> String {
        let nonce = serde_json::Value::from(self.nonce.as_str());
        match self.ts {
            Some(ts) => format!(r#"{{"type":"auth_challenge","nonce":{nonce},"ts":{ts}}}"#),
            None => format!(r#"{{"type":"auth_challenge","nonce":{nonce}}}"#),
        }
    }

    /// Reads what a beacon sent first.
    ///
    /// # Errors
    /// When it is no challenge, or has no nonce.
    pub fn decode(text: &[u8]) -> Result<Self, AuthError> {
        let Fields { kind, nonce, ts, .. } = Fields::parse(text, Role::Challenge)?;
        match kind.as_str() {
            "auth_challenge" if nonce.is_empty() => Err(AuthError::Malformed("no nonce")),
            "auth_challenge" => Ok(Self { nonce, ts }),
            _ => Err(AuthError::Malformed("type is not auth_challenge")),
        }
    }

    /// The bytes that `node` signs: the new form when the challenge has a time, else the old one.
    pub fn signed_bytes(&self, node: u32) -> String {
        match self.ts {
            Some(ts) => format!("compat_auth:{node}:{ts}:{}", self.nonce),
            None => format!("compat_auth:{node}:{}", self.nonce),
        }
    }

    /// Whether the challenge is still good at `now` (unix seconds of the clock that made it): at most [`MAX_AGE`] old.
    pub fn is_fresh(&self, now: i64) -> bool {
        self.is_fresh_within(now, MAX_AGE)
    }

    /// As [`is_fresh`](Self::is_fresh), for a beacon with another limit (whole seconds).
    pub fn is_fresh_within(&self, now: i64, max_age: i64) -> bool {
        self.ts.is_none_or(|ts| now.checked_sub(ts).is_some_and(|age| (0..=max_age).contains(&age)))
    }
}

/// The client's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Who it claims to be; not 0.
    pub node: u32,
    /// Ed25519, usually 64 bytes: any other length fails to verify.
    pub signature: Vec<u8>,
}

impl Reply {
    /// The answer as text; the key is for people who read along, beacons ignore it.
    pub fn encode(node: u32, public_key: &[u8; 32], signature: &[u8; 64]) -> String {
        format!(
            r#"{{"type":"auth_reply","node_id":{node},"public_key":"{}","sig":"{}"}}"#,
            STANDARD.encode(public_key),
            STANDARD.encode(signature)
        )
    }

    /// The first half of reading an answer: who it claims to be and the signature's text. A beacon looks the key up
    /// between the halves, so an unknown node is refused as such whatever its signature is.
    ///
    /// # Errors
    /// When it is no answer.
    pub fn decode_claim(text: &[u8]) -> Result<(u32, String), AuthError> {
        let Fields { kind, node_id, sig, .. } = Fields::parse(text, Role::Reply)?;
        match (kind.as_str(), node_id) {
            ("auth_reply", 0) => Err(AuthError::Malformed("no node_id")),
            ("auth_reply", node) => Ok((node, sig)),
            _ => Err(AuthError::Malformed("type is not auth_reply")),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// When it is no answer, or its signature is not base64.
    pub fn decode(text: &[u8]) -> Result<Self, AuthError> {
        let (node, sig) = Self::decode_claim(text)?;
        Ok(Self { node, signature: decode_signature(&sig)? })
    }
}

/// Standard base64 with padding; line breaks inside are skipped, as the Go peers do.
///
/// # Errors
/// [`AuthError::Encoding`].
pub fn decode_signature(text: &str) -> Result<Vec<u8>, AuthError> {
    let plain: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    STANDARD.decode(plain).map_err(|_| AuthError::Encoding)
}

/// Whether a text is `auth_ok`.
pub fn is_ok(text: &[u8]) -> bool {
    Fields::parse(text, Role::Ok).is_ok_and(|fields| fields.kind == "auth_ok")
}

/// Which members count; the others may be of any kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Challenge,
    Reply,
    Ok,
}

#[derive(Default)]
struct Fields {
    kind: String,
    nonce: String,
    ts: Option<i64>,
    node_id: u32,
    sig: String,
}

impl Fields {
    fn parse(text: &[u8], role: Role) -> Result<Self, AuthError> {
        let failed = |e: serde_json::Error| AuthError::Parse(e.to_string());
        let mut reader = serde_json::Deserializer::from_slice(text);
        let fields = role.deserialize(&mut reader).map_err(failed)?;
        reader.end().map_err(failed)?;
        Ok(fields)
    }
}

impl<'de> DeserializeSeed<'de> for Role {
    type Value = Fields;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        // `any`, because the document `null` counts as an empty object.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Role {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Fields, E> {
        Ok(Fields::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        /// A member that is `null` leaves what an earlier one of its name said.
        fn set<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: &mut A, to: &mut T) -> Result<(), A::Error> {
            if let Some(value) = map.next_value::<Option<T>>()? {
                *to = value;
            }
            Ok(())
        }
        let mut fields = Fields::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("type") {
                set(&mut map, &mut fields.kind)?;
            } else if self == Role::Challenge && is("nonce") {
                set(&mut map, &mut fields.nonce)?;
            } else if self == Role::Challenge && is("ts") {
                if let Some(ts) = map.next_value::<Option<i64>>()? {
                    fields.ts = Some(ts);
                }
            } else if self == Role::Reply && is("node_id") {
                set(&mut map, &mut fields.node_id)?;
            } else if self == Role::Reply && is("sig") {
                set(&mut map, &mut fields.sig)?;
            } else if self == Role::Reply && is("public_key") {
                // Not used, but a peer would refuse another type here.
                map.next_value::<Option<Cow<'de, str>>>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_with_the_tolerance_of_the_peer() {
        let read = |text: &str| Reply::decode(text.as_bytes());
        let want = Reply { node: 7, signature: vec![0; 3] };
        assert_eq!(
            read(r#" {"TYPE":"auth_reply","Node_ID":7,"sig":"AA\r\nAA","x":[1.5]} "#),
            Ok(want.clone())
        );
        assert_eq!(
            read(r#"{"type":"x","type":"auth_reply","node_id":1,"node_id":7,"sig":"AAAA"}"#),
            Ok(want)
        );
        for bad in [
            "null",
            "7",
            "",
            "\u{feff}{}",
            r#"{"type":"auth_reply","node_id":4e3,"sig":""}"#,
            r#"{"type":"auth_reply","node_id":7.0,"sig":""}"#,
            r#"{"type":"auth_reply","node_id":7,"sig":"A"}"#,
            r#"{"type":"auth_reply","node_id":7,"sig":""} x"#,
        ] {
            read(bad).unwrap_err();
        }
        assert!(is_ok(OK.as_bytes()) && is_ok(br#"{"type":"auth_ok","ts":"any"}"#) && !is_ok(b"null"));
    }

    #[test]
    fn a_challenge_is_good_for_thirty_seconds() {
        let at = |ts| Challenge { nonce: "a".into(), ts };
        assert!(at(Some(100)).is_fresh(130) && !at(Some(100)).is_fresh(131) && !at(Some(100)).is_fresh(99));
        assert!(!at(Some(i64::MIN)).is_fresh(i64::MAX));
        assert_eq!(at(Some(-3)).signed_bytes(9), "compat_auth:9:-3:a");
        assert_eq!(at(None).signed_bytes(9), "compat_auth:9:a");
    }
}
