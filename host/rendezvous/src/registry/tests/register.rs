//! Registration: keys, owners, names, addresses.

use super::*;

fn register(key: u8) -> Value {
    json!({"public_key": key_text(key), "listen_addr": "203.0.113.9:4000"})
}

fn with(mut params: Value, more: Value) -> Value {
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

fn signed(key: u8) -> Value {
    let signature = sign(key, &challenge::register("203.0.113.9:4000", &key_text(key)));
    with(register(key), json!({"signature": signature}))
}

#[test]
fn a_new_key_gets_the_next_number() {
    let mut rig = Rig::new();
    let answer = rig.ok("register", with(register(1), json!({"hostname": "alpha", "version": "v2"})));
    let want = json!({"type": "register_ok", "node_id": 1, "network_id": 0, "address": "0:0000.0000.0001",
        "public_key": key_text(1), "hostname": "alpha", "observed_addr": "203.0.113.9:4000", "protocol_version": 1});
    assert_eq!(Value::from(answer), want);
    assert_eq!(rig.join(2), 2);
    let found = rig.ok("lookup", json!({"node_id": 1}));
    assert_eq!(
        (&found["public"], &found["networks"], &found["version"]),
        (&json!(false), &json!([0]), &json!("v2"))
    );
}

#[test]
fn keys_have_to_be_keys() {
    let mut rig = Rig::new();
    assert_eq!(rig.refused("register", json!({})), "registration requires public_key");
    assert_eq!(rig.refused("register", json!({"public_key": 7})), "registration requires public_key");
    let text = rig.refused("register", json!({"public_key": "!"}));
    assert!(text.starts_with("invalid public key: "), "{text}");
    assert_eq!(
        rig.refused("register", json!({"public_key": "AAAA"})),
        "invalid public key: invalid public key size: 3"
    );
    assert_eq!(rig.registry.node_count(), 0);
    assert!(rig.stored.is_empty(), "a refused request changes nothing");
}

#[test]
fn a_known_key_refreshes_its_node() {
    let mut rig = Rig::new();
    let first = json!({"lan_addrs": ["10.0.0.1:4000", "", 7, "10.0.0.2:4000"], "relay_only": true, "hostname": "alpha",
        "owner": "me", "version": "v1"});
    rig.ok("register", with(register(1), first));
    let again = rig.ok("register", with(register(1), json!({"owner": "somebody-else"})));
    assert_eq!((&again["node_id"], &again["hostname"]), (&json!(1), &json!("alpha")), "the name stays");
    let node = rig.registry.state.node(1).unwrap();
    assert_eq!((node.lan_addrs.len(), node.relay_only, node.version.as_str()), (0, false, "v1"));
    assert_eq!(rig.registry.state.identity(1).unwrap().owner, "me");
}

#[test]
fn a_name_that_is_not_to_be_had_does_not_fail_the_registration() {
    let mut rig = Rig::new();
    rig.ok("register", with(register(1), json!({"hostname": "alpha"})));
    let taken = rig.ok("register", with(register(2), json!({"hostname": "alpha"})));
    assert_eq!(taken["hostname_error"], r#"hostname "alpha" already in use"#);
    assert!(!taken.contains_key("hostname"));
    let bad = rig.ok("register", with(register(2), json!({"hostname": "Bad_Host"})));
    assert_eq!(
        bad["hostname_error"],
        "hostname must be lowercase alphanumeric with hyphens, start/end with alphanumeric"
    );
    let own = rig.ok("register", with(register(1), json!({"hostname": "alpha"})));
    assert_eq!(own["hostname"], "alpha", "one's own name is not taken");
}

#[test]
fn a_wrong_signature_never_registers() {
    let mut rig = Rig::new();
    let wrong = with(register(1), json!({"signature": sign(2, "x")}));
    assert_eq!(rig.refused("register", wrong), "registration: signature verification failed");
    let garbage = with(register(1), json!({"signature": "!!"}));
    assert_eq!(rig.refused("register", garbage), "registration: invalid signature encoding");
    rig.ok("register", signed(1));
}

#[test]
fn a_key_that_once_signed_has_to_sign() {
    let mut rig = Rig::new();
    rig.ok("register", register(1));
    rig.ok("register", signed(1));
    let text = "node 1: unsigned registration cannot modify a signature-verified key";
    assert_eq!(rig.refused("register", register(1)), text);
    rig.reap();
    assert_eq!(rig.refused("register", register(1)), text, "also when the node is gone");
    let mut rig = rig.restart();
    assert_eq!(rig.refused("register", register(1)), text, "also after a restart");
    rig.ok("register", signed(1));
}

#[test]
fn strict_mode_wants_every_registration_signed() {
    let mut rig = Rig::with(|s| s.signed_registration = true);
    assert_eq!(rig.refused("register", register(1)), "registration: signature required");
    rig.ok("register", signed(1));
}

#[test]
fn a_node_that_comes_back_keeps_its_number_and_networks() {
    let mut rig = Rig::nodes(2);
    let network = rig.network("team", "open", false);
    rig.enter(2, network);
    rig.own(2, "set_visibility", json!({"public": true}));
    rig.own(2, "set_hostname", json!({"hostname": "beta"}));
    rig.own(2, "set_tags", json!({"tags": ["gpu"]}));
    rig.reap();
    assert_eq!(rig.join(2), 2);
    let found = rig.ok("lookup", json!({"node_id": 2}));
    assert_eq!((&found["networks"], &found["public"]), (&json!([0, network]), &json!(false)));
    assert!(!found.contains_key("hostname") && !found.contains_key("tags"));
    assert_eq!(rig.join(3), 3, "no number is given twice");
}

#[test]
fn deregistration_drops_memberships_but_not_the_number() {
    let mut rig = Rig::nodes(2);
    let network = rig.network("team", "open", false);
    rig.enter(2, network);
    rig.trust(2, 1);
    rig.own(2, "set_hostname", json!({"hostname": "beta"}));
    assert_eq!(rig.own(2, "deregister", json!({}))["type"], "deregister_ok");
    assert_eq!(rig.refused("lookup", json!({"node_id": 2})), "node 2: node not found");
    rig.ok("deregister", json!({"node_id": 2}));
    let other = rig.ok("register", with(register(3), json!({"hostname": "beta"})));
    assert_eq!(other["hostname"], "beta", "the name is free");
    assert_eq!(rig.join(2), 2);
    assert_eq!(rig.ok("lookup", json!({"node_id": 2}))["networks"], json!([0]));
    assert_eq!(rig.ok("check_trust", json!({"node_id": 1, "peer_id": 2}))["trusted"], true);
}

#[test]
fn an_owner_has_one_live_node() {
    let mut rig = Rig::new();
    rig.ok("register", with(register(1), json!({"owner": "me"})));
    assert_eq!(
        rig.refused("register", with(register(2), json!({"owner": "me"}))),
        "owner \"me\" is already bound to node 1 with a different key; use recover_identity to rotate the key"
    );
}

#[test]
fn the_number_of_an_owner_that_is_gone_passes_on_without_its_relations() {
    let mut rig = Rig::nodes(2);
    rig.ok("register", with(register(3), json!({"owner": "me"})));
    let network = rig.network("team", "open", false);
    rig.enter(3, network);
    rig.trust(1, 3);
    rig.reap();
    let heir = rig.ok("register", with(register(4), json!({"owner": "me"})));
    assert_eq!(heir["node_id"], 3);
    assert_eq!(rig.ok("lookup", json!({"node_id": 3}))["networks"], json!([0]));
    assert_eq!(rig.ok("check_trust", json!({"node_id": 1, "peer_id": 3}))["trusted"], false);
    assert_eq!(rig.ok("register", register(3))["node_id"], 4, "the old key is a stranger now");
}

#[test]
fn the_registry_has_a_last_place() {
    let mut rig = Rig::with(|s| s.max_nodes = 2);
    rig.join(1);
    rig.join(2);
    assert_eq!(rig.refused("register", register(3)), "request failed");
    rig.ok("register", register(1));
}

#[test]
fn new_keys_can_be_limited_per_source() {
    let mut rig = Rig::with(|s| s.registrations_per_minute = Some(2));
    rig.join(1);
    rig.join(2);
    let text = "rate limited: too many registrations from 192.0.2.1";
    assert_eq!(rig.refused("register", register(3)), text);
    rig.ok("register", register(1));
    rig.now += 60;
    rig.ok("register", register(3));

    let mut rig = Rig::with(|s| {
        s.registrations_per_minute = Some(1);
        s.unlimited = vec!["192.0.2.1".parse().unwrap()];
    });
    rig.join(1);
    rig.join(2);
}

#[test]
fn an_empty_address_means_where_the_connection_comes_from() {
    let mut rig = Rig::new();
    let answer = rig.ok("register", json!({"public_key": key_text(1)}));
    assert_eq!(answer["observed_addr"], "192.0.2.1:5000");
    let private = rig.ok("register", json!({"public_key": key_text(1), "listen_addr": "10.1.2.3:4000"}));
    assert_eq!(private["observed_addr"], "192.0.2.1:4000");
    let old = rig.ok("register", json!({"public_key": key_text(2), "version": "v1.9.0"}));
    assert_eq!(old["observed_addr"], "", "v1.9.0 expects nothing");
}

#[test]
fn nobody_can_make_the_directory_keep_megabytes() {
    let mut rig = Rig::new();
    let huge = "x".repeat(1 << 20);
    for field in ["listen_addr", "owner", "version"] {
        let text = rig.refused("register", with(register(1), json!({field: huge})));
        assert!(text.starts_with(&format!("{field} too long")), "{text}");
    }
    let lan: Vec<String> = (0..10_000).map(|i| format!("10.0.0.1:{i}")).chain([huge]).collect();
    rig.ok("register", with(register(1), json!({"lan_addrs": lan})));
    let node = rig.registry.state.node(1).unwrap();
    assert_eq!(node.lan_addrs.len(), 64);
    assert!(rig.stored.values().map(Vec::len).sum::<usize>() < 10_000);
}
