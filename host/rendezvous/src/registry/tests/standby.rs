//! Primaries and standbys, and files of Go registries.

use super::restore::furnished;
use super::*;

fn follower() -> Rig {
    let mut rig = Rig::with(|s| s.standby = true);
    rig.now = START;
    rig
}

fn follow(standby: &mut Rig, primary: &Rig) -> usize {
    let snapshot = Snapshot::parse(&primary.registry.snapshot()).unwrap();
    assert_eq!(snapshot.notes(), [""; 0]);
    let changes = standby.registry.follow(snapshot);
    standby.store(&changes);
    changes.len()
}

#[test]
fn a_standby_has_what_its_primary_has() {
    let mut primary = furnished();
    primary.ok("set_external_id", json!({"node_id": 1, "external_id": "ann", "admin_token": ADMIN}));
    let mut standby = follower();
    follow(&mut standby, &primary);
    let content = |rig: &Rig| -> Value { serde_json::from_slice(&rig.registry.snapshot()).unwrap() };
    assert_eq!(content(&standby), content(&primary));
    // Nothing new, nothing to store.
    assert_eq!(follow(&mut standby, &primary), 0);
    primary.own(2, "set_hostname", json!({"hostname": "two"}));
    assert_eq!(follow(&mut standby, &primary), 1);
    assert_eq!(standby.ok("resolve_hostname", json!({"hostname": "two", "requester_id": 1}))["node_id"], 2);
    // A standby that becomes primary goes on where the other one stopped.
    let mut heir = standby.restart();
    heir.registry.settings.standby = false;
    assert_eq!(heir.join(9), 6);
    assert_eq!(heir.network("next", "open", false), 3);
}

#[test]
fn what_is_gone_at_the_primary_goes_at_the_standby() {
    let mut primary = furnished();
    let mut standby = follower();
    follow(&mut standby, &primary);
    let params = json!({"node_id": 1, "peer_id": 2});
    let params = primary.signed(1, &challenge::revoke_trust(1, 2), params);
    primary.ok("revoke_trust", params);
    primary.ok("delete_network", json!({"network_id": 1, "admin_token": ADMIN}));
    primary.own(4, "deregister", json!({}));
    follow(&mut standby, &primary);
    let restored = Registry::restore(Settings::default(), standby.stored.clone(), standby.now).unwrap();
    assert_eq!(restored.snapshot(), primary.registry.snapshot());
    assert_eq!(standby.refused("lookup", json!({"node_id": 4})), "node 4: node not found");
}

#[test]
fn a_standby_reads_and_keeps_everyone() {
    let primary = furnished();
    let mut standby = follower();
    follow(&mut standby, &primary);
    assert_eq!(standby.resolve(2, 1)["type"], "resolve_ok");
    assert_eq!(standby.own(2, "heartbeat", json!({}))["type"], "heartbeat_ok");
    let refused = standby.ask("register", json!({"public_key": key_text(7)}));
    assert_eq!((&refused["error"], &refused["standby"]), (&json!("request failed"), &json!(true)));
    standby.now += 24 * 3600;
    assert_eq!(standby.registry.sweep(standby.now), []);
    assert_eq!(standby.registry.node_count(), 5);
}

#[test]
fn only_the_token_opens_the_feed() {
    let subscribe = |rig: &mut Rig, token: &str| {
        let request = json!({"type": "subscribe_replication", "token": token});
        let reply = rig.reply(request.as_object().unwrap());
        (reply.subscribed, reply.close, object(&reply)["error"].as_str().unwrap().to_owned())
    };
    let mut rig = Rig::with(|s| s.replication_token = Some("copy".into()));
    assert!(subscribe(&mut rig, "copy").0);
    assert_eq!(rig.registry.stats().refused, 0, "a feed that begins is no refusal");
    assert_eq!(subscribe(&mut rig, "cop"), (false, true, "invalid replication token".into()));
    let mut rig = Rig::with(|s| s.replication_token = Some(String::new()));
    assert!(!subscribe(&mut rig, "").0);
}

#[test]
fn the_file_of_a_go_registry_is_taken_over() {
    let (a, b) = (key_text(1), key_text(2));
    let file = json!({
        "version": 1, "next_node": 9, "next_net": 4,
        "nodes": {
            "1": {"id": 1, "owner": "ann@example.org", "public_key": a, "real_addr": "203.0.113.1:4000",
                "networks": [0, 3], "public": true, "last_seen": "2026-05-01T10:00:00+02:00", "hostname": "one",
                "tags": ["x"], "lan_addrs": null, "key_created": "2026-01-01T00:00:00Z", "polo_score": 7},
            "5": {"id": 5, "public_key": "not base64", "networks": [0], "last_seen": ""},
        },
        "networks": {
            "0": {"id": 0, "name": "backbone", "join_rule": "open", "members": [1], "created": "2026-01-01T00:00:00Z"},
            "3": {"id": 3, "name": "team", "join_rule": "invite", "members": [2, 1],
                "member_roles": {"1": "owner", "2": "member"}, "member_tags": {"2": ["ops"]}, "enterprise": true,
                "policy": {"max_members": 5, "allowed_ports": null}, "created": 1_777_000_000},
        },
        "trust_pairs": ["1:2", "nonsense"],
        "pub_key_idx": {a.clone(): 1, b.clone(): 2},
        "handshake_inbox": {"1": [{"from_node_id": 2, "justification": "hi", "timestamp": "2026-05-01T08:00:00.5Z"}]},
        "handshake_responses": null,
        "invite_inbox": {"2": [{"network_id": 3, "inviter_id": 1, "timestamp": 1_777_000_000}]},
        "audit_log": [{"action": "network.created", "timestamp": "2026-01-01T00:00:00Z", "network_id": 3}],
        "checksum": "00",
    });
    let snapshot = Snapshot::parse(file.to_string().as_bytes()).unwrap();
    assert_eq!(snapshot.counts(), (2, 1, 1));
    assert_eq!(snapshot.notes().len(), 2, "{:?}", snapshot.notes());
    let mut rig = Rig::new();
    rig.store(&snapshot.into_changes());
    let mut rig = rig.restart();
    let found = rig.ok("lookup", json!({"node_id": 1}));
    assert_eq!((&found["hostname"], &found["networks"]), (&json!("one"), &json!([0, 3])));
    // The key of a node that is gone leads to its old number, with its memberships and trust.
    assert_eq!(rig.join(2), 2);
    assert_eq!(rig.resolve(2, 1)["real_addr"], "203.0.113.1:4000");
    let tags = rig.ok("get_member_tags", json!({"network_id": 3, "target_node_id": 2}));
    assert_eq!(tags["tags"], json!(["ops"]));
    assert_eq!(rig.join(3), 9);
    let polled = rig.own(1, "poll_handshakes", json!({}));
    assert_eq!(polled["requests"][0]["justification"], "hi");
    assert!(Snapshot::parse(br#"{"version": 2}"#).is_err());
    assert!(Snapshot::parse(b"[]").is_err());
}
