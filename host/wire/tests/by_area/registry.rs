//! Area `registry`: both framings, the binary messages, and JSON requests with their signed challenges.

use ed25519_dalek::{Signer, SigningKey};
use pilot_vectors::Entry;
use pilot_wire::registry::{self as reg, Split, challenge};
use serde_json::{Map, Value};

pub fn check(entry: &Entry) {
    if entry.fields.contains_key("decode") {
        return super::assert_error_text(entry, &decode_error_of(entry));
    }
    match entry.kind.as_str() {
        "connection_preamble" => {
            assert_eq!(entry.bytes, reg::PREAMBLE);
            assert_eq!(entry.number("version"), u64::from(reg::VERSION));
            let first = *entry.bytes.first_chunk().unwrap();
            assert_eq!(reg::Mode::detect(first), reg::Mode::Binary);
        }
        "frame" => {
            let payload = match entry.fields.get("payload_text").and_then(Value::as_str) {
                Some(text) => text.as_bytes().to_vec(),
                None => entry.hex("payload_hex"),
            };
            assert_frame(&entry.bytes, u8::try_from(entry.number("msg_type")).unwrap(), &payload);
        }
        "heartbeat_req" => check_heartbeat_req(entry),
        "heartbeat_resp" => {
            let response = reg::decode_heartbeat_resp(&entry.bytes).unwrap();
            assert_eq!(Some(response.unix_time), entry.fields["unix_time"].as_i64());
            assert_eq!(Some(response.key_expiry_warning), entry.fields["key_expiry_warning"].as_bool());
            assert_encoding(entry, reg::MSG_HEARTBEAT_OK, &reg::encode_heartbeat_resp(&response));
        }
        "lookup_req" => {
            let node = reg::decode_lookup_req(&entry.bytes).unwrap();
            assert_eq!(u64::from(node), entry.number("node_id"));
            assert_encoding(entry, reg::MSG_LOOKUP, &reg::encode_lookup_req(node));
        }
        "lookup_resp" => check_lookup_resp(entry),
        "resolve_req" => {
            let request = reg::decode_resolve_req(&entry.bytes).unwrap();
            assert_eq!(u64::from(request.node_id), entry.number("node_id"));
            assert_eq!(u64::from(request.requester_id), entry.number("requester_id"));
            let signature = signature_given(entry);
            assert_encoding(
                entry,
                reg::MSG_RESOLVE,
                &reg::encode_resolve_req(request.node_id, request.requester_id, &signature),
            );
        }
        "resolve_resp" => check_resolve_resp(entry),
        "error" => check_error(entry),
        "json_message" => assert_message(&entry.bytes, entry.text("json")),
        "json_request" => check_json_request(entry),
        other => panic!("no rule for kind {other}"),
    }
}

/// The text of the error the named decoder gives for the entry's bytes.
fn decode_error_of(entry: &Entry) -> String {
    let bytes = entry.bytes.as_slice();
    match entry.text("decode") {
        "heartbeat_req" => reg::decode_heartbeat_req(bytes).unwrap_err().to_string(),
        "heartbeat_resp" => reg::decode_heartbeat_resp(bytes).unwrap_err().to_string(),
        "lookup_req" => reg::decode_lookup_req(bytes).unwrap_err().to_string(),
        "lookup_resp" => reg::decode_lookup_resp(bytes).unwrap_err().to_string(),
        "resolve_req" => reg::decode_resolve_req(bytes).unwrap_err().to_string(),
        "resolve_resp" => reg::decode_resolve_resp(bytes).unwrap_err().to_string(),
        "read_frame" => {
            let incomplete = matches!(reg::split_frame(bytes), Ok(Split::Incomplete { .. }) | Err(_));
            assert!(incomplete, "the incremental decoder took it");
            reg::read_frame(&mut &*bytes).unwrap_err().to_string()
        }
        "read_message" => reg::read_message(&mut &*bytes).unwrap_err().to_string(),
        other => panic!("no decoder {other}"),
    }
}

/// Compares an encoding with the entry's payload and frame, where the entry has them.
fn assert_encoding(entry: &Entry, kind: u8, payload: &[u8]) {
    if entry.fields.get("decode_only").and_then(Value::as_bool) == Some(true) {
        return;
    }
    assert_eq!(payload, entry.bytes);
    if entry.fields.contains_key("frame_hex") {
        assert_frame(&entry.hex("frame_hex"), kind, payload);
    }
}

fn assert_frame(frame: &[u8], kind: u8, payload: &[u8]) {
    let mut encoded = Vec::new();
    reg::write_frame(&mut encoded, kind, payload).unwrap();
    assert_eq!(encoded, frame);
    assert_eq!(reg::read_frame(&mut &*frame).unwrap(), (kind, payload.to_vec()));
    let split = reg::split_frame(frame).unwrap();
    assert_eq!(split, Split::Complete { message: (kind, payload), consumed: frame.len() });
}

fn assert_message(message: &[u8], json: &str) {
    let want: Map<String, Value> = serde_json::from_str(json).unwrap();
    assert_eq!(reg::read_message(&mut &*message).unwrap(), want);
    let mut encoded = Vec::new();
    reg::write_message(&mut encoded, &want).unwrap();
    assert_eq!(encoded, message);
}

/// What the encoder is given: `encode_signature_hex` where padding or cutting is the point.
fn signature_given(entry: &Entry) -> Vec<u8> {
    let key = if entry.fields.contains_key("encode_signature_hex") {
        "encode_signature_hex"
    } else {
        "signature_hex"
    };
    entry.hex(key)
}

fn check_heartbeat_req(entry: &Entry) {
    let request = reg::decode_heartbeat_req(&entry.bytes).unwrap();
    assert_eq!(u64::from(request.node_id), entry.number("node_id"));
    if entry.fields.contains_key("signature_hex") {
        assert_eq!(request.signature.as_slice(), entry.hex("signature_hex"));
    }
    assert_encoding(
        entry,
        reg::MSG_HEARTBEAT,
        &reg::encode_heartbeat_req(request.node_id, &signature_given(entry)),
    );
}

fn check_lookup_resp(entry: &Entry) {
    let result = reg::decode_lookup_resp(&entry.bytes).unwrap();
    let texts = |key: &str| -> Option<Vec<&str>> {
        Some(entry.fields.get(key)?.as_array()?.iter().filter_map(Value::as_str).collect())
    };
    let is = |key: &str, got: &Value| assert_eq!(entry.fields.get(key).unwrap_or(got), got, "{key}");
    is("node_id", &result.node_id.into());
    is("public", &result.public.into());
    is("task_exec", &result.task_exec.into());
    is("hostname", &result.hostname.as_str().into());
    is("real_addr", &result.real_addr.as_str().into());
    is("external_id", &result.external_id.as_str().into());
    is("pubkey_hex", &hex::encode(&result.pub_key).into());
    is("networks", &result.networks.clone().into());
    is("network_count", &result.networks.len().into());
    if let Some(tags) = texts("tags") {
        assert_eq!(result.tags, tags);
    }
    assert_encoding(entry, reg::MSG_LOOKUP_OK, &reg::encode_lookup_resp(&result));
}

fn check_resolve_resp(entry: &Entry) {
    let result = reg::decode_resolve_resp(&entry.bytes).unwrap();
    let is = |key: &str, got: Value| assert_eq!(entry.fields.get(key).unwrap_or(&got), &got, "{key}");
    is("node_id", result.node_id.into());
    is("real_addr", result.real_addr.as_str().into());
    is("lan_addrs", result.lan_addrs.clone().into());
    is("key_age_days", result.key_age_days.map_or(Value::from(-1), Value::from));
    assert_encoding(entry, reg::MSG_RESOLVE_OK, &reg::encode_resolve_resp(&result));
}

/// Texts too long to be written out are recorded by the length field and the whole payload's length.
fn check_error(entry: &Entry) {
    if let Some(length_field) = entry.fields.get("length_field").and_then(Value::as_u64) {
        let payload = reg::encode_error(&"x".repeat(reg::ERROR_TEXT_MAX + 1));
        assert_eq!(payload[..2], entry.bytes[..2]);
        assert_eq!(u64::from(u16::from_be_bytes([payload[0], payload[1]])), length_field);
        assert_eq!(payload.len() as u64, entry.number("total_len"));
        return;
    }
    let text = reg::decode_error(&entry.bytes);
    assert_eq!(text, entry.text("message"));
    assert_encoding(entry, reg::MSG_ERROR, &reg::encode_error(&text));
}

fn check_json_request(entry: &Entry) {
    assert_message(&entry.bytes, entry.text("json"));
    if !entry.fields.contains_key("challenge") {
        return;
    }
    let request: Map<String, Value> = serde_json::from_str(entry.text("json")).unwrap();
    let text = challenge_of(&request);
    assert_eq!(text, entry.text("challenge"));
    let seed: [u8; 32] = entry.hex("signing_seed_hex").try_into().unwrap();
    let signature = SigningKey::from_bytes(&seed).sign(text.as_bytes());
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, signature.to_bytes());
    assert_eq!(base64, entry.text("signature_b64"));
    assert_eq!(request["signature"], entry.text("signature_b64"));
}

/// The challenge of a request, built from its own members.
fn challenge_of(request: &Map<String, Value>) -> String {
    let id = |key: &str| u32::try_from(request[key].as_u64().unwrap()).unwrap();
    let net = || u16::try_from(request["network_id"].as_u64().unwrap()).unwrap();
    let text = |key: &str| request[key].as_str().unwrap();
    match text("type") {
        "register" => challenge::register(text("listen_addr"), text("public_key")),
        "resolve" => challenge::resolve(id("requester_id"), id("node_id")),
        "heartbeat" => match (request.get("listen_addr"), request.get("ts").and_then(Value::as_i64)) {
            (Some(addr), _) => challenge::heartbeat_with_addr(id("node_id"), addr.as_str().unwrap()),
            (None, Some(ts)) => challenge::heartbeat_with_time(id("node_id"), ts),
            (None, None) => challenge::heartbeat(id("node_id")),
        },
        "report_trust" => challenge::report_trust(id("node_id"), id("peer_id")),
        "revoke_trust" => challenge::revoke_trust(id("node_id"), id("peer_id")),
        "check_trust" => challenge::check_trust(id("node_id"), id("peer_id")),
        "punch" => challenge::punch(id("node_a"), id("node_b")),
        "request_handshake" => challenge::request_handshake(id("from_node_id"), id("to_node_id")),
        "respond_handshake" => challenge::respond_handshake(id("node_id"), id("peer_id")),
        "join_network" => challenge::join_network(id("node_id"), net()),
        "leave_network" => challenge::leave_network(id("node_id"), net()),
        "respond_invite" => challenge::respond_invite(id("node_id"), net()),
        "invite_to_network" => challenge::invite_to_network(id("inviter_id"), net(), id("target_node_id")),
        "rotate_key" => challenge::rotate_key(id("node_id"), text("new_public_key")),
        "submit_badge" => challenge::submit_badge(id("node_id"), text("badge")),
        "enroll_recovery" => challenge::enroll_recovery(id("node_id"), text("commitment")),
        "lookup" => challenge::lookup(id("requester_id"), id("node_id")),
        "resolve_hostname" => challenge::resolve_hostname(id("requester_id")),
        "list_nodes" => challenge::list_nodes(id("requester_id"), net()),
        op => challenge::node_op(op, id("node_id")),
    }
}
