//! Networks from blueprints.

use super::*;

fn provision(rig: &mut Rig, blueprint: Value) -> Map<String, Value> {
    rig.ask("provision_network", json!({"blueprint": blueprint, "admin_token": ADMIN}))
}

#[test]
fn a_blueprint_makes_a_network() {
    let mut rig = Rig::nodes(3);
    let blueprint = json!({"name": "firm", "join_rule": "token", "join_token": "t1", "enterprise": true,
        "policy": {"max_members": 5, "allowed_ports": [80]}, "expr_policy": {"version": 1, "rules": []},
        "roles": [{"external_id": "Ann@Example.org", "role": "owner"}, {"external_id": "bob", "role": "admin"}],
        "webhooks": {"audit_url": "https://hooks.example/a"}, "network_admin_token": "own"});
    let answer = provision(&mut rig, blueprint);
    let want = json!({"type": "provision_network_ok", "network_id": 1, "name": "firm", "created": true,
        "actions": ["enterprise enabled", "policy applied", "expr_policy applied", "webhooks recorded",
            "2 role pre-assignments set"]});
    assert_eq!(Value::from(answer), want);
    let listed = &rig.ok("list_networks", json!({}))["networks"][1];
    assert_eq!((&listed["max_members"], &listed["has_expr_policy"]), (&json!(5), &json!(true)));
    rig.ok("set_external_id", json!({"node_id": 1, "external_id": "ann@example.ORG", "admin_token": ADMIN}));
    assert_eq!(
        rig.ok("get_identity", json!({"node_id": 1, "admin_token": ADMIN}))["external_id"],
        "ann@example.ORG"
    );
    let mut rig = rig.restart();
    for node in [1, 2] {
        let params = json!({"node_id": node, "network_id": 1, "token": "t1"});
        let params = rig.signed(node, &challenge::join_network(node.into(), 1), params);
        rig.ok("join_network", params);
    }
    let role = |rig: &mut Rig, node: u32| {
        rig.ok("get_member_role", json!({"network_id": 1, "target_node_id": node}))["role"].clone()
    };
    assert_eq!((role(&mut rig, 1), role(&mut rig, 2)), (json!("owner"), json!("member")));
    rig.ok("rename_network", json!({"network_id": 1, "name": "company", "admin_token": "own"}));
}

#[test]
fn a_second_blueprint_changes_what_it_names() {
    let mut rig = Rig::nodes(1);
    provision(
        &mut rig,
        json!({"name": "firm", "enterprise": true, "policy": {"max_members": 5, "description": "d"}}),
    );
    let again =
        provision(&mut rig, json!({"name": "firm", "policy": {"max_members": 6}, "join_rule": "invite"}));
    assert_eq!((&again["created"], &again["network_id"]), (&json!(false), &json!(1)));
    let policy = rig.ok("get_network_policy", json!({"network_id": 1}));
    assert_eq!((&policy["max_members"], &policy["description"]), (&json!(6), &json!("d")));
    let listed = &rig.ok("list_networks", json!({}))["networks"][1];
    assert_eq!((&listed["join_rule"], &listed["enterprise"]), (&json!("open"), &json!(true)));
}

#[test]
fn a_bad_blueprint_changes_nothing() {
    let mut rig = Rig::nodes(1);
    let before = rig.stored.clone();
    for (blueprint, want) in [
        (Value::Null, "invalid blueprint: no blueprint given"),
        (json!([]), "invalid blueprint: "),
        (json!({"name": ""}), "invalid blueprint: name is required"),
        (json!({"name": "Bad_Name"}), "provision network: invalid name: "),
        (json!({"name": "x", "policy": {"max_members": 10_001}}), "apply policy: invalid max_members"),
        (json!({"name": "x", "expr_policy": {"version": 2}}), "invalid blueprint: expr_policy: "),
    ] {
        let answer = provision(&mut rig, blueprint);
        assert!(answer["error"].as_str().unwrap().starts_with(want), "{answer:?}");
    }
    assert_eq!(rig.stored, before);
    assert_eq!(rig.refused("provision_network", json!({"blueprint": {"name": "x"}})), "invalid admin token");
}

#[test]
fn who_is_who_elsewhere_is_for_the_admin_only() {
    let mut rig = Rig::nodes(1);
    rig.ok("set_external_id", json!({"node_id": 1, "external_id": "ann", "admin_token": ADMIN}));
    assert_eq!(rig.refused("get_identity", json!({"node_id": 1})), "invalid admin token");
    assert!(!rig.ok("lookup", json!({"node_id": 1})).contains_key("external_id"));
    let listed = rig.ok("list_nodes", json!({"network_id": 0, "admin_token": ADMIN}));
    assert_eq!(listed["nodes"][0]["external_id"], "ann");
}
