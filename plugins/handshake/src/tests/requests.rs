//! Two nodes find to each other, and apart again.

use super::*;

#[test]
fn a_person_approves() {
    let (a, b, _) = pair();
    let (a, b) = (a.start(), b.start());
    a.service().send_request(2, "let me\tin").expect("sent");
    let pending = b.daemon.wait_for_event("handshake.pending").expect("arrives");
    assert_eq!(Value::from(pending.payload), json!({"peer_node_id": 1, "justification": "let mein"}));
    assert_eq!(a.daemon.reply_windows(), [2]);
    assert_eq!(b.service().pending_count(), 1);
    assert_eq!(b.service().pending_requests()[0].public_key, a.key_text());

    b.service().approve(1).expect("approved");
    assert!(a.service().wait_for_trust(2, Duration::from_secs(10)));
    assert!(b.service().is_trusted(1) && b.service().is_trusted_with_key(1, &a.key_text()));
    assert_eq!(a.daemon.wait_for_registry_call("report_trust").expect("reported")["peer_id"], 2);
    assert_eq!(b.daemon.wait_for_registry_call("report_trust").expect("reported")["peer_id"], 1);
    let answer = b.daemon.wait_for_registry_call("respond_handshake").expect("answered");
    assert_eq!(Value::from(answer), json!({"peer_id": 1, "accept": true}));
    assert_eq!(
        b.topics(),
        ["handshake.received", "handshake.pending", "handshake.approved", "trust.changed"]
    );
    assert_eq!(a.topics(), Vec::<String>::new(), "an accept publishes nothing");
    assert!(a.service().trusted_peers()[0].mutual);
    assert_eq!(a.service().trusted_peers()[0].public_key, b.key_text());

    a.service().send_request(2, "again").expect("nothing to do");
    b.service().approve(1).expect("nothing to do");
    assert_eq!(a.daemon.dials().len(), 1);
    a.stop();
    b.stop();
    assert_eq!(saved(&a.state_file())["trusted"][0]["node_id"], 2);
    assert_eq!(saved(&b.state_file())["trusted"][0]["public_key"], a.key_text());
}

#[test]
fn both_ask_and_nobody_has_to_approve() {
    let (a, b, _) = pair();
    let (a, b) = (a.start(), b.start());
    a.service().send_request(2, "hi").expect("sent");
    b.daemon.wait_for_event("handshake.pending").expect("arrives");
    b.service().send_request(1, "hi too").expect("sent");
    assert!(a.service().wait_for_trust(2, Duration::from_secs(10)));
    assert!(b.service().wait_for_trust(1, Duration::from_secs(10)));
    let why = a.daemon.wait_for_event("handshake.auto_approved").expect("published");
    assert_eq!(Value::from(why.payload), json!({"peer_node_id": 2, "reason": "mutual"}));
    assert_eq!(b.service().pending_count(), 0);
}

#[test]
fn a_person_rejects() {
    let (a, b, _) = pair();
    let (a, b) = (a.start(), b.start());
    a.service().send_request(2, "please").expect("sent");
    b.daemon.wait_for_event("handshake.pending").expect("arrives");
    b.service().reject(1, "not now").expect("always succeeds");
    let rejected = b.daemon.wait_for_event("handshake.rejected").expect("published");
    assert_eq!(Value::from(rejected.payload), json!({"peer_node_id": 1, "reason": "not now"}));
    let answer = b.daemon.wait_for_registry_call("respond_handshake").expect("answered");
    assert_eq!(Value::from(answer), json!({"peer_id": 1, "accept": false}));
    eventually("the request is forgotten", || {
        let file = saved(&a.state_file());
        file.is_object() && file.get("outgoing").is_none()
    });
    // An accept after a reject is not asked for.
    deliver(&a, 2, &[&b.message(1, Kind::Accept, "").encode()]);
    assert!(!a.service().is_trusted(2));
}

#[test]
fn what_cannot_be_dialled_is_asked_through_the_registry() {
    let (registry, clock) = (Arc::<FakeRegistry>::default(), ManualClock::new());
    let a = Node::new(1, &registry, &clock).start();
    a.service().send_request(9, "hello").expect("relayed");
    let call = a.daemon.wait_for_registry_call("request_handshake").expect("called");
    assert_eq!(Value::from(call), json!({"to_node_id": 9, "justification": "hello"}));

    registry.fail("request_handshake", "handshake inbox full for node 9");
    let error = a.service().send_request(9, "hello").expect_err("full");
    assert_eq!(error.message(), "handshake relay: handshake inbox full for node 9");
    registry.fail("request_handshake", "registry connection not initialized");
    assert_eq!(a.service().send_request(9, "hello").expect_err("alone").message(), "connection refused");
}

#[test]
fn a_long_text_goes_through_the_registry() {
    let (a, b, _) = pair();
    let (a, b) = (a.start(), b.start());
    a.service().send_request(2, &"y".repeat(1024)).expect("relayed");
    assert_eq!(a.calls("request_handshake"), 1);
    assert!(a.daemon.dials().is_empty() && b.topics().is_empty());
}

#[test]
fn a_repetition_also_goes_through_the_registry_because_the_peer_drops_it_as_a_replay() {
    let (a, b, _) = pair();
    let (a, b) = (a.start(), b.start());
    a.service().send_request(2, "first").expect("sent");
    b.daemon.wait_for_event("handshake.pending").expect("arrives");
    assert_eq!(a.calls("request_handshake"), 0);
    a.clock.advance(60);
    a.service().send_request(2, "second").expect("sent");
    assert_eq!(a.calls("request_handshake"), 1);
    a.clock.advance(15 * 60 + 1);
    a.service().send_request(2, "third").expect("sent");
    assert_eq!(a.calls("request_handshake"), 1);
}

#[test]
fn a_relayed_request_is_approved() {
    let (a, b, _) = pair();
    let b = b.start();
    b.service().process_relayed_request(1, "by\u{7}mail");
    assert_eq!(b.service().pending_requests()[0].justification, "bymail");
    assert_eq!(b.topics(), Vec::<String>::new());
    b.service().approve(1).expect("approved");
    b.daemon.wait_for_registry_call("respond_handshake").expect("answered");
    eventually("the key is filled in", || b.service().trusted_peers()[0].public_key == a.key_text());
}

#[test]
fn relayed_answers_count_while_they_are_waited_for() {
    // Alone: nothing but the inbox can answer.
    let a = Node::new(1, &Arc::default(), &ManualClock::new()).start();
    a.service().process_relayed_approval(2);
    assert!(!a.service().is_trusted(2), "not asked for");
    a.service().send_request(2, "hi").expect("relayed");
    a.service().process_relayed_rejection(2);
    a.service().process_relayed_approval(2);
    assert!(!a.service().is_trusted(2), "no longer asked for");
    a.service().send_request(2, "hi").expect("relayed");
    a.service().process_relayed_approval(2);
    assert!(a.service().is_trusted(2));
}

#[test]
fn a_relayed_approval_grants_and_looks_the_key_up() {
    let (registry, clock) = (Arc::<FakeRegistry>::default(), ManualClock::new());
    let a = Node::new(1, &registry, &clock).start();
    let b = Node::new(2, &registry, &clock);
    a.service().send_request(2, "hi").expect("relayed");
    a.service().process_relayed_approval(2);
    assert!(a.service().is_trusted(2));
    eventually("the key is filled in", || a.service().trusted_peers()[0].public_key == b.key_text());
    // The other key, whatever it says, ends the trust.
    assert!(!a.service().is_trusted_with_key(2, &a.key_text()));
    let changed = a.daemon.wait_for_event("trust.changed").expect("published");
    assert_eq!(
        Value::from(changed.payload),
        json!({"peer_node_id": 2, "state": "revoked", "reason": "key_changed"})
    );
    assert!(!a.service().is_trusted(2));
}

#[test]
fn a_shared_network_is_enough() {
    let (a, b, registry) = pair();
    for (networks, node) in [(vec![0, 5, 7], 1), (vec![0, 7, 9], 2)] {
        lock(&registry.nodes).get_mut(&node).expect("known").1 = networks;
    }
    let (a, b) = (a.start(), b.start());
    a.service().send_request(2, "colleague").expect("sent");
    assert!(a.service().wait_for_trust(2, Duration::from_secs(10)));
    assert_eq!(b.service().trusted_peers()[0].network, 7);

    b.service().revoke_trust(1).expect("was trusted");
    b.service().process_relayed_request(1, "colleague, by mail");
    assert!(b.service().is_trusted(1), "the cooldown is not asked for a request");
}

#[test]
fn revocation_reaches_the_peer_before_its_tunnel_goes() {
    let (a, b, _) = pair();
    b.daemon.set_trust_auto_approve(true);
    let (a, b) = (a.start(), b.start());
    a.service().send_request(2, "hi").expect("sent");
    assert!(a.service().wait_for_trust(2, Duration::from_secs(10)));

    b.service().revoke_trust(1).expect("was trusted");
    // The peer had read it when the call returned: it closes only after reading.
    assert_eq!(b.daemon.removed_peers(), [1]);
    assert!(a.daemon.wait_for_event("trust.revoked_by_peer").is_some());
    assert!(!a.service().is_trusted(2) && !b.service().is_trusted(1));
    eventually("both tunnels are gone", || a.daemon.removed_peers() == [2]);
    assert_eq!(a.daemon.wait_for_registry_call("revoke_trust").expect("told")["peer_id"], 2);
    assert_eq!(b.daemon.wait_for_registry_call("revoke_trust").expect("told")["peer_id"], 1);
    assert_eq!(b.topics().iter().filter(|t| *t == "trust.revoked").count(), 1);

    let error = b.service().revoke_trust(1).expect_err("gone already");
    assert_eq!((error.message(), error.kind()), ("node 1 was not trusted", ErrorKind::NotFound));
}

#[test]
fn waiting_ends_with_trust_or_with_time() {
    let (a, b, _) = pair();
    b.daemon.set_trust_auto_approve(true);
    let (a, b) = (a.start(), b.start());
    assert!(a.service().wait_for_trust(1, Duration::ZERO), "oneself");
    assert!(!a.service().wait_for_trust(2, Duration::ZERO));
    assert!(!a.service().wait_for_trust(2, Duration::from_millis(1)));
    std::thread::scope(|s| {
        let waiters: Vec<_> =
            (0..3).map(|_| s.spawn(|| a.service().wait_for_trust(2, Duration::from_secs(10)))).collect();
        a.service().send_request(2, "hi").expect("sent");
        assert!(waiters.into_iter().all(|w| w.join().expect("no panic")));
    });
    assert!(b.service().is_trusted(1));
}

#[test]
fn trusted_agents_are_granted_and_pins_hold() {
    let (registry, clock) = (Arc::<FakeRegistry>::default(), ManualClock::new());
    let (agent, pinned) = (Node::new(3, &registry, &clock), Node::new(4, &registry, &clock));
    let a = Node::new(1, &registry, &clock);
    let list = a.folder.path().join("agents.json");
    let wrong_pin = to_base64(&[1; 32]);
    fs::write(
        &list,
        json!({"agents": [{"hostname": "helper", "node_id": 3},
                          {"hostname": "pinned", "node_id": 4, "public_key": wrong_pin}]})
        .to_string(),
    )
    .expect("writes");
    a.daemon.set_config(json!({"trusted_agents": list}));
    let a = a.start();
    deliver(&a, 3, &[&agent.message(1, Kind::Request, "work").encode()]);
    let why = a.daemon.wait_for_event("handshake.auto_approved").expect("granted");
    assert_eq!(
        Value::from(why.payload),
        json!({"peer_node_id": 3, "reason": "trusted_agent", "agent": "helper"})
    );
    deliver(&a, 4, &[&pinned.message(1, Kind::Request, "work").encode()]);
    a.service().process_relayed_request(4, "work");
    assert!(!a.service().is_trusted(4));
    assert_eq!(a.daemon.trust_checker().expect("registered").is_trusted(4).as_deref(), Some("pinned"));
}
