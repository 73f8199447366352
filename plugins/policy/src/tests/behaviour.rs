//! What the fact sheet says in prose: gates that fail, membership, persistence, expressions out of hand.
//!
//! Tests named `go_bug_..` are named after what the Go peer does there, and hold ours to the right behaviour.

use plugin_abi::PolicyRunner;

use super::*;
use crate::lang::{self, Context};

fn empty() -> Value {
    json!({"network_id": 7, "peers": {}, "joined_at": "2026-01-02T03:04:05Z", "cycle_num": 4})
}

fn one_rule(on: &str, condition: &str, actions: Value) -> String {
    json!({"version": 1, "rules": [{"name": "r", "on": on, "match": condition, "actions": actions}]})
        .to_string()
}

fn topics(rig: &Rig) -> Vec<String> {
    rig.published(0).into_iter().map(|(topic, _)| topic).collect()
}

fn peers(rig: &Rig) -> Vec<u64> {
    let mut ids: Vec<u64> = rig.runner.peer_list().iter().map(|p| p["node_id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_gate_that_cannot_be_decided_is_closed_unless_the_document_says_otherwise() {
    let document = one_rule("connect", "sender_rating < 0.5", json!([{"type": "deny"}]));
    let rig = Rig::new(&document, empty());
    assert!(!rig.runner.evaluate_port_gate(&connect(9, 80)));
    let (topic, payload) = rig.published(0).remove(0);
    assert_eq!((topic.as_str(), &payload["event"]), ("policy.eval_error", &json!("connect")));
    assert!(payload["error"].as_str().unwrap().starts_with("policy: rule \"r\" eval: "));

    let open = document.replace("\"version\"", "\"fail_closed\":false,\"version\"");
    let rig = Rig::new(&open, empty());
    assert!(rig.runner.evaluate_port_gate(&connect(9, 80)));
    assert_eq!(topics(&rig), [""; 0]);
}

#[test]
fn an_expression_out_of_hand_costs_its_gate_and_nothing_else() {
    for condition in [
        "all(1..1000, all(1..1000, all(1..1000, # > 0)))",
        "len(map(1..100000, map(1..100000, #))) > 0",
        "len(reduce(1..60, concat(#acc, #acc), [1])) > 0",
    ] {
        let rig = Rig::new(&one_rule("connect", condition, json!([{"type": "allow"}])), empty());
        for _ in 0..6 {
            assert!(!rig.runner.evaluate_port_gate(&connect(9, 80)), "{condition}");
        }
        assert!(rig.runner.evaluate_port_gate(&PortGate { event: PolicyEvent::Dial, ..connect(9, 80) }));
    }
}

#[test]
fn a_gate_sees_the_tags_of_registry_policy_and_node() {
    let document = one_rule(
        "connect",
        "peer_tags == [\"n\", \"r\", \"p\"] and members == 1 and peer_age_s > 1",
        json!([{"type": "deny"}]),
    );
    let snapshot = json!({"network_id": 7, "joined_at": "", "cycle_num": 0, "peers": {"9": {"node_id": 9,
        "tags": ["p", "r"], "registry_tags": ["r", "n"], "added_at": "2020-01-01T00:00:00Z"}}});
    let rig = Rig::new(&document, snapshot);
    let gate = PortGate { node_info_tags: vec!["n".into()], ..connect(9, 80) };
    assert!(!rig.runner.evaluate_port_gate(&gate));
    assert!(rig.runner.evaluate_port_gate(&PortGate { peer: 10, ..gate }), "unknown peers have age 0");
}

#[test]
fn tags_given_at_a_gate_survive_a_stop() {
    let document = one_rule("connect", "true", json!([{"type": "tag", "params": {"add": ["seen"]}}]));
    let snapshot = json!({"network_id": 7, "joined_at": "", "cycle_num": 0,
        "peers": {"9": {"node_id": 9, "added_at": "2020-01-01T00:00:00Z"}}});
    let rig = Rig::new(&document, snapshot);
    rig.runner.start().unwrap();
    assert!(rig.runner.evaluate_port_gate(&connect(9, 80)));
    rig.runner.stop();
    assert_eq!(rig.saved()["peers"]["9"]["tags"], json!(["seen"]));
}

#[test]
fn a_refused_member_is_kept_out_for_a_minute() {
    let document = one_rule("join", "peer_id == 9", json!([{"type": "deny"}]));
    let rig = Rig::new(&document, empty());
    rig.set_nodes(json!([{"node_id": 1}, {"node_id": 8}, {"node_id": 9}]));
    assert_eq!(rig.runner.reconcile_now(), Ok(1));
    assert_eq!(rig.runner.reconcile_now(), Ok(1));
    assert_eq!(topics(&rig), ["policy.join_denied"], "told once while it is kept out");
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(rig.runner.reconcile_now(), Ok(1));
    assert_eq!(topics(&rig).len(), 2);
    assert_eq!(peers(&rig), [8]);
}

#[test]
fn eviction_at_join_is_silent_and_failing_join_rules_keep_the_peer() {
    let rig = Rig::new(&one_rule("join", "members > 2", json!([{"type": "evict"}])), empty());
    rig.set_nodes(json!([{"node_id": 1}, {"node_id": 8}, {"node_id": 9}]));
    assert_eq!(rig.runner.reconcile_now(), Ok(0));
    assert_eq!(topics(&rig), [""; 0]);

    let rig = Rig::new(&one_rule("join", "has_tag(local_tags, \"a\")", json!([{"type": "deny"}])), empty());
    rig.set_nodes(json!([{"node_id": 8}]));
    assert_eq!(rig.runner.reconcile_now(), Ok(1));
    assert_eq!(topics(&rig), [""; 0], "membership errors are logged only");
}

#[test]
fn nobody_is_removed_because_the_registry_says_nothing() {
    let rig =
        Rig::new(&one_rule("leave", "true", json!([{"type": "log", "params": {"message": "x"}}])), empty());
    rig.set_nodes(json!([{"node_id": 1}, {"node_id": 8, "member_tags": ["a"]}]));
    assert_eq!(rig.runner.reconcile_now(), Ok(1));
    rig.set_nodes(json!([]));
    assert_eq!(rig.runner.reconcile_now(), Ok(1));
    rig.registry_fails();
    assert_eq!(rig.runner.reconcile_now(), Ok(1));
    // The failure makes it wait before the next question.
    rig.set_nodes(json!([{"node_id": 1}]));
    assert_eq!(rig.runner.reconcile_now(), Ok(1));
    rig.clock.advance(Duration::from_secs(10));
    assert_eq!(rig.runner.reconcile_now(), Ok(0));
    assert_eq!(rig.saved()["peers"], json!({}));
}

#[test]
fn the_loop_fills_the_table_and_keeps_it_in_step() {
    let document = json!({"version": 1, "config": {"max_peers": 2, "cycle": "1m"}, "rules": [
        {"name": "hello", "on": "join", "match": "true", "actions": [
            {"type": "webhook", "params": {"event": "hello", "data": {"rule": "overwritten", "x": 1}}}]},
        {"name": "out", "on": "join", "match": "peer_id == 9", "actions": [{"type": "deny"}, {"type": "evict"}]}]});
    let rig = Rig::new(&document.to_string(), empty());
    rig.set_nodes(json!([{"node_id": 1, "member_tags": ["me"]}, {"node_id": 8}, {"node_id": 9}]));
    rig.runner.start().unwrap();
    rig.daemon.wait_for_nth_event("policy.hello", 2).expect("both were told to be new");
    let (_, payload) = rig.published(0).remove(0);
    assert_eq!(payload, json!({"network_id": 7, "rule": "hello", "x": 1}));
    assert_eq!(rig.daemon.member_tags(7), Some(vec!["me".to_owned()]));

    // Time passes; the next thing the loop hears makes it look at the clock.
    rig.set_nodes(json!([{"node_id": 1}, {"node_id": 8}, {"node_id": 10}, {"node_id": 11}]));
    rig.clock.advance(Duration::from_secs(60));
    rig.runner.evaluate_actions("leave", &Map::new());
    rig.daemon.wait_for_event("policy.cycle").expect("a cycle after a full period");
    rig.runner.stop();
    assert_eq!(peers(&rig), [8, 10, 11], "max_peers does not bound reconcile");
    assert!(!topics(&rig).contains(&"policy.join_denied".to_owned()), "not announced at the start");
    assert_eq!(rig.saved()["cycle_num"], 5);
    rig.runner.start().unwrap();
    rig.runner.stop();
}

#[test]
fn actions_from_outside_have_their_effects() {
    let document = json!({"version": 1, "rules": [
        {"name": "a", "on": "join", "match": "peer_id == 9", "actions": [
            {"type": "deny"}, {"type": "tag", "params": {"add": ["x"]}}, {"type": "fill", "params": {"count": 5}}]},
        {"name": "b", "on": "leave", "match": "true", "actions": [{"type": "evict"}]},
        {"name": "c", "on": "cycle", "match": "true", "actions": [
            {"type": "fill", "params": {"count": -3}}, {"type": "prune", "params": {"count": 1, "by": "nothing"}}]}]});
    let snapshot = json!({"network_id": 7, "joined_at": "", "cycle_num": 0,
        "peers": {"9": {"node_id": 9, "added_at": "2020-01-01T00:00:00Z"}}});
    let rig = Rig::new(&document.to_string(), snapshot);
    rig.set_nodes(json!([{"node_id": 9}, {"node_id": 10, "member_tags": ["t"]}]));
    let context = |value: Value| value.as_object().unwrap().clone();
    rig.runner.evaluate_actions("join", &context(json!({"peer_id": 9, "network_id": 7, "members": 2})));
    assert_eq!(peers(&rig), [9, 10], "deny is for those who join");
    assert_eq!(rig.runner.peer_list()[0]["tags"], json!(["x"]));
    rig.runner.evaluate_actions("leave", &context(json!({"peer_id": 9, "network_id": 7})));
    assert_eq!(peers(&rig), [10]);
    let result = rig.runner.force_cycle().unwrap();
    assert_eq!((&result["pruned"], &result["filled"]), (&json!(1), &json!(0)));
    rig.runner.evaluate_actions("picnic", &Map::new());
    assert!(!rig.runner.has_member(10));
}

#[test]
fn trust_is_pruned_within_its_bounds() {
    let trust = |rig: &Rig, nodes: u32| {
        let record = |node| HandshakeTrustRecord {
            node_id: node,
            public_key: String::new(),
            approved_at: i64::from(100 - node),
            mutual: false,
            network: 0,
        };
        *rig.trust.trusted.lock().unwrap() = (1..=nodes).map(record).collect();
    };
    for (percent, min, total, revoked) in [
        (25.0, 2, 4, vec![4]),
        (50.0, 3, 4, vec![4]),
        (0.0, 0, 3, vec![3]),
        (90.0, 5, 5, vec![]),
        (-5.0, 1, 2, vec![2]),
    ] {
        let params = json!({"percent": percent, "min": min});
        let document = one_rule("cycle", "true", json!([{"type": "prune_trust", "params": params}]));
        let rig = Rig::new(&document, empty());
        trust(&rig, total);
        let result = rig.runner.force_cycle().unwrap();
        assert_eq!(*rig.trust.revoked.lock().unwrap(), revoked, "{percent}% of {total}, at least {min}");
        assert_eq!(result["pruned_trust"], revoked.len());
        assert_eq!(topics(&rig).contains(&"policy.prune_trust".to_owned()), !revoked.is_empty());
    }
}

#[test]
fn views_show_what_is_there() {
    let document = json!({"version": 1, "config": {"max_peers": 4}, "rules": [
        {"name": "r", "on": "dial", "match": "true", "actions": [{"type": "allow"}]}]});
    let snapshot = json!({"network_id": 7, "joined_at": "2026-01-02T03:04:05Z", "cycle_num": 4, "peers": {
        "9": {"node_id": 9, "tags": ["p"], "registry_tags": ["r"], "added_at": "2022-01-01T00:00:00Z",
            "last_seen": "2023-01-01T00:00:00Z"},
        "10": {"node_id": 10, "added_at": "2020-01-01T00:00:00Z", "last_seen": "0001-01-01T00:00:00Z"}}});
    let rig = Rig::new(&document.to_string(), snapshot);
    assert_eq!(
        rig.runner.peer_list(),
        [
            json!({"node_id": 10, "added_at": "2020-01-01T00:00:00Z"}),
            json!({"node_id": 9, "added_at": "2022-01-01T00:00:00Z", "last_seen": "2023-01-01T00:00:00Z",
                "tags": ["r", "p"]}),
        ]
    );
    let status = json!({"network_id": 7, "peers": 2, "cycle_num": 4, "joined_at": "2026-01-02T03:04:05Z",
        "engine": "policy", "max_peers": 4});
    assert_eq!(Value::Object(rig.runner.status()), status);
    assert_eq!(rig.runner.policy_json(), pilot_wire_order(&document));
}

/// Rules in the order of the Go structure; everything else happens to be alphabetical here.
fn pilot_wire_order(document: &Value) -> String {
    format!(
        "{{\"version\":1,\"config\":{},\"rules\":[{{\"name\":\"r\",\"on\":\"dial\",\"match\":\"true\",\"actions\":[{{\"type\":\"allow\"}}]}}]}}",
        document["config"]
    )
}

#[test]
fn go_bug_fill_replaces_the_policy_tags_of_known_peers() {
    let document = one_rule("cycle", "peer_id == nil", json!([{"type": "fill", "params": {"count": 5}}]));
    let snapshot = json!({"network_id": 7, "joined_at": "", "cycle_num": 0, "peers": {
        "9": {"node_id": 9, "tags": ["given"], "registry_tags": ["old"], "added_at": "2020-01-01T00:00:00Z"}}});
    let rig = Rig::new(&document, snapshot);
    rig.set_nodes(json!([{"node_id": 9, "member_tags": ["new"]}, {"node_id": 10, "member_tags": ["t"]}]));
    assert_eq!(rig.runner.force_cycle().unwrap()["filled"], 1);
    let list = rig.runner.peer_list();
    let tags = |node: u32| list.iter().find(|p| p["node_id"] == node).unwrap()["tags"].clone();
    assert!(tags(9).as_array().unwrap().contains(&json!("given")), "{list:?}");
    assert_eq!(tags(10), json!(["t"]));
    assert_eq!(rig.saved()["peers"]["10"]["registry_tags"], json!(["t"]), "not among the policy's own tags");
}

#[test]
fn go_bug_a_negative_fill_count_ends_the_process() {
    let document = one_rule("cycle", "peer_id == nil", json!([{"type": "fill", "params": {"count": -1}}]));
    let rig = Rig::new(&document, empty());
    rig.set_nodes(json!([{"node_id": 9}]));
    assert_eq!(rig.runner.force_cycle().unwrap()["filled"], 0);
    assert_eq!(peers(&rig), [0u64; 0]);
}

#[test]
fn go_bug_a_webhook_directive_writes_into_the_document() {
    let actions = json!([{"type": "webhook", "params": {"event": "seen", "data": {"kind": "x"}}}]);
    let rig = Rig::new(&one_rule("connect", "true", actions), empty());
    let before = rig.runner.policy_json();
    assert!(rig.runner.evaluate_port_gate(&connect(9, 80)));
    let (_, payload) = rig.published(0).remove(0);
    assert_eq!(payload, json!({"kind": "x", "network_id": 7, "rule": "r"}));
    assert_eq!(rig.runner.policy_json(), before);
}

/// A context in which no variable has a value.
fn nothing() -> Context {
    Context::new(lang::declared(PolicyEvent::Connect), &Map::new())
}

/// Runs `gate` over and over until `busy` ends; gives how long each answer took.
fn answers_meanwhile(busy: &std::thread::JoinHandle<()>, gate: impl Fn()) -> Vec<Duration> {
    let mut times = Vec::new();
    while !busy.is_finished() || times.is_empty() {
        let asked = std::time::Instant::now();
        gate();
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    times
}

/// Documents come from administrators of networks. What one of them writes must not cost the gates of the others.
#[test]
#[allow(clippy::print_stdout)] // the measured times are what one wants to read of this test
fn hostile_documents_are_refused_or_time_out_while_other_gates_answer() {
    let ours =
        Rig::new(&one_rule("connect", "port == 22 and peer_age_s < 60", json!([{"type": "deny"}])), empty());
    let workers = ours.runner.workers();
    let deep = format!("{}true{}", "(".repeat(2000), ")".repeat(2000));
    for refused in [deep.as_str(), "\"a\" matches \"(\"", "\"a\" matches \"(a{1000}){1000}\""] {
        let refusal =
            compile(&one_rule("connect", refused, json!([{"type": "allow"}])), &workers).unwrap_err();
        assert!(refusal.starts_with("policy: rule \"r\" match: "), "{refusal}");
    }
    for (what, hostile) in [
        ("a huge range", "len(1..20000000) > 0"),
        ("a huge range that is used", "all(1..20000000, # > 0)"),
        ("nested loops", "all(1..1000, all(1..1000, all(1..1000, # > 0)))"),
        // Exponential where an engine backtracks; this one does not.
        ("a catastrophic pattern", "(repeat(\"a\", 5000) + \"!\") matches \"^(a+)+$\""),
    ] {
        let document = one_rule("connect", hostile, json!([{"type": "allow"}]));
        let policy = Arc::new(compile(&document, &workers).unwrap());
        let busy = std::thread::spawn({
            let workers = workers.clone();
            move || {
                for _ in 0..8 {
                    // Refused, timed out or decided; what matters is that it comes back.
                    let _ = policy.decide(&workers, PolicyEvent::Connect, &nothing(), 0.0);
                }
            }
        });
        let times = answers_meanwhile(&busy, || assert!(!ours.runner.evaluate_port_gate(&connect(9, 22))));
        busy.join().unwrap();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        println!("{what}: another gate answered {} times, median {median:?}, worst {worst:?}", times.len());
    }
}

#[test]
fn one_document_cannot_take_all_threads() {
    let document =
        one_rule("connect", "all(1..1000, all(1..1000, all(1..1000, # > 0)))", json!([{"type": "allow"}]));
    let other = one_rule("connect", "\"a\" matches \"a\"", json!([{"type": "allow"}]));
    let workers = Workers::new();
    let hostile = Arc::new(compile(&document, &workers).unwrap());
    let other = Arc::new(compile(&other, &workers).unwrap());
    let decide = |policy: &Arc<Policy>| policy.decide(&workers, PolicyEvent::Connect, &nothing(), 0.0);
    std::thread::scope(|scope| {
        let many: Vec<_> = (0..16).map(|_| scope.spawn(|| decide(&hostile))).collect();
        // This one needs a thread too, and gets it.
        for _ in 0..20 {
            assert!(decide(&other).is_ok());
        }
        let texts: Vec<String> =
            many.into_iter().map(|d| d.join().unwrap().unwrap_err().to_string()).collect();
        assert!(
            texts.iter().all(|text| text.contains("timed out") || text.contains("running already")),
            "{texts:?}"
        );
    });
}
