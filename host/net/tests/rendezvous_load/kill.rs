//! SIGKILL in the middle of the work.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pilot_wire::registry::{
    MSG_LOOKUP, MSG_LOOKUP_OK, challenge, decode_error, decode_lookup_resp, encode_frame, encode_lookup_req,
    read_frame,
};
use serde_json::json;

use super::server::*;

/// What was acknowledged: number of the key -> node id, and the last hostname.
type Acknowledged = BTreeMap<u32, (u32, Option<String>)>;

#[test]
fn killed_at_random_moments_nothing_acknowledged_is_lost() {
    let kills = if long() { 50 } else { 5 };
    let dir = tempfile::tempdir().unwrap();
    let acknowledged = Arc::new(Mutex::new(Acknowledged::new()));
    let next = Arc::new(AtomicU32::new(0));
    let mut random = 0x9E37_79B9_7F4A_7C15_u64 ^ u64::from(std::process::id());
    for kill in 1..=kills {
        let mut server = Server::start(Some(dir.path()));
        check_everything(&server, &acknowledged.lock().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let mut link = server.json();
                let (acknowledged, next, stop) = (acknowledged.clone(), next.clone(), stop.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if mutate(&mut link, number, &acknowledged).is_none() {
                            break;
                        }
                    }
                })
            })
            .collect();
        // Some work first, then at no particular moment of it.
        let target = acknowledged.lock().unwrap().len() + 10;
        while acknowledged.lock().unwrap().len() < target {
            std::thread::yield_now();
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = Instant::now() + Duration::from_micros(random >> 48);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        server.kill();
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().for_each(|w| w.join().unwrap());
        if kill % 10 == 0 {
            println!("kill -9: {kill} times, {} nodes acknowledged", acknowledged.lock().unwrap().len());
        }
    }
    let server = Server::start(Some(dir.path()));
    let known = acknowledged.lock().unwrap();
    check_everything(&server, &known);
    // No number is given away twice: a new node's is above all that were ever acknowledged.
    let fresh = register(&mut server.json(), u32::MAX).unwrap();
    assert!(known.values().all(|(id, _)| *id < fresh), "{fresh} was given away before");
    println!(
        "kill -9: {kills} times under load, {} acknowledged nodes all there, next number {fresh}",
        known.len()
    );
}

/// One node: registered, then named. Each step is noted when it was answered; `None` when the server is gone.
fn mutate(link: &mut Link, number: u32, acknowledged: &Mutex<Acknowledged>) -> Option<()> {
    let id = register(link, number)?;
    acknowledged.lock().unwrap().insert(number, (id, None));
    let name = format!("n{number}");
    let signature = signed(&key(number), &challenge::node_op("set_hostname", id));
    let request = json!({"type": "set_hostname", "node_id": id, "hostname": name, "signature": signature});
    assert_eq!(link.ask(&request)?["type"], "set_hostname_ok");
    acknowledged.lock().unwrap().insert(number, (id, Some(name)));
    Some(())
}

fn check_everything(server: &Server, known: &Acknowledged) {
    let mut stream = server.binary();
    let mut seen = BTreeSet::new();
    for (number, (id, name)) in known {
        assert!(seen.insert(*id), "number {id} belongs to two keys");
        let mut frame = Vec::new();
        encode_frame(MSG_LOOKUP, &encode_lookup_req(*id), &mut frame).unwrap();
        stream.write_all(&frame).unwrap();
        let (kind, payload) = read_frame(&mut stream).unwrap();
        assert_eq!(kind, MSG_LOOKUP_OK, "node {id} is gone: {}", decode_error(&payload));
        let found = decode_lookup_resp(&payload).unwrap();
        assert_eq!(found.pub_key, key(*number).verifying_key().as_bytes(), "node {id} has another key");
        if let Some(name) = name {
            assert_eq!(&found.hostname, name, "node {id}");
        }
    }
}
