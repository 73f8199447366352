//! The identity file's content and the rule about its mode (identity.md "File"). Opening and replacing the file is the
//! caller's work.

use std::fmt;

use ed25519_dalek::SigningKey;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use zeroize::Zeroizing;

use super::text::{Base64Error, decode_base64, encode_base64};

/// Why an identity file is refused. Texts as the Go peer's; a host stops with `load identity: ` in front.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Group or others may read or write the file.
    #[error("identity file has loose permissions (mode {mode:o}); chmod 600 {path} and retry")]
    LoosePermissions {
        /// Permission bits.
        mode: u32,
        /// The file.
        path: String,
    },
    /// Not JSON, or a member of the wrong type.
    #[error("unmarshal identity: {0}")]
    Json(String),
    /// The private key is no base64.
    #[error("decode private key: {0}")]
    PrivateKeyText(Base64Error),
    /// The private key has not 64 bytes.
    #[error("invalid private key size: {0}")]
    PrivateKeySize(usize),
    /// The public key is no base64.
    #[error("decode public key: {0}")]
    PublicKeyText(Base64Error),
    /// The public key has not 32 bytes.
    #[error("invalid public key size: {0}")]
    PublicKeySize(usize),
    /// The two keys do not belong together.
    #[error("identity file corrupted: public key does not match private key")]
    Mismatch,
}

/// The rule about the file's permission bits, to be checked before its content is read. `path` is for the message only.
///
/// # Errors
/// [`LoadError::LoosePermissions`] when any bit for group or others is set.
pub fn check_mode(mode: u32, path: &str) -> Result<(), LoadError> {
    if mode & 0o077 != 0 {
        return Err(LoadError::LoosePermissions { mode: mode & 0o7777, path: path.to_owned() });
    }
    Ok(())
}

pub(super) fn write(key: &SigningKey) -> String {
    let private = Zeroizing::new(encode_base64(Zeroizing::new(key.to_keypair_bytes()).as_slice()));
    let public = encode_base64(key.verifying_key().as_bytes());
    format!("{{\n  \"private_key\": \"{}\",\n  \"public_key\": \"{public}\"\n}}", private.as_str())
}

pub(super) fn read(content: &[u8]) -> Result<SigningKey, LoadError> {
    // Invalid UTF-8 inside a string is replaced, as the peers' decoder does; elsewhere it is a syntax error anyway.
    let text = String::from_utf8_lossy(content);
    let members: Option<Members> = serde_json::from_str(&text).map_err(|e| {
        LoadError::Json(if e.is_eof() { "unexpected end of JSON input".to_owned() } else { e.to_string() })
    })?;
    let members = members.unwrap_or_default();
    let private = Zeroizing::new(decode_base64(&members.private_key).map_err(LoadError::PrivateKeyText)?);
    let private: &[u8; 64] =
        private.as_slice().try_into().map_err(|_| LoadError::PrivateKeySize(private.len()))?;
    let public = decode_base64(&members.public_key).map_err(LoadError::PublicKeyText)?;
    let public: &[u8; 32] =
        public.as_slice().try_into().map_err(|_| LoadError::PublicKeySize(public.len()))?;
    // Unlike the Go peer this derives the public key from the seed, so a file with a wrong tail does not load and then
    // sign what nobody can verify.
    let key = SigningKey::from_keypair_bytes(private).map_err(|_| LoadError::Mismatch)?;
    if key.verifying_key().as_bytes() != public {
        return Err(LoadError::Mismatch);
    }
    Ok(key)
}

/// The two members, matched without regard to ASCII case; the last one of a name wins, others are ignored, `null` leaves
/// a member as it was.
#[derive(Default)]
struct Members {
    private_key: Zeroizing<String>,
    public_key: String,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with private_key and public_key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name.eq_ignore_ascii_case("private_key") {
                        if let Some(value) = map.next_value::<Option<String>>()? {
                            members.private_key = Zeroizing::new(value);
                        }
                    } else if name.eq_ignore_ascii_case("public_key") {
                        if let Some(value) = map.next_value::<Option<String>>()? {
                            members.public_key = value;
                        }
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::*;

    fn error(content: &str) -> String {
        Identity::from_file_json(content.as_bytes()).err().map_or_else(String::new, |e| e.to_string())
    }

    #[test]
    fn a_written_file_loads() {
        let id = Identity::generate([3; 32]);
        let text = id.to_file_json();
        assert!(text.starts_with("{\n  \"private_key\": \"") && text.ends_with("\"\n}"));
        assert_eq!(Identity::from_file_json(text.as_bytes()).unwrap().public_key(), id.public_key());
    }

    #[test]
    fn json_is_read_as_tolerantly_as_the_peers_do() {
        let id = Identity::generate([3; 32]);
        let text = id.to_file_json().replace("private_key", "PRIVATE_KEY");
        assert!(Identity::from_file_json(text.as_bytes()).is_ok());
        let twice = id.to_file_json().replace("{\n", "{\n  \"public_key\": \"bad\",\n");
        assert!(Identity::from_file_json(twice.as_bytes()).is_ok());
        let null = id.to_file_json().replace("\n}", ",\n  \"public_key\": null\n}");
        assert!(Identity::from_file_json(null.as_bytes()).is_ok());
        assert!(error(&format!("{} x", id.to_file_json())).starts_with("unmarshal identity: "));
        assert!(error(&format!("\u{feff}{}", id.to_file_json())).starts_with("unmarshal identity: "));
        assert_eq!(error("null"), "invalid private key size: 0");
        assert!(error("{\"private_key\": 7}").starts_with("unmarshal identity: "));
        assert_eq!(error(" "), "unmarshal identity: unexpected end of JSON input");
    }

    #[test]
    fn a_wrong_private_tail_is_corruption_even_when_the_public_key_agrees_with_it() {
        let (a, b) = (Identity::generate([3; 32]), Identity::generate([4; 32]));
        let mut pair = [3; 64];
        pair[32..].copy_from_slice(&b.public_key());
        let text = format!(
            "{{\"private_key\":\"{}\",\"public_key\":\"{}\"}}",
            encode_base64(&pair),
            b.public_key_text()
        );
        assert_eq!(error(&text), "identity file corrupted: public key does not match private key");
        let text = a.to_file_json().replace(&a.public_key_text(), &b.public_key_text());
        assert_eq!(error(&text), "identity file corrupted: public key does not match private key");
    }

    #[test]
    fn any_bit_for_others_is_loose() {
        for mode in [0o600, 0o400, 0o700, 0o100_600] {
            assert!(check_mode(mode, "p").is_ok());
        }
        assert_eq!(
            check_mode(0o100_604, "/x").unwrap_err().to_string(),
            "identity file has loose permissions (mode 604); chmod 600 /x and retry"
        );
    }
}
