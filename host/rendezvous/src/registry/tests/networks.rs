//! Networks, members, invitations, policies.

use super::*;

fn leave(node: u8, network: u16) -> Value {
    json!({"node_id": node, "network_id": network, "signature": sign(node, &challenge::leave_network(node.into(), network))})
}

fn join(node: u8, network: u16) -> Value {
    json!({"node_id": node, "network_id": network, "token": "",
        "signature": sign(node, &challenge::join_network(node.into(), network))})
}

fn invite(inviter: u8, network: u16, target: u8) -> Value {
    let text = challenge::invite_to_network(inviter.into(), network, target.into());
    json!({"inviter_id": inviter, "network_id": network, "target_node_id": target, "signature": sign(inviter, &text)})
}

fn answer_invite(node: u8, network: u16, accept: bool) -> Value {
    let signature = sign(node, &challenge::respond_invite(node.into(), network));
    json!({"node_id": node, "network_id": network, "accept": accept, "signature": signature})
}

/// Node 1 owns an enterprise network that 2 and 3 are members of.
fn enterprise() -> (Rig, u16) {
    let mut rig = Rig::nodes(4);
    let network = rig.network("team", "open", true);
    rig.enter(2, network);
    rig.enter(3, network);
    (rig, network)
}

fn role(rig: &mut Rig, network: u16, node: u32) -> Value {
    rig.ok("get_member_role", json!({"network_id": network, "target_node_id": node}))["role"].clone()
}

#[test]
fn founding_a_network() {
    let mut rig = Rig::nodes(1);
    let create = |name: &str| json!({"name": name, "node_id": 1, "admin_token": ADMIN});
    let answer = rig.ok("create_network", create("team"));
    let want = json!({"type": "create_network_ok", "network_id": 1, "name": "team", "enterprise": false});
    assert_eq!(Value::from(answer), want);
    assert_eq!(rig.refused("create_network", create("team")), r#"network "team" already exists"#);
    assert_eq!(rig.refused("create_network", create("")), "network name required");
    assert_eq!(rig.refused("create_network", create("backbone")), "request failed", "reserved: hidden");
    let mut unknown = create("x");
    unknown["node_id"] = 9.into();
    assert_eq!(rig.refused("create_network", unknown), "request failed");
    let mut closed = create("x");
    closed["join_rule"] = "invite".into();
    assert_eq!(
        rig.refused("create_network", closed),
        "enterprise feature: invite-only networks require the enterprise flag"
    );
    let mut odd = create("x");
    odd["join_rule"] = "secret".into();
    assert!(rig.refused("create_network", odd).starts_with("invalid join_rule"));
}

#[test]
fn founding_a_managed_network() {
    let mut rig = Rig::nodes(2);
    let rules = r#"{"links":8,"cycle":"24h","prune":1,"prune_by":"age","fill":1,"fill_how":"random"}"#;
    let mut create = json!({"name": "m", "node_id": 1, "admin_token": ADMIN, "rules": rules,
        "expr_policy": {"version": 1, "rules": []}});
    assert_eq!(rig.ok("create_network", create.clone())["managed"], true);
    let joined = rig.ok("join_network", join(2, 1));
    assert_eq!((&joined["rules"]["links"], &joined["expr_policy"]["version"]), (&json!(8), &json!(1)));
    create["name"] = "n".into();
    create["rules"] = json!({"links": 0});
    rig.refused("create_network", create.clone());
    create["rules"] = Value::Null;
    create["expr_policy"] = json!({"version": 2, "rules": []});
    rig.refused("create_network", create);
}

#[test]
fn joining_and_leaving() {
    let mut rig = Rig::nodes(3);
    let open = rig.network("team", "open", false);
    let answer = rig.ok("join_network", join(2, open));
    assert_eq!(
        Value::from(answer),
        json!({"type": "join_network_ok", "network_id": 1, "address": "1:0001.0000.0002"})
    );
    assert_eq!(rig.refused("join_network", join(2, open)), "node 2 already in network 1");
    assert_eq!(rig.refused("join_network", join(2, 0)), "cannot join the backbone network");
    assert_eq!(rig.refused("join_network", join(2, 9)), "network 9: network not found");
    let by_admin = json!({"node_id": 3, "network_id": open, "admin_token": ADMIN});
    rig.ok("join_network", by_admin);
    let token = rig.network("tok", "token", false);
    assert_eq!(rig.refused("join_network", join(2, token)), "invalid token for network 2");
    rig.enter(2, token);
    assert_eq!(rig.ok("leave_network", leave(2, token))["network_id"], 2);
    assert_eq!(rig.refused("leave_network", leave(2, token)), "node 2 is not a member of network 2");
    assert_eq!(rig.refused("leave_network", leave(2, 0)), "cannot leave the backbone network");
    rig.ok("leave_network", leave(1, open));
}

#[test]
fn the_owner_of_an_enterprise_network_stays() {
    let (mut rig, network) = enterprise();
    assert_eq!(
        rig.refused("leave_network", leave(1, network)),
        "cannot leave network: owner must transfer ownership first"
    );
}

#[test]
fn listing_networks() {
    let (mut rig, network) = enterprise();
    let listed = rig.ok("list_networks", json!({}));
    let want = json!([
        {"id": 0, "name": "backbone", "join_rule": "open", "enterprise": false, "created": START},
        {"id": network, "name": "team", "join_rule": "open", "enterprise": true, "created": START},
    ]);
    assert_eq!(listed["networks"], want);
    let counted = rig.ok("list_networks", json!({"admin_token": ADMIN}));
    assert_eq!(
        (&counted["networks"][0]["members"], &counted["networks"][1]["members"]),
        (&json!(4), &json!(3))
    );
}

#[test]
fn renaming_and_ending() {
    let (mut rig, network) = enterprise();
    let rename = |by: u32, name: &str| json!({"network_id": network, "node_id": by, "name": name});
    assert_eq!(
        rig.refused("rename_network", rename(2, "crew")),
        "rbac: node 2 has role \"member\", requires one of [owner admin]"
    );
    assert_eq!(rig.ok("rename_network", rename(1, "crew"))["name"], "crew");
    rig.network("team", "open", false);
    assert_eq!(rig.refused("rename_network", rename(1, "team")), r#"network "team" already exists"#);
    let delete = |by: u32| json!({"network_id": network, "node_id": by});
    assert_eq!(
        rig.refused("delete_network", delete(0)),
        "rbac: node_id required for role-based authorization"
    );
    assert_eq!(rig.refused("delete_network", delete(4)), "request failed", "no role: hidden");
    assert_eq!(
        rig.refused("delete_network", json!({"network_id": 0, "admin_token": ADMIN})),
        "cannot delete the backbone network"
    );
    rig.ok("delete_network", delete(1));
    assert_eq!(rig.ok("lookup", json!({"node_id": 2}))["networks"], json!([0]));
    assert_eq!(rig.network("next", "open", false), 3, "numbers are not given twice");
}

#[test]
fn a_networks_own_token_works_for_that_network() {
    let mut rig = Rig::nodes(1);
    for name in ["one", "two"] {
        let params = json!({"name": name, "node_id": 1, "admin_token": ADMIN, "network_admin_token": format!("{name}-token")});
        rig.ok("create_network", params);
    }
    rig.ok("rename_network", json!({"network_id": 1, "name": "uno", "admin_token": "one-token"}));
    rig.refused("rename_network", json!({"network_id": 2, "name": "dos", "admin_token": "one-token"}));
}

#[test]
fn changing_roles() {
    let (mut rig, network) = enterprise();
    let act = |by: u32, target: u32| json!({"network_id": network, "node_id": by, "target_node_id": target});
    assert_eq!(role(&mut rig, network, 1), "owner");
    assert_eq!(rig.ok("promote_member", act(1, 2))["role"], "admin");
    assert_eq!(rig.refused("promote_member", act(1, 2)), "node 2 is already an admin");
    assert_eq!(rig.refused("promote_member", act(1, 1)), "cannot promote the owner");
    assert_eq!(
        rig.refused("promote_member", act(2, 3)),
        "rbac: node 2 has role \"admin\", requires one of [owner]"
    );
    assert_eq!(rig.refused("demote_member", act(1, 3)), "node 3 is already a member");
    assert_eq!(rig.refused("demote_member", act(1, 1)), "cannot demote the owner");
    assert_eq!(rig.ok("demote_member", act(1, 2))["role"], "member");
    assert_eq!(rig.refused("promote_member", act(1, 4)), "node 4 is not a member of network 1");
    let transfer = json!({"network_id": network, "node_id": 1, "new_owner_id": 2});
    let answer = rig.ok("transfer_ownership", transfer);
    assert_eq!((&answer["old_owner"], &answer["new_owner"]), (&json!(1), &json!(2)));
    assert_eq!((role(&mut rig, network, 1), role(&mut rig, network, 2)), (json!("admin"), json!("owner")));
    assert_eq!(rig.refused("kick_member", act(1, 2)), "cannot kick the network owner");
    rig.ok("kick_member", act(1, 3));
    assert_eq!(
        rig.refused("get_member_role", json!({"network_id": network, "target_node_id": 3})),
        "node 3 is not a member of network 1"
    );
}

#[test]
fn roles_belong_to_enterprise_networks() {
    let mut rig = Rig::nodes(2);
    let network = rig.network("team", "open", false);
    rig.enter(2, network);
    let act = json!({"network_id": network, "node_id": 1, "target_node_id": 2});
    assert!(rig.refused("kick_member", act).starts_with("enterprise feature: "));
}

#[test]
fn the_enterprise_flag_clears_and_deals_out_roles() {
    let (mut rig, network) = enterprise();
    let set = |on: bool, token: &str| json!({"network_id": network, "enterprise": on, "admin_token": token});
    assert_eq!(
        rig.refused("set_network_enterprise", set(false, "no")),
        "set_network_enterprise requires admin token"
    );
    rig.ok("set_network_enterprise", set(false, ADMIN));
    assert_eq!(role(&mut rig, network, 1), "");
    rig.ok("leave_network", leave(1, network));
    rig.enter(1, network);
    rig.ok("set_network_enterprise", set(true, ADMIN));
    let roles: Vec<_> = (1..=3).map(|n| role(&mut rig, network, n)).collect();
    assert_eq!(roles, ["member", "owner", "member"], "the first one without a role owns it now");
}

#[test]
fn invitations_wait_until_answered() {
    let mut rig = Rig::nodes(4);
    let network = rig.network("inv", "invite", true);
    assert_eq!(
        rig.refused("join_network", join(2, network)),
        "invite-only networks require invite_to_network + respond_invite flow"
    );
    assert!(
        rig.refused("respond_invite", answer_invite(2, network, true)) == "request failed",
        "no invitation"
    );
    let answer = rig.ok("invite_to_network", invite(1, network, 2));
    assert_eq!(
        Value::from(answer),
        json!({"type": "invite_to_network_ok", "network_id": 1, "target_node_id": 2})
    );
    assert_eq!(rig.ok("invite_to_network", invite(1, network, 2))["status"], "already_invited");
    for _ in 0..2 {
        let polled = rig.own(2, "poll_invites", json!({}));
        assert_eq!(polled["invites"], json!([{"network_id": 1, "inviter_id": 1, "timestamp": START}]));
    }
    let mut rig = rig.restart();
    let answer = rig.ok("respond_invite", answer_invite(2, network, true));
    assert_eq!((&answer["accepted"], &answer["network_id"]), (&json!(true), &json!(1)));
    assert_eq!(role(&mut rig, network, 2), "member");
    assert_eq!(rig.own(2, "poll_invites", json!({}))["invites"], json!([]));
    assert_eq!(rig.refused("invite_to_network", invite(1, network, 2)), "node 2 already in network 1");
    assert_eq!(
        rig.refused("invite_to_network", invite(2, network, 3)),
        "rbac: node 2 has role \"member\", requires one of [owner admin]"
    );
    rig.ok("invite_to_network", json!({"network_id": network, "target_node_id": 3, "admin_token": ADMIN}));
    assert_eq!(rig.ok("respond_invite", answer_invite(3, network, false))["accepted"], false);
    assert_eq!(rig.own(3, "poll_invites", json!({}))["invites"], json!([]));
}

#[test]
fn invitations_end() {
    let mut rig = Rig::nodes(3);
    let network = rig.network("inv", "invite", true);
    rig.ok("invite_to_network", invite(1, network, 2));
    rig.ok("invite_to_network", invite(1, network, 3));
    rig.now += 30 * 86_400 + 1;
    assert_eq!(
        rig.refused("respond_invite", answer_invite(2, network, true)),
        "invite for node 2 to network 1 has expired"
    );
    assert_eq!(rig.refused("respond_invite", answer_invite(2, network, true)), "request failed", "gone");
    assert_eq!(rig.own(3, "poll_invites", json!({}))["invites"], json!([]));
    rig.ok("invite_to_network", invite(1, network, 3));
    rig.ok("delete_network", json!({"network_id": network, "node_id": 1}));
    assert_eq!(rig.own(3, "poll_invites", json!({}))["invites"], json!([]), "with the network");
}

#[test]
fn invitations_are_for_invite_only_enterprise_networks() {
    let mut rig = Rig::nodes(2);
    let open = rig.network("team", "open", false);
    assert!(rig.refused("invite_to_network", invite(1, open, 2)).starts_with("enterprise feature: "));
    let firm = rig.network("firm", "open", true);
    assert!(rig.refused("invite_to_network", invite(1, firm, 2)).starts_with("invalid join rule"));
}

#[test]
fn member_tags() {
    let (mut rig, network) = enterprise();
    let set = |target: u32, tags: Value| json!({"network_id": network, "node_id": 1, "target_node_id": target, "tags": tags});
    let answer = rig.ok("set_member_tags", set(2, json!(["service", "service"])));
    let want = json!({"type": "set_member_tags_ok", "network_id": 1, "target_node_id": 2, "tags": ["service", "service"]});
    assert_eq!(Value::from(answer), want);
    let get = |target: u32| json!({"network_id": network, "target_node_id": target});
    assert_eq!(rig.ok("get_member_tags", get(2))["tags"], json!(["service", "service"]));
    assert_eq!(rig.ok("get_member_tags", get(3))["tags"], json!([]));
    assert_eq!(rig.ok("get_member_tags", get(0))["members"], json!({"2": ["service", "service"]}));
    assert_eq!(rig.ok("set_member_tags", set(2, json!([])))["tags"], json!([]));
    assert_eq!(rig.refused("set_member_tags", set(4, json!([]))), "node 4 is not a member of network 1");
}

#[test]
fn network_policy() {
    let (mut rig, network) = enterprise();
    let set = |more: Value| {
        let mut params = json!({"network_id": network, "node_id": 1});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    let answer = rig.ok("set_network_policy", set(json!({"max_members": 4})));
    let want = json!({"type": "set_network_policy_ok", "network_id": 1, "max_members": 4, "allowed_ports": null,
        "description": ""});
    assert_eq!(Value::from(answer), want);
    rig.ok("set_network_policy", set(json!({"allowed_ports": [80, 443, 80], "description": "d"})));
    let want = json!({"type": "get_network_policy_ok", "network_id": 1, "max_members": 4, "allowed_ports": [80, 443],
        "description": "d"});
    assert_eq!(Value::from(rig.ok("get_network_policy", json!({"network_id": network}))), want);
    for bad in [
        json!({"max_members": 10_001}),
        json!({"max_members": -1}),
        json!({"allowed_ports": [0]}),
        json!({"allowed_ports": [65_536]}),
        json!({"allowed_ports": vec![1; 101]}),
        json!({"description": "x".repeat(257)}),
    ] {
        rig.refused("set_network_policy", set(bad));
    }
    rig.ok("set_network_policy", set(json!({"max_members": 3})));
    assert_eq!(rig.refused("join_network", join(4, network)), "request failed", "limit reached");
    assert_eq!(
        rig.ok("get_network_policy", json!({"network_id": network}))["allowed_ports"],
        json!([80, 443])
    );
}

#[test]
fn policy_documents() {
    let (mut rig, network) = enterprise();
    let set = |document: Value| json!({"network_id": network, "node_id": 1, "expr_policy": document});
    let get = json!({"network_id": network});
    assert!(!rig.ok("get_expr_policy", get.clone()).contains_key("expr_policy"));
    let answer = rig.ok("set_expr_policy", set(json!(r#"{"version":1,"rules":[]}"#)));
    assert!(!answer.contains_key("cleared"));
    assert_eq!(rig.ok("get_expr_policy", get.clone())["expr_policy"], json!({"version": 1, "rules": []}));
    assert_eq!(rig.ok("list_networks", json!({}))["networks"][1]["has_expr_policy"], true);
    rig.ok("set_expr_policy", set(json!({"version": 1, "rules": [{"name": "x"}]})));
    assert_eq!(rig.ok("get_expr_policy", get.clone())["expr_policy"]["rules"][0]["name"], "x");
    for bad in [
        json!("{"),
        json!({"version": 2, "rules": []}),
        json!({"version": 1}),
        json!({"version": 1, "rules": null}),
        json!([]),
    ] {
        rig.refused("set_expr_policy", set(bad));
    }
    assert_eq!(rig.ok("set_expr_policy", set(json!("null")))["cleared"], true);
    assert!(!rig.ok("get_expr_policy", get).contains_key("expr_policy"));
}
