//! Policy documents: reading, judging, writing back (policy.md section 1). Called by the compiler and the views.
//!
//! Pure. What the expressions mean is not looked at here; that is `lang`'s and `compiled`'s business.

use pilot_wire::goduration::{GoDuration, ParseDurationError};
use pilot_wire::gojson;
use pilot_wire::goquote::quote;
use plugin_abi::PolicyEvent;
use serde_json::{Map, Value};

/// The only version there is.
const VERSION: i64 = 1;
/// Longer texts are refused before they are parsed; real documents have a few kilobytes.
const MAX_BYTES: usize = 1 << 20;
/// More rules than anyone writes by hand; each costs an evaluation per packet.
const MAX_RULES: usize = 1000;
/// The shortest cycle.
const MIN_CYCLE: GoDuration = GoDuration::from_nanos(1_000_000_000);

/// A document that passed every check of section 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// As written: `None` = absent or empty.
    pub default_verdict: Option<Verdict>,
    /// As written; see [`fail_closed`](Self::fail_closed).
    fail_closed: Option<bool>,
    config: Option<Map<String, Value>>,
    /// At least one.
    pub rules: Vec<Rule>,
}

/// What a gate decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    Deny,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    /// Unique.
    pub name: String,
    /// When it is looked at.
    pub on: PolicyEvent,
    /// The expression, not empty.
    pub condition: String,
    /// At least one.
    pub actions: Vec<Action>,
}

/// One action of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Action {
    /// What to do.
    pub kind: ActionKind,
    /// How; the required keys are there, their types are not checked.
    pub params: Option<Map<String, Value>>,
}

/// The actions of section 1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActionKind {
    Allow,
    Deny,
    Tag,
    Evict,
    EvictWhere,
    Prune,
    Fill,
    PruneTrust,
    FillTrust,
    Webhook,
    Log,
}

/// Why a document is refused: its author's fault. Clients show the texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("policy: invalid JSON: {0}")]
    Json(String),
    #[error("policy: unsupported version {0} (want 1)")]
    Version(i64),
    #[error("policy: default_verdict must be \"allow\" or \"deny\" (got {})", quote(.0))]
    DefaultVerdict(String),
    #[error("policy: at least one rule is required")]
    NoRules,
    #[error("policy: more than {MAX_RULES} rules")]
    TooManyRules,
    #[error("policy: rule[{0}]: name is required")]
    NoName(usize),
    #[error("policy: duplicate rule name {}", quote(.0))]
    DuplicateName(String),
    #[error("policy: rule {}: unknown event type {}", quote(.rule), quote(.event))]
    UnknownEvent { rule: String, event: String },
    #[error("policy: rule {}: match expression is required", quote(.0))]
    NoMatch(String),
    #[error("policy: rule {}: at least one action is required", quote(.0))]
    NoActions(String),
    #[error("policy: rule {} action[{index}]: {what}", quote(.rule))]
    Action { rule: String, index: usize, what: String },
    #[error("policy: config.cycle must be a string")]
    CycleType,
    #[error("policy: config.cycle: {0}")]
    Cycle(#[from] ParseDurationError),
    #[error("policy: config.cycle must be >= 1s")]
    CycleTooShort,
}

impl Document {
    /// Reads and judges a document, in the order of section 1.2.
    pub fn parse(json: &[u8]) -> Result<Document, DocumentError> {
        if json.len() > MAX_BYTES {
            return Err(DocumentError::Json(format!("the document is over {MAX_BYTES} bytes")));
        }
        let value = gojson::from_slice(json).map_err(|e| DocumentError::Json(json_cause(&e)))?;
        let root = Members::of(&value, "PolicyDocument")?;
        let version = root.integer("version")?;
        let default_verdict = root.text("default_verdict")?;
        let fail_closed = root.flag("fail_closed")?;
        let config = root.object("config")?;
        let rules = root.list("rules")?;
        // Types come first, for the whole document, because the Go peer decodes before it judges.
        let rules = rules.iter().map(RawRule::read).collect::<Result<Vec<_>, _>>()?;

        if version != VERSION {
            return Err(DocumentError::Version(version));
        }
        let default_verdict = match default_verdict.as_str() {
            "" => None,
            "allow" => Some(Verdict::Allow),
            "deny" => Some(Verdict::Deny),
            _ => return Err(DocumentError::DefaultVerdict(default_verdict)),
        };
        if rules.is_empty() {
            return Err(DocumentError::NoRules);
        }
        if rules.len() > MAX_RULES {
            return Err(DocumentError::TooManyRules);
        }
        let mut judged: Vec<Rule> = Vec::with_capacity(rules.len());
        for (index, raw) in rules.into_iter().enumerate() {
            if raw.name.is_empty() {
                return Err(DocumentError::NoName(index));
            }
            if judged.iter().any(|earlier| earlier.name == raw.name) {
                return Err(DocumentError::DuplicateName(raw.name));
            }
            judged.push(raw.judge()?);
        }
        let document = Document { default_verdict, fail_closed, config, rules: judged };
        document.check_cycle()?;
        Ok(document)
    }

    fn check_cycle(&self) -> Result<(), DocumentError> {
        match self.config.as_ref().and_then(|c| c.get("cycle")) {
            None => Ok(()),
            Some(Value::String(text)) if text.parse::<GoDuration>()? < MIN_CYCLE => {
                Err(DocumentError::CycleTooShort)
            }
            Some(Value::String(_)) => Ok(()),
            Some(_) => Err(DocumentError::CycleType),
        }
    }

    /// Whether a failing gate denies: yes unless the document says no.
    pub fn fail_closed(&self) -> bool {
        self.fail_closed.unwrap_or(true)
    }

    /// The period of the cycle as written.
    pub fn cycle(&self) -> Option<&str> {
        self.config.as_ref()?.get("cycle")?.as_str()
    }

    /// How many peers the table may have: 0 = no limit. A fraction is cut, as any number in a document is.
    pub fn max_peers(&self) -> usize {
        let max = self.config.as_ref().and_then(|c| c.get("max_peers")).map_or(0, number);
        usize::try_from(max).unwrap_or(0)
    }

    /// The document as the peer writes it (section 6.1): optional members left out, params and config sorted.
    pub fn to_json(&self) -> String {
        let mut members = vec![format!("\"version\":{VERSION}")];
        if let Some(verdict) = self.default_verdict {
            members.push(format!("\"default_verdict\":\"{}\"", verdict.as_str()));
        }
        if let Some(flag) = self.fail_closed {
            members.push(format!("\"fail_closed\":{flag}"));
        }
        if let Some(config) = self.config.as_ref().filter(|c| !c.is_empty()) {
            members.push(format!("\"config\":{}", object_text(config)));
        }
        let rules: Vec<String> = self.rules.iter().map(Rule::to_json).collect();
        members.push(format!("\"rules\":[{}]", rules.join(",")));
        format!("{{{}}}", members.join(","))
    }
}

impl Rule {
    fn to_json(&self) -> String {
        let actions: Vec<String> = self.actions.iter().map(Action::to_json).collect();
        format!(
            "{{\"name\":{},\"on\":\"{}\",\"match\":{},\"actions\":[{}]}}",
            gojson::quote(&self.name),
            self.on.as_str(),
            gojson::quote(&self.condition),
            actions.join(",")
        )
    }
}

impl Action {
    fn to_json(&self) -> String {
        match self.params.as_ref().filter(|p| !p.is_empty()) {
            None => format!("{{\"type\":\"{}\"}}", self.kind.as_str()),
            Some(params) => {
                format!("{{\"type\":\"{}\",\"params\":{}}}", self.kind.as_str(), object_text(params))
            }
        }
    }
}

fn object_text(object: &Map<String, Value>) -> String {
    gojson::to_string(&Value::Object(object.clone()))
}

impl Verdict {
    /// As written in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        }
    }
}

impl ActionKind {
    const ALL: [ActionKind; 11] = [
        ActionKind::Allow,
        ActionKind::Deny,
        ActionKind::Tag,
        ActionKind::Evict,
        ActionKind::EvictWhere,
        ActionKind::Prune,
        ActionKind::Fill,
        ActionKind::PruneTrust,
        ActionKind::FillTrust,
        ActionKind::Webhook,
        ActionKind::Log,
    ];

    /// As written in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            ActionKind::Allow => "allow",
            ActionKind::Deny => "deny",
            ActionKind::Tag => "tag",
            ActionKind::Evict => "evict",
            ActionKind::EvictWhere => "evict_where",
            ActionKind::Prune => "prune",
            ActionKind::Fill => "fill",
            ActionKind::PruneTrust => "prune_trust",
            ActionKind::FillTrust => "fill_trust",
            ActionKind::Webhook => "webhook",
            ActionKind::Log => "log",
        }
    }

    /// Keys that must be there. Of `tag`, one is enough.
    const fn required(self) -> &'static [&'static str] {
        match self {
            ActionKind::EvictWhere => &["match"],
            ActionKind::Prune | ActionKind::Fill => &["count"],
            ActionKind::PruneTrust => &["percent", "min"],
            ActionKind::FillTrust => &["target"],
            ActionKind::Webhook => &["event"],
            ActionKind::Log => &["message"],
            ActionKind::Allow | ActionKind::Deny | ActionKind::Tag | ActionKind::Evict => &[],
        }
    }
}

/// A number param: the fraction is cut, and what is no number counts as 0 (section 1.1).
pub(crate) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| value.as_f64().unwrap_or(0.0) as i64)
}

/// A rule whose types are right and nothing else.
struct RawRule {
    name: String,
    on: String,
    condition: String,
    actions: Vec<(String, Option<Map<String, Value>>)>,
}

impl RawRule {
    fn read(value: &Value) -> Result<RawRule, DocumentError> {
        let rule = Members::of(value, "Rule")?;
        let read_action = |value: &Value| {
            let action = Members::of(value, "Action")?;
            Ok::<_, DocumentError>((action.text("type")?, action.object("params")?))
        };
        Ok(RawRule {
            name: rule.text("name")?,
            on: rule.text("on")?,
            condition: rule.text("match")?,
            actions: rule.list("actions")?.iter().map(read_action).collect::<Result<_, _>>()?,
        })
    }

    fn judge(self) -> Result<Rule, DocumentError> {
        let RawRule { name, on, condition, actions } = self;
        let Some(event) = PolicyEvent::parse(&on) else {
            return Err(DocumentError::UnknownEvent { rule: name, event: on });
        };
        if condition.is_empty() {
            return Err(DocumentError::NoMatch(name));
        }
        if actions.is_empty() {
            return Err(DocumentError::NoActions(name));
        }
        let judge = |(index, (kind, params)): (usize, (String, Option<Map<String, Value>>))| {
            let refuse = |what| DocumentError::Action { rule: name.clone(), index, what };
            let Some(kind) = ActionKind::ALL.into_iter().find(|k| k.as_str() == kind) else {
                return Err(refuse(format!("unknown action type {}", quote(&kind))));
            };
            let has = |key: &str| params.as_ref().is_some_and(|p| p.contains_key(key));
            if kind == ActionKind::Tag && !has("add") && !has("remove") {
                return Err(refuse("tag requires 'add' or 'remove' param".into()));
            }
            if let Some(missing) = kind.required().iter().find(|key| !has(key)) {
                return Err(refuse(format!("{} requires '{missing}' param", kind.as_str())));
            }
            Ok(Action { kind, params })
        };
        let actions = actions.into_iter().enumerate().map(judge).collect::<Result<_, _>>()?;
        Ok(Rule { name, on: event, condition, actions })
    }
}

/// The members of one object, read as the Go peer's decoder does: names ignore case, `null` and absence give the zero
/// value, other types are errors.
struct Members<'a> {
    map: Option<&'a Map<String, Value>>,
    of: &'static str,
}

impl<'a> Members<'a> {
    fn of(value: &'a Value, of: &'static str) -> Result<Members<'a>, DocumentError> {
        match value {
            Value::Null => Ok(Members { map: None, of }),
            Value::Object(map) => Ok(Members { map: Some(map), of }),
            other => Err(DocumentError::Json(format!(
                "json: cannot unmarshal {} into Go value of type policylang.{of}",
                kind_of(other)
            ))),
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        let map = self.map?;
        let folded = || map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        map.get(name).or_else(folded).filter(|v| !v.is_null())
    }

    fn read<T>(
        &self,
        name: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, DocumentError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            let (kind, of) = (kind_of(value), self.of);
            let text =
                format!("json: cannot unmarshal {kind} into Go struct field {of}.{name} of type {wanted}");
            DocumentError::Json(text)
        })
    }

    fn integer(&self, name: &str) -> Result<i64, DocumentError> {
        Ok(self.read(name, "int", Value::as_i64)?.unwrap_or(0))
    }

    fn text(&self, name: &str) -> Result<String, DocumentError> {
        Ok(self.read(name, "string", Value::as_str)?.unwrap_or_default().to_owned())
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, DocumentError> {
        self.read(name, "bool", Value::as_bool)
    }

    fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, DocumentError> {
        Ok(self.read(name, "map[string]interface {}", Value::as_object)?.cloned())
    }

    fn list(&self, name: &str) -> Result<&'a [Value], DocumentError> {
        let list = self.read(name, "[]policylang value", Value::as_array)?;
        Ok(list.map(Vec::as_slice).unwrap_or_default())
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn json_cause(error: &serde_json::Error) -> String {
    if error.is_eof() { "unexpected end of JSON input".into() } else { error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_action(action: &str) -> Result<Document, DocumentError> {
        let rule = format!(r#"{{"name":"a","on":"cycle","match":"true","actions":[{action}]}}"#);
        Document::parse(format!(r#"{{"version":1,"rules":[{rule}]}}"#).as_bytes())
    }

    #[test]
    fn types_are_judged_before_values() {
        let text = |json: &str| Document::parse(json.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            text(r#"{"version":2,"rules":5}"#),
            "policy: invalid JSON: json: cannot unmarshal number into Go struct field PolicyDocument.rules of type []policylang value"
        );
        assert!(
            text(r#"{"version":"1"}"#).starts_with("policy: invalid JSON: json: cannot unmarshal string")
        );
        assert!(text(r#"{"version":1.5}"#).starts_with("policy: invalid JSON: "));
        assert_eq!(text("null"), "policy: unsupported version 0 (want 1)");
        assert!(text(&format!("\"{}\"", "x".repeat(MAX_BYTES))).starts_with("policy: invalid JSON: "));
    }

    #[test]
    fn member_names_ignore_case_and_unknown_ones_are_ignored() {
        let document = Document::parse(
            br#"{"Version":1,"RULES":[{"Name":"a","oN":"dial","match":"true","Actions":[{"TYPE":"allow","why":1}],"x":0}],"y":[]}"#,
        )
        .unwrap();
        assert_eq!(document.rules[0].on, PolicyEvent::Dial);
    }

    #[test]
    fn every_action_names_what_it_needs() {
        for (action, what) in [
            (r#"{"type":"tag","params":{}}"#, "tag requires 'add' or 'remove' param"),
            (r#"{"type":"evict_where"}"#, "evict_where requires 'match' param"),
            (r#"{"type":"fill","params":{"how":"random"}}"#, "fill requires 'count' param"),
            (r#"{"type":"prune_trust","params":{"percent":1}}"#, "prune_trust requires 'min' param"),
            (r#"{"type":"score","params":{"delta":1}}"#, "unknown action type \"score\""),
            (r#"{}"#, "unknown action type \"\""),
        ] {
            let error = with_action(action).unwrap_err().to_string();
            assert_eq!(error, format!("policy: rule \"a\" action[0]: {what}"));
        }
        assert!(with_action(r#"{"type":"tag","params":{"remove":null}}"#).is_ok(), "the key is there");
    }

    #[test]
    fn the_cycle_is_checked_last() {
        let with_config = |config: &str| {
            let rule = r#"{"name":"a","on":"cycle","match":"true","actions":[{"type":"evict"}]}"#;
            Document::parse(format!(r#"{{"version":1,"config":{config},"rules":[{rule}]}}"#).as_bytes())
        };
        assert_eq!(with_config(r#"{"cycle":"999ms"}"#), Err(DocumentError::CycleTooShort));
        assert_eq!(with_config(r#"{"cycle":null}"#), Err(DocumentError::CycleType));
        assert_eq!(with_config(r#"{"cycle":"1s","max_peers":4.9}"#).unwrap().max_peers(), 4);
        assert_eq!(with_config(r#"{"max_peers":"many"}"#).unwrap().max_peers(), 0);
        assert_eq!(with_config(r#"{"max_peers":-1}"#).unwrap().max_peers(), 0);
    }

    #[test]
    fn a_document_is_written_as_the_peer_writes_it() {
        let text = concat!(
            r#"{"version":1,"default_verdict":"deny","fail_closed":false,"config":{"cycle":"1h","max_peers":4},"#,
            r#""rules":[{"name":"a","on":"connect","match":"port \u003c 5","actions":[{"type":"allow"},"#,
            r#"{"type":"tag","params":{"add":["x"],"remove":["y"]}}]}]}"#
        );
        assert_eq!(Document::parse(text.as_bytes()).unwrap().to_json(), text);
        let short =
            r#"{"version":1,"rules":[{"name":"a","on":"join","match":"true","actions":[{"type":"deny"}]}]}"#;
        let long = short.replace("1,", r#"1,"default_verdict":"","fail_closed":null,"config":{},"#);
        assert_eq!(Document::parse(long.as_bytes()).unwrap().to_json(), short);
    }
}
