//! Area `blueprint`: validation, rules and the conversions to policy documents.

use pilot_vectors::Entry;
use pilot_wire::blueprint::{self as bp, NetworkRules};
use serde_json::Value;

pub fn check(entry: &Entry) {
    let input = entry.text("input").as_bytes();
    assert_eq!(entry.bytes, input);
    let result = run(&entry.kind, input);
    assert_eq!(Some(result.is_ok()), entry.fields["ok"].as_bool(), "{result:?}");
    match result {
        Err(text) => super::assert_error_text(entry, &text),
        Ok(output) => {
            for key in ["reencoded", "output"] {
                if let Some(want) = entry.fields.get(key) {
                    assert_eq!(output.as_deref(), want.as_str(), "{key}");
                }
            }
        }
    }
}

fn run(op: &str, input: &[u8]) -> Result<Option<String>, String> {
    match op {
        "validate_blueprint" => {
            let blueprint = bp::parse_blueprint(input).map_err(|e| e.to_string())?;
            bp::validate_blueprint(&blueprint).map_err(|e| e.to_string())?;
            Ok(Some(blueprint.to_json().unwrap()))
        }
        "parse_rules" => {
            bp::parse_rules(input).map(|rules| Some(rules.to_json().unwrap())).map_err(|e| e.to_string())
        }
        "rules_to_policy" => {
            let absent = input == b"null";
            let rules = NetworkRules::from_json(input).map_err(|e| e.to_string())?;
            Ok(bp::rules_to_policy((!absent).then_some(&rules)))
        }
        "allowed_ports_to_policy" => {
            let ports: Option<Vec<u16>> = serde_json::from_slice::<Value>(input)
                .and_then(serde_json::from_value)
                .map_err(|e| e.to_string())?;
            Ok(bp::allowed_ports_to_policy(&ports.unwrap_or_default()))
        }
        other => panic!("no rule for op {other}"),
    }
}
