//! Reads JSON objects the way the Go peer does (wss.md section 2): member names without regard to ASCII case, the last
//! duplicate wins, unknown members are ignored, a missing or `null` member is the zero value, numbers are integers
//! without fraction or exponent, bytes that are not UTF-8 and lone surrogates become U+FFFD, and anything after the
//! value is an error.
//!
//! Called by the message codec, the state file and the trusted-agents list. Works on text the caller has bounded: it
//! allocates in proportion to it and never recurses into unknown members.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Why a document is not what the reader expects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It ends in the middle of a value: more bytes could make it whole.
    #[error("the document is incomplete")]
    Incomplete,
    /// It is not JSON, or something follows the value.
    #[error("not JSON: {0}")]
    Syntax(String),
    /// A member has another type than it must have.
    #[error("member {member:?} is not {expected}")]
    Type {
        /// The member's name.
        member: &'static str,
        /// What it should have been.
        expected: &'static str,
    },
}

impl From<serde_json::Error> for JsonError {
    fn from(e: serde_json::Error) -> Self {
        if e.is_eof() { JsonError::Incomplete } else { JsonError::Syntax(e.to_string()) }
    }
}

/// The members of one object, not yet looked into. `null` reads as an object without members.
#[derive(Debug, Default)]
pub struct Object<'a> {
    members: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Reads a whole document.
    pub fn parse(text: &'a str) -> Result<Self, JsonError> {
        let raw: &RawValue = serde_json::from_str(text)?;
        Self::of(raw, "document")
    }

    fn of(raw: &'a RawValue, member: &'static str) -> Result<Self, JsonError> {
        match raw.get().as_bytes().first() {
            Some(b'{') => Ok(Object { members: serde_json::from_str::<Members<'a>>(raw.get())?.0 }),
            Some(b'n') => Ok(Object::default()),
            _ => Err(JsonError::Type { member, expected: "an object" }),
        }
    }

    /// Every occurrence of a member that is not `null`, in order.
    fn occurrences(&self, name: &'static str) -> impl Iterator<Item = &'a RawValue> {
        self.members
            .iter()
            .filter(move |(key, raw)| key.eq_ignore_ascii_case(name) && raw.get() != "null")
            .map(|(_, raw)| *raw)
    }

    /// Reads a member: each occurrence must have the right type, the last one counts.
    fn last<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        read: impl Fn(&'a RawValue) -> Option<T>,
    ) -> Result<Option<T>, JsonError> {
        let mut found = None;
        for raw in self.occurrences(name) {
            found = Some(read(raw).ok_or(JsonError::Type { member: name, expected })?);
        }
        Ok(found)
    }

    /// A text member; empty when absent.
    pub fn text(&self, name: &'static str) -> Result<String, JsonError> {
        Ok(self.last(name, "a text", text_of)?.unwrap_or_default())
    }

    /// An integer member in the range of `T`; zero when absent.
    pub fn integer<T: FromStr + Default>(&self, name: &'static str) -> Result<T, JsonError> {
        // A JSON number never starts with '+', so Rust's own integer syntax is the Go peer's.
        Ok(self.last(name, "an integer in range", |raw| raw.get().parse().ok())?.unwrap_or_default())
    }

    /// A boolean member; false when absent.
    pub fn boolean(&self, name: &'static str) -> Result<bool, JsonError> {
        Ok(self.last(name, "true or false", |raw| raw.get().parse().ok())?.unwrap_or_default())
    }

    /// The objects of an array member; none when absent.
    pub fn objects(&self, name: &'static str) -> Result<Vec<Object<'a>>, JsonError> {
        let Some(array) =
            self.last(name, "an array", |raw| serde_json::from_str::<Items<'a>>(raw.get()).ok())?
        else {
            return Ok(Vec::new());
        };
        array.0.into_iter().map(|raw| Object::of(raw, name)).collect()
    }

    /// The text of a member as it was written; `None` when absent.
    pub fn raw(&self, name: &'static str) -> Option<&'a str> {
        self.occurrences(name).last().map(RawValue::get)
    }
}

/// A JSON string literal as text. `None` when it is something else.
fn text_of(raw: &RawValue) -> Option<String> {
    serde_json::from_str::<GoText>(raw.get()).ok().map(|t| t.0)
}

/// A string in which a lone surrogate is U+FFFD. serde_json hands it out only in the bytes form, as three bytes that
/// are no UTF-8; since the input was UTF-8, nothing else can be invalid there.
struct GoText(String);

impl<'de> Deserialize<'de> for GoText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = GoText;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<GoText, E> {
                let mut out = String::with_capacity(bytes.len());
                let mut invalid = 0;
                for chunk in bytes.utf8_chunks() {
                    out.push_str(chunk.valid());
                    for _ in chunk.invalid() {
                        invalid += 1;
                        if invalid % 3 == 0 {
                            out.push(char::REPLACEMENT_CHARACTER);
                        }
                    }
                }
                Ok(GoText(out))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// The members of an object in the order written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((GoText(name), value)) = map.next_entry::<GoText, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The elements of an array; `null` elements are kept.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(value) = seq.next_element::<&'de RawValue>()? {
                    items.push(value);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ignore_case_and_the_last_duplicate_wins() {
        let object = Object::parse(r#" {"A":"one","a":"two","b":[{}], "N":7,"n":null} "#).expect("object");
        assert_eq!(object.text("a"), Ok("two".into()));
        assert_eq!(object.integer::<u32>("n"), Ok(7), "null changes nothing");
        assert_eq!(object.text("missing"), Ok(String::new()));
        assert!(object.text("b").is_err());
        assert!(Object::parse(r#"{"a":1,"a":"x"}"#).expect("object").text("a").is_err());
    }

    #[test]
    fn numbers_are_integers_in_range() {
        let read = |n: &str| {
            let text = format!("{{\"n\":{n}}}");
            Object::parse(&text).and_then(|o| o.integer::<u32>("n"))
        };
        assert_eq!(read("4294967295"), Ok(4_294_967_295));
        for bad in ["4294967296", "-1", "1.0", "1e3", "\"1\"", "true", "[]", "-0"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for bad in ["01", "+1", "0x1", "NaN"] {
            assert!(matches!(read(bad), Err(JsonError::Syntax(_))), "{bad}");
        }
        assert_eq!(Object::parse(r#"{"n":-0}"#).and_then(|o| o.integer::<i64>("n")), Ok(0));
    }

    #[test]
    fn documents_end_where_they_end() {
        assert!(Object::parse("null").is_ok());
        for cut in ["", "{", r#"{"a":"x"#, r#"{"a":1"#] {
            assert_eq!(Object::parse(cut).map(|_| ()), Err(JsonError::Incomplete), "{cut:?}");
        }
        for bad in ["{}{}", "{} x", "[]", "3", "hello", "\u{feff}{}", "{\"a\":\"\n\"}"] {
            assert!(!matches!(Object::parse(bad), Ok(_) | Err(JsonError::Incomplete)), "{bad:?}");
        }
    }

    #[test]
    fn lone_surrogates_become_replacements() {
        let text = r#"{"\ud800k":1,"a":"x\ud800y\udc00\ud83d\ude00\ud800\ud800"}"#;
        let object = Object::parse(text).expect("object");
        assert_eq!(object.text("a"), Ok("x\u{fffd}y\u{fffd}\u{1f600}\u{fffd}\u{fffd}".into()));
    }

    #[test]
    fn deep_unknown_members_do_not_recurse() {
        let deep = format!("{{\"x\":{}{},\"a\":\"ok\"}}", "[".repeat(50_000), "]".repeat(50_000));
        assert_eq!(Object::parse(&deep).and_then(|o| o.text("a")), Ok("ok".into()));
    }
}
