//! The audit log and the webhook's settings.

use super::*;

fn log(rig: &mut Rig, params: Value) -> Vec<Value> {
    let mut params = params;
    params["admin_token"] = ADMIN.into();
    rig.ok("get_audit_log", params)["entries"].as_array().unwrap().clone()
}

#[test]
fn what_was_changed_is_logged_newest_first_and_without_secrets() {
    let mut rig = Rig::nodes(2);
    let network = rig.network("team", "token", true);
    rig.enter(2, network);
    rig.ok("rename_network", json!({"network_id": network, "name": "crew", "admin_token": ADMIN}));
    rig.refused("kick_member", json!({"network_id": network, "target_node_id": 1, "admin_token": ADMIN}));
    let mut rig = rig.restart();
    let entries = log(&mut rig, json!({}));
    let actions: Vec<_> = entries.iter().map(|e| e["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["network.renamed", "network.joined", "network.created"]);
    let want = json!({"event_id": 2, "action": "network.joined", "timestamp": "2027-01-15T08:00:00Z",
        "details": {"node_id": 2, "network_id": 1}});
    assert_eq!(entries[1], want);
    let text = Value::from(entries).to_string();
    assert!(!text.contains(ADMIN) && !text.contains("t0"), "{text}");
    assert_eq!(log(&mut rig, json!({"limit": 1})).len(), 1);
    assert_eq!(log(&mut rig, json!({"network_id": 9})).len(), 0);
    assert_eq!(rig.refused("get_audit_log", json!({})), "invalid admin token");
}

#[test]
fn the_log_keeps_the_newest() {
    let mut rig = Rig::with(|s| s.audit_entries = 3);
    rig.join(1);
    let network = rig.network("team", "open", true);
    for name in ["a", "b", "c", "d"] {
        rig.ok("rename_network", json!({"network_id": network, "name": name, "admin_token": ADMIN}));
    }
    let names: Vec<_> = log(&mut rig, json!({})).iter().map(|e| e["details"]["name"].clone()).collect();
    assert_eq!(names, ["d", "c", "b"]);
    assert_eq!(rig.stored.keys().filter(|k| matches!(k, RecordKey::Audit(_))).count(), 3);
}

#[test]
fn the_webhook_is_set_kept_and_checked() {
    let mut rig = Rig::nodes(1);
    let url = "https://hooks.example/audit";
    let set = |url: &str| json!({"url": url, "admin_token": ADMIN});
    rig.ok("set_webhook", set(url));
    let bad = rig.refused("set_webhook", set("ftp://hooks.example"));
    assert!(bad.starts_with("invalid webhook url: "), "{bad}");
    let mut rig = rig.restart();
    assert_eq!(rig.ok("get_webhook", json!({"admin_token": ADMIN}))["url"], url);
    assert_eq!(rig.registry.webhook_url(), Some(url));
    for _ in 0..150 {
        rig.registry.undelivered(Map::from_iter([("event_id".to_owned(), json!(1))]));
    }
    assert_eq!(rig.ok("get_webhook_dlq", json!({"admin_token": ADMIN}))["count"], 100);
    rig.ok("set_webhook", set(""));
    assert_eq!(rig.registry.webhook_url(), None);
    assert_eq!(rig.refused("get_webhook", json!({})), "invalid admin token");
}
