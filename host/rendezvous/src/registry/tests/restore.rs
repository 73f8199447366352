//! What a store holds makes the same registry again.

use super::*;

/// A registry with something in every table.
pub(super) fn furnished() -> Rig {
    let mut rig = Rig::nodes(4);
    rig.ok(
        "register",
        json!({"public_key": key_text(5), "owner": "me", "hostname": "five", "listen_addr": "x",
        "lan_addrs": ["10.0.0.5:1"], "version": "v9", "relay_only": true}),
    );
    let open = rig.network("team", "open", false);
    rig.enter(2, open);
    let closed = rig.network("inv", "invite", true);
    let invite = json!({"network_id": closed, "target_node_id": 3, "admin_token": ADMIN});
    rig.ok("invite_to_network", invite);
    rig.ok(
        "set_member_tags",
        json!({"network_id": open, "target_node_id": 2, "tags": ["a"], "admin_token": ADMIN}),
    );
    rig.trust(1, 2);
    rig.ok(
        "request_handshake",
        json!({"from_node_id": 3, "to_node_id": 4, "justification": "\u{1f980}",
        "signature": sign(3, "handshake:3:4")}),
    );
    rig.ok(
        "respond_handshake",
        json!({"node_id": 4, "peer_id": 2, "accept": false,
        "signature": sign(4, "respond:4:2")}),
    );
    rig.own(1, "set_visibility", json!({"public": true}));
    rig
}

#[test]
fn every_acknowledged_change_survives_a_crash() {
    let rig = furnished();
    let restored = Registry::restore(Settings::default(), rig.stored, rig.now).unwrap();
    assert_eq!(rig.registry.state.after_restart(), restored.state);
}

#[test]
fn the_changes_name_exactly_what_is_there() {
    let mut rig = furnished();
    let stored = rig.stored.clone();
    // All records anew, as if everything had changed.
    let keys: Vec<RecordKey> = stored.keys().copied().collect();
    rig.stored.clear();
    let changes = rig.registry.final_changes();
    rig.store(&changes);
    assert!(rig.stored.keys().all(|key| matches!(key, RecordKey::Node(_))));
    for key in keys {
        assert!(stored.contains_key(&key));
    }
}

#[test]
fn a_node_has_time_to_come_back_after_a_restart() {
    let mut rig = Rig::nodes(1);
    rig.now += 86_400;
    let mut rig = rig.restart();
    rig.now += 30 * 60;
    assert!(rig.registry.sweep(rig.now).is_empty());
    rig.now += 1;
    assert_eq!(rig.registry.sweep(rig.now).len(), 1);
}

#[test]
fn numbers_are_not_given_again_even_if_the_counters_are_lost() {
    let mut rig = furnished();
    rig.stored.remove(&RecordKey::Meta);
    let mut rig = rig.restart();
    assert_eq!(rig.join(9), 6);
    assert_eq!(rig.network("next", "open", false), 3);
}

#[test]
fn contradictions_are_refused() {
    let damaged = |change: fn(&mut BTreeMap<RecordKey, Vec<u8>>)| {
        let mut rig = furnished();
        change(&mut rig.stored);
        Registry::restore(Settings::default(), rig.stored, START).unwrap_err().to_string()
    };
    let text = damaged(|s| drop(s.insert(RecordKey::Node(1), b"{".to_vec())));
    assert!(text.contains("Node(1) is damaged"), "{text}");
    let text = damaged(|s| {
        let copy = s[&RecordKey::Identity(1)].clone();
        s.insert(RecordKey::Identity(9), copy);
    });
    assert!(text.contains("the key is taken"), "{text}");
    let text = damaged(|s| drop(s.remove(&RecordKey::Identity(1))));
    assert!(text.contains("Node(1) has no identity"), "{text}");
    let text = damaged(|s| drop(s.remove(&RecordKey::Network(1))));
    assert!(text.contains("has no network"), "{text}");
    let text = damaged(|s| {
        drop(s.insert(
            RecordKey::Meta,
            br#"{"format":2,"next_node":1,"next_network":1,"next_member":0,"founded":0}"#.to_vec(),
        ))
    });
    assert!(text.contains("format 2"), "{text}");
}
