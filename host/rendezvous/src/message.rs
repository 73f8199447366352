//! Reading requests and building answers: JSON objects with the peers' rules for numbers and missing members.
//!
//! Called by every registry operation. Framing is the driver's. A busy registry reads tens of thousands of requests a
//! second, so texts stay where they are, in the request's own bytes, and neither side is a map of owned strings. Fact
//! sheet: registry.md section 2.

use std::borrow::Cow;
use std::fmt;

use pilot_wire::gojson;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The members of a request in the order in which they came. Of two with the same name the last one counts.
#[derive(Debug, Default)]
pub(crate) struct Members<'a>(Vec<(Cow<'a, str>, Member<'a>)>);

/// Most members are texts.
#[derive(Debug)]
enum Member<'a> {
    Text(Cow<'a, str>),
    Other(Value),
}

impl<'a> Members<'a> {
    /// Reads a JSON object, or `null`, which counts as an empty one.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    fn get(&self, key: &str) -> Option<&Member<'a>> {
        self.0.iter().rfind(|(name, _)| name == key).map(|(_, member)| member)
    }
}

/// A request; members of the wrong type count as missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a>(pub &'a Members<'a>);

impl<'a> Request<'a> {
    /// The operation.
    pub fn kind(&self) -> &'a str {
        self.text("type")
    }

    /// A text, "" when missing.
    pub fn text(&self, key: &str) -> &'a str {
        match self.0.get(key) {
            Some(Member::Text(text)) => text,
            _ => "",
        }
    }

    /// A node number: fractions cut off; 0 when missing, no number, negative or too large.
    pub fn node(&self, key: &str) -> u32 {
        // Not negative and not above u32::MAX, so the conversion only cuts the fraction.
        self.number(key).filter(|n| (0.0..=f64::from(u32::MAX)).contains(n)).map_or(0, |n| n as u32)
    }

    /// A network number, read like [`node`](Self::node).
    pub fn network(&self) -> u16 {
        u16::try_from(self.node("network_id")).unwrap_or(0)
    }

    /// A boolean, false when missing.
    pub fn flag(&self, key: &str) -> bool {
        self.other(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A number, fractions cut off.
    pub fn integer(&self, key: &str) -> Option<i64> {
        // `as` saturates, which is right for every range check that follows.
        self.number(key).map(|n| n as i64)
    }

    /// The texts of an array; other elements are skipped, a missing array is empty.
    pub fn texts(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.other(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// The member as it is; `null` counts as missing.
    pub fn value(&self, key: &str) -> Option<Cow<'a, Value>> {
        match self.0.get(key)? {
            Member::Text(text) => Some(Cow::Owned(Value::from(text.as_ref()))),
            Member::Other(Value::Null) => None,
            Member::Other(value) => Some(Cow::Borrowed(value)),
        }
    }

    fn other(&self, key: &str) -> Option<&'a Value> {
        match self.0.get(key)? {
            Member::Text(_) => None,
            Member::Other(value) => Some(value),
        }
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.other(key).and_then(Value::as_f64)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Members::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                // What nearly every request has at most.
                let mut members = Vec::with_capacity(8);
                while let Some((Name(name), member)) = map.next_entry()? {
                    members.push((name, member));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_any(Object)
    }
}

/// A member's name, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Member::deserialize(deserializer)? {
            Member::Text(text) => Ok(Self(text)),
            Member::Other(_) => Err(Error::custom("a member's name is no text")),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Member<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Member<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Member::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Member::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Member::Text(Cow::Owned(text)))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Member::Other(Value::Null))
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
                Ok(Member::Other(flag.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Member::Other(number.into()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Member::Other(number.into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Member::Other(number.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Value::deserialize(SeqAccessDeserializer::new(seq)).map(Member::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Value::deserialize(MapAccessDeserializer::new(map)).map(Member::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// An answer under construction.
#[derive(Clone, Debug)]
pub(crate) struct Answer(Vec<(&'static str, Value)>);

impl Answer {
    /// The success answer of an operation: `type` is `<op>_ok`.
    pub fn ok(op: &str) -> Self {
        Self::empty().with("type", [op, "_ok"].concat())
    }

    /// An object that is part of an answer.
    pub fn empty() -> Self {
        Self(Vec::with_capacity(10))
    }

    /// The failure answer.
    pub fn error(text: &str) -> Self {
        Self::empty().with("type", "error").with("error", text)
    }

    /// Adds a member, or puts the value in place of the one it has.
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        match self.0.iter_mut().find(|(name, _)| *name == key) {
            Some((_, present)) => *present = value,
            None => self.0.push((key, value)),
        }
        self
    }

    /// Adds a member when there is a value.
    pub fn with_some(self, key: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds a text when it is not empty.
    pub fn with_text(self, key: &'static str, text: &str) -> Self {
        self.with_some(key, (!text.is_empty()).then_some(text))
    }

    /// Adds `true` when it is.
    pub fn with_true(self, key: &'static str, flag: bool) -> Self {
        self.with_some(key, flag.then_some(true))
    }

    /// Adds an array of texts when it is not empty.
    pub fn with_texts(self, key: &'static str, texts: &[String]) -> Self {
        self.with_some(key, (!texts.is_empty()).then(|| texts.to_vec()))
    }

    /// A member that was added.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The answer, and nothing in its place.
    pub fn take(&mut self) -> Self {
        Self(std::mem::take(&mut self.0))
    }

    /// The text of the object, as the peers write it, behind what `out` holds.
    pub fn write(&self, out: &mut String) {
        gojson::push_members(out, self.0.iter().map(|(key, value)| (*key, value)));
    }

    /// The finished object.
    pub fn done(self) -> Map<String, Value> {
        self.0.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

impl From<Answer> for Value {
    fn from(answer: Answer) -> Self {
        Self::Object(answer.done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_only_from_numbers_in_range() {
        let text = r#"{"a":1,"b":"1","c":-1,"d":4294967296,"e":4294967295,"f":7.9,"g":1e3,"h":null,"i":1e99,
            "network_id":65536}"#;
        let map = Members::parse(text).unwrap();
        let r = Request(&map);
        let want = [
            ("a", 1),
            ("b", 0),
            ("c", 0),
            ("d", 0),
            ("e", u32::MAX),
            ("f", 7),
            ("g", 1000),
            ("h", 0),
            ("i", 0),
        ];
        for (key, value) in want {
            assert_eq!(r.node(key), value, "{key}");
        }
        assert_eq!(r.node("missing"), 0);
        assert_eq!(r.network(), 0);
        assert_eq!(r.integer("i"), Some(i64::MAX));
    }

    #[test]
    fn members_of_the_wrong_type_count_as_missing() {
        let map = Members::parse(r#"{"t":1,"f":"true","l":["a",1,null,"b"],"o":{}}"#).unwrap();
        let r = Request(&map);
        assert_eq!((r.text("t"), r.flag("f")), ("", false));
        assert_eq!(r.texts("l").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(r.texts("o").count(), 0);
    }

    #[test]
    fn a_request_is_read_as_a_json_reader_reads_it() {
        let text = r#" {"a":"x\n\u00e4","\u0061":"y","n":-7,"f":1.5,"l":[1,{"k":"v"}],"o":{"k":[null]},"z":null,"b":true} "#;
        let members = Members::parse(text).unwrap();
        let map: Map<String, Value> = serde_json::from_str(text).unwrap();
        let request = Request(&members);
        assert_eq!(request.text("a"), "y", "the last one counts");
        for (key, value) in &map {
            let want = Some(value).filter(|v| !v.is_null());
            assert_eq!(request.value(key).as_deref(), want, "{key}");
        }
        assert_eq!(Members::parse("null").unwrap().0.len(), 0);
        for bad in ["", "1", "[]", "\"a\"", "{", "{\"a\"}", "{\"a\":1,}", "{1:2}", "{} x"] {
            assert!(Members::parse(bad).is_err(), "{bad}");
        }
        // As deep as serde_json goes, and no further.
        let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(Members::parse(&deep(100)).is_ok());
        assert!(Members::parse(&deep(1_000)).is_err());
    }

    #[test]
    fn a_later_value_takes_the_place_of_an_earlier_one() {
        let answer = Answer::ok("x").with("b", 1).with("a", "<").with("b", 2);
        let mut text = String::new();
        answer.write(&mut text);
        assert_eq!(text, r#"{"a":"\u003c","b":2,"type":"x_ok"}"#);
        assert_eq!(answer.get("b"), Some(&Value::from(2)));
        assert_eq!(gojson::object_to_vec(&answer.done()), text.as_bytes());
    }
}
