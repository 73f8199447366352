//! JSON bodies of requests: writing them, and reading members with the Go decoder's complaints (ipc.md section 13).
//!
//! Used by `request.rs` and `family.rs` only.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::go_error::{go_json_error, go_kind};
use super::request::Refusal;

/// A JSON array of texts, written without spaces.
pub(super) fn json_list(items: &[String]) -> Bytes {
    Value::from(items.to_vec()).to_string().into()
}

pub(super) fn json_object<'a>(members: impl IntoIterator<Item = (&'a str, Value)>) -> Bytes {
    let object: Map<String, Value> = members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    Value::Object(object).to_string().into()
}

/// A JSON request body: absent and `null` members read as empty, wrong types are refused in the Go decoder's words.
pub(super) struct Object {
    op: &'static str,
    pub(super) members: Map<String, Value>,
}

impl Object {
    pub(super) fn parse(op: &'static str, body: &[u8]) -> Result<Self, Refusal> {
        let bad = |cause: String| Refusal::from(format!("{op}: bad payload: {cause}"));
        if let Some(cause) = go_json_error(body) {
            return Err(bad(cause));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Ok(Object { op, members }),
            Ok(Value::Null) => Ok(Object { op, members: Map::new() }),
            Ok(other) => {
                Err(bad(format!("json: cannot unmarshal {} into Go value of type object", go_kind(&other))))
            }
            Err(e) => Err(bad(e.to_string())),
        }
    }

    fn wrong(&self, key: &str, got: &Value, want: &str) -> Refusal {
        let (op, kind) = (self.op, go_kind(got));
        format!("{op}: bad payload: json: cannot unmarshal {kind} into Go struct field .{key} of type {want}")
            .into()
    }

    pub(super) fn text(&self, key: &str) -> Result<String, Refusal> {
        match self.members.get(key) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(s)) => Ok(s.clone()),
            Some(other) => Err(self.wrong(key, other, "string")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, Refusal> {
        match self.members.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(v)) => Ok(*v),
            Some(other) => Err(self.wrong(key, other, "bool")),
        }
    }

    /// Whole seconds; fractions are cut.
    pub(super) fn seconds(&self, key: &str) -> Result<i64, Refusal> {
        match self.members.get(key) {
            None | Some(Value::Null) => Ok(0),
            Some(Value::Number(n)) => Ok(n.as_i64().unwrap_or_else(|| n.as_f64().unwrap_or(0.0) as i64)),
            Some(other) => Err(self.wrong(key, other, "float64")),
        }
    }
}
