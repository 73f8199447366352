//! Area `tunnel`, layouts only: what the engine's vectors decrypt and verify must here decode and encode again. The
//! engine answers for the kinds; this is the same files read a second time from the ground floor.

use pilot_vectors::Entry;
use pilot_wire::tunnel::{self, Frame, KEY_EXCHANGE_LEN, SEALED_HEADER_LEN, Trailer};
use pilot_wire::{beacon, packet};
use serde_json::Value;

pub fn check(entry: &Entry) {
    let node = |key: &str| entry.fields.get(key).and_then(Value::as_u64);
    let is = |key: &str, got: &[u8]| {
        let want = entry.fields.get(key).and_then(Value::as_str);
        assert_eq!(want.unwrap_or(&hex::encode(got)), hex::encode(got), "{}: {key}", entry.name);
    };
    let datagram = entry.bytes.as_slice();
    if entry.kind == "beacon" {
        assert!(tunnel::is_beacon_message(datagram));
        assert_eq!(beacon::decode(datagram).is_err(), entry.error, "{}", entry.name);
        return;
    }
    // A frame can be refused for its cryptography alone, so an error entry may well decode.
    let Ok(frame) = tunnel::decode(datagram) else {
        assert!(entry.error, "{}", entry.name);
        return;
    };
    let mut encoded = Vec::new();
    match frame {
        Frame::Plain(inner) => {
            is("packet", inner);
            packet::decode(inner).unwrap();
            encoded.extend_from_slice(&tunnel::MAGIC_PLAIN);
            encoded.extend_from_slice(inner);
        }
        Frame::KeyRequest(request) => {
            assert_eq!(node("node_id").unwrap_or(request.node.into()), u64::from(request.node));
            is("x25519_public", &request.x25519);
            encoded.extend_from_slice(&request.to_bytes());
        }
        Frame::KeyExchange(exchange) => {
            assert_eq!(node("node_id").unwrap_or(exchange.node.into()), u64::from(exchange.node));
            is("x25519_public", exchange.x25519);
            is("ed25519_public", exchange.ed25519);
            is("signature", exchange.signature);
            is("signed_message", &exchange.signed_message());
            is("trailer", &datagram[KEY_EXCHANGE_LEN..]);
            assert_eq!(node("caps").unwrap_or(exchange.trailer.capabilities), exchange.trailer.capabilities);
            assert_eq!(node("kex_flags").unwrap_or(exchange.trailer.flags), exchange.trailer.flags);
            if exchange.trailer == Trailer::REQUEST {
                is("trailer", &[0, 1]);
            }
            exchange.encode(&mut encoded);
        }
        Frame::Sealed(header, body) => {
            assert_eq!(node("sender").unwrap_or(header.sender.into()), u64::from(header.sender));
            is("nonce_prefix", &header.prefix);
            is("nonce", &header.nonce());
            if entry.fields.get("aad").and_then(Value::as_str) != Some("") {
                is("aad", &header.associated_data());
            }
            if let Some(counter) = entry.fields.get("counter").and_then(Value::as_str) {
                assert_eq!(counter, header.counter.to_string());
            }
            assert_eq!(body, &datagram[SEALED_HEADER_LEN..]);
            encoded.extend_from_slice(&header.to_bytes());
            encoded.extend_from_slice(body);
        }
        Frame::Punch => encoded.extend_from_slice(&tunnel::MAGIC_PUNCH),
    }
    assert_eq!(encoded, datagram, "{}", entry.name);
}
