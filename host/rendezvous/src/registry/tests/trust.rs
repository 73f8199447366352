//! Trust pairs and the handshake relay.

use super::*;

fn request(from: u8, to: u8) -> Value {
    json!({"from_node_id": from, "to_node_id": to, "justification": "hi",
        "signature": sign(from, &challenge::request_handshake(from.into(), to.into()))})
}

fn respond(node: u8, peer: u8, accept: bool) -> Value {
    json!({"node_id": node, "peer_id": peer, "accept": accept,
        "signature": sign(node, &challenge::respond_handshake(node.into(), peer.into()))})
}

#[test]
fn a_request_travels_to_the_other_node_and_the_answer_back() {
    let mut rig = Rig::nodes(2);
    assert_eq!(rig.ok("request_handshake", request(2, 1))["status"], "delivered");
    assert_eq!(rig.notified, [1]);
    let polled = rig.own(1, "poll_handshakes", json!({}));
    let entry =
        json!({"from_node_id": 2, "justification": "hi", "timestamp": START, "public_key": key_text(2)});
    assert_eq!((&polled["requests"], &polled["responses"]), (&json!([entry]), &json!([])));
    let empty = rig.own(1, "poll_handshakes", json!({}));
    assert_eq!((&empty["requests"], &empty["responses"]), (&json!([]), &json!([])));
    let answer = rig.ok("respond_handshake", respond(1, 2, true));
    assert_eq!((&answer["accept"], &answer["peer_id"]), (&json!(true), &json!(2)));
    assert_eq!(rig.notified, [1, 2]);
    let polled = rig.own(2, "poll_handshakes", json!({}));
    assert_eq!(polled["responses"], json!([{"from_node_id": 1, "accept": true, "timestamp": START}]));
    assert_eq!(rig.resolve(2, 1)["type"], "resolve_ok");
}

#[test]
fn requests_are_checked() {
    let mut rig = Rig::nodes(3);
    let mut long = request(2, 1);
    long["justification"] = "x".repeat(1025).into();
    assert_eq!(rig.refused("request_handshake", long.clone()), "request failed", "too large: hidden");
    long["justification"] = "x".repeat(1024).into();
    rig.ok("request_handshake", long);
    assert_eq!(
        rig.refused("request_handshake", request(2, 1)),
        "handshake request already pending from node 2"
    );
    assert_eq!(rig.refused("request_handshake", request(2, 99)), "node 99: node not found");
    let mut unsigned = request(3, 1);
    unsigned["signature"] = "".into();
    assert_eq!(rig.refused("request_handshake", unsigned.clone()), "handshake request requires signature");
    unsigned["signature"] = sign(2, "handshake:3:1").into();
    assert_eq!(rig.refused("request_handshake", unsigned), "handshake request signature verification failed");
}

#[test]
fn an_inbox_is_full_at_some_point() {
    let mut rig = Rig::with(|s| s.inbox_requests = 3);
    for seed in 1..=5 {
        rig.join(seed);
    }
    for from in 2..=4 {
        rig.ok("request_handshake", request(from, 1));
    }
    assert_eq!(rig.refused("request_handshake", request(5, 1)), "request failed");
    rig.own(1, "poll_handshakes", json!({}));
    rig.ok("request_handshake", request(5, 1));
}

#[test]
fn accepting_needs_a_relayed_request_and_uses_it_up() {
    let mut rig = Rig::nodes(2);
    assert_eq!(rig.refused("respond_handshake", respond(1, 2, true)), "request failed");
    rig.ok("request_handshake", request(2, 1));
    rig.own(1, "poll_handshakes", json!({}));
    let mut rig = rig.restart();
    rig.ok("respond_handshake", respond(1, 2, false));
    rig.ok("respond_handshake", respond(1, 2, true));
    assert_eq!(rig.refused("respond_handshake", respond(1, 2, true)), "request failed", "used up");
    rig.ok("respond_handshake", respond(1, 2, false));
    let mut unsigned = respond(1, 2, true);
    unsigned["signature"] = Value::Null;
    assert_eq!(rig.refused("respond_handshake", unsigned), "handshake response requires signature");
}

#[test]
fn old_answers_give_way() {
    let mut rig = Rig::with(|s| s.inbox_responses = 3);
    for seed in 1..=6 {
        rig.join(seed);
    }
    for node in 2..=6 {
        rig.ok("respond_handshake", respond(node, 1, false));
    }
    let polled = rig.own(1, "poll_handshakes", json!({}));
    let from: Vec<_> =
        polled["responses"].as_array().unwrap().iter().map(|r| r["from_node_id"].clone()).collect();
    assert_eq!(from, [4, 5, 6]);
}

#[test]
fn old_acceptable_requests_give_way() {
    let mut rig = Rig::with(|s| s.inbox_awaiting = 2);
    for seed in 1..=4 {
        rig.join(seed);
    }
    for from in 2..=4 {
        rig.now += 1;
        rig.ok("request_handshake", request(from, 1));
    }
    assert_eq!(rig.refused("respond_handshake", respond(1, 2, true)), "request failed");
    rig.ok("respond_handshake", respond(1, 3, true));
    rig.ok("respond_handshake", respond(1, 4, true));
}

#[test]
fn trust_is_symmetric_repeatable_and_revocable() {
    let mut rig = Rig::nodes(3);
    rig.trust(1, 2);
    rig.trust(1, 2);
    rig.trust(2, 1);
    let trusted = |rig: &mut Rig, a: u32, b: u32| {
        rig.ok("check_trust", json!({"node_id": a, "peer_id": b}))["trusted"] == true
    };
    assert!(trusted(&mut rig, 1, 2) && trusted(&mut rig, 2, 1) && !trusted(&mut rig, 1, 3));
    let revoke = json!({"node_id": 2, "peer_id": 1, "signature": sign(2, "revoke_trust:2:1")});
    rig.ok("revoke_trust", revoke.clone());
    assert!(!trusted(&mut rig, 1, 2));
    assert_eq!(rig.refused("revoke_trust", revoke), "request failed", "no pair: hidden");
}

#[test]
fn trust_needs_both_nodes_and_a_signature() {
    let mut rig = Rig::nodes(2);
    assert_eq!(rig.refused("report_trust", json!({"node_id": 1, "peer_id": 99})), "node 99: node not found");
    assert_eq!(
        rig.refused("report_trust", json!({"node_id": 1, "peer_id": 2})),
        "signature required for authenticated node"
    );
    let other = json!({"node_id": 1, "peer_id": 2, "signature": sign(2, "report_trust:1:2")});
    assert_eq!(rig.refused("report_trust", other), "signature verification failed");
}

#[test]
fn trust_and_inboxes_survive_the_node() {
    let mut rig = Rig::nodes(3);
    rig.trust(1, 2);
    rig.ok("request_handshake", request(3, 1));
    rig.reap();
    let mut rig = rig.restart();
    for seed in 1..=3 {
        assert_eq!(rig.join(seed), u32::from(seed));
    }
    assert_eq!(rig.ok("check_trust", json!({"node_id": 1, "peer_id": 2}))["trusted"], true);
    assert_eq!(rig.own(1, "poll_handshakes", json!({}))["requests"].as_array().unwrap().len(), 1);
}

#[test]
fn a_node_cannot_be_trusted_without_end() {
    let mut rig = Rig::with(|s| s.trust_per_node = 1);
    for seed in 1..=3 {
        rig.join(seed);
    }
    rig.trust(1, 2);
    let more = json!({"node_id": 3, "peer_id": 1, "signature": sign(3, "report_trust:3:1")});
    assert_eq!(rig.refused("report_trust", more), "too many trust pairs for node 1 (max 1)");
}
