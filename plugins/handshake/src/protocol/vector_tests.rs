//! The recorded vectors of area `handshake` (handshake.md section 9 says what their fields mean).

use ed25519_dalek::{Signer, SigningKey};
use jiff::Timestamp;
use pilot_vectors::Entry;
use serde_json::{Map, Value, json};

use super::agents::{Agents, signed_payload};
use super::effect::{Effect, Errand, Notice};
use super::machine::{Decision, Machine, Request, Via};
use super::message::{Message, signed_text};
use super::receive::{self, Refusal};
use super::store::{Pending, Store, Trusted};
use super::text::{clean_bytes, to_base64};
use super::trustfile;
use crate::shell::registry;

/// The clock of the recorded verdicts.
const NOW: i64 = 1_780_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

#[test]
fn vectors() {
    pilot_vectors::run("pilot-plugin-handshake", &["handshake"], |_, entry| match entry.kind.as_str() {
        "request" | "accept" | "reject" | "revoke" => message(entry),
        "receive" => receive(entry),
        "sanitize" => assert_eq!(clean_bytes(&entry.hex("input_hex")), entry.hex("output_hex")),
        "registry" => registry_body(entry),
        "trust" => trust_file(entry),
        "trusted" => trusted_agents(entry),
        "decision" => decision(entry),
        kind => panic!("kind {kind} is not ours"),
    });
}

fn signer(entry: &Entry) -> SigningKey {
    SigningKey::from_bytes(&entry.hex("seed_hex").try_into().expect("32 bytes"))
}

/// Exact bytes, from the parts and back, and the replay key.
fn message(entry: &Entry) {
    if entry.fields.contains_key("seed_hex") {
        let key = signer(entry);
        let (from, to) = (entry.number("from") as u32, entry.number("to") as u32);
        assert_eq!(signed_text(from, to), entry.text("signed_string"));
        let built = Message {
            kind: entry.text("type").into(),
            node_id: from,
            public_key: to_base64(key.verifying_key().as_bytes()),
            justification: String::from_utf8(entry.hex("justification_hex")).expect("text"),
            signature: to_base64(&key.sign(signed_text(from, to).as_bytes()).to_bytes()),
            reason: entry.text("reason").into(),
            timestamp: entry.fields["timestamp"].as_i64().expect("timestamp"),
        };
        assert_eq!(built.encode(), entry.bytes);
        assert_eq!(built.replay_key(to).0.to_vec(), entry.hex("replay_key_sha256"));
    }
    let read = Message::decode(&entry.bytes).expect("decodes");
    assert_eq!(read.encode(), entry.bytes);
    assert_eq!(entry.bytes, entry.text("json").as_bytes());
}

/// The verdict of node 2, in the order of the checks.
fn receive(entry: &Entry) {
    const SELF: u32 = 2;
    let stream = entry.number("stream_remote_node") as u32;
    let registered = match entry.text("registry_for_node_1") {
        "match" => Some(entry.text("registry_key")),
        "none" => Some(""),
        _ => None,
    };
    let verdict = || -> Result<(Message, bool), Refusal> {
        let message = Message::decode(&entry.bytes)?;
        receive::check_age(&message, at(NOW))?;
        let bound = receive::needs_lookup(&message)? && receive::check_key(&message, SELF, registered)?;
        receive::check_sender(&message, stream)?;
        Ok((message, bound))
    };
    let wanted = entry.text("result");
    match verdict() {
        Ok((message, bound)) => {
            assert!(!entry.error, "should have been dropped: {wanted}");
            if let Some(bound_wanted) = wanted.split("registry_bound=").nth(1) {
                assert_eq!(bound, bound_wanted.starts_with("true"), "{wanted}");
            }
            assert_eq!(message.kind().is_none(), wanted.starts_with("ignored"), "{wanted}");
            if let Some(source) = wanted.split("pending source=").nth(1) {
                let mut machine = Machine::default();
                let via = Via::Direct { bound, source: stream };
                let request = Request { peer: message.node_id, key: "", justification: "", agent: None, via };
                machine.on_request(at(NOW), &request, Some(None));
                assert_eq!(machine.store().pending()[&message.node_id].source.to_string(), source);
            }
        }
        Err(refusal) => {
            assert!(entry.error, "should have passed: {refusal}");
            // The wording is free; where ours is the recorded one, the reason is compared as well.
            let wanted = wanted.trim_start_matches("drop: ");
            assert!(refusal.to_string().starts_with(wanted), "{refusal} instead of {wanted}");
        }
    }
}

/// What the plugin hands to the daemon, completed as the daemon completes it (registry.md section 2.3).
fn registry_body(entry: &Entry) {
    let wanted: Map<String, Value> = serde_json::from_slice(&entry.bytes).expect("an object");
    let number = |name: &str| wanted[name].as_u64().expect("a number") as u32;
    let op = wanted["type"].as_str().expect("type");
    let (mut body, own, signed) = match op {
        "request_handshake" => {
            let (own, to) = (number("from_node_id"), number("to_node_id"));
            let justification = wanted["justification"].as_str().expect("justification");
            let (ours, params) = registry::request_handshake(to, justification);
            assert_eq!(ours, op);
            (params, ("from_node_id", own), signed_text(own, to))
        }
        "poll_handshakes" => {
            let own = number("node_id");
            (Map::new(), ("node_id", own), format!("poll_handshakes:{own}"))
        }
        _ => {
            let (own, peer) = (number("node_id"), number("peer_id"));
            let errand = match op {
                "respond_handshake" => Errand::Respond { peer, accept: wanted["accept"] == json!(true) },
                "report_trust" => Errand::ReportTrust(peer),
                "revoke_trust" => Errand::RevokeTrust(peer),
                op => panic!("{op} is not ours"),
            };
            let (ours, params) = registry::errand(errand);
            assert_eq!(ours, op);
            let word = if op == "respond_handshake" { "respond" } else { op };
            (params, ("node_id", own), format!("{word}:{own}:{peer}"))
        }
    };
    assert_eq!(signed, entry.text("signed_string"));
    body.insert("type".into(), op.into());
    body.insert(own.0.into(), own.1.into());
    body.insert("signature".into(), to_base64(&signer(entry).sign(signed.as_bytes()).to_bytes()).into());
    assert_eq!(pilot_wire::gojson::object_to_vec(&body), entry.bytes);
}

fn trust_file(entry: &Entry) {
    let read = trustfile::decode(&entry.bytes, at(NOW));
    if entry.error {
        assert!(read.is_err());
        return;
    }
    let store = read.expect("decodes");
    let counts = [
        ("trusted", store.trusted.len()),
        ("pending", store.pending.len()),
        ("revoked", store.revoked.len()),
    ];
    for (name, count) in counts {
        let wanted = match entry.fields.get(name) {
            Some(Value::Array(list)) => list.len() as u64,
            Some(count) => count.as_u64().expect("a count"),
            None => continue,
        };
        assert_eq!(count as u64, wanted, "{name}");
    }
    let written = trustfile::encode(&store, at(NOW));
    let again = trustfile::decode(written.as_bytes(), at(NOW)).expect("own file");
    assert_eq!((&again.trusted, &again.pending), (&store.trusted, &store.pending));
    // We write UTC; where the recorded file has nothing but UTC and whole, known entries, the bytes agree.
    let original = String::from_utf8_lossy(&entry.bytes);
    let in_utc = original
        .lines()
        .map(|line| {
            match line.split_once(": \"").and_then(|(_, v)| v.trim_end_matches([',', '"']).parse().ok()) {
                Some(time) => {
                    let time: Timestamp = time;
                    let (name, value) = line.split_once(": \"").expect("just found");
                    format!("{name}: \"{time}\"{}", if value.ends_with(',') { "," } else { "" })
                }
                None => line.to_owned(),
            }
        })
        .collect::<Vec<_>>()
        .join("\n");
    let entries = |text: &str| text.matches("\"node_id\"").count();
    if entries(&written) == entries(&original) {
        assert_eq!(written, in_utc);
    }
}

fn trusted_agents(entry: &Entry) {
    let key = entry.fields.contains_key("verify_key_hex").then(|| entry.hex("verify_key_hex"));
    let mut key: Option<[u8; 32]> = key.map(|k| k.try_into().expect("32 bytes"));
    if entry
        .fields
        .get("reason")
        .and_then(Value::as_str)
        .is_some_and(|r| r.starts_with("verify: signature is"))
    {
        // The verdict of a build with a key; which key does not matter to an unsigned list.
        key = Some(key.unwrap_or([1; 32]));
    }
    let read = Agents::parse(&entry.bytes, key.as_ref());
    if entry.error {
        let reason = read.expect_err("refused").to_string();
        if let Some(wanted) = entry.fields.get("reason").and_then(Value::as_str) {
            assert_eq!(reason, wanted);
        }
        return;
    }
    let list = read.expect("accepted");
    if entry.fields.contains_key("payload_hex") {
        let text = String::from_utf8_lossy(&entry.bytes);
        let document = super::tolerant::Object::parse(&text).expect("an object");
        let payload = signed_payload(document.raw("agents").expect("agents"));
        assert_eq!(payload.as_bytes(), entry.hex("payload_hex"));
    }
    for (id, name) in entry.fields.get("trusted").and_then(Value::as_object).into_iter().flatten() {
        assert_eq!(list.name(id.parse().expect("an id")), name.as_str(), "{id}");
    }
}

/// The situation of `in`, played; compared with the members given in `out`.
fn decision(entry: &Entry) {
    let member = |name: &str| entry.fields[name].as_object().expect("an object").clone();
    let (mut given, wanted) = (member("in"), member("out"));
    let mut take = |name: &str| given.remove(name).unwrap_or(Value::Null);
    const PEER: u32 = 1000;
    let text = |v: Value| v.as_str().map(str::to_owned);

    let seen = take("first_seen_seconds_ago").as_i64();
    let reaped = take("reaper_ran_since") == json!(true);
    let message = text(take("msg")).unwrap_or_else(|| "handshake_request".into());
    let relayed = text(take("via")).is_some_and(|v| v == "relay");
    let bound = take("registry_bound") == json!(true);
    let auto_approve = take("auto_approve") == json!(true);
    let shared = (take("same_network") == json!(true)).then_some(7);
    let agent = (take("trusted_agent") == json!(true)).then_some("agent");
    let total = take("pending_total").as_u64().unwrap_or(0);
    let from_source = take("pending_from_source").as_u64().unwrap_or(0);

    let mut store = Store::default();
    let record =
        |key: &str| Trusted { public_key: key.into(), approved_at: at(1), mutual: false, network: 0 };
    let request = |source| Pending {
        public_key: String::new(),
        justification: String::new(),
        received_at: at(1),
        source,
    };
    let already_trusted = take("already_trusted") == json!(true);
    let already_pending = take("already_pending") == json!(true);
    let outgoing = take("outgoing") == json!(true);
    // The remaining circumstances have no fixed names; they are recognised by what they speak of.
    let mut circumstance = |words: &[&str], value: bool| {
        let names: Vec<_> = given.keys().filter(|k| words.iter().any(|w| k.contains(w))).cloned().collect();
        names.into_iter().any(|name| given.remove(&name) == Some(json!(value)))
    };
    let other_key = circumstance(&["same_key", "key_match", "key_stands"], false)
        || circumstance(&["key_changed", "key_differs", "other_key", "different_key"], true);
    let cooldown = circumstance(&["cooldown", "revoked"], true);
    let agent = agent.filter(|_| !(relayed && circumstance(&["pin"], true)));
    if already_trusted {
        store.grant(PEER, record(if other_key { "another" } else { "key" }));
    }
    if already_pending {
        store.queue(PEER, request(PEER));
    }
    for n in 0..from_source {
        store.pending.insert(2000 + n as u32, request(PEER));
    }
    for n in store.pending.len() as u64..total {
        store.pending.insert(3000 + n as u32, request(3000 + n as u32));
    }
    if outgoing {
        store.note_outgoing(PEER, at(1));
    }
    if cooldown {
        store.start_cooldown(PEER, at(NOW));
    }
    let unknown: Vec<_> =
        given.iter().filter(|(_, v)| !matches!(v, Value::Null | Value::Bool(false))).collect();
    assert!(unknown.is_empty(), "situation not understood: {unknown:?}");

    let before = store.clone();
    let mut machine = Machine::new(store, auto_approve);
    if let Some(ago) = seen {
        let told = Message { kind: message.clone(), node_id: PEER, ..Message::default() };
        assert!(machine.remember(told.replay_key(2), PEER, at(NOW - ago)));
        if reaped {
            machine.sweep(at(NOW));
        }
        let fresh = !machine.seen(&told.replay_key(2));
        assert_eq!(if fresh { "handled" } else { "dropped" }, wanted["result"]);
        return;
    }
    let effects = match message.as_str() {
        "handshake_request" => {
            let via = if relayed { Via::Relay } else { Via::Direct { bound, source: PEER } };
            let key = if relayed { "" } else { "key" };
            let request = Request { peer: PEER, key, justification: "why", agent, via };
            match machine.on_request(at(NOW), &request, Some(shared)) {
                Decision::Act(effects) => effects,
                Decision::AskSharedNetwork => panic!("the fact was given"),
            }
        }
        "handshake_accept" if relayed => machine.on_relayed_approval(at(NOW), PEER),
        "handshake_accept" => machine.on_accept(at(NOW), PEER, "key"),
        "handshake_reject" => {
            machine.on_reject(PEER);
            Vec::new()
        }
        "handshake_revoke" => machine.on_revoke(PEER),
        other => panic!("message {other} not understood"),
    };
    for (name, value) in &wanted {
        compare(name, value, &machine, &before, &effects, PEER);
    }
}

fn compare(name: &str, wanted: &Value, machine: &Machine, before: &Store, effects: &[Effect], peer: u32) {
    let store = machine.store();
    let notices: Vec<&Notice> =
        effects.iter().filter_map(|e| if let Effect::Publish(n) = e { Some(n) } else { None }).collect();
    let reason_of = |n: &Notice| n.details.iter().find(|(k, _)| *k == "reason").map(|(_, v)| v.clone());
    let has = |errand: Errand| effects.contains(&Effect::Registry(errand));
    match name {
        "result" => {
            let pending = store.pending().get(&peer);
            let result = match () {
                () if store.is_trusted(peer) => "trusted",
                () if pending.is_some() && pending != before.pending().get(&peer) => "pending",
                () => "dropped",
            };
            assert_eq!(result, wanted);
        }
        "events" => {
            let wanted: Vec<&str> =
                wanted.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
            assert_eq!(notices.len(), wanted.len(), "{notices:?}");
            for (notice, wanted) in notices.iter().zip(wanted) {
                match wanted.split_once('(') {
                    None => assert_eq!(notice.topic, wanted),
                    Some((topic, reason)) => {
                        assert_eq!(notice.topic, topic);
                        assert_eq!(reason_of(notice).as_deref(), Some(reason.trim_end_matches(')')));
                    }
                }
            }
        }
        "mutual" => assert_eq!(json!(store.trusted()[&peer].mutual), *wanted),
        "network" => assert_eq!(json!(store.trusted()[&peer].network != 0), json!(*wanted != json!(0))),
        "reason" => {
            let reason =
                notices.iter().find(|n| n.topic == "handshake.auto_approved").and_then(|n| reason_of(n));
            assert_eq!(reason.as_deref(), wanted.as_str());
        }
        "report_trust" => assert_eq!(json!(has(Errand::ReportTrust(peer))), *wanted),
        "respond_handshake" => {
            assert_eq!(json!(has(Errand::Respond { peer, accept: true })), *wanted);
        }
        "backfill_key" => assert_eq!(json!(has(Errand::Backfill(peer))), *wanted),
        "sends_accept" => assert_eq!(json!(effects.contains(&Effect::SendAccept(peer))), *wanted),
        name => panic!("outcome {name:?} not understood"),
    }
}
