//! Finding nodes, profiles, signs of life, beacons.

use super::*;

#[test]
fn a_private_node_shows_no_address() {
    let mut rig = Rig::nodes(1);
    let found = rig.ok("lookup", json!({"node_id": 1}));
    let want = json!({"type": "lookup_ok", "node_id": 1, "address": "0:0000.0000.0001", "networks": [0],
        "public_key": key_text(1), "public": false, "polo_score": 0});
    assert_eq!(Value::from(found), want);
    rig.own(1, "set_visibility", json!({"public": true}));
    let found = rig.ok("lookup", json!({"node_id": 1}));
    assert_eq!(
        (&found["real_addr"], &found["endpoint"]),
        (&json!("203.0.113.1:4000"), &json!("203.0.113.1:4000"))
    );
    assert_eq!(rig.refused("lookup", json!({"node_id": "1"})), "node 0: node not found");
}

#[test]
fn resolve_checks_requester_signature_target_and_privacy_in_that_order() {
    let mut rig = Rig::nodes(2);
    let stranger = rig.ask("resolve", json!({"node_id": 99, "requester_id": 98}));
    assert_eq!(stranger["error"], "request failed", "requester not registered: hidden");
    assert_eq!(
        rig.refused("resolve", json!({"node_id": 99, "requester_id": 1})),
        "signature required for authenticated node"
    );
    assert_eq!(
        rig.refused("resolve", json!({"node_id": 99, "requester_id": 1, "signature": "!!"})),
        "invalid signature encoding: illegal base64 data at input byte 0"
    );
    assert_eq!(
        rig.refused(
            "resolve",
            json!({"node_id": 99, "requester_id": 1, "signature": sign(2, "resolve:1:99")})
        ),
        "signature verification failed"
    );
    assert_eq!(rig.resolve(1, 99)["error"], "node 99: node not found");
    assert_eq!(rig.resolve(1, 2)["error"], "request failed", "private: hidden");
}

#[test]
fn a_private_node_is_resolved_by_its_relations_only() {
    let mut rig = Rig::nodes(3);
    let denied = |rig: &mut Rig, from: u8, to: u32| rig.resolve(from, to)["type"] == "error";
    assert!(denied(&mut rig, 1, 2));
    assert!(denied(&mut rig, 2, 2), "not even by itself");
    rig.trust(2, 1);
    assert!(!denied(&mut rig, 1, 2) && !denied(&mut rig, 2, 1), "one side is enough");
    assert!(denied(&mut rig, 3, 2));
    let network = rig.network("team", "open", false);
    rig.enter(3, network);
    rig.enter(2, network);
    assert!(!denied(&mut rig, 3, 2) && !denied(&mut rig, 2, 2));
    assert_eq!(rig.ok("check_trust", json!({"node_id": 3, "peer_id": 2}))["trusted"], true);
}

#[test]
fn resolve_tells_where_a_node_is() {
    let mut rig = Rig::nodes(1);
    rig.ok(
        "register",
        json!({"public_key": key_text(2), "listen_addr": "203.0.113.2:4000",
        "lan_addrs": ["10.0.0.2:4000"]}),
    );
    rig.own(2, "set_visibility", json!({"public": true}));
    rig.now += 3 * 86_400;
    let found = rig.resolve(1, 2);
    let want = json!({"type": "resolve_ok", "node_id": 2, "real_addr": "203.0.113.2:4000",
        "lan_addrs": ["10.0.0.2:4000"], "key_age_days": 3, "public_key": key_text(2)});
    assert_eq!(Value::from(found), want);
}

#[test]
fn a_relay_only_node_is_at_the_beacon() {
    let mut rig = Rig::nodes(1);
    let params = json!({"public_key": key_text(2), "listen_addr": "203.0.113.2:4000", "relay_only": true,
        "lan_addrs": ["10.0.0.2:4000"]});
    rig.ok("register", params);
    rig.own(2, "set_visibility", json!({"public": true}));
    let found = rig.resolve(1, 2);
    assert_eq!((&found["real_addr"], &found["relay_only"]), (&json!("198.51.100.1:9001"), &json!(true)));
    assert!(!found.contains_key("lan_addrs"));
    assert_eq!(rig.ok("lookup", json!({"node_id": 2}))["endpoint"], "198.51.100.1:9001");
}

#[test]
fn a_private_name_is_found_by_its_relations_only() {
    let mut rig = Rig::nodes(3);
    rig.own(2, "set_hostname", json!({"hostname": "beta"}));
    let ask = |requester: u32| json!({"hostname": "beta", "requester_id": requester});
    assert_eq!(rig.refused("resolve_hostname", json!({})), "hostname required");
    assert_eq!(rig.refused("resolve_hostname", ask(0)), r#"hostname "beta" not found"#);
    assert_eq!(rig.refused("resolve_hostname", ask(1)), r#"hostname "beta" not found"#);
    assert_eq!(rig.ok("resolve_hostname", ask(2))["node_id"], 2);
    rig.trust(1, 2);
    let want = json!({"type": "resolve_hostname_ok", "node_id": 2, "address": "0:0000.0000.0002", "public": false,
        "hostname": "beta"});
    assert_eq!(Value::from(rig.ok("resolve_hostname", ask(1))), want);
    rig.own(2, "set_visibility", json!({"public": true}));
    rig.ok("resolve_hostname", ask(3));
    let long = "x".repeat(1 << 20);
    assert!(rig.refused("resolve_hostname", json!({"hostname": long})).len() < 300);
}

#[test]
fn setting_a_hostname() {
    let mut rig = Rig::nodes(2);
    assert_eq!(rig.own(1, "set_hostname", json!({"hostname": "alpha"}))["hostname"], "alpha");
    assert_eq!(
        rig.own(2, "set_hostname", json!({"hostname": "alpha"}))["error"],
        r#"hostname "alpha" already in use by node 1"#
    );
    assert_eq!(
        rig.own(2, "set_hostname", json!({"hostname": "backbone"}))["error"],
        r#"invalid hostname: hostname "backbone" is reserved"#
    );
    assert_eq!(rig.own(1, "set_hostname", json!({"hostname": ""}))["hostname"], "");
    assert_eq!(rig.own(2, "set_hostname", json!({"hostname": "alpha"}))["hostname"], "alpha");
    let admin = json!({"node_id": 1, "hostname": "gamma", "admin_token": ADMIN});
    assert_eq!(rig.ok("set_hostname", admin)["hostname"], "gamma", "the admin needs no signature");
}

#[test]
fn setting_tags() {
    let mut rig = Rig::nodes(1);
    assert_eq!(
        rig.own(1, "set_tags", json!({"tags": ["#gpu", "gpu", "web"]}))["tags"],
        json!(["gpu", "web"])
    );
    assert_eq!(rig.own(1, "set_tags", json!({"tags": ["UP"]}))["error"], "request failed");
    assert_eq!(rig.ok("lookup", json!({"node_id": 1}))["tags"], json!(["gpu", "web"]));
    assert_eq!(rig.own(1, "set_tags", json!({"tags": null}))["tags"], Value::Null);
    assert!(!rig.ok("lookup", json!({"node_id": 1})).contains_key("tags"));
}

#[test]
fn the_backbone_is_listed_for_the_admin_only() {
    let mut rig = Rig::nodes(2);
    assert_eq!(rig.refused("list_nodes", json!({"network_id": 0})), "request failed");
    assert_eq!(rig.refused("list_nodes", json!({"network_id": 0, "admin_token": "no"})), "request failed");
    let all = rig.ok("list_nodes", json!({"admin_token": ADMIN}));
    assert_eq!(all["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(rig.refused("list_nodes", json!({"network_id": 9})), "network 9: network not found");
}

#[test]
fn members_are_listed_whether_they_are_there_or_not() {
    let mut rig = Rig::nodes(3);
    let network = rig.network("team", "open", false);
    rig.enter(2, network);
    rig.enter(3, network);
    rig.own(2, "set_visibility", json!({"public": true}));
    rig.own(3, "set_visibility", json!({"public": true}));
    rig.reap();
    rig.join(2);
    let listed = rig.ok("list_nodes", json!({"network_id": network}));
    let want = json!([
        {"node_id": 1, "address": "1:0001.0000.0001", "offline": true, "role": "owner"},
        {"node_id": 2, "address": "1:0001.0000.0002", "public": false, "role": "member",
            "last_seen": "2027-01-15T08:31:00Z"},
        {"node_id": 3, "address": "1:0001.0000.0003", "offline": true, "role": "member"},
    ]);
    assert_eq!(listed["nodes"], want);
}

#[test]
fn punch_gives_addresses_to_related_participants() {
    let mut rig = Rig::nodes(3);
    let ask = |rig: &Rig, requester: u8, a: u32, b: u32| {
        let params = json!({"requester_id": requester, "node_a": a, "node_b": b});
        rig.signed(requester, &challenge::punch(a, b), params)
    };
    let request = ask(&rig, 3, 1, 2);
    assert_eq!(rig.refused("punch", request), "request failed", "not a participant");
    let request = ask(&rig, 1, 1, 2);
    assert_eq!(rig.refused("punch", request.clone()), "request failed", "private");
    rig.trust(2, 1);
    let answer = rig.ok("punch", request);
    assert_eq!(
        (&answer["node_a_addr"], &answer["node_b_addr"]),
        (&json!("203.0.113.1:4000"), &json!("203.0.113.2:4000"))
    );
}

#[test]
fn a_heartbeat_keeps_a_node_alive() {
    let mut rig = Rig::nodes(2);
    rig.now += 20 * 60;
    let answer = rig.own(1, "heartbeat", json!({}));
    assert_eq!(Value::from(answer), json!({"type": "heartbeat_ok", "time": rig.now}));
    rig.now += 15 * 60;
    let changes = rig.registry.sweep(rig.now);
    assert_eq!(changes.len(), 1, "only node 2 was silent for half an hour");
    rig.ok("lookup", json!({"node_id": 1}));
    assert_eq!(rig.refused("heartbeat", json!({"node_id": 2})), "node 2: node not found");
}

#[test]
fn every_heartbeat_is_verified_by_default() {
    let mut rig = Rig::nodes(1);
    rig.own(1, "heartbeat", json!({}));
    assert_eq!(rig.refused("heartbeat", json!({"node_id": 1})), "signature required for authenticated node");
}

#[test]
fn heartbeats_can_be_verified_now_and_then() {
    let mut rig = Rig::with(|s| s.heartbeat_verify_every = std::time::Duration::from_secs(120));
    rig.join(1);
    let unsigned = json!({"node_id": 1});
    assert_eq!(rig.refused("heartbeat", unsigned.clone()), "signature required for authenticated node");
    rig.own(1, "heartbeat", json!({}));
    rig.now += 119;
    rig.ok("heartbeat", unsigned.clone());
    rig.now += 1;
    assert_eq!(
        rig.refused("heartbeat", unsigned),
        "signature required for authenticated node",
        "counted from the last verified one"
    );
}

#[test]
fn a_heartbeat_of_v1_9_can_move_a_node() {
    let mut rig = Rig::nodes(1);
    rig.own(1, "set_visibility", json!({"public": true}));
    let moved =
        |text: &str| json!({"node_id": 1, "listen_addr": "203.0.113.77:4000", "signature": sign(1, text)});
    rig.ok("heartbeat", moved("heartbeat:1:203.0.113.77:4000"));
    assert_eq!(rig.ok("lookup", json!({"node_id": 1}))["real_addr"], "203.0.113.77:4000");
    rig.ok("register", json!({"public_key": key_text(1), "listen_addr": "203.0.113.1:4000"}));
    rig.ok("heartbeat", moved("heartbeat:1"));
    let unmoved = &rig.ok("lookup", json!({"node_id": 1}))["real_addr"];
    assert_eq!(unmoved, "203.0.113.1:4000", "an address that is not signed is not believed");
}

#[test]
fn strict_heartbeats_carry_the_time() {
    let mut rig = Rig::with(|s| s.heartbeat_skew = Some(std::time::Duration::from_secs(30)));
    rig.join(1);
    let beat = |ts: i64| json!({"node_id": 1, "ts": ts, "signature": sign(1, &format!("heartbeat:1:{ts}"))});
    rig.ok("heartbeat", beat(START - 30));
    rig.refused("heartbeat", beat(START - 31));
    rig.refused("heartbeat", beat(START + 31));
    assert!(rig.own(1, "heartbeat", json!({}))["error"].as_str().unwrap().contains("ts"));
}

#[test]
fn sweeping_takes_a_batch_at_a_time() {
    let mut rig = Rig::with(|s| s.reap_batch = 3);
    for seed in 1..=5 {
        rig.join(seed);
    }
    rig.now += 30 * 60;
    assert!(rig.registry.sweep(rig.now).is_empty(), "exactly the limit is not over it");
    rig.now += 1;
    assert_eq!(rig.registry.sweep(rig.now).len(), 3);
    assert_eq!(rig.registry.sweep(rig.now).len(), 2);
}

#[test]
fn beacons_announce_themselves_for_a_minute() {
    let mut rig = Rig::new();
    let announce = |id: u32| json!({"beacon_id": id, "addr": "198.51.100.2:9001", "admin_token": ADMIN});
    assert_eq!(rig.refused("beacon_register", json!({"beacon_id": 1, "addr": "x"})), "invalid admin token");
    rig.refused("beacon_register", announce(0));
    rig.ok("beacon_register", announce(2));
    assert_eq!(rig.ok("beacon_list", json!({}))["beacons"], json!([{"id": 2, "addr": "198.51.100.2:9001"}]));
    rig.now += 61;
    assert_eq!(rig.ok("beacon_list", json!({}))["beacons"], json!([]));
}

#[test]
fn what_is_not_known_is_not_explained() {
    let mut rig = Rig::new();
    assert_eq!(rig.refused("nope", json!({})), "request failed");
    let reply = rig.reply(&Map::new());
    assert_eq!(object(&reply)["error"], "request failed");
    assert!(!reply.close);
    let request = json!({"type": "subscribe_replication", "token": "x"});
    assert!(rig.reply(request.as_object().unwrap()).close);
}

#[test]
fn without_an_admin_token_nobody_is_admin() {
    let mut rig = Rig::with(|s| s.admin_token = Some(String::new()));
    rig.join(1);
    let create = json!({"name": "x", "node_id": 1, "admin_token": ""});
    assert_eq!(rig.refused("create_network", create), "request failed");
}
