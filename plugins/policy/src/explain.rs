//! Why a document decides as it does: its rules one by one against a context that a person describes, without putting it
//! in force and without any effect. Called by the manager for `pilotctl policy test` and `policy validate`.
//!
//! The answer is made by the same compiled rules and the same walk as a gate's (policy.md section 3); only the bookkeeping
//! is added. What the context leaves out is filled in as the runner would for an unknown peer, and listed in `assumed`.

use std::sync::Arc;

use plugin_abi::{Error, PolicyEvent, Result};
use serde_json::{Map, Value, json};

use crate::compiled::{Directive, Policy};
use crate::document::{ActionKind, Document, Verdict};
use crate::lang::{self, Kind, Variable};
use crate::workers::Workers;

/// Compiles `document_json` and, when `event` is not empty, explains it.
///
/// # Errors
/// Kind `Invalid`: the document is refused (with the texts of policy.md section 1.2), the event is unknown, or the context
/// names what the event does not have.
pub(crate) fn explain(
    workers: &Arc<Workers>,
    document_json: &str,
    event: &str,
    context: &Map<String, Value>,
    now: f64,
) -> Result<Map<String, Value>> {
    let document = Document::parse(document_json.as_bytes())
        .map_err(|e| Error::invalid(format!("parse policy: {e}")))?;
    let policy =
        Policy::compile(document, workers).map_err(|e| Error::invalid(format!("compile policy: {e}")))?;
    if event.is_empty() {
        return Ok(summary(&policy));
    }
    let event = PolicyEvent::parse(event).ok_or_else(|| {
        Error::invalid(format!(
            "unknown event \"{event}\" (known: connect, dial, datagram, join, leave, cycle)"
        ))
    })?;
    let (values, assumed) = complete(event, context).map_err(Error::invalid)?;
    Ok(Explanation { policy: &Arc::new(policy), workers, event, values: &values, now }.answer(assumed))
}

/// What a document holds, for those who only want to know whether it is valid.
fn summary(policy: &Policy) -> Map<String, Value> {
    let rules = policy.document.rules.iter();
    let rules: Vec<Value> = rules
        .map(|r| {
            let actions: Vec<&str> = r.actions.iter().map(|a| a.kind.as_str()).collect();
            json!({"rule": r.name, "on": r.on.as_str(), "match": r.condition, "actions": actions})
        })
        .collect();
    members(json!({
        "valid": true,
        "default_verdict": policy.document.default_verdict.map_or("allow", Verdict::as_str),
        "fail_closed": policy.document.fail_closed(),
        "rules": rules,
    }))
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

struct Explanation<'a> {
    policy: &'a Arc<Policy>,
    workers: &'a Arc<Workers>,
    event: PolicyEvent,
    values: &'a Map<String, Value>,
    now: f64,
}

impl Explanation<'_> {
    fn answer(&self, assumed: Vec<&'static str>) -> Map<String, Value> {
        let is_gate = is_gate(self.event);
        let mut rules = Vec::new();
        let mut kept: Vec<Directive> = Vec::new();
        // Where the walk ended: the rule, and whether it ended there because of an error.
        let mut ended: Option<(usize, Option<String>)> = None;
        for index in 0..self.policy.document.rules.len() {
            let (outcome, directives) = self.rule(index, is_gate, &mut ended);
            let rule = &self.policy.document.rules[index];
            let mut entry = json!({
                "rule": rule.name, "on": rule.on.as_str(), "match": rule.condition, "outcome": outcome,
            });
            if let Some((at, Some(error))) = &ended
                && *at == index
            {
                entry["error"] = error.clone().into();
            }
            if !directives.is_empty() {
                entry["directives"] = directives.iter().map(|d| self.directive(d)).collect();
            }
            kept.extend(directives);
            rules.push(entry);
        }
        let mut answer = members(json!({
            "event": self.event.as_str(),
            "context": self.values,
            "assumed": assumed,
            "rules": rules,
        }));
        self.conclude(&mut answer, is_gate, ended, kept);
        answer
    }

    /// The outcome of one rule, and what it contributes.
    fn rule(
        &self,
        index: usize,
        is_gate: bool,
        ended: &mut Option<(usize, Option<String>)>,
    ) -> (&'static str, Vec<Directive>) {
        if self.policy.document.rules[index].on != self.event {
            return ("other event", Vec::new());
        }
        if ended.is_some() {
            return ("not reached", Vec::new());
        }
        match self.policy.applies(self.workers, index, self.values, self.now) {
            Err(error) => {
                *ended = Some((index, Some(error.to_string())));
                ("error", Vec::new())
            }
            Ok(false) => ("no match", Vec::new()),
            Ok(true) => {
                let directives: Vec<Directive> = self.policy.directives(index).collect();
                if is_gate && directives.iter().any(|d| d.verdict().is_some()) {
                    *ended = Some((index, None));
                }
                ("match", directives)
            }
        }
    }

    /// The end of the story: verdict or directives, and one sentence.
    fn conclude(
        &self,
        answer: &mut Map<String, Value>,
        is_gate: bool,
        ended: Option<(usize, Option<String>)>,
        mut kept: Vec<Directive>,
    ) {
        let name = |index: usize| self.policy.document.rules[index].name.as_str();
        let because;
        let mut verdict = None;
        match ended {
            Some((index, Some(_))) => {
                // An error discards everything collected before it.
                kept.clear();
                let closed = self.policy.document.fail_closed();
                if is_gate {
                    verdict = Some(if closed { Verdict::Deny } else { Verdict::Allow });
                }
                let way = if closed { "fails closed" } else { "fails open" };
                because = match is_gate {
                    true => format!("rule \"{}\" cannot be evaluated and the document {way}", name(index)),
                    false => format!("rule \"{}\" cannot be evaluated, so nothing is done", name(index)),
                };
            }
            Some((index, None)) => {
                verdict = kept.iter().find_map(Directive::verdict);
                because = format!("rule \"{}\" decides", name(index));
            }
            None if is_gate => {
                let default = self.policy.document.default_verdict;
                verdict = Some(default.unwrap_or(Verdict::Allow));
                because = match default {
                    Some(_) => "no rule decides; the document's default_verdict does".to_owned(),
                    None => "no rule decides and the document names no default_verdict".to_owned(),
                };
            }
            None => because = format!("{} directive(s) from the rules that match", kept.len()),
        }
        if let Some(verdict) = verdict {
            answer.insert("verdict".into(), verdict.as_str().into());
        }
        answer.insert("because".into(), because.into());
        answer.insert("directives".into(), kept.iter().map(|d| self.directive(d)).collect());
    }

    fn directive(&self, directive: &Directive) -> Value {
        let mut shown = json!({
            "type": directive.kind.as_str(),
            "rule": self.policy.rule_name(directive),
            "action_index": directive.action,
            "effect": effect(self.event, directive.kind),
        });
        if let Some(params) = self.policy.params(directive) {
            shown["params"] = params.clone().into();
        }
        shown
    }
}

fn is_gate(event: PolicyEvent) -> bool {
    matches!(event, PolicyEvent::Connect | PolicyEvent::Dial | PolicyEvent::Datagram)
}

/// What a directive does on an event (policy.md sections 5 and 6): documents often hold some that do nothing there.
fn effect(event: PolicyEvent, kind: ActionKind) -> &'static str {
    let gate = is_gate(event);
    match kind {
        ActionKind::Allow | ActionKind::Deny if gate => "verdict",
        ActionKind::Deny if event == PolicyEvent::Join => "keeps the peer out",
        ActionKind::Allow | ActionKind::Deny => "none on this event",
        ActionKind::Log => "log line",
        ActionKind::Webhook => "event on the bus",
        ActionKind::Tag if event == PolicyEvent::Leave => "none on this event",
        ActionKind::Tag if event == PolicyEvent::Cycle => "changes the peer's tags (pass over the peers)",
        ActionKind::Tag => "changes the peer's tags, if it is in the table",
        ActionKind::Evict if event == PolicyEvent::Join => "removes the peer",
        ActionKind::EvictWhere
        | ActionKind::Prune
        | ActionKind::Fill
        | ActionKind::PruneTrust
        | ActionKind::FillTrust
            if event == PolicyEvent::Cycle =>
        {
            "changes the table or trust (pass over the fleet)"
        }
        _ => "none on this event",
    }
}

/// What the runner itself would give on an event, with the value for a peer it does not know; everything else is nil when
/// the context does not name it (policy.md section 2.1).
fn given(event: PolicyEvent, name: &str) -> bool {
    match event {
        PolicyEvent::Connect | PolicyEvent::Dial | PolicyEvent::Datagram => name != "sender_rating",
        PolicyEvent::Cycle => {
            matches!(name, "network_id" | "members" | "peer_count" | "cycle_num" | "trusted_count")
        }
        PolicyEvent::Join | PolicyEvent::Leave => name != "local_tags",
    }
}

/// The context with types put right and gaps filled, and the names of what was filled in.
fn complete(
    event: PolicyEvent,
    context: &Map<String, Value>,
) -> std::result::Result<(Map<String, Value>, Vec<&'static str>), String> {
    let variables = lang::declared(event);
    if let Some(unknown) = context.keys().find(|key| variables.iter().all(|v| v.name != **key)) {
        let known: Vec<&str> = variables.iter().map(|v| v.name).collect();
        return Err(format!(
            "context: {unknown} is not a variable of {} events (known: {})",
            event.as_str(),
            known.join(", ")
        ));
    }
    let (mut values, mut assumed) = (Map::new(), Vec::new());
    for variable in variables {
        match context.get(variable.name) {
            Some(Value::Null) => {}
            Some(value) => {
                values.insert(variable.name.into(), typed(*variable, value)?);
            }
            None if given(event, variable.name) => {
                values.insert(variable.name.into(), unknown_peer(*variable));
                assumed.push(variable.name);
            }
            None => {}
        }
    }
    Ok((values, assumed))
}

/// A value as the variable's type wants it. Text stands for everything, so that command lines need no JSON.
fn typed(variable: Variable, value: &Value) -> std::result::Result<Value, String> {
    let wrong = |what: &str| format!("context: {} must be {what} (got {value})", variable.name);
    let text = value.as_str().map(str::trim);
    match variable.kind {
        Kind::Int => {
            let number = value.as_i64().or_else(|| text?.parse().ok());
            number.map(Value::from).ok_or_else(|| wrong("a whole number"))
        }
        Kind::Float => {
            let number = value.as_f64().or_else(|| text?.parse().ok()).filter(|n| n.is_finite());
            number.map(Value::from).ok_or_else(|| wrong("a number"))
        }
        Kind::Text => value.as_str().map(Value::from).ok_or_else(|| wrong("text")),
        Kind::Tags => match (value, text) {
            (Value::Array(tags), _) if tags.iter().all(Value::is_string) => Ok(value.clone()),
            (_, Some(list)) => {
                Ok(list.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(Value::from).collect())
            }
            _ => Err(wrong("a list of texts, or one text with commas")),
        },
    }
}

fn unknown_peer(variable: Variable) -> Value {
    match variable.kind {
        Kind::Int => 0.into(),
        Kind::Float => 0.0.into(),
        // `direction` is the only text.
        Kind::Text => "in".into(),
        Kind::Tags => Value::Array(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(document: &Value, event: &str, context: Value) -> Result<Map<String, Value>> {
        let context = context.as_object().cloned().unwrap_or_default();
        explain(&Workers::new(), &document.to_string(), event, &context, 0.0)
    }

    fn outcomes(answer: &Map<String, Value>) -> Vec<&str> {
        answer["rules"].as_array().unwrap().iter().map(|r| r["outcome"].as_str().unwrap()).collect()
    }

    fn gates() -> Value {
        json!({"version": 1, "rules": [
            {"name": "mark", "on": "connect", "match": "has_tag(peer_tags, \"new\")",
                "actions": [{"type": "tag", "params": {"add": ["seen"]}}, {"type": "prune", "params": {"count": 1}}]},
            {"name": "out", "on": "dial", "match": "true", "actions": [{"type": "deny"}]},
            {"name": "ssh", "on": "connect", "match": "port == 22", "actions": [{"type": "deny"}]},
            {"name": "web", "on": "connect", "match": "port == 80", "actions": [{"type": "allow"}]}]})
    }

    #[test]
    fn every_rule_says_what_became_of_it() {
        let answer = ask(&gates(), "connect", json!({"port": "22", "peer_tags": "new, red"})).unwrap();
        assert_eq!(outcomes(&answer), ["match", "other event", "match", "not reached"]);
        assert_eq!(
            (&answer["verdict"], &answer["because"]),
            (&json!("deny"), &json!("rule \"ssh\" decides"))
        );
        assert_eq!(answer["context"]["peer_tags"], json!(["new", "red"]));
        assert_eq!(
            answer["rules"][0]["directives"][0]["effect"],
            "changes the peer's tags, if it is in the table"
        );
        assert_eq!(answer["rules"][0]["directives"][1]["effect"], "none on this event");
        let types: Vec<&Value> =
            answer["directives"].as_array().unwrap().iter().map(|d| &d["type"]).collect();
        assert_eq!(types, ["tag", "prune", "deny"]);
        assert!(answer["assumed"].as_array().unwrap().contains(&json!("peer_age_s")));

        let answer = ask(&gates(), "connect", json!({"port": 443})).unwrap();
        assert_eq!(outcomes(&answer), ["no match", "other event", "no match", "no match"]);
        assert_eq!(answer["verdict"], "allow");
        assert_eq!(answer["because"], "no rule decides and the document names no default_verdict");
    }

    #[test]
    fn an_error_says_where_and_which_way_it_fails() {
        let mut document = json!({"version": 1, "rules": [{"name": "low", "on": "connect",
            "match": "sender_rating < 0.25", "actions": [{"type": "allow"}]}]});
        let answer = ask(&document, "connect", json!({})).unwrap();
        assert_eq!((outcomes(&answer), &answer["verdict"]), (vec!["error"], &json!("deny")));
        assert!(answer["rules"][0]["error"].as_str().unwrap().starts_with("policy: rule \"low\" eval: "));
        document["fail_closed"] = false.into();
        assert_eq!(ask(&document, "connect", json!({})).unwrap()["verdict"], "allow");
        let answer = ask(&document, "connect", json!({"sender_rating": 0.9})).unwrap();
        assert_eq!(outcomes(&answer), ["no match"]);
    }

    #[test]
    fn action_events_show_their_directives() {
        let document = json!({"version": 1, "rules": [
            {"name": "turn", "on": "cycle", "match": "peer_count >= 3 and peer_id == nil",
                "actions": [{"type": "prune", "params": {"count": 1}}, {"type": "deny"}]},
            {"name": "all", "on": "cycle", "match": "true", "actions": [{"type": "log", "params": {"message": "x"}}]}]});
        let answer = ask(&document, "cycle", json!({"peer_count": 3})).unwrap();
        assert_eq!(outcomes(&answer), ["match", "match"]);
        assert!(answer.get("verdict").is_none());
        assert_eq!(answer["directives"].as_array().unwrap().len(), 3);
        assert_eq!(answer["directives"][1]["effect"], "none on this event");
        // In the pass over the peers the first rule does not apply.
        assert_eq!(
            outcomes(&ask(&document, "cycle", json!({"peer_count": 3, "peer_id": 9})).unwrap())[0],
            "no match"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (event, context, text) in [
            (
                "picnic",
                json!({}),
                "unknown event \"picnic\" (known: connect, dial, datagram, join, leave, cycle)",
            ),
            (
                "leave",
                json!({"port": 1}),
                "context: port is not a variable of leave events (known: peer_id, network_id, local_tags)",
            ),
            ("connect", json!({"port": "ssh"}), "context: port must be a whole number (got \"ssh\")"),
            (
                "connect",
                json!({"peer_tags": [1]}),
                "context: peer_tags must be a list of texts, or one text with commas (got [1])",
            ),
        ] {
            assert_eq!(ask(&gates(), event, context).unwrap_err().message(), text);
        }
        let refused = ask(&json!({"version": 2}), "connect", json!({})).unwrap_err();
        assert_eq!(refused.message(), "parse policy: policy: unsupported version 2 (want 1)");
        let valid = ask(&gates(), "", json!({})).unwrap();
        assert_eq!((&valid["valid"], valid["rules"].as_array().unwrap().len()), (&json!(true), 4));
    }
}
