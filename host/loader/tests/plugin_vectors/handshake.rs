//! `receive_*`: messages on port 444 and what becomes of them. `decision_*`: a situation, a request, an outcome.
//! `sanitize_*` and `trust_file_*` as a peer and a file system see them.
//!
//! The plugin runs on the machine's clock here, so recorded times are moved to now. (They are not signed.) What needs a
//! clock that stands still or jumps is left to the plugin's own tests, and said so.

use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use jiff::Timestamp;
use pilot_vectors::Entry;
use plugin_abi::test_kit::PATIENCE;
use plugin_abi::{Addr, Daemon, Error, ErrorKind, HandshakeService};
use serde_json::{Map, Value, json};

use super::{Running, eventually, list};

/// The receiver of all recorded messages.
const SELF: u32 = 2;
/// The recorded clock.
const RECORDED_NOW: i64 = 1_780_000_000;

#[test]
fn vectors_handshake() {
    pilot_vectors::run("pilot-loader", &["handshake"], |_, entry| match entry.kind.as_str() {
        "receive" => receive(entry),
        "decision" => decision(entry),
        "sanitize" => sanitize(entry),
        "trust" => trust_file(entry),
        kind => panic!("kind {kind} is not ours"),
    });
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap().to_string()
}

/// A registry: what `lookup` says about a node, and success for everything else.
#[derive(Default)]
struct Registry {
    /// Node, key text, networks. A node that is not here cannot be looked up.
    nodes: Mutex<Vec<(u32, String, Vec<u16>)>>,
}

impl Registry {
    fn call(&self, op: &str, params: &Map<String, Value>) -> plugin_abi::Result<Map<String, Value>> {
        if op != "lookup" {
            return Ok(Map::new());
        }
        let nodes = self.nodes.lock().unwrap();
        let found = nodes.iter().find(|(node, ..)| params["node_id"] == json!(node));
        let (_, key, networks) = found.ok_or_else(|| Error::new(ErrorKind::Registry, "unreachable"))?;
        Ok(json!({"public_key": key, "networks": networks}).as_object().unwrap().clone())
    }
}

struct Receiver {
    running: Running,
    registry: Arc<Registry>,
}

impl Receiver {
    /// Node 2 with the given state file, if any.
    fn start(
        state: Option<&str>,
        prepare: impl FnOnce(&plugin_abi::test_kit::FakeDaemon, &Path),
    ) -> Receiver {
        let registry = Arc::<Registry>::default();
        let running = Running::start("handshake", |daemon, dir| {
            daemon.set_node_id(SELF);
            daemon.set_identity_path(Some(dir.join("identity.json")));
            let key = SigningKey::from_bytes(&[2; 32]);
            daemon.set_identity(key.verifying_key().to_bytes(), move |m| key.sign(m).to_bytes());
            let answers = registry.clone();
            daemon.on_registry_call(move |op, params| answers.call(op, params));
            if let Some(state) = state {
                std::fs::write(dir.join("trust.json"), state).unwrap();
            }
            prepare(daemon, dir);
        });
        Receiver { running, registry }
    }

    fn service(&self) -> Arc<dyn HandshakeService> {
        self.running.daemon.handshake_service().unwrap()
    }

    /// One message over a stream of node `from`; returns when the plugin is done with it, which it says by closing.
    fn deliver(&self, from: u32, bytes: &[u8]) {
        let stream = self.running.daemon.connect_from(Addr::backbone(from), 444).unwrap();
        stream.write(bytes).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "nothing is ever answered on this stream");
    }

    fn topics(&self) -> Vec<String> {
        self.running.published().into_iter().map(|(topic, _)| topic).collect()
    }

    fn called(&self, op: &str) -> bool {
        self.running.daemon.registry_calls().iter().any(|(name, _)| name == op)
    }

    fn dialled(&self, peer: u32) -> bool {
        self.running.daemon.dials().contains(&(Addr::backbone(peer), 444))
    }
}

fn receive(entry: &Entry) {
    let mut text = String::from_utf8_lossy(&entry.bytes).into_owned();
    let (mut rest, mut moved) = (text.as_str(), String::new());
    while let Some((before, after)) = rest.split_once("\"timestamp\":") {
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        moved.push_str(before);
        moved.push_str("\"timestamp\":");
        if let Ok(recorded) = after[..end].parse::<i64>() {
            moved.push_str(&(recorded - RECORDED_NOW + now()).to_string());
        }
        rest = &after[end..];
    }
    text = moved + rest;
    // The clock goes on while the message is on its way: one second of slack towards the future.
    if entry.name.contains("future") {
        text = text.replace(&(now() + 31).to_string(), &(now() + 60).to_string());
    }

    let kind = text.split("handshake_").nth(1).map_or("", |t| t.split('"').next().unwrap_or_default());
    // An accept and a revoke leave a trace only where there is something to accept or to revoke.
    let state = match kind {
        "accept" => json!({"trusted": null, "outgoing": [{"node_id": 1, "sent_at": rfc3339(now())}]}),
        "revoke" => {
            json!({"trusted": [{"node_id": 1, "public_key": "", "approved_at": rfc3339(now()), "mutual": true}]})
        }
        _ => json!({"trusted": null}),
    };
    let receiver = Receiver::start(Some(&state.to_string()), |_, _| {});
    match entry.text("registry_for_node_1") {
        "match" => {
            receiver.registry.nodes.lock().unwrap().push((1, entry.text("registry_key").into(), vec![]))
        }
        "none" => receiver.registry.nodes.lock().unwrap().push((1, String::new(), vec![])),
        _ => {}
    }
    receiver.deliver(entry.number("stream_remote_node") as u32, text.as_bytes());
    let handled = match kind {
        "accept" => receiver.service().is_trusted(1),
        "revoke" => !receiver.service().is_trusted(1),
        "request" => receiver.topics().contains(&"handshake.received".to_owned()),
        // Ignored with or without a reason: nothing to be seen either way.
        _ => return assert_eq!(receiver.topics(), [""; 0], "{}", entry.name),
    };
    assert_eq!(handled, !entry.error, "{}: {:?}", entry.name, entry.text("result"));
    if let Some(source) = entry.text("result").split("pending source=").nth(1) {
        let file = receiver.running.state().join("trust.json");
        eventually("saved", || {
            let saved = std::fs::read(&file).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
            saved.is_some_and(|s| s["pending"][0]["source"].to_string().as_str() == source)
        });
    }
}

fn sanitize(entry: &Entry) {
    // As a relayed request: that way needs no signature, and the text arrives as it is.
    let Ok(text) = String::from_utf8(entry.bytes.clone()) else {
        // Text that is no UTF-8 exists only inside a direct message's JSON; the plugin's own tests have it.
        return println_skip(&entry.name, "no JSON text of the registry holds it");
    };
    let wanted = String::from_utf8_lossy(&entry.hex("output_hex")).into_owned();
    let receiver = Receiver::start(None, |_, _| {});
    receiver.service().process_relayed_request(9, &text);
    assert_eq!(receiver.service().pending_requests()[0].justification, wanted, "{}", entry.name);
}

#[allow(clippy::print_stdout)] // what a run leaves out belongs into its output
fn println_skip(name: &str, why: &str) {
    println!("vectors: handshake/{name}: not against the library: {why}");
}

fn trust_file(entry: &Entry) {
    let file = String::from_utf8_lossy(&entry.bytes).into_owned();
    let mut receiver = Receiver::start(Some(&file), |_, _| {});
    let service = receiver.service();
    let wanted = |name: &str| match entry.fields.get(name) {
        Some(Value::Array(list)) => Some(list.len()),
        Some(count) => Some(count.as_u64().unwrap() as usize),
        None => None,
    };
    if entry.error {
        assert!(service.trusted_peers().is_empty() && service.pending_count() == 0, "{}", entry.name);
    }
    if let Some(count) = wanted("trusted") {
        assert_eq!(service.trusted_peers().len(), count, "{}", entry.name);
    }
    // Requests older than 30 days are swept, and the recorded ones may be: at most as many as recorded.
    if let Some(count) = wanted("pending") {
        assert!(service.pending_count() as usize <= count, "{}", entry.name);
    }
    receiver.running.stop();
    let after = std::fs::read_to_string(receiver.running.state().join("trust.json")).unwrap();
    assert_eq!(after, file, "{}: without a change the file is not touched", entry.name);
}

/// The situation of `in`, set up by files and registry; compared with the members given in `out`.
fn decision(entry: &Entry) {
    const PEER: u32 = 1000;
    let given = entry.fields["in"].as_object().unwrap();
    let wanted = entry.fields["out"].as_object().unwrap();
    let is = |name: &str| given.get(name) == Some(&json!(true));
    if given.contains_key("first_seen_seconds_ago") {
        return println_skip(&entry.name, "needs a clock that jumps");
    }
    let key = SigningKey::from_bytes(&[9; 32]);
    let key_text = to_base64(key.verifying_key().as_bytes());
    let at = rfc3339(now() - 60);
    let mut state = json!({"trusted": []});
    if is("already_trusted") {
        state["trusted"] =
            json!([{"node_id": PEER, "public_key": key_text, "approved_at": at, "mutual": false}]);
    }
    if is("outgoing") {
        state["outgoing"] = json!([{"node_id": PEER, "sent_at": at}]);
    }
    let total = given.get("pending_total").and_then(Value::as_u64).unwrap_or(0);
    let queued = (0..total)
        .map(|n| json!({"node_id": 3000 + n, "public_key": "", "received_at": at, "source": 3000 + n}));
    state["pending"] = queued.collect();

    let receiver = Receiver::start(Some(&state.to_string()), |daemon, dir| {
        daemon.set_trust_auto_approve(is("auto_approve"));
        if is("trusted_agent") {
            let agents = json!({"agents": [{"hostname": "agent", "address": "", "node_id": PEER}]});
            std::fs::write(dir.join("agents.json"), agents.to_string()).unwrap();
            daemon.set_config(json!({"trusted_agents": dir.join("agents.json")}));
        }
    });
    let network = if is("same_network") { vec![7] } else { vec![] };
    let mut nodes = vec![(SELF, String::new(), network.clone())];
    // A registry that does not know the peer's key does not bind it.
    let registered = if is("registry_bound") { key_text.clone() } else { String::new() };
    nodes.push((PEER, registered, network));
    *receiver.registry.nodes.lock().unwrap() = nodes;

    let kind = given.get("msg").and_then(Value::as_str).unwrap_or("handshake_request");
    if given.get("via") == Some(&json!("relay")) {
        match kind {
            "handshake_accept" => receiver.service().process_relayed_approval(PEER),
            _ => receiver.service().process_relayed_request(PEER, "why"),
        }
    } else {
        let signature = to_base64(&key.sign(format!("handshake:{PEER}:{SELF}").as_bytes()).to_bytes());
        let message = json!({"type": kind, "node_id": PEER, "public_key": key_text, "justification": "why",
            "signature": signature, "reason": "", "timestamp": now()});
        receiver.deliver(PEER, message.to_string().as_bytes());
    }
    for (name, value) in wanted {
        compare(entry, name, value, &receiver, PEER);
    }
}

fn compare(entry: &Entry, name: &str, wanted: &Value, receiver: &Receiver, peer: u32) {
    let at = &entry.name;
    let service = receiver.service();
    let record = || service.trusted_peers().into_iter().find(|r| r.node_id == peer).unwrap();
    let published = receiver.running.published();
    // What happens in the background may take its time; what must not happen is looked at once.
    let background = |done: &dyn Fn() -> bool| match wanted {
        Value::Bool(true) => eventually(name, done),
        _ => assert!(!done(), "{at}: {name}"),
    };
    match name {
        "result" => {
            let pending = service.pending_requests().iter().any(|r| r.node_id == peer);
            let result = if service.is_trusted(peer) {
                "trusted"
            } else if pending {
                "pending"
            } else {
                "dropped"
            };
            assert_eq!(result, wanted, "{at}");
        }
        "events" => {
            let shown: Vec<String> = published
                .iter()
                .zip(list(&json!({"w": wanted}).as_object().unwrap().clone(), "w"))
                .map(|((topic, payload), wanted)| match wanted.as_str().unwrap().contains('(') {
                    true => format!("{topic}({})", payload["reason"].as_str().unwrap_or_default()),
                    false => topic.clone(),
                })
                .collect();
            assert_eq!(json!(shown), *wanted, "{at}: {published:?}");
            assert_eq!(published.len(), shown.len(), "{at}: {published:?}");
        }
        "mutual" => assert_eq!(json!(record().mutual), *wanted, "{at}"),
        "network" => assert_eq!(record().network != 0, *wanted != json!(0), "{at}"),
        "reason" => {
            let approved = published.iter().find(|(topic, _)| topic == "handshake.auto_approved");
            assert_eq!(approved.unwrap().1["reason"], *wanted, "{at}");
        }
        "report_trust" | "respond_handshake" => background(&|| receiver.called(name)),
        "backfill_key" => background(&|| receiver.called("lookup")),
        "sends_accept" => background(&|| receiver.dialled(peer)),
        name => panic!("{at}: outcome {name:?} not understood"),
    }
}

fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
