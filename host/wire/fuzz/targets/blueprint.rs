//! Texts with a grammar: blueprints, rules, URLs, durations, JSON in general.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilot_wire::goduration::GoDuration;
use pilot_wire::{blueprint as bp, gojson, goquote};

fuzz_target!(|data: &[u8]| {
    if let Ok(blueprint) = bp::parse_blueprint(data) {
        let _ = bp::validate_blueprint(&blueprint);
        let again = blueprint.to_json().unwrap();
        assert_eq!(bp::parse_blueprint(again.as_bytes()).unwrap().to_json().unwrap(), again);
    }
    if let Ok(rules) = bp::NetworkRules::from_json(data) {
        let _ = bp::validate_rules(Some(&rules));
        let again = rules.to_json().unwrap();
        assert_eq!(bp::NetworkRules::from_json(again.as_bytes()), Ok(rules.clone()));
        let document = bp::rules_to_policy(Some(&rules)).unwrap();
        assert!(gojson::from_slice(document.as_bytes()).is_ok());
    }
    if let Ok(value) = gojson::from_slice(data) {
        let again = gojson::to_string(&value);
        assert_eq!(gojson::to_string(&gojson::from_slice(again.as_bytes()).unwrap()), again);
        assert_eq!(gojson::compact(&again), again);
    }
    let _ = goquote::quote_bytes(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = bp::check_url(text);
        let _ = gojson::compact(text);
        if let Ok(duration) = text.parse::<GoDuration>() {
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
});
