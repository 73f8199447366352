//! Area `beacon`: every datagram that was sent or received must decode, mean what the entry says and encode again.

use pilot_vectors::Entry;
use pilot_wire::beacon::{self, Message};
use serde_json::Value;

pub fn check(entry: &Entry) {
    let number = |key: &str| entry.fields.get(key).and_then(Value::as_u64).map(|n| u32::try_from(n).unwrap());
    if let Some(decoder) = entry.fields.get("decode").and_then(Value::as_str) {
        let first = if decoder == "discover_reply" { beacon::DISCOVER_REPLY } else { beacon::PUNCH_COMMAND };
        assert_eq!(entry.bytes.first(), Some(&first));
        beacon::decode(&entry.bytes).unwrap_err();
        return;
    }
    for key in ["received_by_node_1_hex", "received_by_node_2_hex"] {
        if let Some(received) = entry.fields.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()) {
            assert_round_trip(&hex::decode(received).unwrap());
        }
    }
    let decoded = beacon::decode(&entry.bytes);
    match entry.kind.as_str() {
        // Types a given beacon version drops; whether this codec knows the type is another matter.
        "unknown" => return,
        // Truncated messages are recorded with the silence they earned.
        "discover" if entry.bytes.len() < 5 => {
            decoded.unwrap_err();
            return;
        }
        _ => {}
    }
    assert_round_trip(&entry.bytes);
    let want = |key: &str, got: u32| assert_eq!(number(key).unwrap_or(got), got, "{key}");
    match (entry.kind.as_str(), decoded.unwrap()) {
        ("discover", Message::Discover { node, key })
        | ("discover_ex", Message::DiscoverEx { node, key }) => {
            want("node_id", node);
            assert_eq!(key.is_some(), entry.bytes.len() >= 37);
        }
        ("discover_reply", Message::DiscoverReply { observed }) => {
            assert_eq!(observed.ip().to_string(), entry.text("ip"));
            want("port", observed.port().into());
        }
        ("punch_request", Message::PunchRequest { requester, target, grant }) => {
            want("requester_id", requester);
            want("target_id", target);
            assert_eq!(grant.map(|g| g.expiry), entry.fields.get("expiry_unix").and_then(Value::as_i64));
            if let Some(grant) = grant {
                let preimage = beacon::punch_grant_challenge(requester, target, grant.expiry);
                assert_eq!(preimage, entry.text("preimage"));
                let seed: [u8; 32] = entry.hex("target_signing_seed_hex").try_into().unwrap();
                let key = ed25519_dalek::SigningKey::from_bytes(&seed);
                let signature = ed25519_dalek::Signature::from_bytes(grant.signature);
                key.verify(preimage.as_bytes(), &signature).unwrap();
                let discover = entry.hex("target_discover_with_key_hex");
                let Ok(Message::Discover { node, key: Some(sent) }) = beacon::decode(&discover) else {
                    panic!()
                };
                assert_eq!((node, sent), (target, key.verifying_key().as_bytes()));
            }
        }
        ("relay", Message::Relay { sender, dest, frame }) => {
            want("sender_id", sender);
            want("dest_id", dest);
            assert_frame(entry, frame);
        }
        ("relay_deliver_dest", Message::RelayDeliverDest { sender, dest, frame }) => {
            want("sender_id", sender);
            want("dest_id", dest);
            assert_frame(entry, frame);
        }
        ("sync", Message::Sync { beacon, nodes }) => {
            want("beacon_id", beacon);
            let want: Vec<u64> =
                entry.fields["node_ids"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
            assert_eq!(nodes.iter().map(u64::from).collect::<Vec<_>>(), want);
        }
        (kind, other) => panic!("kind {kind} decoded as {other:?}"),
    }
}

fn assert_frame(entry: &Entry, frame: &[u8]) {
    if let Some(text) = entry.fields.get("payload_text").and_then(Value::as_str) {
        assert_eq!(frame, text.as_bytes());
    }
    if entry.fields.contains_key("payload_hex") {
        assert_eq!(frame, entry.hex("payload_hex"));
    }
}

fn assert_round_trip(datagram: &[u8]) {
    let mut encoded = Vec::new();
    beacon::decode(datagram).unwrap().encode(&mut encoded);
    assert_eq!(encoded, datagram);
}
