//! Reading requests and building answers: JSON objects with the peers' rules for numbers and missing members.
//!
//! Called by every registry operation. Framing and JSON text are the driver's. Fact sheet: registry.md section 2.

use serde_json::{Map, Value};

/// A request; members of the wrong type count as missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a>(pub &'a Map<String, Value>);

impl<'a> Request<'a> {
    /// The operation.
    pub fn kind(&self) -> &'a str {
        self.text("type")
    }

    /// A text, "" when missing.
    pub fn text(&self, key: &str) -> &'a str {
        self.0.get(key).and_then(Value::as_str).unwrap_or("")
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
        self.0.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A number, fractions cut off.
    pub fn integer(&self, key: &str) -> Option<i64> {
        // `as` saturates, which is right for every range check that follows.
        self.number(key).map(|n| n as i64)
    }

    /// The texts of an array; other elements are skipped, a missing array is empty.
    pub fn texts(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// The member as it is; `null` counts as missing.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.0.get(key).and_then(Value::as_f64)
    }
}

/// An answer under construction.
#[derive(Debug)]
pub(crate) struct Answer(Map<String, Value>);

impl Answer {
    /// The success answer of an operation: `type` is `<op>_ok`.
    pub fn ok(op: &str) -> Self {
        Self::empty().with("type", format!("{op}_ok"))
    }

    /// An object that is part of an answer.
    pub fn empty() -> Self {
        Self(Map::new())
    }

    /// The failure answer.
    pub fn error(text: &str) -> Self {
        Self::empty().with("type", "error").with("error", text)
    }

    /// Adds a member.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a member when there is a value.
    pub fn with_some(self, key: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Adds a text when it is not empty.
    pub fn with_text(self, key: &str, text: &str) -> Self {
        self.with_some(key, (!text.is_empty()).then_some(text))
    }

    /// Adds `true` when it is.
    pub fn with_true(self, key: &str, flag: bool) -> Self {
        self.with_some(key, flag.then_some(true))
    }

    /// Adds an array of texts when it is not empty.
    pub fn with_texts(self, key: &str, texts: &[String]) -> Self {
        self.with_some(key, (!texts.is_empty()).then(|| texts.to_vec()))
    }

    /// The finished object.
    pub fn done(self) -> Map<String, Value> {
        self.0
    }
}

impl From<Answer> for Value {
    fn from(answer: Answer) -> Self {
        Self::Object(answer.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_only_from_numbers_in_range() {
        let text = r#"{"a":1,"b":"1","c":-1,"d":4294967296,"e":4294967295,"f":7.9,"g":1e3,"h":null,"i":1e99,
            "network_id":65536}"#;
        let map: Map<String, Value> = serde_json::from_str(text).unwrap();
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
        let map: Map<String, Value> =
            serde_json::from_str(r#"{"t":1,"f":"true","l":["a",1,null,"b"],"o":{}}"#).unwrap();
        let r = Request(&map);
        assert_eq!((r.text("t"), r.flag("f")), ("", false));
        assert_eq!(r.texts("l").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(r.texts("o").count(), 0);
    }
}
