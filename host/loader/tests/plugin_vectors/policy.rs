//! Documents and decisions through `PolicyManager::explain`, runners through a started policy of network 7.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pilot_vectors::{Entry, difference};
use plugin_abi::{
    Daemon, Direction, Error, HandshakePendingRecord, HandshakeService, HandshakeTrustRecord, PolicyEvent,
    PolicyRunner, PortGate, Result,
};
use serde_json::{Map, Value, json};

use super::{Running, eventually, list};

#[test]
fn vectors_policy() {
    let running = Running::start("policy", |_, _| {});
    pilot_vectors::run("pilot-loader", &["policy"], |_, entry| {
        if entry.fields.contains_key("rules") {
            // Rules of a network are turned into a document by the codec; the plugin must take what comes out.
            if let Some(policy) = entry.fields.get("policy").and_then(Value::as_str) {
                let manager = running.daemon.policy_manager().unwrap();
                manager.explain(policy, "", &Map::new()).unwrap();
            }
        } else if entry.fields.contains_key("steps") {
            runner(entry);
        } else {
            document(&running, entry);
        }
    });
}

/// The text given, without what the Go peer's JSON or expression library says: only the part in front must match.
fn ours(text: &str) -> &str {
    let markers = ["invalid JSON: ", " eval: ", " match: "];
    markers.into_iter().find_map(|m| text.find(m).map(|at| &text[..at + m.len()])).unwrap_or(text)
}

fn check_error(entry: &Entry, got: &str) {
    if let Some(text) = entry.fields.get("error_text").and_then(Value::as_str) {
        let own = ours(text);
        assert!(got.starts_with(own) && (own.len() < text.len() || got == text), "{got:?} is not {text:?}");
    }
}

fn document(running: &Running, entry: &Entry) {
    let fields = &entry.fields;
    let stage = entry.text("stage");
    let document = String::from_utf8_lossy(&entry.bytes).into_owned();
    let event = fields.get("event").and_then(Value::as_str).unwrap_or_default();
    let mut context = fields.get("context").and_then(Value::as_object).cloned().unwrap_or_default();
    // The recorded context is complete: what it lacks is absent, where a person's would be filled in. Tags that are null
    // are empty (policy.md section 10).
    for value in context.values_mut().filter(|value| value.is_null()) {
        *value = json!([]);
    }
    for name in given(event) {
        context.entry(*name).or_insert(Value::Null);
    }
    let manager = running.daemon.policy_manager().unwrap();
    let answer = match manager.explain(&document, event, &context) {
        Ok(answer) => answer,
        Err(refusal) => {
            let text = refusal.message();
            let (at, cause) = text.split_once(": ").unwrap();
            assert_eq!(at, format!("{stage} policy"), "{}: {text}", entry.name);
            return check_error(entry, cause);
        }
    };
    assert!(stage != "parse" && stage != "compile", "{}: accepted", entry.name);
    if event.is_empty() {
        return;
    }
    if stage == "evaluate" {
        let rules = answer["rules"].as_array().unwrap();
        let failed = rules.iter().find(|r| r["outcome"] == "error").expect("a rule that fails");
        check_error(entry, failed["error"].as_str().unwrap());
        if let Some(allows) = fields.get("runner_allows").and_then(Value::as_bool) {
            assert_eq!(answer["verdict"], if allows { "allow" } else { "deny" }, "{}", entry.name);
        }
        return;
    }
    let mut directives: Vec<Value> = answer["directives"].as_array().unwrap().clone();
    for directive in &mut directives {
        directive.as_object_mut().unwrap().remove("effect");
    }
    if let Some(verdict) = fields.get("verdict") {
        assert_eq!(&answer["verdict"], verdict, "{}", entry.name);
        if answer["because"].as_str().unwrap().starts_with("no rule decides") {
            directives.push(json!({"type": verdict, "rule": "_default", "action_index": 0}));
        }
    }
    assert_eq!(Value::Array(directives), fields["directives"], "{}", entry.name);
}

/// What the explanation would fill in.
fn given(event: &str) -> &'static [&'static str] {
    const GATE: [&str; 9] = [
        "peer_id",
        "port",
        "network_id",
        "members",
        "peer_age_s",
        "peer_tags",
        "local_tags",
        "size",
        "direction",
    ];
    match event {
        "datagram" => &GATE,
        "connect" | "dial" => &GATE[..7],
        "cycle" => &["network_id", "members", "peer_count", "cycle_num", "trusted_count"],
        "join" => &["peer_id", "network_id", "members"],
        _ => &[],
    }
}

/// A trust store that does what it is told.
#[derive(Default)]
struct Trust {
    trusted: Mutex<Vec<HandshakeTrustRecord>>,
    revoked: Mutex<Vec<u32>>,
    requests: Mutex<Vec<Value>>,
}

impl HandshakeService for Trust {
    fn is_trusted(&self, node: u32) -> bool {
        self.trusted.lock().unwrap().iter().any(|record| record.node_id == node)
    }
    fn is_trusted_with_key(&self, node: u32, _key: &str) -> bool {
        self.is_trusted(node)
    }
    fn trusted_peers(&self) -> Vec<HandshakeTrustRecord> {
        self.trusted.lock().unwrap().clone()
    }
    fn pending_requests(&self) -> Vec<HandshakePendingRecord> {
        Vec::new()
    }
    fn pending_count(&self) -> u32 {
        0
    }
    fn send_request(&self, peer: u32, reason: &str) -> Result<()> {
        self.requests.lock().unwrap().push(json!({"node_id": peer, "reason": reason}));
        Ok(())
    }
    fn approve(&self, _peer: u32) -> Result<()> {
        Ok(())
    }
    fn reject(&self, _peer: u32, _reason: &str) -> Result<()> {
        Ok(())
    }
    fn revoke_trust(&self, peer: u32) -> Result<()> {
        self.trusted.lock().unwrap().retain(|record| record.node_id != peer);
        self.revoked.lock().unwrap().push(peer);
        Ok(())
    }
    fn wait_for_trust(&self, peer: u32, _timeout: Duration) -> bool {
        self.is_trusted(peer)
    }
    fn process_relayed_request(&self, _from: u32, _justification: &str) {}
    fn process_relayed_approval(&self, _from: u32) {}
    fn process_relayed_rejection(&self, _from: u32) {}
    fn stop(&self) {}
}

fn runner(entry: &Entry) {
    let fields = &entry.fields;
    let trust = Arc::<Trust>::default();
    for record in list(fields, "trusted_at_start") {
        // Only the order of the times matters, which their text has as well.
        let order = record["approved_at"].as_str().unwrap().bytes().filter(u8::is_ascii_digit);
        let approved_at = order.take(14).fold(0, |n, digit| n * 10 + i64::from(digit - b'0'));
        let node_id = record["node_id"].as_u64().unwrap() as u32;
        let record = HandshakeTrustRecord {
            node_id,
            public_key: String::new(),
            approved_at,
            mutual: true,
            network: 0,
        };
        trust.trusted.lock().unwrap().push(record);
    }
    let nodes = Arc::new(Mutex::new((Some(json!([])), 0)));
    let running = Running::start("policy", |daemon, state| {
        let snapshot = fields["snapshot"].to_string();
        std::fs::write(state.join(format!("policy_{}.json", entry.number("network_id"))), snapshot).unwrap();
        daemon.set_node_id(entry.number("own_node_id") as u32);
        daemon.register_handshake_service(trust.clone());
        let answer = nodes.clone();
        daemon.on_list_nodes(move |_, _| {
            let mut answer = answer.lock().unwrap();
            answer.1 += 1;
            match answer.0.clone() {
                Some(nodes) => Ok(Map::from_iter([("nodes".to_owned(), nodes)])),
                None => Err(Error::other("the registry is down")),
            }
        });
    });
    let network = entry.number("network_id") as u16;
    let manager = running.daemon.policy_manager().unwrap();
    manager.start(network, entry.text("document")).unwrap();
    // The recorded runners were not started: ours asks once, hears nothing, and leaves the table as it is.
    eventually("bootstrap", || nodes.lock().unwrap().1 > 0);
    let runner = manager.get(network).unwrap();
    if entry.name.contains("registry-down") {
        nodes.lock().unwrap().0 = None;
    }
    for (i, step) in list(fields, "steps").iter().enumerate() {
        let at = format!("{} step {i}", entry.name);
        if let Some(list) = step.get("list_nodes") {
            nodes.lock().unwrap().0 = Some(list.clone());
        }
        let seen = running.daemon.events().len();
        check_step(&*runner, step, &at);
        check_published(&running, step, seen, &at);
        check_peers(&*runner, step, entry, &at);
        let revoked = std::mem::take(&mut *trust.revoked.lock().unwrap());
        assert_eq!(json!(revoked), step.get("revoked").cloned().unwrap_or(json!([])), "{at}");
        let requests = std::mem::take(&mut *trust.requests.lock().unwrap());
        assert_eq!(json!(requests), step.get("handshake_requests").cloned().unwrap_or(json!([])), "{at}");
    }
}

fn check_step(runner: &dyn PolicyRunner, step: &Value, at: &str) {
    let result = match step["op"].as_str().unwrap() {
        "gate" => json!(runner.evaluate_port_gate(&gate(&step["args"]))),
        "reconcile" => json!(runner.reconcile_now().unwrap()),
        "cycle" => json!(runner.force_cycle().unwrap()),
        "status" => json!(runner.status()),
        "actions" => {
            let args = &step["args"];
            let context = ["context", "ctx"].iter().find_map(|key| args.get(*key)).unwrap_or(args);
            runner.evaluate_actions(args["event"].as_str().unwrap(), context.as_object().unwrap());
            return;
        }
        other => panic!("{at}: unknown step {other}"),
    };
    if let Some(expected) = step.get("result") {
        assert_eq!(&result, expected, "{at}");
    }
}

fn gate(args: &Value) -> PortGate {
    let tags = |key: &str| {
        let list = args.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let number = |key: &str| args[key].as_u64().unwrap();
    PortGate {
        event: PolicyEvent::parse(args["event"].as_str().unwrap()).unwrap(),
        port: number("port") as u16,
        peer: number("peer_id") as u32,
        payload_size: number("payload_size") as u32,
        direction: if args["direction"] == "out" { Direction::Out } else { Direction::In },
        local_tags: tags("local_tags"),
        node_info_tags: tags("node_info_tags"),
    }
}

/// The order of events for different peers is not fixed, so both sides are sorted.
fn check_published(running: &Running, step: &Value, seen: usize, at: &str) {
    let show = |topic: &str, payload: &Value| {
        let mut payload = payload.clone();
        if let Some(error) = payload.get("error").and_then(Value::as_str) {
            payload["error"] = ours(error).into();
        }
        format!("{topic} {payload}")
    };
    let mut got: Vec<String> =
        running.published()[seen..].iter().map(|(topic, payload)| show(topic, payload)).collect();
    let expected = step.get("published").and_then(Value::as_array);
    let mut expected: Vec<String> =
        expected.into_iter().flatten().map(|e| show(e["topic"].as_str().unwrap(), &e["payload"])).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected, "{at}");
}

fn check_peers(runner: &dyn PolicyRunner, step: &Value, entry: &Entry, at: &str) {
    let keeps_tags =
        entry.text("document").contains("\"fill\"") && difference("policy", &entry.name).is_some();
    let mut peers = runner.peer_list();
    peers.sort_by_key(|peer| peer["node_id"].as_u64());
    let expected = step["peers_after"].as_array().unwrap();
    let ids = |list: &[Value]| list.iter().map(|p| p["node_id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&peers), ids(expected), "{at}");
    for (peer, expected) in peers.iter().zip(expected) {
        let tags = |p: &Value| p.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
        let (got, expected) = (tags(peer), tags(expected));
        // What is there too many are policy tags that were kept.
        let compared = if keeps_tags { &got[..expected.len().min(got.len())] } else { &got[..] };
        assert_eq!(compared, expected, "{at}");
    }
}
