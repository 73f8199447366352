//! A directory of many nodes: memory, registrations, lookups, resolves.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use ed25519_dalek::Signer;
use pilot_wire::registry::{
    MSG_LOOKUP, MSG_LOOKUP_OK, MSG_RESOLVE, MSG_RESOLVE_OK, challenge, decode_lookup_resp, encode_frame,
    encode_lookup_req, encode_resolve_req, read_frame,
};
use serde_json::json;

use super::server::*;

#[test]
fn a_directory_of_many_nodes() {
    let count: u32 = if long() { 100_000 } else { 2_000 };
    for store in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(store.then(|| dir.path()));
        let before = server.resident();
        let ids: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
        let registrations = on_64_connections(
            count,
            || server.json(),
            |link, number| {
                ids[number as usize].store(register(link, number).unwrap(), Ordering::Relaxed);
            },
        );
        let grown = server.resident().saturating_sub(before);
        let per_node = grown as f64 / f64::from(count);
        let kept = if store { "a store" } else { "no store" };
        println!(
            "scale: {count} nodes with {kept}: {registrations:.0} registrations/s, {per_node:.0} bytes of resident memory per \
             node (of which 32 are its key)"
        );
        // In a small directory the fixed costs of 64 connections are most of it.
        if count >= 100_000 && !store {
            assert!(per_node <= 1024.0 + 32.0, "{per_node} bytes per node");
        }
        let lookups = on_64_connections(
            count,
            || server.binary(),
            |stream, number| {
                let id = ids[number as usize].load(Ordering::Relaxed);
                let mut frame = Vec::new();
                encode_frame(MSG_LOOKUP, &encode_lookup_req(id), &mut frame).unwrap();
                stream.write_all(&frame).unwrap();
                let (kind, payload) = read_frame(stream).unwrap();
                assert_eq!(kind, MSG_LOOKUP_OK);
                let found = decode_lookup_resp(&payload).unwrap();
                assert_eq!(found.pub_key, key(number).verifying_key().as_bytes());
            },
        );
        // Neighbours trust each other, so that they may resolve each other.
        let pairs = count.min(2_000) / 2;
        let id = |number: u32| ids[number as usize].load(Ordering::Relaxed);
        on_64_connections(
            pairs,
            || server.json(),
            |link, pair| {
                let (a, b) = (id(2 * pair), id(2 * pair + 1));
                let signature = signed(&key(2 * pair), &challenge::report_trust(a, b));
                let request =
                    json!({"type": "report_trust", "node_id": a, "peer_id": b, "signature": signature});
                assert_eq!(link.ask(&request).unwrap()["type"], "report_trust_ok");
            },
        );
        let resolves = on_64_connections(
            count,
            || server.binary(),
            |stream, number| {
                let pair = number % pairs;
                let (a, b) = (id(2 * pair), id(2 * pair + 1));
                let signature = key(2 * pair).sign(challenge::resolve(a, b).as_bytes()).to_bytes();
                let mut frame = Vec::new();
                encode_frame(MSG_RESOLVE, &encode_resolve_req(b, a, &signature), &mut frame).unwrap();
                stream.write_all(&frame).unwrap();
                assert_eq!(read_frame(stream).unwrap().0, MSG_RESOLVE_OK);
            },
        );
        println!(
            "scale: {lookups:.0} binary lookups/s, {resolves:.0} signed resolves/s on 64 connections (debug or release as built; \
                  the clients' signing is in it)"
        );
    }
}
