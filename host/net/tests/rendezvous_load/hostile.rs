//! Clients that mean harm.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pilot_vectors::Entry;
use pilot_wire::registry::{
    MAX_MESSAGE_SIZE, MSG_ERROR, MSG_HEARTBEAT, MSG_LOOKUP, MSG_RESOLVE, decode_error, encode_frame,
    read_frame,
};
use serde_json::json;

use super::server::*;

#[test]
fn hostile_clients_cost_little_and_disturb_nobody() {
    let server = Server::start(None);
    still_serves(&server);
    let before = server.resident();

    let recorded = recorded_errors(&server);
    still_serves(&server);

    // One byte more than the largest message, announced and sent as far as the server takes it.
    let mut oversize = TcpStream::connect(server.registry).unwrap();
    oversize.write_all(&u32::try_from(MAX_MESSAGE_SIZE + 1).unwrap().to_be_bytes()).unwrap();
    let chunk = vec![b' '; 1 << 20];
    let taken = (0..65).take_while(|_| oversize.write_all(&chunk).is_ok()).count();
    assert_eq!(oversize.read(&mut [0; 8]).unwrap_or(0), 0, "an answer to an oversize message");
    still_serves(&server);

    // Lengths that lie: announced, never sent. Nothing is set aside for them.
    let liars: Vec<_> = (0..200)
        .map(|_| {
            let mut liar = TcpStream::connect(server.registry).unwrap();
            liar.write_all(&u32::try_from(MAX_MESSAGE_SIZE).unwrap().to_be_bytes()).unwrap();
            liar.write_all(b"{\"type\":").unwrap();
            liar
        })
        .collect();
    // Counts that lie are the client's to read; a server reads none but lengths.
    still_serves(&server);
    let lies = server.resident().saturating_sub(before);
    println!(
        "hostile: {recorded} recorded errors, an oversize message ({taken} MiB taken before the end), 200 announced 64 MiB: {} KiB more",
        lies / 1024
    );
    assert!(lies < 64 << 20, "200 lies of 64 MiB cost {lies} bytes");
    drop(liars);

    // Connections that say nothing.
    let room = raise_descriptors().saturating_sub(200);
    let idle = usize::try_from(room).unwrap_or(usize::MAX).min(if long() { 10_000 } else { 2_000 });
    let held: Vec<_> = (0..idle).filter_map(|_| TcpStream::connect(server.registry).ok()).collect();
    still_serves(&server);
    let answered = AtomicUsize::new(0);
    let rate = on_64_connections(
        640,
        || server.json(),
        |link, _| {
            link.ask(&json!({"type": "lookup", "node_id": 4_000_000})).unwrap();
            answered.fetch_add(1, Ordering::Relaxed);
        },
    );
    let grown = server.resident().saturating_sub(before);
    println!(
        "hostile: {} idle connections: {} KiB more ({} bytes each), others served meanwhile ({rate:.0} answers/s)",
        held.len(),
        grown / 1024,
        grown / (held.len() as u64).max(1)
    );
    assert_eq!(answered.load(Ordering::Relaxed), 640);
    assert!(grown / (held.len() as u64).max(1) < 64 << 10, "{grown} bytes for {} connections", held.len());
    drop(held);
}

/// Sends every recorded frame and message that must be refused; each gets the recorded error or the end. Gives their
/// number.
fn recorded_errors(server: &Server) -> usize {
    let entries = pilot_vectors::load("registry").unwrap_or_default();
    let of_codec = |e: &&Entry| e.error && e.fields.contains_key("decode");
    let mut sent = 0;
    for entry in entries.iter().filter(of_codec) {
        sent += 1;
        let kind = match entry.text("decode") {
            "heartbeat_req" => MSG_HEARTBEAT,
            "lookup_req" => MSG_LOOKUP,
            "resolve_req" => MSG_RESOLVE,
            "read_frame" => {
                assert!(closes(server.binary(), &entry.bytes), "{}", entry.name);
                continue;
            }
            "read_message" => {
                assert!(closes(server.json().0, &entry.bytes), "{}", entry.name);
                continue;
            }
            // Broken answers, which are no requests of any type.
            _ => 0x42,
        };
        let mut stream = server.binary();
        let mut frame = Vec::new();
        encode_frame(kind, &entry.bytes, &mut frame).unwrap();
        // Twice: the error does not end the connection.
        for _ in 0..2 {
            stream.write_all(&frame).unwrap();
            let (answer, payload) = read_frame(&mut stream).unwrap();
            assert_eq!(answer, MSG_ERROR, "{}", entry.name);
            if kind != 0x42 {
                assert_eq!(Some(decode_error(&payload).as_str()), entry.error_text(), "{}", entry.name);
            }
        }
    }
    sent
}

/// Whether the server ends the connection without a word when these bytes come, and then nothing.
fn closes(mut stream: TcpStream, bytes: &[u8]) -> bool {
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => answer.is_empty(),
        Err(e) => e.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn one_byte_per_second_does_not_hold_a_connection() {
    // Shortened, so that the test need not take the usual five minutes.
    let idle = Duration::from_secs(3);
    let server = Server::start_with(None, idle);
    let started = Instant::now();
    let before = server.resident();
    let mut drips: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut drip = if number % 2 == 0 { server.json().0 } else { server.binary() };
            drip.write_all(&[0, 0, 1, 0]).unwrap();
            drip.set_nonblocking(true).unwrap();
            drip
        })
        .collect();
    let (mut rounds, mut grown) = (0, 0);
    while !drips.is_empty() {
        assert!(started.elapsed() < 10 * idle, "{} are still there", drips.len());
        drips.retain_mut(|drip| match drip.read(&mut [0; 8]) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => drip.write_all(b" ").is_ok(),
            Ok(n) => {
                assert_eq!(n, 0, "an answer to half a request");
                false
            }
            Err(_) => false,
        });
        // The second between two bytes is spent asking.
        let next = Instant::now() + Duration::from_secs(1);
        while Instant::now() < next && !drips.is_empty() {
            still_serves(&server);
            rounds += 1;
        }
        grown = grown.max(server.resident().saturating_sub(before));
    }
    let took = started.elapsed();
    assert!(took >= idle, "closed after {took:?}");
    println!(
        "hostile: 200 clients with one byte per second were closed after {:.1} s (limit {:.0} s), {} KiB more, {rounds} answers \
         for others meanwhile",
        took.as_secs_f64(),
        idle.as_secs_f64(),
        grown / 1024
    );
}

#[test]
fn large_bodies_all_together_have_one_bound() {
    let clients = if long() { 12 } else { 4 };
    let server = Server::start(None);
    still_serves(&server);
    let before = server.resident();
    let most = AtomicUsize::new(0);
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut stream = server.json().0;
                stream.write_all(&u32::try_from(MAX_MESSAGE_SIZE).unwrap().to_be_bytes()).unwrap();
                let chunk = vec![b' '; 1 << 20];
                // All but the last byte, and then nothing: the server has to keep what it took.
                let all = (0..63).all(|_| stream.write_all(&chunk).is_ok());
                refused.fetch_add(usize::from(!all), Ordering::Relaxed);
                still_serves(&server);
                let now = usize::try_from(server.resident().saturating_sub(before)).unwrap();
                most.fetch_max(now, Ordering::Relaxed);
            });
        }
    });
    let most = most.into_inner();
    println!(
        "hostile: {clients} clients sent 63 of 64 MiB each: {} refused, {} MiB more at most (all may hold 256 MiB together)",
        refused.into_inner(),
        most >> 20
    );
    // A buffer that grows is copied: the old and the new one are there for a moment.
    assert!(most < 512 << 20, "{most} bytes");
}
