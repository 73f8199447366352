//! Older ways to restrict a network, written as policy documents, to the byte (blueprint.md section 3).

use super::NetworkRules;
use crate::gojson::quote;

/// `RulesToPolicy`: absent rules give no document. The rules are not validated again. Speaks the newest form, without the
/// activity score of older versions; the document stays on the node.
pub fn rules_to_policy(rules: Option<&NetworkRules>) -> Option<String> {
    let rules = rules?;
    let grace =
        if rules.grace.is_empty() { String::new() } else { format!(r#""grace":{},"#, quote(&rules.grace)) };
    Some(format!(
        concat!(
            r#"{{"version":1,"config":{{"cycle":{cycle},{grace}"max_peers":{links}}},"#,
            r#""rules":[{{"name":"cycle-prune-fill","on":"cycle","match":"true","actions":["#,
            r#"{{"type":"prune","params":{{"by":{prune_by},"count":{prune}}}}},"#,
            r#"{{"type":"fill","params":{{"count":{fill},"how":{fill_how}}}}}]}}]}}"#,
        ),
        cycle = quote(&rules.cycle),
        grace = grace,
        links = rules.links,
        prune_by = quote(&rules.prune_by),
        prune = rules.prune,
        fill = rules.fill,
        fill_how = quote(&rules.fill_how),
    ))
}

/// `AllowedPortsToPolicy`: an empty list gives no document. Order and duplicates are kept.
pub fn allowed_ports_to_policy(ports: &[u16]) -> Option<String> {
    if ports.is_empty() {
        return None;
    }
    let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let allowed = format!("port in [{list}]");
    let rules = [
        ("allow-ports", "connect", allowed.as_str(), "allow"),
        ("allow-ports-dg", "datagram", &allowed, "allow"),
        ("allow-ports-dial", "dial", &allowed, "allow"),
        ("deny-rest", "connect", "true", "deny"),
        ("deny-rest-dg", "datagram", "true", "deny"),
        ("deny-rest-dial", "dial", "true", "deny"),
    ]
    .map(|(name, on, condition, action)| {
        format!(r#"{{"name":"{name}","on":"{on}","match":"{condition}","actions":[{{"type":"{action}"}}]}}"#)
    });
    Some(format!(r#"{{"version":1,"rules":[{}]}}"#, rules.join(",")))
}
